//! One multiplexed Redis connection for scripts, replaced when it fails, and the names of the keys.
//!
//! While Redis does not answer, one caller at a time finds that out; the others are refused at once, so that a
//! crowd behind a hung server is told so in one time limit and not in as many as it has batches.
//!
//! The hot path shares a single connection because a pool pings on every checkout, twice the cost of the
//! call itself; the pool only supplies replacements. Every call has our own time limit: a connection manager
//! would wait for its reconnects beyond it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_redis::{Connection, Manager, Pool};
use metrics::histogram;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, IntoConnectionInfo, RedisError, ScriptInvocation};

use super::broken;
use crate::config::RedisConfig;
use crate::domain::BucketId;
use crate::metrics::DB_DURATION;
use crate::ports::{Effect, ErrorKind, Probe, StoreError, StoreResult};

pub struct RedisLink {
    pool: Pool,
    shared: Mutex<Shared>,
    response_timeout: Duration,
    prefix: String,
}

/// Pause after a connection that could not be made, before the next is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Shared {
    connection: Option<MultiplexedConnection>,
    refuse_until: Option<Instant>,
}

/// The six keys of a bucket; the hash tag keeps them in one slot.
#[derive(Debug, Clone)]
pub struct BucketKeys {
    pub gate: String,
    pub stock: String,
    pub buyers: String,
    pub orders: String,
    pub outbox: String,
    pub outbox_orders: String,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

#[derive(Debug, thiserror::Error)]
#[error("could not be reached a moment ago")]
struct NotReached;

pub fn failed(context: &'static str, effect: Effect, source: RedisError) -> StoreError {
    // These answers come before a command runs.
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
    pub fn new(config: &RedisConfig) -> StoreResult<Self> {
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
            .map_err(|error| broken("build the Redis pool", error.to_string()))?;
        Ok(Self { pool, shared: Mutex::default(), response_timeout, prefix: config.key_prefix.clone() })
    }

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

    /// Runs a script by its hash, loading it where the server has lost it.
    ///
    /// # Errors
    /// `Unknown` once the call was sent: the script may still run.
    pub async fn script<T: FromRedisValue>(
        &self,
        context: &'static str,
        invocation: &ScriptInvocation<'_>,
    ) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, invocation.invoke_async(&mut connection)).await
    }

    pub async fn command<T: FromRedisValue>(&self, context: &'static str, command: &Cmd) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, command.query_async(&mut connection)).await
    }

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
        let began = Instant::now();
        let answer = tokio::time::timeout(self.response_timeout, call).await;
        histogram!(DB_DURATION, "system" => "redis", "operation" => context)
            .record(began.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let failure = failed(context, Effect::Unknown, error);
                if failure.kind == ErrorKind::Unavailable {
                    self.forget();
                }
                Err(failure)
            }
            Err(_) => {
                // The next command on this connection would wait for the answer of this one.
                self.forget();
                let source = Box::new(NoAnswer(self.response_timeout));
                Err(StoreError { kind: ErrorKind::Unavailable, effect: Effect::Unknown, context, source })
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
            if shared.refuse_until.is_some_and(|until| Instant::now() < until) {
                return Err(unavailable(Box::new(NotReached)));
            }
        }
        let fresh = match tokio::time::timeout(self.response_timeout, self.pool.get()).await {
            Ok(fresh) => fresh.map_err(|error| unavailable(Box::new(error))),
            Err(_) => Err(unavailable(Box::new(NoAnswer(self.response_timeout)))),
        };
        let mut shared = self.shared.lock().expect("no code panics while holding it");
        match fresh {
            Ok(fresh) => {
                let connection = Connection::take(fresh);
                *shared = Shared { connection: Some(connection.clone()), refuse_until: None };
                Ok(connection)
            }
            Err(error) => {
                shared.refuse_until = Some(Instant::now() + RECONNECT_PAUSE);
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
