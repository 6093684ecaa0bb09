//! Sets a sale's buckets as the operator wants them: puts the stock in place, and opens, pauses or ends the gates.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, cmd, pipe};

use super::redis_link::{BucketKeys, RedisLink};
use crate::chance;
use crate::domain::{BucketId, Sale, SaleState, SkuId};
use crate::ports::{BucketState, Gates, Placed, StoreError, StoreResult, UnitMove};

/// A gate is made without a lease. It gets one when it is prolonged first.
const NO_LEASE_MS: i64 = 0;

/// Serves the gates from Redis.
pub struct RedisGates {
    link: Arc<RedisLink>,
    preheat: Script,
    gate: Script,
    give: Script,
    receive: Script,
    take_back: Script,
}

impl RedisGates {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self {
            link,
            preheat: Script::new(include_str!("../../../lua/preheat.lua")),
            gate: Script::new(include_str!("../../../lua/gate.lua")),
            give: Script::new(include_str!("../../../lua/give.lua")),
            receive: Script::new(include_str!("../../../lua/receive.lua")),
            take_back: Script::new(include_str!("../../../lua/take_back.lua")),
        }
    }

    /// Brings units to the bucket that they are meant for, or takes them back. Answers how many have come there.
    async fn deliver(&self, sale: &Sale, from: u16, moved: &UnitMove) -> StoreResult<u32> {
        let keys_of = |bucket| self.link.keys(&BucketId { sale: sale.id.clone(), bucket });
        let (to, from_keys) = (keys_of(moved.to), keys_of(from));
        let mut call = self.receive.prepare_invoke();
        call.key(to.gate).key(to.stock).key(to.received);
        call.arg(&moved.id).arg(moved.sku.as_str()).arg(moved.units).arg(from);
        match moved.epochs {
            Some((giver, taker)) => call.arg(giver).arg(taker),
            None => call.arg("").arg(""),
        };
        match self.link.script::<i64>("receive units", &call).await? {
            1 => {
                let mut forget = cmd("HDEL");
                forget.arg(from_keys.moves).arg(&moved.id);
                self.link.command::<i64>("forget move", &forget).await?;
                Ok(moved.units)
            }
            -1 => {
                let mut call = self.take_back.prepare_invoke();
                call.key(from_keys.stock).key(from_keys.moves).arg(&moved.id);
                self.link.script::<i64>("take units back", &call).await?;
                Ok(0)
            }
            _ => {
                let detail = format!("bucket {} cannot take units", moved.to);
                Err(StoreError::broken("receive units", detail))
            }
        }
    }
}

fn buckets(sale: &Sale) -> impl Iterator<Item = BucketId> + '_ {
    (0..sale.buckets).map(|bucket| BucketId { sale: sale.id.clone(), bucket })
}

#[async_trait]
impl Gates for RedisGates {
    async fn preheat(&self, sale: &Sale) -> StoreResult<Vec<Placed>> {
        let mut placed = Vec::new();
        for bucket in buckets(sale) {
            let keys = self.link.keys(&bucket);
            let mut call = self.preheat.prepare_invoke();
            call.key(keys.gate).key(keys.stock).key(keys.orders).key(keys.unpaid).key(keys.references);
            call.key(keys.rebuild);
            call.arg(sale.epoch).arg(sale.starts_ms).arg(sale.ends_ms).arg(sale.buyer_limit).arg(NO_LEASE_MS);
            call.arg(sale.unpaid_max);
            for item in &sale.items {
                call.arg(item.sku_id.as_str()).arg(sale.bucket_stock(item, bucket.bucket));
            }
            let answer: String = self.link.script("preheat", &call).await?;
            if answer == "conflict" {
                return Err(StoreError::broken(
                    "preheat",
                    format!("bucket {} has another epoch", bucket.bucket),
                ));
            }
            placed.push(Placed(answer));
        }
        Ok(placed)
    }

    async fn set_gates(&self, sale: &Sale, placed: &[Placed]) -> StoreResult<()> {
        let Some(state) = sale.state.gate() else { return Ok(()) };
        if !sale.in_place && sale.state != SaleState::Ended {
            return Ok(());
        }
        let mut failure = Ok(());
        for bucket in buckets(sale) {
            let mut call = self.gate.prepare_invoke();
            let placed = placed.get(usize::from(bucket.bucket)).map_or("", |Placed(placed)| placed);
            call.key(self.link.keys(&bucket).gate).arg(state).arg(sale.version).arg(placed);
            let answer: String = self.link.script("set gate", &call).await?;
            // A published sale may be ended before it was preheated. Then there is no gate to shut.
            if answer == "missing" && sale.state != SaleState::Ended {
                let detail = format!("bucket {}: gate missing", bucket.bucket);
                failure = Err(StoreError::broken("set gate", detail));
            }
        }
        failure
    }

    async fn move_units(&self, sale: &Sale, from: u16, to: u16, sku: &SkuId, units: u32) -> StoreResult<u32> {
        let id = format!("{:032x}", u128::from_be_bytes(chance::bytes()));
        let mut epoch = cmd("HGET");
        epoch.arg(self.link.keys(&BucketId { sale: sale.id.clone(), bucket: to }).gate).arg("epoch");
        let epoch: Option<u32> = self.link.command("read epoch", &epoch).await?;
        let Some(epoch) = epoch else { return Ok(0) };
        let keys = self.link.keys(&BucketId { sale: sale.id.clone(), bucket: from });
        let mut call = self.give.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.moves);
        call.arg(&id).arg(sku.as_str()).arg(units).arg(to).arg(epoch);
        let context = "give units";
        let Some(note) = self.link.script::<Option<String>>(context, &call).await? else { return Ok(0) };
        let moved = unit_move(id, &note);
        let moved = moved.ok_or_else(|| StoreError::broken(context, "a move that is not ours"))?;
        self.deliver(sale, from, &moved).await
    }

    async fn finish_move(&self, sale: &Sale, from: u16, moved: &UnitMove) -> StoreResult<()> {
        self.deliver(sale, from, moved).await.map(drop)
    }

    async fn now_ms(&self) -> StoreResult<i64> {
        self.link.now_ms().await
    }

    async fn buckets(&self, sale: &Sale) -> StoreResult<Vec<BucketState>> {
        let mut pipeline = pipe();
        for bucket in buckets(sale) {
            let BucketKeys { gate, stock, buyers, orders, outbox, outbox_orders, moves, .. } =
                self.link.keys(&bucket);
            // Whether something was sold is asked before the keys are looked for: the first order makes them.
            pipeline.hmget(&gate, &["epoch", "sold", "lost", "state", "placed"]);
            for key in [&stock, &buyers, &orders, &outbox, &outbox_orders] {
                pipeline.exists(key);
            }
            pipeline.hgetall(&stock).hgetall(&moves);
        }
        let answers: Vec<redis::Value> = self.link.pipeline("read stock", &pipeline).await?;
        answers.chunks_exact(3 + SOLD_KEYS.len()).map(bucket_state).collect()
    }
}

/// The keys that a bucket has once an order was held. Before that only the first one has to be there.
const SOLD_KEYS: [&str; 5] = ["stock", "buyers", "orders", "outbox", "outbox_orders"];

/// Reads what stands of one bucket: its gate's fields, whether each key is there, its stock and its moves.
fn bucket_state(answers: &[redis::Value]) -> StoreResult<BucketState> {
    let [gate, found @ .., stock, moves] = answers else {
        return Err(StoreError::broken("read stock", "fewer answers than questions"));
    };
    let [epoch, sold, lost, state, placed]: [Option<String>; 5] = read(gate)?;
    if epoch.is_none() {
        return Ok(BucketState::Absent);
    }
    let needed = if sold.is_some() { SOLD_KEYS.len() } else { 1 };
    let mut keys: Vec<String> = lost.iter().flat_map(|lost| lost.split(',')).map(str::to_owned).collect();
    for (name, found) in SOLD_KEYS.iter().zip(found).take(needed) {
        if !read::<bool>(found)? && !keys.iter().any(|key| key == name) {
            keys.push((*name).to_owned());
        }
    }
    if !keys.is_empty() {
        return Ok(BucketState::Lost { keys });
    }
    let unit = |(sku, units): (String, i64)| {
        let sku = SkuId::parse(&sku).map_err(|error| StoreError::broken("read stock", error.to_string()))?;
        Ok((sku, units))
    };
    let available = read::<HashMap<String, i64>>(stock)?.into_iter().map(unit).collect::<StoreResult<_>>()?;
    let mut under_way = Vec::new();
    for (id, value) in read::<HashMap<String, String>>(moves)? {
        let moved = unit_move(id, &value);
        under_way.push(moved.ok_or_else(|| StoreError::broken("read stock", "a move that is not ours"))?);
    }
    // Version 0.1 did not note when.
    let is_placing = state.as_deref() == Some("placing");
    let placed_us = is_placing.then(|| placed.and_then(|us| us.parse::<i64>().ok()).unwrap_or(0));
    Ok(BucketState::Whole { available, under_way, placing_since_ms: placed_us.map(|us| us / 1000) })
}

/// Reads a value of the `moves` hash, as give.lua writes it. Version 0.1 noted no epochs.
fn unit_move(id: String, value: &str) -> Option<UnitMove> {
    let mut fields = value.split('|');
    Some(UnitMove {
        id,
        to: fields.next()?.parse().ok()?,
        sku: SkuId::parse(fields.next()?).ok()?,
        units: fields.next()?.parse().ok()?,
        since_ms: fields.next()?.parse().ok()?,
        epochs: match (fields.next(), fields.next()) {
            (Some(taker), Some(giver)) => Some((giver.parse().ok()?, taker.parse().ok()?)),
            _ => None,
        },
    })
}

fn read<T: redis::FromRedisValue>(value: &redis::Value) -> StoreResult<T> {
    redis::from_redis_value_ref(value).map_err(|error| StoreError::broken("read stock", error.to_string()))
}
