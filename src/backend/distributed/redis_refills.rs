//! Prolongs the leases of buckets, and fills buckets anew that have lost what they had.
//!
//! Invariant: whatever a rebuild writes is written by a script that compares the epoch for which the bucket was
//! cleared. So a process that was overtaken changes nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, ToRedisArgs};

use super::redis_books::RedisBooks;
use super::redis_link::{BucketKeys, RedisLink};
use crate::domain::Sale;
use crate::domain::inventory_model::{Bucket, Hold};
use crate::domain::rebuild::Elsewhere;
use crate::ports::{Claim, Refills, StoreError, StoreResult};

/// Fields that one call fills in. A script cannot unpack more than some thousands.
const FIELDS_MAX: usize = 1000;

/// Serves the rebuilding of buckets from Redis.
pub struct RedisRefills {
    link: Arc<RedisLink>,
    lease: Duration,
    renew: Script,
    clear: Script,
    fill: Script,
    open: Script,
    books: RedisBooks,
}

impl RedisRefills {
    /// Loads the scripts. It calls nothing. A bucket sells for `lease` after it was renewed last.
    pub fn new(link: Arc<RedisLink>, lease: Duration) -> Self {
        Self {
            books: RedisBooks::new(link.clone()),
            link,
            lease,
            renew: Script::new(include_str!("../../../lua/renew.lua")),
            clear: Script::new(include_str!("../../../lua/clear.lua")),
            fill: Script::new(include_str!("../../../lua/fill.lua")),
            open: Script::new(include_str!("../../../lua/open.lua")),
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
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

    async fn shut(&self, claim: &Claim) -> StoreResult<()> {
        self.books.shut(&claim.bucket, claim.epoch.saturating_sub(1), "rebuild").await.map(drop)
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

    async fn elsewhere(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<Elsewhere> {
        let mut elsewhere = Elsewhere::default();
        for (bucket, counted) in sale.bucket_ids().zip(self.books.count_all(sale, claims).await?) {
            if claims.iter().any(|claim| claim.bucket == bucket) {
                continue;
            }
            elsewhere.is_partly_lost |= counted.is_none();
            for (sku, units) in counted.map(|counted| counted.units).unwrap_or_default() {
                *elsewhere.units.entry(sku).or_default() += units;
            }
        }
        Ok(elsewhere)
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
