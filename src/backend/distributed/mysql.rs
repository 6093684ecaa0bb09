//! Holds a pool of connections to each MySQL instance, names the databases, and says what errors mean.
//!
//! The names of databases that stand in SQL text are made only here. They are made of checked numbers and the checked
//! `mysql.database_prefix`, never of input.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::histogram;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor, MySql, Transaction};

use super::mysql_error::{IsSetBack, READS_ONLY, number};
pub use super::mysql_error::{failed, is_duplicate};
use super::mysql_guard::Guard;
use super::tls;
use crate::chance::{self, Chance};
use crate::clock::{Clock, Moment};
use crate::config::MysqlConfig;
use crate::domain::watermark::SetBack;
use crate::domain::{Instance, Month, NodeId, Shard, ShardMap};
use crate::metrics::DB_DURATION;
use crate::ports::{Duty, Effect, ErrorKind, Fault, Probe, StoreError, StoreResult};
use crate::trace::{self, Kind, described};

/// Most statements that a connection keeps prepared. Every (table, row count) of a batch is one statement text, and the
/// writers' texts must fit beside the rest.
const STATEMENTS_CACHED: usize = 1024;

/// After this many seconds without a word from us the server closes a connection and rolls its transaction back. A
/// writer that is frozen in the middle of a batch must not keep its locks on a SKU that everybody wants.
const ABANDONED_S: u8 = 5;
/// The pool closes a connection that was idle for this long, before the server does.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// The pool closes a connection that is this old, so that every process finds the server again to which an address
/// leads by now.
const POOL_LIFETIME: Duration = Duration::from_secs(60);

/// A connection that was idle for this long is tried before it is used again. Every try is a round trip, as a statement
/// is, and a server that was away for less breaks its connections rarely.
const DOUBTFUL_AFTER: Duration = Duration::from_secs(1);

/// Holds what every call to MySQL needs.
pub struct Mysql {
    /// This process, which rows name that it writes.
    pub node: NodeId,
    instances: Vec<Connections>,
    /// How users are spread over shards, partitions and instances.
    pub map: ShardMap,
    /// The topic of the order log, which positions and dead letters name.
    pub topic: String,
    prefix: String,
    read_timeout: Duration,
    write_timeout: Duration,
    clock: Clock,
    /// A pool that gives no connections: it stands for an instance that nobody may use.
    shut: MySqlPool,
}

/// Whether an instance that was set back is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// It is not.
    Yes,
    /// It is, by whoever migrates or recovers it.
    No,
}

/// The connections to one instance.
struct Connections {
    /// For the order writers and operators.
    pool: MySqlPool,
    /// For what buyers read. A crowd that polls must not take the writers' connections.
    readers: MySqlPool,
    /// When a connection last answered that it only reads; `None` when none ever did.
    read_only_at: Arc<Mutex<Option<Moment>>>,
    guard: Arc<Guard>,
}

/// Makes the rules of a pool, all but its size. `read_only_at` says when a connection last answered that it only reads.
fn pool_bounds(
    config: &MysqlConfig,
    read_only_at: &Arc<Mutex<Option<Moment>>>,
    guard: Option<Arc<Guard>>,
    clock: &Clock,
) -> MySqlPoolOptions {
    let (seen, clock) = (read_only_at.clone(), clock.clone());
    MySqlPoolOptions::new()
        .acquire_timeout(Duration::from_millis(config.acquire_timeout_ms))
        .idle_timeout(POOL_IDLE)
        .max_lifetime(POOL_LIFETIME)
        .test_before_acquire(false)
        // The client takes a connection back as healthy whose server answers that it only reads.
        .before_acquire(move |connection, about| {
            let read_only_at = *seen.lock().expect("no code panics while holding it");
            let since = read_only_at.map(|at| clock.monotonic().since(at));
            let is_younger = since.is_none_or(|since| about.age < since);
            let is_doubtful = about.idle_for >= DOUBTFUL_AFTER;
            Box::pin(async move {
                // A connection that fails this is closed, and the pool takes another one.
                if is_younger && is_doubtful {
                    connection.ping().await?;
                }
                Ok(is_younger)
            })
        })
        .after_connect(move |connection, _| {
            let guard = guard.clone();
            Box::pin(async move {
                connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                connection
                    .execute(AssertSqlSafe(format!("SET SESSION wait_timeout = {ABANDONED_S}")))
                    .await?;
                match guard {
                    Some(guard) => guard.admit(connection).await,
                    None => Ok(()),
                }
            })
        })
}

/// Reads where and as whom to connect to an instance.
fn connect_options(config: &MysqlConfig, address: &str) -> StoreResult<MySqlConnectOptions> {
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| StoreError::broken("read mysql.instances", format!("{address} is not host:port")))?;
    let options = MySqlConnectOptions::new()
        // The client looks for the name in a certificate with the brackets of an IPv6 address.
        .host(host.trim_matches(['[', ']']))
        .port(port)
        .username(&config.user)
        .password(config.password.expose())
        .statement_cache_capacity(STATEMENTS_CACHED);
    if !config.tls {
        // By default the client would take any certificate where the server has one.
        return Ok(options.ssl_mode(MySqlSslMode::Disabled));
    }
    let pems = tls::read(config.tls_files())?;
    let mut options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
    if let Some(ca) = pems.ca {
        options = options.ssl_ca_from_pem(ca);
    }
    Ok(match pems.own {
        Some((certificate, key)) => {
            options.ssl_client_cert_from_pem(certificate).ssl_client_key_from_pem(key)
        }
        None => options,
    })
}

/// Answers the name of an instance's control database.
fn control_of(prefix: &str, instance: Instance) -> String {
    format!("{prefix}control_{:02}", instance.number())
}

/// Takes a connection of a pool.
///
/// # Errors
/// When the instance cannot be reached. The effect is `NotApplied`.
pub async fn connection(pool: &MySqlPool, context: &'static str) -> StoreResult<PoolConnection<MySql>> {
    // Boxed, because it holds all that makes a connection, and every call would carry it, though hardly any connects.
    let taken = Box::pin(pool.acquire()).await;
    taken.map_err(|error| StoreError { effect: Effect::NotApplied, ..failed(context, error) })
}

impl Mysql {
    /// The instance that holds the directory.
    pub const DIRECTORY: Instance = Instance::FIRST;

    /// Makes the pools. They connect lazily, so an instance that is down now costs only its own calls.
    ///
    /// # Errors
    /// When an instance is not `host:port`.
    pub fn new(
        config: &MysqlConfig,
        map: ShardMap,
        topic: &str,
        guarded: Guarded,
        clock: Clock,
    ) -> StoreResult<Self> {
        let connections = |(instance, address): (Instance, &String)| -> StoreResult<Connections> {
            let options = connect_options(config, address)?;
            let read_only_at: Arc<Mutex<Option<Moment>>> = Arc::default();
            let guard = Guard::new(instance, &control_of(&config.database_prefix, instance));
            let admits = (guarded == Guarded::Yes).then(|| guard.clone());
            let bounds = pool_bounds(config, &read_only_at, admits, &clock);
            let pool = bounds.clone().max_connections(config.pool_connections_max);
            let readers = bounds.max_connections(config.reader_connections_max);
            Ok(Connections {
                pool: pool.connect_lazy_with(options.clone()),
                readers: readers.connect_lazy_with(options),
                read_only_at,
                guard,
            })
        };
        let numbered = map.all_instances().zip(&config.instances);
        let instances = numbered.map(connections).collect::<StoreResult<Vec<_>>>()?;
        let shut = MySqlPoolOptions::new().connect_lazy_with(MySqlConnectOptions::new());
        // It is closed from here on. There is nothing to wait for.
        drop(shut.close());
        Ok(Self {
            node: NodeId::new(chance::bytes()),
            shut,
            instances,
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

    /// Does a long read and gives it up after `limit`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn within<T>(
        &self,
        limit: Duration,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        self.bounded(limit, context, work).await
    }

    /// Does a change on an instance and gives it up after `mysql.write_timeout_ms`. It may stand all the same.
    ///
    /// # Errors
    /// As the work, and `Unavailable` with the effect `Unknown` when it was given up.
    pub fn change<'a, T: 'a>(
        &'a self,
        instance: Instance,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send + 'a,
    ) -> impl Future<Output = StoreResult<T>> + Send + 'a {
        // A transaction's future is large, and every caller would hold it several times over.
        let work = Box::pin(work);
        async move {
            let done = self.bounded(self.write_timeout, context, work).await;
            done.inspect_err(|error| self.note_failure(instance, error))
        }
    }

    /// Takes note of a failed change. When the instance's server only reads, all connections that are open now are
    /// closed before they are used again: the address may lead to a server by now that writes.
    pub fn note_failure(&self, instance: Instance, error: &StoreError) {
        let source = error.source.downcast_ref::<sqlx::Error>();
        if source.is_some_and(|source| READS_ONLY.contains(&number(source))) {
            let seen = &self.connections(instance).read_only_at;
            *seen.lock().expect("no code panics while holding it") = Some(self.clock.monotonic());
        }
    }

    async fn bounded<T>(
        &self,
        limit: Duration,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        let work = async {
            let began = self.clock.monotonic();
            let done = self.clock.timeout(limit, work).await;
            histogram!(DB_DURATION, "system" => "mysql", "operation" => context)
                .record(self.clock.monotonic().since(began).as_secs_f64());
            done.unwrap_or_else(|late| {
                let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
                Err(StoreError { kind, effect, context, source: Box::new(late) })
            })
        };
        trace::step(context, Kind::Client, |span| described(span, "mysql", context), work).await
    }

    /// Answers the time of this process's clock, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Waits for any time up to `longest`, so that two who are in each other's way do not meet again.
    pub async fn wait_at_random(&self, longest: Duration) {
        let ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self.clock.sleep(Duration::from_millis(Chance::System.number() % (ms + 1))).await;
    }

    /// Answers the pool of an instance.
    pub fn pool(&self, instance: Instance) -> &MySqlPool {
        let connections = self.connections(instance);
        if connections.guard.is_shut() { &self.shut } else { &connections.pool }
    }

    /// Answers the pool of an instance for what buyers read.
    pub fn readers(&self, instance: Instance) -> &MySqlPool {
        let connections = self.connections(instance);
        if connections.guard.is_shut() { &self.shut } else { &connections.readers }
    }

    fn connections(&self, instance: Instance) -> &Connections {
        &self.instances[usize::from(instance.number())]
    }

    /// Answers the guard of an instance.
    pub fn guard(&self, instance: Instance) -> &Guard {
        &self.connections(instance).guard
    }

    /// Looks whether an instance is set back, and raises its watermark. Answers why it is.
    ///
    /// # Errors
    /// When it cannot be asked in time.
    pub async fn look(&self, instance: Instance) -> StoreResult<Option<SetBack>> {
        let connections = self.connections(instance);
        let options = connections.pool.connect_options();
        self.read("read the watermark", Box::pin(connections.guard.look(&options))).await
    }

    /// Answers the pool of the instance that holds the directory.
    pub fn directory_pool(&self) -> &MySqlPool {
        self.pool(Self::DIRECTORY)
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
        // Boxed as in [`connection`].
        let begun = Box::pin(self.pool(instance).begin()).await;
        begun.map_err(|error| StoreError { effect: Effect::NotApplied, ..failed(context, error) })
    }

    /// Answers the name of the directory database.
    pub fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    /// Answers the name of an instance's control database.
    pub fn control(&self, instance: Instance) -> String {
        control_of(&self.prefix, instance)
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

/// A change of no row: it costs no commit, and a server that only reads refuses it all the same.
pub const NO_CHANGE: &str =
    "UPDATE {control}.consumer_positions SET halt = halt WHERE topic = '' AND part = -1";

struct InstanceProbe {
    mysql: Arc<Mysql>,
    instance: Instance,
}

#[async_trait]
impl Probe for InstanceProbe {
    fn name(&self) -> String {
        format!("mysql-{}", self.instance.number())
    }

    fn duties(&self) -> &'static [Duty] {
        &[Duty::Read, Duty::Write]
    }

    fn is_one_of_several(&self) -> bool {
        self.mysql.map.instances() > 1
    }

    async fn check(&self) -> Result<(), Fault> {
        let work = async {
            let query = sqlx::query(self.mysql.control_sql(self.instance, NO_CHANGE));
            let answer = query.execute(self.mysql.pool(self.instance)).await;
            answer.map(drop).map_err(|error| failed("ask whether MySQL writes", error))
        };
        let asked = self.mysql.change(self.instance, "ask whether MySQL writes", work).await;
        asked.map_err(|error| {
            let number = error.source.downcast_ref::<sqlx::Error>().map_or(0, number);
            Fault::down(match error.kind {
                _ if error.source.is::<IsSetBack>() => "was set back: `seckill recover mysql`",
                _ if READS_ONLY.contains(&number) => "only reads",
                ErrorKind::Unavailable => "does not answer",
                ErrorKind::Conflict | ErrorKind::Broken => "answers with an error",
            })
        })
    }
}
