//! Reserves in Redis, with one script call for all purchases of a bucket that wait together.
//!
//! Invariant: A script answers what it wrote, and nothing here decides about stock.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, Value, cmd, pipe};

use super::redis_link::RedisLink;
use crate::domain::reservation::{
    Denial, OutboxEntryId, Release, ReleaseRequest, Released, Reservation, ReserveRequest, Verdict,
};
use crate::domain::{BucketId, Decision, OrderId, OrderState, Quantity, Reference, SkuId, UserId};
use crate::ports::{Inventory, StoreError, StoreResult};

/// Fields that one HSCAN step asks for when the winners of a bucket are read.
const SCAN_COUNT: usize = 1000;

/// Serves the inventory from Redis.
pub struct RedisInventory {
    link: Arc<RedisLink>,
    reserve: Script,
    mark_decided: Script,
    release: Script,
}

impl RedisInventory {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self {
            link,
            reserve: Script::new(include_str!("../../../lua/reserve.lua")),
            mark_decided: Script::new(include_str!("../../../lua/mark_decided.lua")),
            release: Script::new(include_str!("../../../lua/release.lua")),
        }
    }
}

#[async_trait]
impl Inventory for RedisInventory {
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>> {
        let keys = self.link.keys(bucket);
        let mut call = self.reserve.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.buyers);
        call.key(keys.orders).key(keys.outbox).key(keys.outbox_orders).key(keys.unpaid).key(keys.references);
        let records = || batch.iter().map(|request| &request.record);
        let ids: Vec<&[u8]> = records().map(|record| record.order_id.bytes().as_slice()).collect();
        let users: Vec<&str> = records().map(|record| record.user_id.as_str()).collect();
        let asked: Vec<String> = batch.iter().map(asked).collect();
        call.arg(ids).arg(users).arg(asked);
        let (entry, answers) = split_answer(self.link.script("reserve", &call).await?)?;
        if answers.len() != batch.len() {
            return Err(StoreError::broken(
                "reserve",
                format!("{} answers to {} requests", answers.len(), batch.len()),
            ));
        }
        let verdict = |(answer, request)| verdict(answer, entry.as_ref(), request);
        answers.iter().zip(batch.iter()).map(verdict).collect()
    }

    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>> {
        if buckets.is_empty() {
            return Ok(None);
        }
        let mut pipeline = pipe();
        for bucket in buckets {
            let keys = self.link.keys(bucket);
            pipeline.hget(keys.orders, order.bytes().as_slice());
            pipeline.hget(keys.references, order.bytes().as_slice());
        }
        let found: Vec<Option<String>> = self.link.pipeline("read reservation", &pipeline).await?;
        let mut found = found.chunks_exact(2).zip(buckets);
        let hit = found.find_map(|(found, bucket)| Some((found[0].as_ref()?, found[1].as_deref(), bucket)));
        hit.map(|(hold, reference, bucket)| reservation(hold, reference, bucket, order)).transpose()
    }

    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>> {
        let key = self.link.keys(bucket).orders;
        let mut winners = Vec::new();
        let mut cursor: u64 = 0;
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, fields): (u64, Vec<Vec<u8>>) = self.link.command("read winners", &scan).await?;
            for value in fields.chunks_exact(2).map(|pair| &pair[1]) {
                let user = std::str::from_utf8(value).ok().and_then(user_of);
                winners.push(user.ok_or_else(|| StoreError::broken("read winners", "not a held order"))?);
            }
            if next == 0 {
                return Ok(winners);
            }
            cursor = next;
        }
    }

    async fn mark_decided(&self, bucket: &BucketId, decided: &[Decision]) -> StoreResult<()> {
        let mut call = self.mark_decided.prepare_invoke();
        let keys = self.link.keys(bucket);
        call.key(keys.orders).key(keys.buyers).key(keys.gate).key(keys.unpaid);
        for decision in decided {
            let keeps = decision.buyer_keeps.map_or(String::new(), |units| units.to_string());
            call.arg(decision.order.bytes().as_slice())
                .arg(decision.state.facts().mark.to_string())
                .arg(keeps);
        }
        self.link.script::<i64>("mark decided", &call).await.map(drop)
    }

    async fn release(&self, bucket: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released> {
        let mut call = self.release.prepare_invoke();
        let keys = self.link.keys(bucket);
        call.key(keys.gate).key(keys.stock).key(keys.buyers).key(keys.orders).key(keys.unpaid);
        for ReleaseRequest { decision, restock } in orders {
            call.arg(decision.order.bytes().as_slice()).arg(decision.state.facts().mark.to_string());
            call.arg(decision.buyer_keeps.unwrap_or(0)).arg(u8::from(*restock));
        }
        released(&self.link.script("release", &call).await?)
    }
}

/// Packs what the script compares and reads: `fingerprint|quantity|sku`, and `|reference` if there is one.
fn asked(ReserveRequest { record, fingerprint }: &ReserveRequest) -> String {
    let asked = format!("{}|{}|{}", fingerprint.as_str(), record.quantity.units(), record.sku_id);
    match &record.reference {
        Some(reference) => format!("{asked}|{reference}"),
        None => asked,
    }
}

/// What a call that accepted orders made.
struct Entry {
    id: OutboxEntryId,
    reserved_ms: i64,
    epoch: u32,
}

/// Splits the answer of a call into its outbox entry, which is `None` when it accepted nothing, and one answer per
/// purchase.
fn split_answer(mut found: Vec<Value>) -> StoreResult<(Option<Entry>, Vec<Value>)> {
    let answers = found.split_off(found.len().min(1));
    let Some(Value::BulkString(made)) = found.pop() else { return Ok((None, answers)) };
    let entry = std::str::from_utf8(&made).ok().and_then(|made| {
        let mut fields = made.split('|');
        let id = OutboxEntryId(fields.next()?.to_owned());
        Some(Entry { id, reserved_ms: fields.next()?.parse().ok()?, epoch: fields.next()?.parse().ok()? })
    });
    let entry =
        entry.ok_or_else(|| StoreError::broken("reserve", "an outbox entry without time and epoch"))?;
    Ok((Some(entry), answers))
}

/// Reads the answer to one purchase, which is a word or an array that begins with one.
fn verdict(answer: &Value, entry: Option<&Entry>, request: &ReserveRequest) -> StoreResult<Verdict> {
    let answer = match answer {
        Value::Array(values) => values.as_slice(),
        word => std::slice::from_ref(word),
    };
    let text = |index: usize| match answer.get(index) {
        Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).unwrap_or(""),
        _ => "",
    };
    let number = |index: usize| match answer.get(index) {
        Some(Value::Int(number)) => *number,
        _ => 0,
    };
    let record = &request.record;
    let denial = match text(0) {
        "reserved" => {
            let entry = entry.ok_or_else(|| StoreError::broken("reserve", "an order without an entry"))?;
            let Entry { id, reserved_ms, epoch } = entry;
            let (outbox_entry, reserved_ms, epoch) = (id.clone(), *reserved_ms, *epoch);
            return Ok(Verdict::Reserved { outbox_entry, reserved_ms, epoch });
        }
        "replayed" => {
            // The bucket number does not matter here: the caller asked this bucket.
            let bucket = BucketId { sale: record.sale_id.clone(), bucket: 0 };
            // The body is the same, and so is its reference.
            let reference = record.reference.as_ref().map(Reference::as_str);
            return Ok(Verdict::Replayed(reservation(text(1), reference, &bucket, record.order_id)?));
        }
        "key_reused" => Denial::KeyReused,
        "limit_reached" => Denial::LimitReached { held: u32::try_from(number(1)).unwrap_or(u32::MAX) },
        "too_many_unpaid" => Denial::TooManyUnpaid { unpaid: u32::try_from(number(1)).unwrap_or(u32::MAX) },
        "sold_out" => Denial::SoldOut {
            available: u32::try_from(number(1)).unwrap_or(0),
            orders_seen: u64::try_from(number(2)).unwrap_or(0),
        },
        "not_started" => Denial::NotStarted,
        "paused" => Denial::Paused,
        "ended" => Denial::Ended,
        "gate_shut" => Denial::GateShut,
        "keys_lost" => Denial::KeysLost,
        "unknown_sku" => Denial::UnknownSku,
        other => return Err(StoreError::broken("reserve", format!("unexpected answer {other:?}"))),
    };
    Ok(Verdict::Denied(denial))
}

/// Reads the answer of release.lua: a word, or a number for each order.
fn released(answer: &Value) -> StoreResult<Released> {
    let broken = || StoreError::broken("release", format!("unexpected answer {answer:?}"));
    let each = match answer {
        Value::BulkString(word) if word == b"gate_shut" => return Ok(Released::GateShut),
        Value::BulkString(word) if word == b"keys_lost" => return Ok(Released::KeysLost),
        Value::Array(each) => each,
        _ => return Err(broken()),
    };
    let release = |answer: &Value| match answer {
        Value::Int(1) => Ok(Release::Done),
        Value::Int(0) => Ok(Release::Nothing),
        Value::Int(-1) => Ok(Release::Contradicted),
        _ => Err(broken()),
    };
    Ok(Released::Each(each.iter().map(release).collect::<StoreResult<_>>()?))
}

/// Reads an order's values of the hashes `orders` and `references` as its reservation.
///
/// # Errors
/// When a value is damaged.
pub(super) fn reservation(
    hold: &str,
    reference: Option<&str>,
    bucket: &BucketId,
    order: OrderId,
) -> StoreResult<Reservation> {
    let damaged = || StoreError::broken("read reservation", "not a held order");
    let reference = reference.map(Reference::parse).transpose().map_err(|_| damaged())?;
    let HeldOrder { state, quantity, reserved_ms, sku, user } = HeldOrder::parse(hold).ok_or_else(damaged)?;
    let sale = bucket.sale.clone();
    Ok(Reservation { id: order, sale, state, sku, user, quantity, reserved_ms, reference })
}

/// Holds a value of the `orders` hash, `state|fingerprint|quantity|reserved_ms|sku|user`, which reserve.lua writes.
struct HeldOrder {
    state: OrderState,
    quantity: Quantity,
    reserved_ms: i64,
    sku: SkuId,
    user: UserId,
}

/// Reads whose a hold is. Its mark may be one of a newer version.
fn user_of(hold: &str) -> Option<UserId> {
    UserId::parse(hold.splitn(6, '|').nth(5)?).ok()
}

impl HeldOrder {
    fn parse(value: &str) -> Option<Self> {
        let mut fields = value.splitn(6, '|');
        let mut mark = fields.next()?.chars();
        let (Some(mark), None) = (mark.next(), mark.next()) else { return None };
        // A hold whose units went back on sale has its letter in upper case.
        let state = OrderState::of_mark(mark.to_ascii_lowercase())?;
        let _fingerprint = fields.next()?;
        Some(Self {
            state,
            quantity: Quantity::new(fields.next()?.parse().ok()?).ok()?,
            reserved_ms: fields.next()?.parse().ok()?,
            sku: SkuId::parse(fields.next()?).ok()?,
            user: UserId::parse(fields.next()?).ok()?,
        })
    }
}
