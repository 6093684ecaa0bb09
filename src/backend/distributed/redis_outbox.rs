//! Reads and clears the outbox stream of each bucket, which names what Redis accepted and Kafka may not have
//! acknowledged. One entry names all orders that one call of reserve.lua accepted. Their records are made of their
//! holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, cmd, pipe};

use super::redis_inventory::reservation;
use super::redis_link::{BucketKeys, RedisLink};
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, OrderId};
use crate::ports::{Outbox, StoreError, StoreResult};

/// Entries that are read at once. Each names up to `admission.reserve_batch_max` orders, whose holds are read with it.
const PAGE_ENTRIES: usize = 8;

const READ: &str = "read outbox";

/// A stream entry: its id and its fields.
type StreamEntry = (String, HashMap<String, Vec<u8>>);

/// Serves the outbox from Redis.
pub struct RedisOutbox {
    link: Arc<RedisLink>,
    acknowledge: Script,
}

impl RedisOutbox {
    /// Loads the script. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self { link, acknowledge: Script::new(include_str!("../../../lua/acknowledge.lua")) }
    }

    /// Reads Redis's clock, in ms since 1970. Entry ids carry the same clock, so ages are compared on one clock.
    async fn now_ms(&self) -> StoreResult<i64> {
        let (seconds, micros): (i64, i64) = self.link.command("read Redis time", &cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Reads the holds of a page's orders, entry by entry. An order without a hold is `None`.
    async fn holds(&self, keys: &BucketKeys, page: &[Listed]) -> StoreResult<Vec<Vec<Option<String>>>> {
        let mut question = pipe();
        for listed in page {
            let orders: Vec<&[u8]> = listed.orders.iter().map(|order| order.bytes().as_slice()).collect();
            question.cmd("HMGET").arg(&keys.orders).arg(orders);
        }
        self.link.pipeline(READ, &question).await
    }
}

/// Holds an entry as it stands in the stream.
struct Listed {
    id: String,
    reserved_ms: i64,
    epoch: u32,
    orders: Vec<OrderId>,
}

impl Listed {
    fn parse((id, fields): StreamEntry) -> Option<Self> {
        let orders = fields.get("orders").filter(|packed| !packed.is_empty())?;
        Some(Self {
            reserved_ms: id.split('-').next()?.parse().ok()?,
            epoch: std::str::from_utf8(fields.get("epoch")?).ok()?.parse().ok()?,
            orders: orders.chunks(16).map(|id| OrderId::from_bytes(id).ok()).collect::<Option<_>>()?,
            id,
        })
    }

    /// Leaves out the orders whose hold shows that they are in the log.
    fn waiting(self, bucket: &BucketId, holds: Vec<Option<String>>) -> StoreResult<OutboxEntry> {
        let Self { id, reserved_ms, epoch, orders } = self;
        let mut waiting = Vec::new();
        for (order, hold) in orders.into_iter().zip(holds) {
            match hold {
                Some(hold) if hold.starts_with('r') => waiting.push(reservation(&hold, bucket, order)?),
                Some(_) => {}
                // One script writes both, so somebody removed the hold. What it was cannot be known.
                None => tracing::error!(%order, sale = %bucket.sale, "an order in the outbox has no hold"),
            }
        }
        Ok(OutboxEntry { id: OutboxEntryId(id), epoch, reserved_ms, waiting })
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
        let age_ms = i64::try_from(min_age.as_millis()).unwrap_or(i64::MAX);
        let newest = self.now_ms().await?.saturating_sub(age_ms);
        if newest < 0 {
            return Ok(Vec::new());
        }
        let keys = self.link.keys(bucket);
        let (mut entries, mut orders, mut from) = (Vec::new(), 0, "-".to_owned());
        // Entries without a waiting order count as well, so that a round has an end.
        while orders < limit && entries.len() < limit {
            let mut range = cmd("XRANGE");
            range.arg(&keys.outbox).arg(&from).arg(newest).arg("COUNT").arg(PAGE_ENTRIES);
            let page: Vec<StreamEntry> = self.link.command(READ, &range).await?;
            let page: Option<Vec<Listed>> = page.into_iter().map(Listed::parse).collect();
            let page =
                page.ok_or_else(|| StoreError::broken(READ, "an entry without epoch and order ids"))?;
            let Some(last) = page.last() else { break };
            from = format!("({}", last.id);
            let holds = self.holds(&keys, &page).await?;
            for (listed, holds) in page.into_iter().zip(holds) {
                let entry = listed.waiting(bucket, holds)?;
                orders += entry.waiting.len();
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    async fn acknowledge(
        &self,
        bucket: &BucketId,
        orders: &[OrderId],
        entries: &[OutboxEntryId],
    ) -> StoreResult<()> {
        let keys = self.link.keys(bucket);
        let mut call = self.acknowledge.prepare_invoke();
        let orders: Vec<&[u8]> = orders.iter().map(|order| order.bytes().as_slice()).collect();
        let entries: Vec<&str> = entries.iter().map(|entry| entry.0.as_str()).collect();
        call.key(keys.outbox).key(keys.orders).key(keys.outbox_orders);
        call.arg(orders.len()).arg(orders).arg(entries);
        self.link.script::<i64>("acknowledge", &call).await.map(drop)
    }

    async fn len(&self, bucket: &BucketId) -> StoreResult<u64> {
        let mut count = cmd("GET");
        count.arg(self.link.keys(bucket).outbox_orders);
        let orders: Option<i64> = self.link.command("read outbox length", &count).await?;
        Ok(u64::try_from(orders.unwrap_or(0)).unwrap_or(0))
    }
}
