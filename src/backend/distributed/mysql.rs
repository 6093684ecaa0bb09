//! The MySQL instances: one pool each, the names of their databases, and what their errors mean.
//!
//! The only place that turns table names into SQL text: they are made of checked numbers and the checked
//! `mysql.database_prefix`, never of input.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor, MySql, Transaction};

use crate::config::MysqlConfig;
use crate::domain::{Instance, Month, Shard, ShardMap};
use crate::ports::{Effect, ErrorKind, Probe, StoreError, StoreResult};

use super::broken;

/// Every (table, row count) of a batch is one statement text; the writers' texts must fit beside the rest.
const STATEMENTS_CACHED: usize = 1024;

/// After so many seconds without a word from us the server closes a connection and rolls its transaction back:
/// a writer that is frozen in the middle of a batch must not keep its locks on a SKU that everybody wants.
const ABANDONED_S: u8 = 5;
/// Idle connections are given back before the server takes them.
const POOL_IDLE: Duration = Duration::from_secs(4);

pub struct Mysql {
    pools: Vec<MySqlPool>,
    pub map: ShardMap,
    pub topic: String,
    prefix: String,
    read_timeout: Duration,
    write_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

/// Says what a failed statement means. A lost connection leaves the effect open, an answer of the server
/// does not: its statement was not applied.
pub fn failed(context: &'static str, source: sqlx::Error) -> StoreError {
    let (kind, effect) = match &source {
        sqlx::Error::Database(error) => {
            let number = error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
            // Deadlock, lock wait, NOWAIT; too many connections, shutting down, read-only.
            match number {
                1213 | 1205 | 3572 => (ErrorKind::Conflict, Effect::NotApplied),
                1040 | 1053 | 1290 | 1836 | 3024 => (ErrorKind::Unavailable, Effect::NotApplied),
                _ => (ErrorKind::Broken, Effect::NotApplied),
            }
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => (ErrorKind::Unavailable, Effect::NotApplied),
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, Effect::Unknown),
        _ => (ErrorKind::Broken, Effect::Unknown),
    };
    StoreError { kind, effect, context, source: Box::new(source) }
}

/// Whether a failure is the refusal of a duplicate key.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

impl Mysql {
    /// Connects lazily: an instance that is down now costs only its own calls.
    ///
    /// # Errors
    /// When an instance is not `host:port`.
    pub fn new(config: &MysqlConfig, map: ShardMap, topic: &str) -> StoreResult<Self> {
        let pool = |address: &String| -> StoreResult<MySqlPool> {
            let (host, port) = address
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
                .ok_or_else(|| broken("read mysql.instances", format!("{address} is not host:port")))?;
            let options = MySqlConnectOptions::new()
                .host(host)
                .port(port)
                .username(&config.user)
                .password(config.password.expose())
                .statement_cache_capacity(STATEMENTS_CACHED);
            Ok(MySqlPoolOptions::new()
                .max_connections(config.pool_connections_max)
                .acquire_timeout(Duration::from_millis(config.acquire_timeout_ms))
                .idle_timeout(POOL_IDLE)
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                        connection
                            .execute(AssertSqlSafe(format!("SET SESSION wait_timeout = {ABANDONED_S}")))
                            .await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(options))
        };
        let pools = config.instances.iter().map(pool).collect::<StoreResult<Vec<_>>>()?;
        Ok(Self {
            pools,
            map,
            topic: topic.to_owned(),
            prefix: config.database_prefix.clone(),
            read_timeout: Duration::from_millis(config.read_timeout_ms),
            write_timeout: Duration::from_millis(config.write_timeout_ms),
        })
    }

    /// Gives a read up after `mysql.read_timeout_ms`: an instance that hangs breaks no connection.
    pub async fn read<T>(
        &self,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        bounded(self.read_timeout, context, work).await
    }

    /// The same for a change, after `mysql.write_timeout_ms`; it may stand all the same.
    pub async fn change<T>(
        &self,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        bounded(self.write_timeout, context, work).await
    }

    pub fn pool(&self, instance: Instance) -> &MySqlPool {
        &self.pools[usize::from(instance.number())]
    }

    /// The pool of the instance that holds the directory.
    pub fn directory_pool(&self) -> &MySqlPool {
        &self.pools[0]
    }

    pub async fn begin(
        &self,
        instance: Instance,
        context: &'static str,
    ) -> StoreResult<Transaction<'static, MySql>> {
        let begun = self.pool(instance).begin().await;
        begun.map_err(|error| StoreError { effect: Effect::NotApplied, ..failed(context, error) })
    }

    pub fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    pub fn control(&self, instance: Instance) -> String {
        format!("{}control_{:02}", self.prefix, instance.number())
    }

    pub fn shard(&self, shard: Shard) -> String {
        format!("{}shard_{:04}", self.prefix, shard.number())
    }

    /// A statement of `queries/` with its database names filled in: `{directory}`.
    pub fn directory_sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{directory}", &self.directory()))
    }

    /// The same for `{control}`.
    pub fn control_sql(&self, instance: Instance, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{control}", &self.control(instance)))
    }

    /// The same for `{shard}` and `{yyyymm}`.
    pub fn shard_sql(&self, shard: Shard, month: Month, text: &str) -> AssertSqlSafe<String> {
        let text = text.replace("{shard}", &self.shard(shard));
        AssertSqlSafe(text.replace("{yyyymm}", &month.yyyymm().to_string()))
    }

    pub fn probes(self: &Arc<Self>) -> Vec<Arc<dyn Probe>> {
        let probe =
            |instance| -> Arc<dyn Probe> { Arc::new(InstanceProbe { mysql: self.clone(), instance }) };
        self.map.all_instances().map(probe).collect()
    }
}

async fn bounded<T>(
    limit: Duration,
    context: &'static str,
    work: impl Future<Output = StoreResult<T>> + Send,
) -> StoreResult<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let source = Box::new(NoAnswer(limit));
        Err(StoreError { kind: ErrorKind::Unavailable, effect: Effect::Unknown, context, source })
    })
}

struct InstanceProbe {
    mysql: Arc<Mysql>,
    instance: Instance,
}

#[async_trait]
impl Probe for InstanceProbe {
    fn name(&self) -> String {
        format!("mysql-{}", self.instance.number())
    }

    fn is_vital(&self) -> bool {
        false
    }

    async fn check(&self) -> StoreResult<()> {
        let answer = sqlx::query("SELECT 1").execute(self.mysql.pool(self.instance)).await;
        answer.map(drop).map_err(|error| failed("ping MySQL", error))
    }
}
