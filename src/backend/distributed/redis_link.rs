//! Holds a multiplexed Redis connection for all calls of a thread, replaces it when it fails, and names the keys.
//!
//! When no connection can be made, calls are refused at once for a pause of 100 ms. So the callers behind a server that
//! hangs learn it within one time limit or two, and not within as many as they have batches.
//!
//! All calls of a thread share a single connection, because a pool pings on every checkout, which costs twice as much
//! as the call itself. The pool only supplies replacements. No thread uses the connection of another one, because then
//! each call would wake the other thread and each answer this one (docs/adr/0018). Every call has a time limit of ours,
//! because a connection manager would wait for its reconnects beyond it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deadpool_redis::{Connection, Manager, Pool};
use metrics::histogram;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError,
    Script, ScriptInvocation,
};
#[cfg(feature = "tls")]
use redis::{ClientTlsConfig, TlsCertificates};

#[cfg(feature = "tls")]
use super::tls;
use crate::clock::{Clock, Moment};
use crate::config::RedisConfig;
use crate::domain::{BucketId, SaleId};
use crate::metrics::DB_DURATION;
use crate::ports::{Duty, Effect, ErrorKind, Fault, Probe, StoreError, StoreResult};
use crate::trace::{self, Kind, described};

/// Holds the connections to Redis, the time limit of their calls, and the prefix of the keys.
pub struct RedisLink {
    pool: Pool,
    /// Makes connections that hear channels.
    client: Client,
    shared: Mutex<Shared>,
    response_timeout: Duration,
    prefix: String,
    clock: Clock,
    probe: Script,
}

/// Pause after a connection that could not be made, before the next one is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Shared {
    /// The connection that each thread made.
    connections: HashMap<ThreadId, MultiplexedConnection>,
    refuse_until: Option<Moment>,
}

/// Holds the names of a bucket's keys. The hash tag keeps them in one slot.
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
    /// Stream: outbox entries that were set aside.
    pub set_aside: String,
    /// Hash: id of a move → the units that are under way to another bucket.
    pub moves: String,
    /// Hash: id of a move that came here → its units.
    pub received: String,
    /// Hash: user → orders that expired or were given up.
    pub unpaid: String,
    /// Hash: order id → the shop's own name for the order, of those that have one.
    pub references: String,
    /// Number: the epoch for which the bucket is being rebuilt. It is not there otherwise.
    pub rebuild: String,
}

impl BucketKeys {
    /// Answers the names of those that a rebuild replaces. Entries that were set aside wait for a person, and stay.
    pub fn lost_with_the_gate(&self) -> [&str; 9] {
        // Without `..`: a key that is added has to be named here.
        let Self {
            gate: _,
            set_aside: _,
            rebuild: _,
            stock,
            buyers,
            orders,
            outbox,
            outbox_orders,
            moves,
            received,
            unpaid,
            references,
        } = self;
        [stock, buyers, orders, outbox, outbox_orders, moves, received, unpaid, references]
    }

    /// Answers all names.
    pub fn all(&self) -> Vec<&str> {
        let others = [self.gate.as_str(), &self.set_aside, &self.rebuild];
        others.into_iter().chain(self.lost_with_the_gate()).collect()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("could not be reached a moment ago")]
struct NotReached;

/// Says what a failed call means. Its effect is `effect`, unless Redis refused the call unread: then it is
/// `NotApplied`.
pub fn failed(context: &'static str, effect: Effect, source: RedisError) -> StoreError {
    // A user may be refused a script, or a command in the middle of one. Then what stands before it was done.
    let is_refused_whole = source.code() == Some("NOPERM") && !source.to_string().contains("script: ");
    // Redis gives these answers before it runs a command.
    let refused = [
        "LOADING",
        "BUSY",
        "OOM",
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "NOAUTH",
        "WRONGPASS",
        "MISCONF",
        "NOREPLICAS",
        "NOSCRIPT",
    ];
    if is_refused_whole || source.code().is_some_and(|code| refused.contains(&code)) {
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
    /// When the address or a file of TLS cannot be read.
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
        let client = match config.is_tls() {
            #[cfg(feature = "tls")]
            true => {
                let pems = tls::read(config.tls_files())?;
                let client_tls =
                    pems.own.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
                Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: pems.ca })
            }
            _ => Client::open(info),
        };
        let client = client.map_err(open)?;
        let info = client.get_connection_info().clone();
        let manager = Manager::new_with_config(info, connection).map_err(open)?;
        let pool = Pool::builder(manager)
            .max_size(config.pool_connections_max)
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::broken("build the Redis pool", error.to_string()))?;
        let prefix = config.key_prefix.clone();
        let probe = Script::new(include_str!("../../../lua/probe.lua"));
        Ok(Self { pool, client, shared: Mutex::default(), response_timeout, prefix, clock, probe })
    }

    /// Answers the host of the server; `None` when it is a socket of this machine.
    pub fn host(&self) -> Option<String> {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
            _ => None,
        }
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
            set_aside: key("set_aside"),
            moves: key("moves"),
            received: key("received"),
            unpaid: key("unpaid"),
            references: key("references"),
            rebuild: key("rebuild"),
        }
    }

    /// Answers the pattern of the names of all gates.
    pub fn gates(&self) -> String {
        format!("{}{{*}}:gate", self.prefix)
    }

    /// Answers the name of the hash of the watermarks: number of a MySQL instance → its highest watermark.
    pub fn watermarks(&self) -> String {
        format!("{}watermarks", self.prefix)
    }

    /// Answers the name of the hash of the nodes: id of a process → what it told of itself.
    pub fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// Answers the name of the set of the nodes that an operator wants out of service.
    pub fn nodes_out(&self) -> String {
        format!("{}nodes_out", self.prefix)
    }

    /// Answers the name of a bucket of tokens that all processes share. One call asks for many, so they share a slot.
    pub fn limit(&self, bucket: &str) -> String {
        format!("{}{{limits}}:{bucket}", self.prefix)
    }

    /// Answers the name of the channel of announcements.
    pub fn announcements(&self) -> String {
        format!("{}announcements", self.prefix)
    }

    /// Answers the name of the hash of the attempts to buy in a sale: outcome → how many.
    pub fn attempts(&self, sale: &SaleId) -> String {
        format!("{}attempts:{sale}", self.prefix)
    }

    /// Answers the name of a ticket of a stream, by the SHA-256 of its text.
    pub fn stream_ticket(&self, hash: [u8; 32]) -> String {
        format!("{}stream_ticket:{}", self.prefix, URL_SAFE_NO_PAD.encode(hash))
    }

    /// Makes a connection of its own, which hears channels.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn channels(&self, context: &'static str) -> StoreResult<PubSub> {
        let made = self.clock.timeout(self.response_timeout, self.client.get_async_pubsub()).await;
        let unavailable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError {
            kind: ErrorKind::Unavailable,
            effect: Effect::NotApplied,
            context,
            source,
        };
        made.map_err(|late| unavailable(Box::new(late)))?.map_err(|error| unavailable(Box::new(error)))
    }

    /// Answers the name of a set of copies of orders. `form` is the form of the copies.
    pub fn copies(&self, form: u32, set: u64) -> String {
        format!("{}copies:{form}:{set}", self.prefix)
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

    /// Refuses a server that evicts keys when its memory is full: what is evicted was sold. A server that cannot be
    /// asked now is asked by the probe.
    ///
    /// # Errors
    /// When the server tells another policy than `noeviction`.
    pub async fn refuse_eviction(&self) -> StoreResult<()> {
        match self.eviction_policy().await {
            Ok(Some(policy)) if policy != NO_EVICTION => {
                let detail = format!(
                    "Redis has maxmemory-policy {policy} and would evict what was sold: set it to {NO_EVICTION}"
                );
                Err(StoreError { effect: Effect::NotApplied, ..StoreError::broken("open Redis", detail) })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the eviction policy of Redis is not known yet");
                Ok(())
            }
        }
    }

    /// Reads the eviction policy. `None` where the server does not tell.
    ///
    /// # Errors
    /// As [`RedisLink::script`].
    pub async fn eviction_policy(&self) -> StoreResult<Option<String>> {
        // Managed servers forbid CONFIG, and INFO says the same.
        let info: String = self.command("read memory settings", redis::cmd("INFO").arg("memory")).await?;
        let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
        Ok(policy.map(|policy| policy.trim().to_owned()))
    }

    /// Reads Redis's clock, in ms since 1970. The ids of outbox entries and the times of holds carry the same clock.
    ///
    /// # Errors
    /// As [`RedisLink::script`].
    pub async fn now_ms(&self) -> StoreResult<i64> {
        let (seconds, micros): (i64, i64) = self.command("read Redis time", &redis::cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// As [`RedisLink::script`].
    pub async fn command<T: FromRedisValue>(&self, context: &'static str, command: &Cmd) -> StoreResult<T> {
        let mut connection = self.connection(context).await?;
        self.bounded(context, command.query_async(&mut connection)).await
    }

    /// Runs several commands in one round trip. They are a transaction when the pipeline is atomic.
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
        let call = self.within_limit(context, call);
        trace::step(context, Kind::Client, |span| described(span, "redis", context), call).await
    }

    async fn within_limit<T>(
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
            if let Some(connection) = shared.connections.get(&std::thread::current().id()) {
                return Ok(connection.clone());
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
                shared.connections.insert(std::thread::current().id(), connection.clone());
                shared.refuse_until = None;
                Ok(connection)
            }
            Err(error) => {
                shared.refuse_until = Some(self.clock.monotonic() + RECONNECT_PAUSE);
                Err(error)
            }
        }
    }

    /// Drops the connections of all threads: what befell one is true of the server.
    fn forget(&self) {
        self.shared.lock().expect("no code panics while holding it").connections.clear();
    }
}

#[async_trait]
impl Probe for RedisLink {
    fn name(&self) -> String {
        "redis".to_owned()
    }

    fn duties(&self) -> &'static [Duty] {
        &[Duty::Buy]
    }

    /// Runs a script that does what the others do, and looks at the eviction policy.
    async fn check(&self) -> Result<(), Fault> {
        let mut call = self.probe.prepare_invoke();
        for part in ["hash", "number", "stream"] {
            call.key(format!("{}{{probe}}:{part}", self.prefix));
        }
        self.script::<String>("probe", &call).await.map_err(|error| fault(&error))?;
        match self.eviction_policy().await.map_err(|error| fault(&error))? {
            Some(policy) if policy != NO_EVICTION => {
                let words = format!("evicts keys when its memory is full (maxmemory-policy {policy})");
                Err(Fault { words, still_works: true })
            }
            _ => Ok(()),
        }
    }
}

/// The only eviction policy under which Redis keeps what it was given.
pub const NO_EVICTION: &str = "noeviction";

/// Says what is wrong with a server that failed a call.
fn fault(error: &StoreError) -> Fault {
    let code = error.source.downcast_ref::<RedisError>().and_then(RedisError::code);
    // A command that is refused inside a script has no code of its own.
    let is_refused_inside = error.source.to_string().contains("executing the script can't run this command");
    Fault::down(match (code, error.kind) {
        _ if is_refused_inside => "refuses scripts",
        (Some("NOPERM"), _) => "refuses scripts",
        (Some("READONLY"), _) => "only reads",
        (Some("OOM"), _) => "has no memory left",
        (Some("LOADING"), _) => "is loading its data",
        (Some("MISCONF"), _) => "cannot write its data to disk",
        (Some("NOAUTH" | "WRONGPASS"), _) => "refuses our password",
        (_, ErrorKind::Unavailable) => "does not answer",
        _ => "answers with an error",
    })
}
