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
use crate::ports::{Outbox, StoreResult};

/// Entries that are read at once. Each names up to `admission.reserve_batch_max` orders, whose holds are read with it.
const PAGE_ENTRIES: usize = 8;

const READ: &str = "read outbox";

/// A stream entry: its id and its fields.
type StreamEntry = (String, HashMap<String, Vec<u8>>);

/// Serves the outbox from Redis.
pub struct RedisOutbox {
    link: Arc<RedisLink>,
    acknowledge: Script,
    set_aside: Script,
}

impl RedisOutbox {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self {
            link,
            acknowledge: Script::new(include_str!("../../../lua/acknowledge.lua")),
            set_aside: Script::new(include_str!("../../../lua/set_aside.lua")),
        }
    }

    /// Reads the holds of a page's orders and their references, entry by entry.
    async fn holds(&self, keys: &BucketKeys, page: &[Listed]) -> StoreResult<Vec<Vec<Found>>> {
        let mut question = pipe();
        // HMGET wants at least one field, and an entry that is not ours names no order.
        for listed in page.iter().filter(|listed| !listed.orders.is_empty()) {
            let orders: Vec<&[u8]> = listed.orders.iter().map(|order| order.bytes().as_slice()).collect();
            question.cmd("HMGET").arg(&keys.orders).arg(&orders);
            question.cmd("HMGET").arg(&keys.references).arg(&orders);
        }
        if question.is_empty() {
            return Ok(vec![Vec::new(); page.len()]);
        }
        let found: Vec<Vec<Option<String>>> = self.link.pipeline(READ, &question).await?;
        let mut found = found.into_iter();
        let of = |listed: &Listed| {
            if listed.orders.is_empty() {
                return Some(Vec::new());
            }
            let (holds, references) = (found.next()?, found.next()?);
            Some(holds.into_iter().zip(references).collect())
        };
        Ok(page.iter().map_while(of).collect())
    }
}

/// The hold of an order and its reference, as far as there are some.
type Found = (Option<String>, Option<String>);

/// Holds an entry as it stands in the stream.
struct Listed {
    id: String,
    reserved_ms: i64,
    epoch: u32,
    orders: Vec<OrderId>,
}

impl Listed {
    /// Reads an entry of the stream. One that is not ours is listed without orders.
    fn parse((id, fields): StreamEntry) -> Self {
        let reserved_ms = id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        let read = || {
            let orders = fields.get("orders").filter(|packed| !packed.is_empty())?;
            let orders = orders.chunks(16).map(|id| OrderId::from_bytes(id).ok()).collect::<Option<_>>()?;
            Some((std::str::from_utf8(fields.get("epoch")?).ok()?.parse().ok()?, orders))
        };
        let (epoch, orders) = read().unwrap_or_default();
        Self { reserved_ms, epoch, orders, id }
    }

    /// Leaves out the orders whose hold shows that they are in the log.
    fn waiting(self, bucket: &BucketId, holds: Vec<Found>) -> OutboxEntry {
        let Self { id, reserved_ms, epoch, orders } = self;
        let mut fault = orders.is_empty().then_some("it has no epoch and order ids");
        let mut waiting = Vec::new();
        for (order, (hold, reference)) in orders.into_iter().zip(holds) {
            let read = |hold: &str| reservation(hold, reference.as_deref(), bucket, order);
            match hold.map(|hold| (hold.starts_with('r'), read(&hold))) {
                Some((true, Ok(held))) => waiting.push(held),
                Some((false, _)) => {}
                // One script writes both, so somebody removed or damaged the hold. What it was cannot be known.
                Some((true, Err(_))) => fault = Some("the hold of an order is damaged"),
                None => fault = Some("the hold of an order is gone"),
            }
        }
        OutboxEntry { id: OutboxEntryId(id), epoch, reserved_ms, waiting, fault }
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
        let newest = self.link.now_ms().await?.saturating_sub(age_ms);
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
            let page: Vec<Listed> = page.into_iter().map(Listed::parse).collect();
            let Some(last) = page.last() else { break };
            from = format!("({}", last.id);
            let holds = self.holds(&keys, &page).await?;
            for (listed, holds) in page.into_iter().zip(holds) {
                let entry = listed.waiting(bucket, holds);
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

    async fn set_aside(&self, bucket: &BucketId, entries: &[OutboxEntryId]) -> StoreResult<()> {
        let keys = self.link.keys(bucket);
        let mut call = self.set_aside.prepare_invoke();
        call.key(keys.outbox).key(keys.set_aside).key(keys.outbox_orders);
        let entries: Vec<&str> = entries.iter().map(|entry| entry.0.as_str()).collect();
        self.link.script::<i64>("set aside", call.arg(entries)).await.map(drop)
    }

    async fn len(&self, bucket: &BucketId) -> StoreResult<u64> {
        let keys = self.link.keys(bucket);
        let mut question = pipe();
        question.cmd("GET").arg(keys.outbox_orders).cmd("XLEN").arg(keys.outbox);
        let (orders, entries): (Option<i64>, u64) =
            self.link.pipeline("read outbox length", &question).await?;
        // Each entry has an order, whatever another hand did to the count.
        Ok(u64::try_from(orders.unwrap_or(0)).unwrap_or(0).max(entries))
    }
}
