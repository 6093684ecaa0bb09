//! Looks whether MySQL instances were set back, with the highest watermarks that Redis keeps.
//!
//! Invariant: a watermark is raised on its instance before it is known anywhere else. So an instance that has a smaller
//! one than is known has older data than it had.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use redis::Script;

use super::mysql::Mysql;
use super::redis_link::RedisLink;
use crate::domain::Instance;
use crate::ports::{StoreResult, Watermarks};

/// Serves the watermarks.
pub struct RedisWatermarks {
    mysql: Arc<Mysql>,
    redis: Arc<RedisLink>,
    script: Script,
}

impl RedisWatermarks {
    /// Loads the script. It calls nothing.
    pub fn new(mysql: Arc<Mysql>, redis: Arc<RedisLink>) -> Self {
        let script = Script::new(include_str!("../../../lua/watermark.lua"));
        Self { mysql, redis, script }
    }

    /// Exchanges what this process and Redis have seen of the instances.
    ///
    /// # Errors
    /// When Redis fails. What this process has seen stands.
    pub async fn exchange(&self) -> StoreResult<()> {
        let mut call = self.script.prepare_invoke();
        call.key(self.redis.watermarks());
        for instance in self.mysql.map.all_instances() {
            call.arg(self.mysql.guard(instance).known());
        }
        let marks: Vec<i64> = self.redis.script("exchange watermarks", &call).await?;
        for (instance, mark) in self.mysql.map.all_instances().zip(marks) {
            self.mysql.guard(instance).learn(mark);
        }
        Ok(())
    }
}

#[async_trait]
impl Watermarks for RedisWatermarks {
    async fn look(&self) -> StoreResult<()> {
        let mut failure = self.exchange().await.err();
        let looks = self.mysql.map.all_instances().map(|instance| self.mysql.look(instance));
        for looked in futures::future::join_all(looks).await {
            failure = failure.or(looked.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn set_back(&self) -> BTreeMap<Instance, bool> {
        let is_set_back = |instance| (instance, self.mysql.guard(instance).is_shut());
        self.mysql.map.all_instances().map(is_set_back).collect()
    }
}
