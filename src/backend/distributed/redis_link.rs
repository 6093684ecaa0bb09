//! Holds one multiplexed Redis connection for all calls, replaces it when it fails, and names the keys.
//!
//! When no connection can be made, calls are refused at once for a pause of 100 ms. So the callers behind a server that
//! hangs learn it within one time limit or two, and not within as many as they have batches.
//!
//! All calls share a single connection, because a pool pings on every checkout, which costs twice as much as the call
//! itself. The pool only supplies replacements. Every call has a time limit of ours, because a connection manager would
//! wait for its reconnects beyond it.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::{Connection, Manager, Pool};
use metrics::histogram;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation};

use crate::clock::{Clock, Moment};
use crate::config::RedisConfig;
use crate::domain::BucketId;
use crate::metrics::DB_DURATION;
use crate::ports::{Effect, ErrorKind, Probe, StoreError, StoreResult};

/// Holds the connection to Redis, the time limit of its calls, and the prefix of its keys.
pub struct RedisLink {
    pool: Pool,
    shared: Mutex<Shared>,
    response_timeout: Duration,
    prefix: String,
    clock: Clock,
}

/// Pause after a connection that could not be made, before the next one is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Shared {
    connection: Option<MultiplexedConnection>,
    refuse_until: Option<Moment>,
}

/// Holds the names of a bucket's six keys. The hash tag keeps them in one slot.
#[derive(Debug, Clone)]
pub struct BucketKeys {
    /// Hash: the bucket's epoch, state and terms.
    pub gate: String,
    /// Hash: SKU → available units.
    pub stock: String,
    /// Hash: user → live units.
    pub buyers: String,
    /// Hash: order id → hold.
    pub orders: String,
    /// Stream: one entry per reserve call that accepted an order.
    pub outbox: String,
    /// Number of orders in all outbox entries.
    pub outbox_orders: String,
}

#[derive(Debug, thiserror::Error)]
#[error("could not be reached a moment ago")]
struct NotReached;

/// Says what a failed call means. Its effect is `effect`, unless Redis refused the call unread: then it is
/// `NotApplied`.
pub fn failed(context: &'static str, effect: Effect, source: RedisError) -> StoreError {
    // Redis gives these answers before it runs a command.
    let refused = [
        "LOADING",
        "BUSY",
        "OOM",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "NOAUTH",
        "MISCONF",
        "NOREPLICAS",
    ];
    if source.code().is_some_and(|code| refused.contains(&code)) {
        let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
        return StoreError { kind, effect, context, source: Box::new(source) };
    }
    let reached = source.code().is_some() && !source.is_io_error();
    let kind = if reached { ErrorKind::Broken } else { ErrorKind::Unavailable };
    StoreError { kind, effect, context, source: Box::new(source) }
}

impl RedisLink {
    /// Makes a link that connects at its first call.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn new(config: &RedisConfig, clock: Clock) -> StoreResult<Self> {
        let open = |error| failed("open Redis", Effect::NotApplied, error);
        let mut info = config.url.as_str().into_connection_info().map_err(open)?;
        if !config.password.expose().is_empty() {
            let settings = info.redis_settings().clone().set_password(config.password.expose());
            info = info.set_redis_settings(settings);
        }
        let response_timeout = Duration::from_millis(config.response_timeout_ms);
        let connection = AsyncConnectionConfig::new()
            .set_response_timeout(Some(response_timeout))
            .set_connection_timeout(Some(Duration::from_millis(config.connect_timeout_ms)));
        let manager = Manager::new_with_config(info, connection).map_err(open)?;
        let pool = Pool::builder(manager)
            .max_size(config.pool_connections_max)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::broken("build the Redis pool", error.to_string()))?;
        let prefix = config.key_prefix.clone();
        Ok(Self { pool, shared: Mutex::default(), response_timeout, prefix, clock })
    }

    /// Answers the names of a bucket's keys.
    pub fn keys(&self, bucket: &BucketId) -> BucketKeys {
        let key = |part: &str| format!("{}{{{}.{}}}:{part}", self.prefix, bucket.sale, bucket.bucket);
        BucketKeys {
            gate: key("gate"),
            stock: key("stock"),
            buyers: key("buyers"),
            orders: key("orders"),
            outbox: key("outbox"),
            outbox_orders: key("outbox_orders"),
        }
    }

    /// Runs a script by its hash, and loads it when the server has lost it.
    ///
    /// # Errors
    /// `NotApplied` when there is no connection or Redis refused the call unread. Otherwise `Unknown`, because the
    /// script may still run.
    pub async fn script<T: FromRedisValue>(
        &self,
        context: &'static str,
        invocation: &ScriptInvocation<'_>,
    ) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, invocation.invoke_async(&mut connection)).await
    }

    /// Runs one command.
    ///
    /// # Errors
    /// As [`RedisLink::script`].
    pub async fn command<T: FromRedisValue>(&self, context: &'static str, command: &Cmd) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, command.query_async(&mut connection)).await
    }

    /// Runs several commands in one round trip. They are no transaction.
    ///
    /// # Errors
    /// As [`RedisLink::script`].
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        context: &'static str,
        pipeline: &redis::Pipeline,
    ) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, pipeline.query_async(&mut connection)).await
    }

    async fn bounded<T>(
        &self,
        context: &'static str,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> StoreResult<T> {
        let began = self.clock.monotonic();
        let answer = self.clock.timeout(self.response_timeout, call).await;
        histogram!(DB_DURATION, "system" => "redis", "operation" => context)
            .record(self.clock.monotonic().since(began).as_secs_f64());
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let failure = failed(context, Effect::Unknown, error);
                if failure.kind == ErrorKind::Unavailable {
                    self.forget();
                }
                Err(failure)
            }
            Err(late) => {
                // The next command on this connection would wait for the answer of this one.
                self.forget();
                let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
                Err(StoreError { kind, effect, context, source: Box::new(late) })
            }
        }
    }

    async fn connection(&self, context: &'static str) -> StoreResult<MultiplexedConnection> {
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError {
            kind: ErrorKind::Unavailable,
            effect: Effect::NotApplied,
            context,
            source,
        };
        {
            let shared = self.shared.lock().expect("no code panics while holding it");
            if let Some(connection) = shared.connection.clone() {
                return Ok(connection);
            }
            if shared.refuse_until.is_some_and(|until| self.clock.monotonic() < until) {
                return Err(unavailable(Box::new(NotReached)));
            }
        }
        // Boxed, because it is large and every call would carry it, though hardly any connects.
        let connecting = Box::pin(self.clock.timeout(self.response_timeout, self.pool.get()));
        let fresh = match connecting.await {
            Ok(fresh) => fresh.map_err(|error| unavailable(Box::new(error))),
            Err(late) => Err(unavailable(Box::new(late))),
        };
        let mut shared = self.shared.lock().expect("no code panics while holding it");
        match fresh {
            Ok(fresh) => {
                let connection = Connection::take(fresh);
                *shared = Shared { connection: Some(connection.clone()), refuse_until: None };
                Ok(connection)
            }
            Err(error) => {
                shared.refuse_until = Some(self.clock.monotonic() + RECONNECT_PAUSE);
                Err(error)
            }
        }
    }

    fn forget(&self) {
        self.shared.lock().expect("no code panics while holding it").connection = None;
    }
}

#[async_trait]
impl Probe for RedisLink {
    fn name(&self) -> String {
        "redis".to_owned()
    }

    fn is_vital(&self) -> bool {
        true
    }

    async fn check(&self) -> StoreResult<()> {
        self.command("ping Redis", &redis::cmd("PING")).await
    }
}
