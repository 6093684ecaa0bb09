//! Holds a pool of connections to each MySQL instance, names the databases, and says what errors mean.
//!
//! The names of databases that stand in SQL text are made only here. They are made of checked numbers and the checked
//! `mysql.database_prefix`, never of input.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::histogram;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Executor, MySql, Transaction};

use crate::clock::Clock;
use crate::config::MysqlConfig;
use crate::domain::{Instance, Month, Shard, ShardMap};
use crate::metrics::DB_DURATION;
use crate::ports::{Effect, ErrorKind, Probe, StoreError, StoreResult};

/// Most statements that a connection keeps prepared. Every (table, row count) of a batch is one statement text, and the
/// writers' texts must fit beside the rest.
const STATEMENTS_CACHED: usize = 1024;

/// After this many seconds without a word from us the server closes a connection and rolls its transaction back. A
/// writer that is frozen in the middle of a batch must not keep its locks on a SKU that everybody wants.
const ABANDONED_S: u8 = 5;
/// The pool closes a connection that was idle for this long, before the server does.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Holds what every call to MySQL needs.
pub struct Mysql {
    pools: Vec<MySqlPool>,
    /// How users are spread over shards, partitions and instances.
    pub map: ShardMap,
    /// The topic of the order log, which positions and dead letters name.
    pub topic: String,
    prefix: String,
    read_timeout: Duration,
    write_timeout: Duration,
    clock: Clock,
}

/// Says what a failed statement means. A lost connection leaves the effect open. An answer of the server does not: its
/// statement was not applied.
pub fn failed(context: &'static str, source: sqlx::Error) -> StoreError {
    let (kind, effect) = match &source {
        sqlx::Error::Database(error) => {
            let number = error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
            // Conflicts are a deadlock, a lock wait and NOWAIT. The server is unavailable with too many connections, in
            // a shutdown, when it is read-only (two numbers), and when a statement took too long.
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

/// Tells whether a failure is the refusal of a duplicate key.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

impl Mysql {
    /// Makes the pools. They connect lazily, so an instance that is down now costs only its own calls.
    ///
    /// # Errors
    /// When an instance is not `host:port`.
    pub fn new(config: &MysqlConfig, map: ShardMap, topic: &str, clock: Clock) -> StoreResult<Self> {
        let pool = |address: &String| -> StoreResult<MySqlPool> {
            let (host, port) = address
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
                .ok_or_else(|| {
                    StoreError::broken("read mysql.instances", format!("{address} is not host:port"))
                })?;
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
            clock,
        })
    }

    /// Does a read and gives it up after `mysql.read_timeout_ms`, because an instance that hangs breaks no connection.
    ///
    /// # Errors
    /// As the work, and `Unavailable` when it was given up.
    pub async fn read<T>(
        &self,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        self.bounded(self.read_timeout, context, work).await
    }

    /// Does a change and gives it up after `mysql.write_timeout_ms`. It may stand all the same.
    ///
    /// # Errors
    /// As the work, and `Unavailable` with the effect `Unknown` when it was given up.
    pub fn change<'a, T: 'a>(
        &'a self,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send + 'a,
    ) -> impl Future<Output = StoreResult<T>> + Send + 'a {
        // A transaction's future is large, and every caller would hold it several times over.
        self.bounded(self.write_timeout, context, Box::pin(work))
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        self.clock.timeout(limit, work).await.unwrap_or_else(|late| {
            let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
            Err(StoreError { kind, effect, context, source: Box::new(late) })
        })
    }

    /// Does `work` and records how long it took.
    pub async fn observed<T>(&self, operation: &'static str, work: impl Future<Output = T>) -> T {
        let began = self.clock.monotonic();
        let done = work.await;
        histogram!(DB_DURATION, "system" => "mysql", "operation" => operation)
            .record(self.clock.monotonic().since(began).as_secs_f64());
        done
    }

    /// Answers the time of this process's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Answers the pool of an instance.
    pub fn pool(&self, instance: Instance) -> &MySqlPool {
        &self.pools[usize::from(instance.number())]
    }

    /// Answers the pool of the instance that holds the directory.
    pub fn directory_pool(&self) -> &MySqlPool {
        &self.pools[0]
    }

    /// Begins a transaction on an instance.
    ///
    /// # Errors
    /// When the instance cannot be reached. The effect is `NotApplied`.
    pub async fn begin(
        &self,
        instance: Instance,
        context: &'static str,
    ) -> StoreResult<Transaction<'static, MySql>> {
        let begun = self.pool(instance).begin().await;
        begun.map_err(|error| StoreError { effect: Effect::NotApplied, ..failed(context, error) })
    }

    /// Answers the name of the directory database.
    pub fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    /// Answers the name of an instance's control database.
    pub fn control(&self, instance: Instance) -> String {
        format!("{}control_{:02}", self.prefix, instance.number())
    }

    /// Answers the name of a shard's database.
    pub fn shard(&self, shard: Shard) -> String {
        format!("{}shard_{:04}", self.prefix, shard.number())
    }

    /// Fills the name of the directory database into a statement, for `{directory}`.
    pub fn directory_sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{directory}", &self.directory()))
    }

    /// Fills the name of an instance's control database into a statement, for `{control}`.
    pub fn control_sql(&self, instance: Instance, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("{control}", &self.control(instance)))
    }

    /// Fills the name of a shard's database and a month into a statement, for `{shard}` and `{yyyymm}`.
    pub fn shard_sql(&self, shard: Shard, month: Month, text: &str) -> AssertSqlSafe<String> {
        let text = text.replace("{shard}", &self.shard(shard));
        AssertSqlSafe(text.replace("{yyyymm}", &month.yyyymm().to_string()))
    }

    /// Makes a probe of every instance.
    pub fn probes(self: &Arc<Self>) -> Vec<Arc<dyn Probe>> {
        let probe =
            |instance| -> Arc<dyn Probe> { Arc::new(InstanceProbe { mysql: self.clone(), instance }) };
        self.map.all_instances().map(probe).collect()
    }
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
