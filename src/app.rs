//! The composition root. It turns a configuration into a running process, and it takes the process down in order.

mod auto_preheat;
mod auto_reconcile;
mod auto_settle;
pub mod doctor;
mod finishing;
mod forgetting;
mod guarded;
mod open;
mod payment_tasks;
mod profiles;
#[cfg(feature = "public-keys")]
mod published_keys;
#[cfg(feature = "distributed")]
mod recover;
mod reload;
mod role;
mod servers;
mod simulator;
mod stream_keeper;
mod telling;
mod till;
mod traces;
mod upkeep;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web;
use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::chance;
use crate::clock::Clock;
use crate::config::{Config, Expiry, Explained, Mode, ProviderKind, PushConfig, Secret};
use crate::domain::alarm::{AlarmKey, Call, DueCall};
use crate::domain::node::{NodeBeat, NodeLoad};
use crate::domain::operator::Subject;
use crate::domain::purchase_token::{TokenKey, TokenKeys};
use crate::domain::{Change, DependencyId, Instance, NodeId, ShardMap};
use crate::http::auth::Tokens;
use crate::http::shopper::order_view::order_text;
use crate::http::{Context, LearnKeys, MintToken, ReadTasks};
use crate::memory::Memory;
use crate::memory::figures::Figures;
use crate::memory::guards::{Guards, Roles};
use crate::memory::order_cache::OrderCache;
use crate::memory::rulebook::Rulebook;
use crate::memory::streams::{Limits, Streams};
use crate::outbound::HttpOutbound;
use crate::ports::{Grace, Nodes, OrderLog, Outbound, Ports};
use crate::shop::{Settings, Shop};
use crate::shutdown::Tasks;
use crate::worker::announcer::Announcer;
use crate::worker::copy_remover::CopyRemover;
use crate::worker::driver::{Driver, Signal};
use crate::worker::node_beat::TellNode;

use finishing::Finishing;
use forgetting::forgetting;
use guarded::guarded;
pub use open::*;
use profiles::profiles;
#[cfg(feature = "distributed")]
pub use recover::{Recovered, Wish, recover_mysql};
pub use reload::{Load, Reloader};
pub use role::Role;
pub use servers::CannotListen;
use servers::ShopperServer;
pub use simulator::RunningSimulator;
use telling::telling;
use traces::Traces;
use workers::{Workers, receiver_of_calls};

/// How long after the listener has closed a connection that it had let in may begin its purchase.
const LET_IN: Duration = Duration::from_millis(100);

/// How often this process tells of itself.
const NODE_INTERVAL: Duration = Duration::from_millis(500);

/// A started process.
pub struct Running {
    /// The address on which shoppers are served. `None` for the role `worker`.
    pub shopper: Option<SocketAddr>,
    /// The address on which operators are served.
    pub admin: SocketAddr,
    /// Runs the background tasks, and knows how each of them fares.
    pub driver: Driver,
    shopper_server: Option<ShopperServer>,
    admin_server: ServerHandle,
    shop: Arc<Shop>,
    clock: Clock,
    order_log: Arc<dyn OrderLog>,
    /// Where this process tells of itself, and its id there.
    node: (Arc<dyn Nodes>, String),
    front: Tasks,
    back: Tasks,
    context: web::Data<Context>,
    rules: Arc<Rulebook>,
    remover: Option<Arc<CopyRemover>>,
    announcer: Arc<Announcer>,
    traces: Traces,
}

/// Starts everything that a role runs, and returns when the process serves. Port 0 binds a free port.
///
/// # Errors
/// When a secret is missing, embedded mode gets another role than `all`, the backend cannot be opened, or an address is
/// taken.
pub async fn start(config: &Config, role: Role, metrics: PrometheusHandle) -> anyhow::Result<Running> {
    if role != Role::Worker {
        config.require_secrets()?;
    }
    config.payment.require()?;
    anyhow::ensure!(
        config.backend.mode != Mode::Embedded || role == Role::All,
        "embedded mode is one process: it has no --role but all"
    );
    let backend = open_backend(config).await?;
    start_on(backend, config, role, metrics).await
}

/// Does what [`start`] does, over a backend that is open already. Tests put faults into its ports.
///
/// # Errors
/// When a token key cannot be read, the shard map's counts do not fit together, or an address is taken.
pub async fn start_on(
    mut backend: Ports,
    config: &Config,
    role: Role,
    metrics: PrometheusHandle,
) -> anyhow::Result<Running> {
    let (clock, map) = (Clock::System.follow(), config.shard_map()?);
    let tokens = Arc::new(servers::tokens(config, role, &Clock::System)?);
    let (front, back) = (Tasks::on_current_runtime(), Tasks::on_current_runtime());
    let traces = Traces::start(config, role, &backend.node.to_string(), &Clock::System)?;
    let published = servers::published_keys(config, role, &tokens, &clock, &back).await?;
    backend.probes.extend(published.iter().map(|published| published.probe.clone()));
    let guards = Arc::new(Guards::new(roles(config, map)?));
    let memory = memory(config, &backend, map, &guards, &clock);
    let outbound = outbound(config)?;
    let remover = remover(&backend, &memory, &clock);
    let announcements = backend.announcements.clone();
    let announcer = Arc::new(Announcer::new(memory.streams.clone(), announcements, order_text));
    // A change is told before anything is waited for that it leaves to do.
    let backend = forgetting(telling(backend, &announcer), &memory.orders, remover.as_ref());
    let mut of_buyers = guarded(backend.clone(), &guards, map, &clock);
    of_buyers.order_copies = of_buyers.order_copies.filter(|_| config.cache.copies);
    let ports = (of_buyers, till::till(&config.payment, &guards, &clock)?, outbound.clone());
    let shop = Shop::new(ports, memory.clone(), settings(config), map, clock.clone(), front.clone());
    let (ports, node, remover_of) = (&backend, backend.node, remover.as_ref());
    let workers = Workers {
        ports,
        memory: &memory,
        config,
        clock: &clock,
        tasks: &back,
        outbound,
        holder: node.bytes(),
        remover: remover_of,
        announcer: &announcer,
    };
    workers.warm().await;
    let driver = workers.start(role, &shop, metrics.clone())?;
    published.iter().for_each(|keys| driver.start(keys.refresh.clone(), Signal::default()));
    let learn_keys = published.as_ref().map(|published| published.learn.clone());
    let seen = seen_into(&memory, &driver);
    let context =
        web::Data::new(context(config, &shop, (tokens, learn_keys), &clock, (metrics, node, seen))?);
    let serving = context.clone();
    let shopper_server = match role {
        Role::Worker => None,
        Role::All | Role::Api => {
            Some(servers::shopper_server(config, context.clone(), Finishing::owned_by(&front), &back)?)
        }
    };
    let shopper = shopper_server.as_ref().map(|server| server.address);
    let (admin, admin_server) = servers::admin_server(config, context, Finishing::owned_by(&front), &back)?;
    tracing::info!(?role, ?shopper, %admin, version = env!("CARGO_PKG_VERSION"), "serving");
    let node = this_node(node, role, (admin, shopper), clock.now_ms());
    let (load, shop_of) = (load_of(&memory, &driver), shop.clone());
    driver.start(Arc::new(tell(&backend, &node, (&memory, load), shop_of)), Signal::default());
    Ok(Running {
        shopper,
        admin,
        driver,
        shopper_server,
        admin_server,
        shop,
        clock,
        order_log: backend.order_log.clone(),
        node: (backend.nodes.clone(), node.id),
        front,
        back,
        context: serving,
        rules: memory.rules,
        remover,
        announcer,
        traces,
    })
}

/// Makes what every handler can reach.
fn context(
    config: &Config,
    shop: &Arc<Shop>,
    (tokens, learn_keys): (Arc<Tokens>, Option<LearnKeys>),
    clock: &Clock,
    (metrics, node, (figures, tasks)): (PrometheusHandle, NodeId, Seen),
) -> anyhow::Result<Context> {
    let take_profile = profiles(&config.debug, clock)?;
    Ok(Context {
        shop: shop.clone(),
        tokens,
        learn_keys,
        addresses: servers::client_addresses(config),
        admin_hosts: config.admin.hosts.clone(),
        device_header: config.http.device_header.as_ref().and_then(|header| header.parse().ok()),
        body_timeout_ms: config.http.body_timeout_ms,
        webhook_body_bytes_max: config.payment.webhook_body_bytes_max,
        clock: clock.clone(),
        metrics,
        process: node.to_string(),
        figures,
        tasks,
        take_profile,
        origins: config.http.cors_origins.clone(),
        demo: OnceLock::new(),
        reload: OnceLock::new(),
    })
}

/// What operators see of the process itself.
type Seen = (Arc<Figures>, ReadTasks);

fn seen_into(memory: &Memory, driver: &Driver) -> Seen {
    let driver = driver.clone();
    (memory.figures.clone(), Arc::new(move || driver.statuses()))
}

/// Makes the memory of a process.
fn memory(config: &Config, backend: &Ports, map: ShardMap, guards: &Arc<Guards>, clock: &Clock) -> Memory {
    let rulebook = Rulebook::new(config.limits.rates(), backend.token_leases.is_some(), guards.clone());
    let orders_max = usize::try_from(config.cache.orders_max).unwrap_or(usize::MAX);
    // Where there are others, nothing is heard of them before the reader of announcements hears it.
    let hears = backend.announcements.is_none();
    let streams = Streams::new(stream_limits(&config.push), hears, clock.clone());
    Memory::new(map, rulebook, guards.clone(), OrderCache::new(orders_max), streams)
}

fn stream_limits(push: &PushConfig) -> Limits {
    Limits {
        streams_max: push.streams_max,
        user_max: push.user_max,
        address_max: push.address_max,
        heartbeat: Duration::from_millis(push.heartbeat_ms),
        idle_max: Duration::from_millis(push.idle_ms),
    }
}

/// Makes what removes copies of orders, where there are any.
fn remover(backend: &Ports, memory: &Memory, clock: &Clock) -> Option<Arc<CopyRemover>> {
    let remover = |copies| CopyRemover::new(copies, memory.orders.clone(), clock.clone());
    backend.order_copies.clone().map(|copies| Arc::new(remover(copies)))
}

/// Names what the shop stands on.
fn roles(config: &Config, map: ShardMap) -> anyhow::Result<Roles> {
    let name = |text: &str| DependencyId::parse(text);
    let provider = (config.payment.provider != ProviderKind::None).then(|| name("provider")).transpose()?;
    let folder = |_| name("folder");
    let instance = |instance: Instance| name(&format!("mysql-{}", instance.number()));
    let is_embedded = config.backend.mode == Mode::Embedded;
    let (inventory, order_log) = if is_embedded { ("folder", "folder") } else { ("redis", "kafka") };
    let databases = match is_embedded {
        true => map.all_instances().map(folder).collect::<Result<_, _>>()?,
        false => map.all_instances().map(instance).collect::<Result<_, _>>()?,
    };
    Ok(Roles { inventory: Some(name(inventory)?), order_log: Some(name(order_log)?), databases, provider })
}

/// Has this process tell of itself.
fn tell(backend: &Ports, node: &NodeBeat, (memory, load): (&Memory, ReadLoad), shop: Arc<Shop>) -> TellNode {
    TellNode {
        nodes: backend.nodes.clone(),
        node: node.clone(),
        rulebook: memory.rules.clone(),
        load,
        is_leaving: Box::new({
            let shop = shop.clone();
            move || shop.is_leaving()
        }),
        take_out: Box::new(move |is_out| shop.take_out(is_out)),
        period: NODE_INTERVAL,
    }
}

type ReadLoad = Box<dyn Fn() -> NodeLoad + Send + Sync>;

/// Makes what answers what this process does.
fn load_of(memory: &Memory, driver: &Driver) -> ReadLoad {
    let (figures, driver) = (memory.figures.clone(), driver.clone());
    #[expect(clippy::as_conversions, reason = "a rate or a time that was measured")]
    let whole = |value: f64| value.round() as u32;
    Box::new(move || {
        let attempts = figures.last("attempts");
        let accepted = ["reserved", "queued"].iter().filter_map(|outcome| attempts.get(*outcome)).sum();
        let failing = driver.statuses().into_iter().filter(|task| task.failures > 0);
        NodeLoad {
            attempts: whole(attempts.values().sum()),
            accepted: whole(accepted),
            written: whole(figures.last("orders_written").values().sum()),
            purchase_p99_ms: figures
                .last("purchase_p99")
                .values()
                .next()
                .map(|seconds| whole(seconds * 1000.0)),
            failing: failing.map(|task| task.name.to_owned()).collect(),
        }
    })
}

/// Answers what this process tells of itself.
fn this_node(
    id: NodeId,
    role: Role,
    (admin, shopper): (SocketAddr, Option<SocketAddr>),
    started_ms: i64,
) -> NodeBeat {
    NodeBeat {
        id: id.to_string(),
        role: role.as_str().to_owned(),
        admin: admin.to_string(),
        shopper: shopper.map(|address| address.to_string()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms,
        rules_version: 0,
        draining: false,
        load: NodeLoad::default(),
    }
}

impl Running {
    /// Has the process read its configuration again with `load` when an operator says so. `followed` is what it has
    /// started with.
    pub fn reload_by(&self, load: Load, followed: BTreeMap<String, Explained>) -> Arc<Reloader> {
        let reloader = Arc::new(Reloader::new(load, followed, self.rules.clone(), self.clock.clone()));
        let by_operator = reloader.clone();
        let reload =
            move || by_operator.reload().map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        drop(self.context.reload.set(Arc::new(reload)));
        reloader
    }

    /// Notes in the audit log that the process reads its configuration again at a signal. Where that cannot be noted,
    /// the log of the process has it: who sends signals has no other way.
    pub async fn note_reload(&self) {
        let change = Change::by_signal("config_reload", "SIGHUP");
        let subject = Subject::Configuration { process: self.context.process.clone() };
        if self.shop.note(&change, &subject).await.is_err() {
            tracing::warn!("the audit log does not have that the configuration is read again");
        }
    }

    /// Lets anybody be a buyer, with tokens of `mint`. Only a demo does that.
    pub fn let_anybody_buy(&self, mint: MintToken) {
        drop(self.context.demo.set(mint));
    }

    /// Says that this process goes away, and serves on for `notice`, so that balancers can turn away from it first.
    pub async fn give_notice(&self, notice: Duration) {
        self.shop.announce_end();
        self.clock.sleep(notice).await;
    }

    /// Drains the process in order: not ready → stop accepting → finish purchases → flush → finish batches → close.
    /// Returns whether all of it was done within `deadline`.
    pub async fn stop(self, deadline: Duration) -> bool {
        let began = self.clock.monotonic();
        let drained = self.clock.timeout(deadline, self.drain(deadline)).await.is_ok();
        let elapsed_ms = self.clock.monotonic().since(began).as_millis();
        tracing::info!(drained, elapsed_ms, "stopped");
        self.traces.flush(&self.clock).await;
        drained
    }

    async fn drain(&self, deadline: Duration) {
        if let Some(server) = &self.shopper_server {
            server.close(&self.clock).await;
            if self.shop.is_leaving() {
                // Who was let in before that is served.
                self.clock.sleep(LET_IN).await;
            }
        }
        self.shop.drain();
        // Purchases live on the threads of the server, so these end after them.
        self.front.drained().await;
        if let Some(server) = &self.shopper_server {
            server.stop().await;
        }
        if let Err(error) = self.order_log.flush(deadline).await {
            tracing::warn!(%error, "not everything was acknowledged; the relay delivers it");
        }
        self.back.stop();
        // Changes that were begun before they were refused.
        self.front.drained().await;
        self.admin_server.stop(true).await;
        self.back.drained().await;
        if let Some(remover) = &self.remover {
            remover.finish().await;
        }
        if !self.announcer.finish().await {
            tracing::warn!("others were not told of all orders: they hear of it when this process is lost");
            return;
        }
        let (nodes, id) = &self.node;
        if let Err(error) = nodes.leave(id).await {
            tracing::debug!(%error, "this process is shown as lost for a while");
        }
    }
}

fn settings(config: &Config) -> Settings {
    let (admission, payment) = (&config.admission, &config.payment);
    Settings {
        in_flight_max: admission.in_flight_max,
        reserve_batch_max: admission.reserve_batch_max,
        sold_out_recheck: Duration::from_millis(admission.sold_out_recheck_ms),
        opening_skew_ms: admission.opening_skew_ms,
        append_wait_ms: admission.append_wait_ms,
        outbox_orders_max: admission.outbox_orders_max,
        wait_s_max: admission.wait_s_max,
        waiters_max: admission.waiters_max,
        token_keys: token_keys(config),
        down_after_ms: config.readiness.down_after_ms,
        logged_per_million: config.log.orders_per_million,
        overdue: (payment.expiry == Expiry::On)
            .then_some(Grace { ms: payment.grace_ms, closing_ms: payment.closing_max_ms }),
    }
}

/// Makes the keys of purchase tokens. A process that is alone needs no secret that others know.
fn token_keys(config: &Config) -> Option<TokenKeys> {
    let auth = &config.auth;
    let key = |id: u8, secret: &Secret| match secret.expose() {
        "" => None,
        secret => Some(TokenKey::new(id, secret.as_bytes())),
    };
    let own = || {
        let secret: [u8; 32] = chance::bytes();
        (config.backend.mode == Mode::Embedded).then(|| TokenKey::new(auth.purchase_token_key, &secret))
    };
    let current = key(auth.purchase_token_key, &auth.purchase_token_secret).or_else(own)?;
    let previous = key(auth.purchase_token_previous_key, &auth.purchase_token_previous_secret);
    Some(TokenKeys { current, previous })
}

/// Makes the way out, and checks the address to which it certainly leads.
fn outbound(config: &Config) -> anyhow::Result<Arc<dyn Outbound>> {
    let outbound = HttpOutbound::new(&config.events, Clock::System)?;
    if !config.notify.url.is_empty() {
        outbound.check(&config.notify.url).map_err(|why| anyhow::anyhow!("notify.url: {why}"))?;
    }
    Ok(Arc::new(outbound))
}

/// Sends a call that is no alarm to who is called, and answers its id.
///
/// # Errors
/// When nobody is to be called, or the call was not taken.
pub async fn call_as_test(config: &Config) -> anyhow::Result<String> {
    let receiver = receiver_of_calls(config, &outbound(config)?);
    let receiver = receiver.context("notify.url is empty: nobody would be called")?;
    let now_ms = Clock::System.now_ms();
    let alarm = AlarmKey { name: "SeckillTest".to_owned(), labels: String::new() };
    let call = DueCall { alarm, call: Call::Test, since_ms: now_ms, value: 0, calls: 0 };
    let taken = receiver.call(&call, now_ms).await;
    taken.map_err(|why| anyhow::anyhow!("the receiver of notify.url has not taken it: {why}"))?;
    Ok(call.id())
}
