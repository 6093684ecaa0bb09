//! Sets a sale's buckets as the operator wants them: puts the stock in place, and opens, pauses or ends the gates.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, cmd, pipe};

use super::redis_link::{BucketKeys, RedisLink};
use crate::chance;
use crate::domain::{BucketId, Sale, SaleState, SkuId};
use crate::ports::{BucketState, Gates, StoreError, StoreResult, UnitMove};

/// No guard renews leases yet (docs/protocol/steps.md, step 17), so a gate is made without a lease.
const NO_LEASE_MS: i64 = 0;

/// Serves the gates from Redis.
pub struct RedisGates {
    link: Arc<RedisLink>,
    preheat: Script,
    gate: Script,
    give: Script,
    receive: Script,
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
            call.key(keys.gate).key(keys.stock).key(keys.orders).key(keys.unpaid).key(keys.references);
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
        }
        Ok(())
    }

    async fn set_gates(&self, sale: &Sale) -> StoreResult<()> {
        let Some(state) = sale.state.gate() else { return Ok(()) };
        if !sale.in_place && sale.state != SaleState::Ended {
            return Ok(());
        }
        let mut failure = Ok(());
        for bucket in buckets(sale) {
            let mut call = self.gate.prepare_invoke();
            call.key(self.link.keys(&bucket).gate).arg(state).arg(sale.version);
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
        let keys = self.link.keys(&BucketId { sale: sale.id.clone(), bucket: from });
        let mut call = self.give.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.moves);
        call.arg(&id).arg(sku.as_str()).arg(units).arg(to);
        let units: u32 = self.link.script("give units", &call).await?;
        if units > 0 {
            let moved = UnitMove { id, to, sku: sku.clone(), units, since_ms: 0 };
            self.finish_move(sale, from, &moved).await?;
        }
        Ok(units)
    }

    async fn finish_move(&self, sale: &Sale, from: u16, moved: &UnitMove) -> StoreResult<()> {
        let keys = self.link.keys(&BucketId { sale: sale.id.clone(), bucket: moved.to });
        let mut call = self.receive.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.received);
        call.arg(&moved.id).arg(moved.sku.as_str()).arg(moved.units);
        let has_come: bool = self.link.script("receive units", &call).await?;
        if !has_come {
            let detail = format!("bucket {} cannot take units", moved.to);
            return Err(StoreError::broken("receive units", detail));
        }
        let moves = self.link.keys(&BucketId { sale: sale.id.clone(), bucket: from }).moves;
        let mut forget = cmd("HDEL");
        forget.arg(moves).arg(&moved.id);
        self.link.command::<i64>("forget move", &forget).await.map(drop)
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
            pipeline.hmget(&gate, &["epoch", "sold", "lost"]);
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
    let (epoch, sold, lost): (Option<String>, Option<String>, Option<String>) = read(gate)?;
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
    Ok(BucketState::Whole { available, under_way })
}

/// Reads a value of the `moves` hash, `bucket|sku|units|since_ms`, which give.lua writes.
fn unit_move(id: String, value: &str) -> Option<UnitMove> {
    let mut fields = value.split('|');
    Some(UnitMove {
        id,
        to: fields.next()?.parse().ok()?,
        sku: SkuId::parse(fields.next()?).ok()?,
        units: fields.next()?.parse().ok()?,
        since_ms: fields.next()?.parse().ok()?,
    })
}

fn read<T: redis::FromRedisValue>(value: &redis::Value) -> StoreResult<T> {
    redis::from_redis_value_ref(value).map_err(|error| StoreError::broken("read stock", error.to_string()))
}
