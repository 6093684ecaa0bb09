//! Counts what the buckets of a sale have, mends their outboxes, and closes those whose books are wrong.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::redis_link::RedisLink;
use crate::domain::books::{BucketBooks, DriftKind, OrderSum};
use crate::domain::{BucketId, OrderState, Sale, SkuId};
use crate::ports::{Claim, InventoryBooks, StoreError, StoreResult};

const BOOKS: &str = include_str!("../../../lua/books.lua");
const COUNT: &str = "count buckets";
const SUM: &str = "sum up holds";
/// About how many holds one call reads.
const HOLDS_AT_ONCE: usize = 500;
/// How often buckets are counted anew because units moved meanwhile.
const COUNTS_MAX: usize = 10;
/// From this age on an order should have been sent to the order log.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// Where to go on, and ids of orders with their holds.
type Scanned = (u64, Vec<(Vec<u8>, Vec<u8>)>);

/// Serves the inventory's side of the books from Redis.
pub struct RedisBooks {
    link: Arc<RedisLink>,
    mend_outbox: Script,
    close: Script,
}

impl RedisBooks {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self {
            link,
            mend_outbox: Script::new(include_str!("../../../lua/mend_outbox.lua")),
            close: Script::new(include_str!("../../../lua/close.lua")),
        }
    }

    /// Counts the buckets of a sale that are not claimed, `None` for one that is or that has lost keys. No unit moved
    /// between them meanwhile. From then on they take no units that a claimed bucket gave before.
    ///
    /// # Errors
    /// Also when units moved all the time.
    pub async fn count_all(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<Vec<Option<BucketBooks>>> {
        // One bucket after the other is counted, and a unit that moved meanwhile could be in none of them, or in two.
        let mut before = self.received(sale).await?;
        for _ in 0..COUNTS_MAX {
            let counted = self.count_once(sale, claims).await?;
            let after = self.received(sale).await?;
            if before == after {
                return Ok(counted);
            }
            before = after;
        }
        Err(broken("units move all the time"))
    }

    /// Closes a bucket that has this epoch or an older one.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn shut(&self, bucket: &BucketId, epoch: u32, why: &str) -> StoreResult<bool> {
        let mut call = self.close.prepare_invoke();
        call.key(self.link.keys(bucket).gate).arg(epoch).arg(why);
        self.link.script("close bucket", &call).await
    }

    async fn count_once(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<Vec<Option<BucketBooks>>> {
        let mut buckets = Vec::new();
        for bucket in sale.bucket_ids() {
            let is_claimed = claims.iter().any(|claim| claim.bucket == bucket);
            buckets.push(if is_claimed { None } else { self.count_bucket(&bucket, claims).await? });
        }
        Ok(buckets)
    }

    /// Counts a bucket as it is at one moment. Its holds are read as they are and counted here, because a script that
    /// counts them holds everybody else up for longer.
    async fn count_bucket(&self, bucket: &BucketId, claims: &[Claim]) -> StoreResult<Option<BucketBooks>> {
        let keys = self.link.keys(bucket);
        let named = [
            &keys.gate,
            &keys.stock,
            &keys.orders,
            &keys.moves,
            &keys.received,
            &keys.outbox,
            &keys.outbox_orders,
            &keys.buyers,
        ];
        let mut transaction = redis::pipe();
        // With its text: in a transaction a script that the server has forgotten could not be sent again.
        transaction.atomic().cmd("EVAL").arg(BOOKS).arg(named.len()).arg(&named[..]);
        for claim in claims {
            transaction.arg(claim.bucket.bucket).arg(claim.epoch);
        }
        transaction.hvals(&keys.orders);
        let (found, holds): (Option<Vec<String>>, Vec<Vec<u8>>) =
            self.link.pipeline(COUNT, &transaction).await?;
        let Some(found) = found else { return Ok(None) };
        let (mut books, now_ms) = read(&found).ok_or_else(|| broken("an answer that is not ours"))?;
        let sent_ms = now_ms.saturating_sub(milliseconds(SENT_WITHIN));
        let mut held: BTreeMap<&str, i64> = BTreeMap::new();
        for hold in holds.iter().filter_map(|hold| Hold::parse(hold)) {
            *held.entry(hold.sku).or_default() += hold.units;
            books.unsent += i64::from(hold.reserved_ms.is_some_and(|reserved_ms| reserved_ms <= sent_ms));
        }
        for (sku, units) in held {
            let sku = SkuId::parse(sku).map_err(|error| broken(error.to_string()))?;
            *books.units.entry(sku).or_default() += units;
            books.held += units;
        }
        Ok(Some(books))
    }

    /// Sums up the holds of a bucket that are not settled, some at a time, so that Redis does other things between.
    async fn sum_bucket(&self, bucket: &BucketId) -> StoreResult<OrderSum> {
        let orders = self.link.keys(bucket).orders;
        let (mut cursor, mut seen, mut sum) = (0_u64, HashSet::new(), OrderSum::default());
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&orders).arg(cursor).arg("COUNT").arg(HOLDS_AT_ONCE);
            let (next, holds): Scanned = self.link.command(SUM, &scan).await?;
            for (id, hold) in holds {
                let hold = Hold::parse(&hold).filter(|_| !seen.contains(&id));
                let (Some(Hold { units, .. }), Some(number)) = (hold, number_of(&id)) else { continue };
                (sum.units, sum.checksum) = (sum.units + units, sum.checksum + units * number);
                seen.insert(id);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(sum);
            }
        }
    }

    /// Reads how many moves every bucket has received by now.
    async fn received(&self, sale: &Sale) -> StoreResult<Vec<u64>> {
        let mut pipeline = redis::pipe();
        for bucket in sale.bucket_ids() {
            pipeline.hlen(self.link.keys(&bucket).received);
        }
        self.link.pipeline(COUNT, &pipeline).await
    }
}

fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::broken(COUNT, detail.into())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is counted of a hold. It is `state|fingerprint|units|reserved_ms|sku|user`, which reserve.lua writes.
struct Hold<'a> {
    units: i64,
    sku: &'a str,
    /// When it was made, in ms, of one whose order is not known to be sent.
    reserved_ms: Option<u64>,
}

impl<'a> Hold<'a> {
    /// Reads a hold; `None` for one that is settled, whose state is in upper case, or damaged.
    fn parse(hold: &'a [u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(hold).ok()?.splitn(6, '|');
        let state =
            fields.next().filter(|state| state.starts_with(|mark: char| mark.is_ascii_lowercase()))?;
        let (units, made) = (fields.nth(1)?.parse().ok()?, fields.next()?);
        let is_unsent = state.starts_with(OrderState::Reserved.facts().mark);
        let reserved_ms = if is_unsent { Some(made.parse().ok()?) } else { None };
        Some(Self { units, sku: fields.next()?, reserved_ms })
    }
}

/// Answers the number that the last three bytes of an order's id make.
fn number_of(id: &[u8]) -> Option<i64> {
    let last: &[u8; 3] = id.last_chunk()?;
    Some(last.iter().fold(0, |number, byte| number * 256 + i64::from(*byte)))
}

/// Reads the answer of books.lua: what a bucket has without its holds, and the time in ms.
fn read(found: &[String]) -> Option<(BucketBooks, u64)> {
    let [epoch, received, now_ms, named, outbox_orders, units @ ..] = found else { return None };
    let mut of: BTreeMap<SkuId, i64> = BTreeMap::new();
    for pair in units.chunks_exact(2) {
        of.insert(SkuId::parse(&pair[0]).ok()?, pair[1].parse().ok()?);
    }
    let books = BucketBooks {
        epoch: epoch.parse().ok()?,
        received: received.parse().ok()?,
        units: of,
        held: 0,
        unsent: 0,
        named: named.parse().ok()?,
        outbox_orders: outbox_orders.parse().ok()?,
    };
    Some((books, now_ms.parse().ok()?))
}

#[async_trait]
impl InventoryBooks for RedisBooks {
    async fn count(&self, sale: &Sale) -> StoreResult<Vec<Option<BucketBooks>>> {
        self.count_all(sale, &[]).await
    }

    async fn sums(&self, sale: &Sale) -> StoreResult<Vec<OrderSum>> {
        let mut sums = Vec::new();
        for bucket in sale.bucket_ids() {
            sums.push(self.sum_bucket(&bucket).await?);
        }
        Ok(sums)
    }

    async fn mend_outbox(&self, bucket: &BucketId) -> StoreResult<u64> {
        let keys = self.link.keys(bucket);
        let mut call = self.mend_outbox.prepare_invoke();
        call.key(keys.gate).key(keys.orders).key(keys.outbox).key(keys.outbox_orders).key(keys.set_aside);
        call.arg(milliseconds(SENT_WITHIN));
        self.link.script("mend outbox", &call).await
    }

    async fn refill(&self, bucket: &BucketId, epoch: u32, kind: DriftKind) -> StoreResult<bool> {
        self.shut(bucket, epoch, kind.as_str()).await
    }
}
