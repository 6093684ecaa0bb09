//! Sets a sale's buckets as the operator wants them: puts the stock in place, and opens, pauses or ends the gates.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, pipe};

use super::redis_link::RedisLink;
use crate::domain::{BucketId, Sale, SaleState, SkuId};
use crate::ports::{Gates, StoreError, StoreResult};

/// No guard renews leases yet (docs/protocol/steps.md, step 17), so a gate is made without a lease.
const NO_LEASE_MS: i64 = 0;

/// Serves the gates from Redis.
pub struct RedisGates {
    link: Arc<RedisLink>,
    preheat: Script,
    gate: Script,
}

impl RedisGates {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self {
            link,
            preheat: Script::new(include_str!("../../../lua/preheat.lua")),
            gate: Script::new(include_str!("../../../lua/gate.lua")),
        }
    }
}

fn buckets(sale: &Sale) -> impl Iterator<Item = BucketId> + '_ {
    (0..sale.buckets).map(|bucket| BucketId { sale: sale.id.clone(), bucket })
}

#[async_trait]
impl Gates for RedisGates {
    async fn preheat(&self, sale: &Sale) -> StoreResult<()> {
        for bucket in buckets(sale) {
            let keys = self.link.keys(&bucket);
            let mut call = self.preheat.prepare_invoke();
            call.key(keys.gate).key(keys.stock);
            call.arg(sale.epoch).arg(sale.starts_ms).arg(sale.ends_ms).arg(sale.buyer_limit).arg(NO_LEASE_MS);
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
        }
        Ok(())
    }

    async fn set_gates(&self, sale: &Sale) -> StoreResult<()> {
        let Some(state) = sale.state.gate() else { return Ok(()) };
        for bucket in buckets(sale) {
            let mut call = self.gate.prepare_invoke();
            call.key(self.link.keys(&bucket).gate).arg(sale.epoch).arg(state).arg(sale.version);
            let answer: String = self.link.script("set gate", &call).await?;
            // A published sale may be ended before it was preheated. Then there is no gate to shut.
            if answer == "conflict" || (answer == "missing" && sale.state != SaleState::Ended) {
                return Err(StoreError::broken(
                    "set gate",
                    format!("bucket {}: gate {answer}", bucket.bucket),
                ));
            }
        }
        Ok(())
    }

    async fn available(&self, sale: &Sale) -> StoreResult<Vec<Option<HashMap<SkuId, i64>>>> {
        let mut pipeline = pipe();
        for bucket in buckets(sale) {
            let keys = self.link.keys(&bucket);
            pipeline.exists(keys.gate).hgetall(keys.stock);
        }
        let answers: Vec<redis::Value> = self.link.pipeline("read stock", &pipeline).await?;
        let mut found = Vec::with_capacity(usize::from(sale.buckets));
        for pair in answers.chunks_exact(2) {
            let in_place: bool = read(&pair[0])?;
            let stock: HashMap<String, i64> = read(&pair[1])?;
            let units = stock
                .into_iter()
                .map(|(sku, units)| {
                    Ok((
                        SkuId::parse(&sku).map_err(|e| StoreError::broken("read stock", e.to_string()))?,
                        units,
                    ))
                })
                .collect::<StoreResult<HashMap<_, _>>>()?;
            found.push(in_place.then_some(units));
        }
        Ok(found)
    }
}

fn read<T: redis::FromRedisValue>(value: &redis::Value) -> StoreResult<T> {
    redis::from_redis_value_ref(value).map_err(|error| StoreError::broken("read stock", error.to_string()))
}
