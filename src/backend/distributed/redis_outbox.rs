//! The outbox stream of each bucket: what Redis accepted and Kafka has not acknowledged. One entry carries all
//! orders that one call of reserve.lua accepted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, cmd, pipe};

use super::broken;
use super::redis_link::{BucketKeys, RedisLink};
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, OrderId};
use crate::ports::{Outbox, StoreResult};

/// Entries read at once: some 16 KiB each when full, and Redis does nothing else meanwhile.
const PAGE_ENTRIES: usize = 8;

const READ: &str = "read outbox";

/// A stream entry: its id, then order id and record in turn.
type StreamEntry = (String, Vec<Vec<u8>>);

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

    /// What the orders of a page stand at, entry by entry; `None` for one that has no hold.
    async fn holds(&self, keys: &BucketKeys, page: &[StreamEntry]) -> StoreResult<Vec<Vec<Option<Vec<u8>>>>> {
        let mut question = pipe();
        for (_, fields) in page {
            let orders: Vec<&Vec<u8>> = fields.iter().step_by(2).collect();
            question.cmd("HMGET").arg(&keys.orders).arg(orders);
        }
        self.link.pipeline(READ, &question).await
    }
}

/// Leaves out what its hold shows to be in the log. An order without a hold waits: nobody can tell.
fn entry((id, fields): StreamEntry, holds: &[Option<Vec<u8>>]) -> StoreResult<OutboxEntry> {
    let not_an_entry = || broken(READ, "an entry without order ids and records");
    let mut waiting = Vec::new();
    for (pair, hold) in fields.chunks_exact(2).zip(holds) {
        if hold.as_ref().is_none_or(|hold| hold.starts_with(b"r")) {
            let order = OrderId::from_bytes(&pair[0]).map_err(|_| not_an_entry())?;
            waiting.push((order, pair[1].clone()));
        }
    }
    let reserved_ms = id.split('-').next().and_then(|ms| ms.parse().ok()).ok_or_else(not_an_entry)?;
    Ok(OutboxEntry { id: OutboxEntryId(id), reserved_ms, waiting })
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
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            let holds = self.holds(&keys, &page).await?;
            for (found, holds) in page.into_iter().zip(holds) {
                let entry = entry(found, &holds)?;
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
