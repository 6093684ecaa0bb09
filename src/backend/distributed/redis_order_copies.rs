//! Keeps copies of orders in Redis: in sets of a few, so that their number is bounded without an index.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{FromRedisValue, Script, Value};

use super::redis_link::RedisLink;
use crate::chance::Chance;
use crate::domain::{OrderId, WholeOrder};
use crate::ports::{Copied, OrderCopies, StoreError, StoreResult};

const READ: &str = "read copy";
const KEEP: &str = "keep copy";

/// The form of a copy. It changes with every field, so that no version reads what another one has made: a field that an
/// older version does not know would be missing for as long as its copy lives.
const FORM: u32 = 1;
/// How many sets there are. Every process has to know the same number, also of other versions: it belongs to the form.
const SETS: u64 = 16_384;
/// Most copies of a set.
const SET_MAX: u64 = 4;
/// How long a set of copies lives, in ms.
const SET_MS: u64 = 600_000;
/// How long one who makes a copy has for it, in ms: reads of the database that take longer make none.
const MAKING_MS: u64 = 1_000;

/// Serves copies from Redis.
pub struct RedisOrderCopies {
    link: Arc<RedisLink>,
    read: Script,
    keep: Script,
}

impl RedisOrderCopies {
    /// Loads the scripts. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        let read = Script::new(include_str!("../../../lua/read_copy.lua"));
        let keep = Script::new(include_str!("../../../lua/keep_copy.lua"));
        Self { link, read, keep }
    }

    fn set_of(&self, order: OrderId) -> String {
        // The last bytes of an id are of a hash.
        let last = order.bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.link.copies(FORM, last % SETS)
    }
}

/// Reads what a set has of an order; `None` while somebody makes its copy.
fn copy_of(kept: &[u8]) -> StoreResult<Option<WholeOrder>> {
    let Some(text) = kept.strip_prefix(b"=") else { return Ok(None) };
    serde_json::from_slice(text).map_err(|error| StoreError::broken(READ, error.to_string()))
}

#[async_trait]
impl OrderCopies for RedisOrderCopies {
    async fn find(&self, order: OrderId) -> StoreResult<Option<WholeOrder>> {
        let mut call = redis::cmd("HGET");
        call.arg(self.set_of(order)).arg(&order.bytes()[..]);
        let kept: Option<Vec<u8>> = self.link.command("find copy", &call).await?;
        kept.map_or(Ok(None), |kept| copy_of(&kept))
    }

    async fn read(&self, order: OrderId) -> StoreResult<Copied> {
        let number = Chance::System.number();
        let mut call = self.read.key(self.set_of(order));
        call.arg(&order.bytes()[..]).arg(number).arg(MAKING_MS).arg(SET_MAX).arg(SET_MS);
        match self.link.script(READ, &call).await? {
            Value::Int(0) => Ok(Copied::Awaited),
            Value::Int(_) => Ok(Copied::Wanted(number)),
            kept => {
                let kept = Vec::<u8>::from_redis_value(kept);
                let kept = kept.map_err(|error| StoreError::broken(READ, error.to_string()))?;
                Ok(copy_of(&kept)?.map_or(Copied::Awaited, |copy| Copied::Found(Box::new(copy))))
            }
        }
    }

    async fn keep(&self, number: u64, copy: &WholeOrder) -> StoreResult<bool> {
        let text = serde_json::to_vec(copy).map_err(|error| StoreError::broken(KEEP, error.to_string()))?;
        let order = copy.order.id;
        let mut call = self.keep.key(self.set_of(order));
        call.arg(&order.bytes()[..]).arg(number).arg(SET_MAX).arg(text);
        self.link.script(KEEP, &call).await
    }

    async fn forget(&self, orders: &[OrderId]) -> StoreResult<()> {
        let mut pipeline = redis::pipe();
        for order in orders {
            pipeline.hdel(self.set_of(*order), &order.bytes()[..]).ignore();
        }
        self.link.pipeline("forget copies", &pipeline).await
    }
}
