//! The outbox stream of each bucket: what Redis accepted and Kafka has not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::streams::StreamRangeReply;
use redis::{Script, cmd};

use super::broken;
use super::redis_link::RedisLink;
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, OrderId};
use crate::ports::{Outbox, StoreResult};

pub struct RedisOutbox {
    link: Arc<RedisLink>,
    acknowledge: Script,
}

impl RedisOutbox {
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self { link, acknowledge: Script::new(include_str!("../../../lua/acknowledge.lua")) }
    }

    /// Redis's clock in ms: entry ids carry it, so ages are compared on one clock.
    async fn now_ms(&self) -> StoreResult<i64> {
        let (seconds, micros): (i64, i64) = self.link.command("read Redis time", &cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

#[async_trait]
impl Outbox for RedisOutbox {
    async fn pending(
        &self,
        bucket: &BucketId,
        min_age: Duration,
        limit: usize,
    ) -> StoreResult<Vec<OutboxEntry>> {
        let context = "read outbox";
        let age_ms = i64::try_from(min_age.as_millis()).unwrap_or(i64::MAX);
        let newest = self.now_ms().await?.saturating_sub(age_ms);
        if newest < 0 {
            return Ok(Vec::new());
        }
        let mut range = cmd("XRANGE");
        range.arg(self.link.keys(bucket).outbox).arg("-").arg(newest).arg("COUNT").arg(limit);
        let reply: StreamRangeReply = self.link.command(context, &range).await?;
        let read = |id: redis::streams::StreamId| -> Option<OutboxEntry> {
            let order: Vec<u8> = id.get("o")?;
            Some(OutboxEntry {
                order: OrderId::from_bytes(&order).ok()?,
                reserved_ms: id.id.split('-').next()?.parse().ok()?,
                payload: id.get("r")?,
                id: OutboxEntryId(id.id),
            })
        };
        let read = |id| read(id).ok_or_else(|| broken(context, "an entry without order id or record"));
        reply.ids.into_iter().map(read).collect()
    }

    async fn acknowledge(&self, bucket: &BucketId, entries: &[(OutboxEntryId, OrderId)]) -> StoreResult<()> {
        let keys = self.link.keys(bucket);
        let mut call = self.acknowledge.prepare_invoke();
        call.key(keys.outbox).key(keys.orders);
        for (entry, order) in entries {
            call.arg(entry.0.as_str()).arg(order.bytes().as_slice());
        }
        self.link.script::<i64>("acknowledge", &call).await.map(drop)
    }

    async fn len(&self, bucket: &BucketId) -> StoreResult<u64> {
        let mut len = cmd("XLEN");
        len.arg(self.link.keys(bucket).outbox);
        self.link.command("read outbox length", &len).await
    }
}
