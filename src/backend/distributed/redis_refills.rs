//! Prolongs the leases of buckets, and fills buckets anew that have lost what they had.
//!
//! Invariant: whatever a rebuild writes is written by a script that compares the epoch for which the bucket was
//! cleared. So a process that was overtaken changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, ToRedisArgs};

use super::redis_link::{BucketKeys, RedisLink};
use crate::domain::inventory_model::{Bucket, Hold};
use crate::domain::{BucketId, Sale, SkuId};
use crate::ports::{Claim, Refills, StoreError, StoreResult};

/// Fields that one call fills in. A script cannot unpack more than some thousands.
const FIELDS_MAX: usize = 1000;

const COUNT: &str = "count units elsewhere";
/// How often buckets are counted anew because units moved meanwhile.
const COUNTS_MAX: usize = 10;

/// What buckets have that were counted one after the other.
#[derive(Default)]
struct Counted {
    /// How many moves each of them has received. When that stays, no unit was in none of them, or in two.
    received: Vec<String>,
    units: BTreeMap<SkuId, i64>,
}

fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::broken(COUNT, detail.into())
}

/// Serves the rebuilding of buckets from Redis.
pub struct RedisRefills {
    link: Arc<RedisLink>,
    lease: Duration,
    renew: Script,
    clear: Script,
    fill: Script,
    open: Script,
    books: Script,
}

impl RedisRefills {
    /// Loads the scripts. It calls nothing. A bucket sells for `lease` after it was renewed last.
    pub fn new(link: Arc<RedisLink>, lease: Duration) -> Self {
        Self {
            link,
            lease,
            renew: Script::new(include_str!("../../../lua/renew.lua")),
            clear: Script::new(include_str!("../../../lua/clear.lua")),
            fill: Script::new(include_str!("../../../lua/fill.lua")),
            open: Script::new(include_str!("../../../lua/open.lua")),
            books: Script::new(include_str!("../../../lua/books.lua")),
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts the units of the buckets that are not claimed, one after the other.
    async fn count(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<Counted> {
        let mut counted = Counted::default();
        let is_claimed = |bucket: u16| claims.iter().any(|claim| claim.bucket.bucket == bucket);
        for bucket in (0..sale.buckets).filter(|bucket| !is_claimed(*bucket)) {
            let keys = self.link.keys(&BucketId { sale: sale.id.clone(), bucket });
            let mut call = self.books.prepare_invoke();
            call.key(keys.gate).key(keys.stock).key(keys.orders).key(keys.moves).key(keys.received);
            for claim in claims {
                call.arg(claim.bucket.bucket).arg(claim.epoch);
            }
            let found: Option<Vec<String>> = self.link.script(COUNT, &call).await?;
            let found = found.ok_or_else(|| broken(format!("bucket {bucket} has no gate either")))?;
            let [received, units @ ..] = &found[..] else { return Err(broken("no answer")) };
            counted.received.push(received.clone());
            for pair in units.chunks_exact(2) {
                let sku = SkuId::parse(&pair[0]).map_err(|error| broken(error.to_string()))?;
                let more: i64 = pair[1].parse().map_err(|_| broken("units that are no number"))?;
                *counted.units.entry(sku).or_default() += more;
            }
        }
        Ok(counted)
    }

    /// Fills a hash of a cleared bucket. Answers `false` when a newer claim has been there.
    async fn fill_hash<F: ToRedisArgs, V: ToRedisArgs>(
        &self,
        (keys, claim): (&BucketKeys, &Claim),
        hash: &str,
        fields: impl Iterator<Item = (F, V)>,
    ) -> StoreResult<bool> {
        let fields: Vec<(F, V)> = fields.collect();
        for chunk in fields.chunks(FIELDS_MAX) {
            let mut call = self.fill.prepare_invoke();
            call.key(&keys.rebuild).key(hash).arg(claim.epoch);
            for (field, value) in chunk {
                call.arg(field).arg(value);
            }
            if !self.link.script::<bool>("fill bucket", &call).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn fill_hashes(&self, keys: &BucketKeys, claim: &Claim, bucket: &Bucket) -> StoreResult<bool> {
        let place = (keys, claim);
        let stock = bucket.stock.iter().map(|(sku, units)| (sku.as_str(), *units));
        let buyers = bucket.buyers.iter().map(|(user, units)| (user.as_str(), *units));
        let unpaid = bucket.unpaid.iter().map(|(user, orders)| (user.as_str(), *orders));
        let orders = bucket.orders.iter().map(|(id, hold)| (id.bytes().as_slice(), text_of(hold)));
        let named = bucket.orders.iter().filter_map(|(id, hold)| Some((id, hold.reference.as_ref()?)));
        let references = named.map(|(id, reference)| (id.bytes().as_slice(), reference.as_str()));
        Ok(self.fill_hash(place, &keys.stock, stock).await?
            && self.fill_hash(place, &keys.buyers, buyers).await?
            && self.fill_hash(place, &keys.unpaid, unpaid).await?
            && self.fill_hash(place, &keys.references, references).await?
            && self.fill_hash(place, &keys.orders, orders).await?)
    }
}

/// Writes a hold as reserve.lua and release.lua do.
fn text_of(hold: &Hold) -> String {
    let Hold { state, fingerprint, quantity, reserved_ms, sku, user, is_released, .. } = hold;
    let mark = state.facts().mark;
    let mark = if *is_released { mark.to_ascii_uppercase() } else { mark };
    format!("{mark}|{}|{}|{reserved_ms}|{sku}|{user}", fingerprint.as_str(), quantity.units())
}

#[async_trait]
impl Refills for RedisRefills {
    async fn renew(&self, sale: &Sale) -> StoreResult<()> {
        for bucket in sale.bucket_ids() {
            let mut call = self.renew.prepare_invoke();
            call.key(self.link.keys(&bucket).gate).arg(self.lease_ms());
            // What is missing or not of this run is found by whoever reads the buckets.
            self.link.script::<String>("renew lease", &call).await?;
        }
        Ok(())
    }

    async fn clear(&self, claim: &Claim) -> StoreResult<bool> {
        let keys = self.link.keys(&claim.bucket);
        let mut call = self.clear.prepare_invoke();
        call.key(&keys.gate).key(&keys.rebuild);
        for key in keys.lost_with_the_gate() {
            call.key(key);
        }
        self.link.script("clear bucket", call.arg(claim.epoch)).await
    }

    async fn elsewhere(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<BTreeMap<SkuId, i64>> {
        let mut counted = self.count(sale, claims).await?;
        for _ in 0..COUNTS_MAX {
            let again = self.count(sale, claims).await?;
            if again.received == counted.received {
                return Ok(counted.units);
            }
            counted = again;
        }
        Err(StoreError::broken(COUNT, "units move all the time"))
    }

    async fn fill(&self, sale: &Sale, claim: &Claim, bucket: &Bucket) -> StoreResult<bool> {
        let keys = self.link.keys(&claim.bucket);
        if !self.fill_hashes(&keys, claim, bucket).await? {
            return Ok(false);
        }
        let context = "open bucket";
        let state = sale.state.gate();
        let state = state.ok_or_else(|| StoreError::broken(context, "the sale is not on"))?;
        let mut call: ScriptInvocation<'_> = self.open.prepare_invoke();
        call.key(keys.gate).key(keys.rebuild).key(keys.stock).key(keys.buyers).key(keys.orders);
        call.key(keys.outbox).key(keys.outbox_orders).key(keys.unpaid);
        call.arg(claim.epoch).arg(state).arg(sale.version).arg(sale.starts_ms).arg(sale.ends_ms);
        call.arg(sale.buyer_limit).arg(sale.unpaid_max).arg(self.lease_ms());
        call.arg(bucket.stock.len()).arg(bucket.buyers.len()).arg(bucket.orders.len());
        match self.link.script::<String>(context, &call).await?.as_str() {
            "open" => Ok(true),
            "overtaken" => Ok(false),
            answer => Err(StoreError::broken(context, format!("bucket {}: {answer}", claim.bucket.bucket))),
        }
    }
}
