//! One multiplexed Redis connection for scripts, replaced when it fails, and the names of the keys.
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
    shared: Mutex<Option<MultiplexedConnection>>,
    response_timeout: Duration,
    prefix: String,
}

/// The five keys of a bucket; the hash tag keeps them in one slot.
#[derive(Debug, Clone)]
pub struct BucketKeys {
    pub gate: String,
    pub stock: String,
    pub buyers: String,
    pub orders: String,
    pub outbox: String,
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

pub fn failed(context: &'static str, effect: Effect, source: RedisError) -> StoreError {
    // These answers come before a command runs.
    let refused = ["LOADING", "BUSY", "OOM", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"];
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
        Ok(Self { pool, shared: Mutex::new(None), response_timeout, prefix: config.key_prefix.clone() })
    }

    pub fn keys(&self, bucket: &BucketId) -> BucketKeys {
        let key = |part: &str| format!("{}{{{}.{}}}:{part}", self.prefix, bucket.sale, bucket.bucket);
        BucketKeys {
            gate: key("gate"),
            stock: key("stock"),
            buyers: key("buyers"),
            orders: key("orders"),
            outbox: key("outbox"),
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
        if let Some(connection) = self.shared.lock().expect("no code panics while holding it").clone() {
            return Ok(connection);
        }
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError {
            kind: ErrorKind::Unavailable,
            effect: Effect::NotApplied,
            context,
            source,
        };
        let fresh = tokio::time::timeout(self.response_timeout, self.pool.get())
            .await
            .map_err(|_| unavailable(Box::new(NoAnswer(self.response_timeout))))?
            .map_err(|error| unavailable(Box::new(error)))?;
        let connection = Connection::take(fresh);
        *self.shared.lock().expect("no code panics while holding it") = Some(connection.clone());
        Ok(connection)
    }

    fn forget(&self) {
        *self.shared.lock().expect("no code panics while holding it") = None;
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
