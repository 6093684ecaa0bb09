//! The composition root: turns a configuration into a running process, and takes it down in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey};
use metrics_exporter_prometheus::PrometheusHandle;

#[cfg(feature = "distributed")]
use crate::backend::distributed;
#[cfg(feature = "embedded")]
use crate::backend::embedded;
use crate::clock::Clock;
use crate::config::{AuthConfig, Config, Mode, PublicKeyAlgorithm};
use crate::domain::Month;
use crate::http::auth::{TokenKey, TokenRules, Tokens};
use crate::http::{Context, middleware, router};
use crate::ports::{OrderLog, Ports, SaleStore};
use crate::purchase::catalog::gauge_holdings;
use crate::purchase::pace::Meter;
use crate::purchase::{Settings, Shop};
use crate::shutdown::Tasks;
use crate::worker::order_writer::{Limits, OrderWriter, Writing};
use crate::worker::outbox_relay::OutboxRelay;

/// Which parts of the product this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Both.
    All,
    /// The shopper's listener.
    Api,
    /// Order writer and outbox relay.
    Worker,
}

/// How often lag and drain rate are measured.
const PACE_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before a writer whose reader broke joins again.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// A started process.
pub struct Running {
    /// `None` for a pure worker.
    pub shopper: Option<SocketAddr>,
    pub admin: SocketAddr,
    servers: Vec<ServerHandle>,
    admin_server: ServerHandle,
    shop: Arc<Shop>,
    order_log: Arc<dyn OrderLog>,
    front: Tasks,
    back: Tasks,
}

/// An address that a listener did not get.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key})")]
pub struct CannotListen {
    pub address: SocketAddr,
    /// The configuration's key.
    pub key: &'static str,
    pub source: std::io::Error,
}

/// What the distributed backend takes of a configuration.
///
/// # Errors
/// When the shard map's counts do not fit together.
#[cfg(feature = "distributed")]
pub fn backend_settings(config: &Config) -> anyhow::Result<distributed::Settings> {
    Ok(distributed::Settings {
        redis: config.redis.clone(),
        kafka: config.kafka.clone(),
        mysql: config.mysql.clone(),
        map: config.shard_map()?,
    })
}

/// What the embedded backend takes of a configuration.
///
/// # Errors
/// When the shard map's counts do not fit together.
#[cfg(feature = "embedded")]
pub fn embedded_settings(config: &Config) -> anyhow::Result<embedded::Settings> {
    Ok(embedded::Settings { embedded: config.embedded.clone(), map: config.shard_map()? })
}

/// Opens the backend that the configuration names.
///
/// # Errors
/// When it cannot be reached or was not migrated, or this program was built without it.
pub async fn open_backend(config: &Config) -> anyhow::Result<Ports> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Ok(distributed::open(&backend_settings(config)?, Clock::System).await?),
        #[cfg(feature = "embedded")]
        Mode::Embedded => {
            let embedded::Opened { ports, found } =
                embedded::open(&embedded_settings(config)?, Clock::System).await?;
            tracing::info!(?found, folder = %config.embedded.folder.display(), "folder opened");
            Ok(ports)
        }
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Opens only the directory of sales and keys, for commands that need nothing else.
///
/// # Errors
/// As [`start`], of the first MySQL instance or of the data folder.
pub async fn open_directory(config: &Config) -> anyhow::Result<Arc<dyn SaleStore>> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Ok(distributed::open_directory(&backend_settings(config)?).await?),
        #[cfg(feature = "embedded")]
        Mode::Embedded => Ok(embedded::open_directory(&embedded_settings(config)?, Clock::System).await?),
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Refuses a folder without a shop in it, where a new one would be no help.
///
/// # Errors
/// When there is none.
pub fn require_shop(config: &Config) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "embedded")]
        Mode::Embedded if !embedded::holds_shop(&config.embedded.folder) => {
            let folder = config.embedded.folder.display();
            Err(anyhow::anyhow!("there is no shop in {folder} (embedded.folder, --data)"))
        }
        _ => Ok(()),
    }
}

/// The months that orders tables are made for ahead of time, this one first.
pub fn months_ahead(config: &Config) -> Vec<Month> {
    let first = Month::of_ms(Clock::System.now_ms());
    let months = std::iter::successors(Some(first), |month| Some(month.next()));
    months.take(config.shards.months_ahead.into()).collect()
}

/// Makes what orders of these months need.
///
/// # Errors
/// As `seckill migrate`.
pub async fn prepare_months(config: &Config, months: &[Month]) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            let mut all = months_ahead(config);
            all.extend(months);
            distributed::migrate::run(&backend_settings(config)?, &all, |_| ()).await?;
            Ok(())
        }
        // One table holds every month.
        _ => {
            let _ = months;
            Ok(())
        }
    }
}

#[cfg(not(all(feature = "distributed", feature = "embedded")))]
fn built_without(mode: Mode) -> anyhow::Error {
    let mode = mode.as_str();
    anyhow::anyhow!("this program was built without the {mode} mode: build it with `--features {mode}`")
}

/// Starts everything of a role and returns when it serves. Port 0 binds a free one.
///
/// # Errors
/// When a secret is missing, a component cannot be reached, or an address is taken.
pub async fn start(config: &Config, role: Role, metrics: PrometheusHandle) -> anyhow::Result<Running> {
    if role != Role::Worker {
        config.require_secrets()?;
    }
    anyhow::ensure!(
        config.backend.mode != Mode::Embedded || role == Role::All,
        "embedded mode is one process: it has no --role but all"
    );
    let backend = open_backend(config).await?;
    start_on(backend, config, role, metrics).await
}

/// The same over a backend that is open already; tests put faults into its ports.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    backend: Ports,
    config: &Config,
    role: Role,
    metrics: PrometheusHandle,
) -> anyhow::Result<Running> {
    let clock = Clock::System;
    let map = config.shard_map()?;
    let tokens = match role {
        Role::Worker => Tokens::new(Vec::new(), &token_rules(&config.auth), clock.clone()),
        Role::All | Role::Api => {
            Tokens::new(token_keys(&config.auth)?, &token_rules(&config.auth), clock.clone())
        }
    };
    let (front, back) = (Tasks::on_current_runtime(), Tasks::on_current_runtime());
    let shop = Shop::new(backend.clone(), settings(config), map, clock.clone(), front.clone());
    shop.refresh().await;
    keep_fresh(&shop, &back, config, metrics.clone());
    if role != Role::Api {
        start_workers(config, &backend, &clock, &back)?;
    }
    let trusted_proxies = config.http.trusted_proxies.clone();
    let context = web::Data::new(Context { shop: shop.clone(), tokens, trusted_proxies, metrics });
    let mut servers = Vec::new();
    let mut shopper = None;
    if role != Role::Worker {
        let (address, handle) = shopper_server(config, context.clone(), &back)?;
        shopper = Some(address);
        servers.push(handle);
    }
    let (admin, admin_server) = admin_server(config, context, &back)?;
    tracing::info!(?role, ?shopper, %admin, version = env!("CARGO_PKG_VERSION"), "serving");
    let order_log = backend.order_log.clone();
    Ok(Running { shopper, admin, servers, admin_server, shop, order_log, front, back })
}

impl Running {
    /// The ordered drain: not ready → stop accepting → finish purchases → flush → finish batches → close.
    /// Answers whether all of it was done within `deadline`.
    pub async fn stop(self, deadline: Duration) -> bool {
        let began = Instant::now();
        let drained = tokio::time::timeout(deadline, self.drain(deadline)).await.is_ok();
        tracing::info!(drained, elapsed_ms = began.elapsed().as_millis(), "stopped");
        drained
    }

    async fn drain(&self, deadline: Duration) {
        self.shop.drain();
        for server in &self.servers {
            server.stop(true).await;
        }
        self.front.drained().await;
        if let Err(error) = self.order_log.flush(deadline).await {
            tracing::warn!(%error, "not everything was acknowledged; the relay delivers it");
        }
        self.back.stop();
        self.admin_server.stop(true).await;
        self.back.drained().await;
    }
}

fn settings(config: &Config) -> Settings {
    let (admission, limits) = (&config.admission, &config.limits);
    Settings {
        in_flight_max: admission.in_flight_max,
        reserve_batch_max: admission.reserve_batch_max,
        sold_out_recheck_ms: admission.sold_out_recheck_ms,
        opening_skew_ms: admission.opening_skew_ms,
        append_wait_ms: admission.append_wait_ms,
        outbox_orders_max: admission.outbox_orders_max,
        wait_s_max: admission.wait_s_max,
        waiters_max: admission.waiters_max,
        user_per_s: limits.user_per_s,
        user_burst: limits.user_burst,
        address_per_s: limits.address_per_s,
        address_burst: limits.address_burst,
    }
}

fn token_rules(auth: &AuthConfig) -> TokenRules {
    TokenRules {
        audience: auth.audience.clone(),
        issuer: auth.issuer.clone(),
        leeway_s: auth.leeway_s,
        verified_max: auth.verified_tokens_max,
    }
}

fn token_keys(auth: &AuthConfig) -> anyhow::Result<Vec<TokenKey>> {
    let mut keys = Vec::new();
    let secret = auth.hs256_secret.expose();
    if !secret.is_empty() {
        let key = DecodingKey::from_secret(secret.as_bytes());
        keys.push(TokenKey { kid: auth.hs256_kid.clone(), algorithm: Algorithm::HS256, key });
    }
    if let Some(path) = &auth.public_key_file {
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read auth.public_key_file {}", path.display()))?;
        let (algorithm, key) = public_key(auth.public_key_algorithm, &pem)
            .with_context(|| format!("{} cannot be used as a public key", path.display()))?;
        keys.push(TokenKey { kid: auth.public_key_kid.clone(), algorithm, key });
    }
    Ok(keys)
}

#[cfg(feature = "public-keys")]
fn public_key(algorithm: PublicKeyAlgorithm, pem: &[u8]) -> anyhow::Result<(Algorithm, DecodingKey)> {
    Ok(match algorithm {
        PublicKeyAlgorithm::EdDSA => (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)?),
        PublicKeyAlgorithm::RS256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)?),
    })
}

#[cfg(not(feature = "public-keys"))]
fn public_key(_: PublicKeyAlgorithm, _: &[u8]) -> anyhow::Result<(Algorithm, DecodingKey)> {
    anyhow::bail!("this program was built without public keys: build it with `--features public-keys`")
}

/// The front's two loops: the catalog, and lag over drain rate.
fn keep_fresh(shop: &Arc<Shop>, back: &Tasks, config: &Config, metrics: PrometheusHandle) {
    let (renewed, tasks) = (shop.clone(), back.clone());
    let pause = Duration::from_millis(config.catalog.refresh_ms);
    back.spawn(async move {
        while !tasks.is_stopping() {
            tasks.pause(pause).await;
            renewed.refresh().await;
            metrics.run_upkeep();
        }
    });
    let (measured, tasks) = (shop.clone(), back.clone());
    back.spawn(async move {
        let mut meter = Meter::default();
        while !tasks.is_stopping() {
            if let Err(error) = measured.pace.measure(&mut meter, &measured.ports, Instant::now()).await {
                tracing::debug!(%error, "lag not measured");
            }
            let now_ms = measured.clock.now_ms();
            gauge_holdings(&measured.catalog.snapshot(), measured.ports.ledger.as_ref(), now_ms).await;
            tasks.pause(PACE_INTERVAL).await;
        }
    });
}

fn start_workers(config: &Config, backend: &Ports, clock: &Clock, back: &Tasks) -> anyhow::Result<()> {
    let relay = OutboxRelay {
        sales: backend.sales.clone(),
        outbox: backend.outbox.clone(),
        order_log: backend.order_log.clone(),
        clock: clock.clone(),
        interval: Duration::from_millis(config.relay.interval_ms),
        min_age: Duration::from_millis(config.relay.min_age_ms),
        batch_orders_max: config.relay.batch_orders_max,
    };
    back.spawn(relay.run(back.clone()));
    let limits = Limits {
        batch_records_max: config.writer.batch_records_max,
        batch_wait: Duration::from_millis(config.writer.batch_wait_ms),
        buffer_records_max: config.writer.buffer_records_max,
        retry_first: Duration::from_millis(config.writer.retry_first_ms),
        retry_last: Duration::from_millis(config.writer.retry_last_ms),
    };
    let writing = Writing {
        orders: backend.orders.clone(),
        sales: backend.sales.clone(),
        inventory: backend.inventory.clone(),
        clock: clock.clone(),
        map: config.shard_map()?,
        tasks: back.clone(),
        limits,
    };
    let log = backend.order_log.clone();
    back.spawn_thread("order-writer", move || write_orders(&writing, log.as_ref()))
        .context("cannot start the order writer's thread")
}

/// The order writer's thread: joins the readers, and joins again when its reader broke.
fn write_orders(writing: &Writing, log: &dyn OrderLog) {
    let tasks = &writing.tasks;
    while !tasks.is_stopping() {
        let ended = log.reader().and_then(|reader| OrderWriter::new(writing.clone(), reader).run());
        if let Err(error) = ended {
            tracing::error!(%error, "order writer stopped; joining again");
            tasks.runtime().block_on(tasks.pause(REJOIN_PAUSE));
        }
    }
}

fn shopper_server(
    config: &Config,
    context: web::Data<Context>,
    back: &Tasks,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let http = &config.http;
    let build = move || {
        App::new()
            .app_data(context.clone())
            .wrap(actix_web::middleware::from_fn(middleware::around))
            .configure(router::shopper_routes)
    };
    let mut server = HttpServer::new(build)
        .disable_signals()
        .backlog(8192)
        .max_connections(http.connections_max)
        .client_request_timeout(Duration::from_millis(http.request_head_timeout_ms))
        .keep_alive(Duration::from_millis(http.keep_alive_ms))
        .shutdown_timeout(config.shutdown.deadline_ms.div_ceil(2000));
    if http.workers > 0 {
        server = server.workers(http.workers);
    }
    let refused = |source| CannotListen { address: http.bind, key: "http.bind", source };
    let server = server.bind(http.bind).map_err(refused)?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    back.spawn(server);
    Ok((address, handle))
}

fn admin_server(
    config: &Config,
    context: web::Data<Context>,
    back: &Tasks,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let bind = config.admin.bind;
    let build = move || {
        App::new()
            .app_data(context.clone())
            .wrap(actix_web::middleware::from_fn(middleware::around))
            .configure(router::admin_routes)
    };
    let server = HttpServer::new(build)
        .disable_signals()
        .workers(1)
        .shutdown_timeout(1)
        .bind(bind)
        .map_err(|source| CannotListen { address: bind, key: "admin.bind", source })?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    back.spawn(server);
    Ok((address, handle))
}
