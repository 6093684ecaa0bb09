//! Starts the background tasks of a process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use super::auto_preheat::AutoPreheat;
use super::auto_reconcile::AutoReconcile;
use super::auto_settle::AutoSettle;
use super::payment_tasks::payment_tasks;
use super::role::Role;
use super::stream_keeper::StreamKeeper;
use super::upkeep::Upkeep;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{Config, Expiry, NotifyConfig, ProviderKind};
use crate::domain::Part;
use crate::http::shopper::order_view::order_text;
use crate::memory::Memory;
use crate::ports::{Grace, Outbound, Ports, Recovery, Releases, VIEWS};
use crate::shop::Shop;
use crate::shutdown::Tasks;
use crate::worker::adjustment_finisher::AdjustmentFinisher;
use crate::worker::alarm_caller::{self, AlarmCaller, Receiver};
use crate::worker::announcement_reader::AnnouncementReader;
use crate::worker::announcer::Announcer;
use crate::worker::catalog_refresh::CatalogRefresh;
use crate::worker::clock_watch::ClockWatch;
use crate::worker::copy_remover::CopyRemover;
use crate::worker::driver::{Driver, Signal, Task};
use crate::worker::event_publisher::EventPublisher;
use crate::worker::event_reader::EventReader;
use crate::worker::expiry::ExpirySweeper;
use crate::worker::figure_sampler::FigureSampler;
use crate::worker::gate_repair::GateRepair;
use crate::worker::health_watch::HealthWatch;
use crate::worker::holdings_watch::HoldingsWatch;
use crate::worker::housekeeping::{Ages, Housekeeping};
use crate::worker::lease_guard::LeaseGuard;
use crate::worker::letter_watch::LetterWatch;
use crate::worker::order_writer::{self, OrderWriter};
use crate::worker::outbox_relay::{self, OutboxRelay};
use crate::worker::pace::PaceMeter;
use crate::worker::position_watch::PositionWatch;
use crate::worker::rebuilder::Rebuilder;
use crate::worker::release_relay::ReleaseRelay;
use crate::worker::rule_refresh::RuleRefresh;
use crate::worker::stock_watch::StockWatch;
use crate::worker::view_builder::ViewBuilder;
use crate::worker::watermark_guard::WatermarkGuard;
use crate::worker::webhook_sender::WebhookSender;

/// How often lag and drain rate are measured.
const PACE_INTERVAL: Duration = Duration::from_millis(500);

/// How often figures are taken. Pages show one for each second.
const FIGURES_INTERVAL: Duration = Duration::from_secs(1);

/// How often the rules of traffic are read. So every process follows a change within a second.
const RULES_INTERVAL: Duration = Duration::from_millis(500);

/// How often is looked for adjustments of stock that somebody has left under way.
const ADJUSTMENT_INTERVAL: Duration = Duration::from_secs(1);

/// How often the clock is compared with the inventory's.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the components are probed.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// How often the positions are compared with the order log.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two counts of the dead letters.
const LETTER_INTERVAL: Duration = Duration::from_secs(10);
/// How often is looked for what is old enough to go.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(600);
/// How often sales are looked for that have been over for long.
const SETTLE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the leases of buckets are prolonged: four times while one lasts.
const LEASE_INTERVAL: Duration = Duration::from_millis(500);

/// How often is looked whether databases were set back.
const WATERMARK_INTERVAL: Duration = Duration::from_secs(1);

/// How often buckets are looked for that have lost something.
const REBUILD_INTERVAL: Duration = Duration::from_millis(200);

/// How often it is looked whether the books are right.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);

/// How often overdue orders are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long other processes leave the topic and the views to the process that has its turn.
const EVENTS_LEASE: Duration = Duration::from_secs(10);

/// What the background tasks of a process share.
pub struct Workers<'a> {
    /// The backend.
    pub ports: &'a Ports,
    /// The memory of the process, which the tasks keep fresh.
    pub memory: &'a Memory,
    /// The configuration.
    pub config: &'a Config,
    /// The clock of the process.
    pub clock: &'a Clock,
    /// The owner of the tasks.
    pub tasks: &'a Tasks,
    /// The way out for events.
    pub outbound: Arc<dyn Outbound>,
    /// The number of this process.
    pub holder: [u8; 16],
    /// Removes copies of orders, where there are any.
    pub remover: Option<&'a Arc<CopyRemover>>,
    /// Tells whoever listens of orders that have changed.
    pub announcer: &'a Arc<Announcer>,
}

impl Workers<'_> {
    fn refresh_interval(&self) -> Duration {
        Duration::from_millis(self.config.catalog.refresh_ms)
    }

    fn catalog_refresh(&self) -> CatalogRefresh {
        CatalogRefresh {
            sales: self.ports.sales.clone(),
            settling: self.ports.settling.clone(),
            catalog: self.memory.catalog.clone(),
            period: self.refresh_interval(),
        }
    }

    fn rule_refresh(&self) -> RuleRefresh {
        RuleRefresh {
            rules: self.ports.rules.clone(),
            rulebook: self.memory.rules.clone(),
            clock: self.clock.clone(),
            period: RULES_INTERVAL,
        }
    }

    fn stock_watch(&self) -> StockWatch {
        StockWatch {
            gates: self.ports.gates.clone(),
            outbox: self.ports.outbox.clone(),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            period: self.refresh_interval(),
        }
    }

    fn clock_watch(&self) -> ClockWatch {
        ClockWatch::new(self.ports.gates.clone(), self.clock.clone(), CLOCK_INTERVAL)
    }

    fn figure_sampler(&self, metrics: PrometheusHandle) -> FigureSampler {
        FigureSampler {
            exposition: Box::new(move || metrics.render()),
            figures: self.memory.figures.clone(),
            attempts: self.ports.attempts.clone(),
            clock: self.clock.clone(),
            memory: Mutex::default(),
            period: FIGURES_INTERVAL,
        }
    }

    fn health_watch(&self) -> HealthWatch {
        HealthWatch {
            probes: self.ports.probes.clone(),
            health: self.memory.health.clone(),
            clock: self.clock.clone(),
            period: HEALTH_INTERVAL,
        }
    }

    /// Compares the clocks, reads the rules, the sales and their stock, and probes the components once, before the
    /// process answers anybody. When that fails, its task tries again later.
    pub async fn warm(&self) {
        let first: [&dyn Task; 5] = [
            &self.clock_watch(),
            &self.rule_refresh(),
            &self.catalog_refresh(),
            &self.stock_watch(),
            &self.health_watch(),
        ];
        for task in first {
            if let Err(error) = task.run_once().await {
                tracing::warn!(%error, task = task.name(), "not known at the start");
            }
        }
    }

    fn parts(&self) -> anyhow::Result<Vec<Part>> {
        Ok(self.config.shard_map()?.all_parts().collect())
    }

    /// Starts the tasks of a role.
    ///
    /// # Errors
    /// When the shard map's counts do not fit together.
    pub fn start(&self, role: Role, shop: &Arc<Shop>, metrics: PrometheusHandle) -> anyhow::Result<Driver> {
        let driver = Driver::new(self.clock.clone(), self.tasks.clone());
        let start = |task: Arc<dyn Task>| driver.start(task, Signal::default());
        start(Arc::new(self.catalog_refresh()));
        start(Arc::new(self.rule_refresh()));
        if let Some(remover) = self.remover {
            driver.start(remover.clone(), remover.signal.clone());
        }
        start(Arc::new(self.stock_watch()));
        start(Arc::new(self.health_watch()));
        start(Arc::new(self.clock_watch()));
        start(Arc::new(GateRepair {
            gates: self.ports.gates.clone(),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            period: self.refresh_interval(),
        }));
        if let Some(recovery) = &self.ports.recovery {
            start(Arc::new(LeaseGuard {
                refills: recovery.refills.clone(),
                catalog: self.memory.catalog.clone(),
                clock: self.clock.clone(),
                period: LEASE_INTERVAL,
            }));
            start(Arc::new(WatermarkGuard {
                watermarks: recovery.watermarks.clone(),
                period: WATERMARK_INTERVAL,
            }));
        }
        start(Arc::new(HoldingsWatch {
            ledger: self.ports.ledger.clone(),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            // With the reading itself, what buyers hear is younger than a refresh.
            period: self.refresh_interval() / 2,
        }));
        start(Arc::new(PaceMeter::new(
            self.ports.order_log.clone(),
            self.ports.positions.clone(),
            self.parts()?,
            self.memory.pace.clone(),
            self.clock.clone(),
            PACE_INTERVAL,
        )));
        if let Some(receiver) = receiver_of_calls(self.config, &self.outbound) {
            let metrics = metrics.clone();
            start(Arc::new(AlarmCaller {
                alarms: self.ports.alarms.clone(),
                receiver,
                exposition: Box::new(move || metrics.render()),
                clock: self.clock.clone(),
                repeat_after: Duration::from_millis(self.config.notify.repeat_ms),
                memory: Mutex::new(alarm_caller::Memory::new(self.clock.monotonic())),
            }));
        }
        start(Arc::new(self.figure_sampler(metrics.clone())));
        driver.start(self.announcer.clone(), self.announcer.signal.clone());
        if role != Role::Worker {
            self.start_streams(&driver, shop);
        }
        start(Arc::new(Upkeep { shop: shop.clone(), metrics, period: self.refresh_interval() }));
        if role != Role::Api {
            self.start_worker(&driver, shop)?;
        }
        Ok(driver)
    }

    /// Starts what keeps the streams of shoppers.
    fn start_streams(&self, driver: &Driver, shop: &Arc<Shop>) {
        let streams = self.memory.streams.clone();
        if let Some(announcements) = self.ports.announcements.clone() {
            let (streams, cache) = (streams.clone(), self.memory.orders.clone());
            let hearing = tokio::sync::Mutex::default();
            let reader = AnnouncementReader { announcements, streams, cache, text: order_text, hearing };
            driver.start(Arc::new(reader), Signal::default());
        }
        let keeper =
            StreamKeeper { shop: shop.clone(), streams, told: Mutex::default(), lost: Mutex::default() };
        driver.start(Arc::new(keeper), Signal::default());
    }

    /// Starts the tasks that a front alone does not have.
    fn start_worker(&self, driver: &Driver, shop: &Arc<Shop>) -> anyhow::Result<()> {
        let start = |task: Arc<dyn Task>| driver.start(task, Signal::default());
        start(Arc::new(self.outbox_relay()));
        if self.config.sale.preheat_before_ms > 0 {
            start(Arc::new(AutoPreheat {
                shop: shop.clone(),
                clock: self.clock.clone(),
                before_ms: self.config.sale.preheat_before_ms,
                period: self.refresh_interval(),
                seen: Mutex::default(),
            }));
        }
        if self.config.sale.settle_after_ms > 0 {
            start(Arc::new(AutoSettle {
                shop: shop.clone(),
                after_ms: self.config.sale.settle_after_ms,
                period: SETTLE_INTERVAL,
            }));
        }
        start(Arc::new(AutoReconcile {
            shop: shop.clone(),
            clock: self.clock.clone(),
            holder: self.holder,
            period: RECONCILE_INTERVAL,
            memory: Mutex::default(),
        }));
        if self.config.payment.expiry != Expiry::Off {
            start(Arc::new(self.expiry_sweeper()));
        }
        if self.config.payment.provider != ProviderKind::None {
            payment_tasks(shop, self.clock).into_iter().for_each(start);
        }
        if let Some(topic) = &self.ports.event_topic {
            start(Arc::new(EventPublisher {
                reader: self.event_reader(EventPublisher::READER),
                topic: topic.clone(),
                period: Duration::from_millis(self.config.events.interval_ms),
            }));
        }
        start(Arc::new(self.webhook_sender()));
        start(Arc::new(LetterWatch { letters: self.ports.dead_letters.clone(), period: LETTER_INTERVAL }));
        start(Arc::new(self.housekeeping()));
        start(Arc::new(ViewBuilder {
            reader: self.event_reader(VIEWS),
            views: self.ports.views.clone(),
            remover: self.remover.cloned(),
            period: Duration::from_millis(self.config.events.views_interval_ms),
        }));
        if let Some(recovery) = &self.ports.recovery {
            start(Arc::new(self.rebuilder(recovery.clone())?));
            start(Arc::new(AdjustmentFinisher {
                adjustments: self.ports.adjustments.clone(),
                period: ADJUSTMENT_INTERVAL,
            }));
        }
        if let Some(releases) = &self.ports.releases {
            start(Arc::new(self.release_relay(releases.clone())?));
        }
        start(Arc::new(PositionWatch {
            order_log: self.ports.order_log.clone(),
            positions: self.ports.positions.clone(),
            parts: self.parts()?,
            period: POSITION_INTERVAL,
        }));
        let signal = Signal::default();
        driver.start(Arc::new(OrderWriter::new(self.order_writer()?, signal.clone())), signal);
        Ok(())
    }

    fn outbox_relay(&self) -> OutboxRelay {
        self.relay_of(Duration::from_millis(self.config.relay.min_age_ms))
    }

    /// Makes a relay of entries that are at least so old.
    fn relay_of(&self, min_age: Duration) -> OutboxRelay {
        let relay = &self.config.relay;
        OutboxRelay::new(
            self.ports.outbox.clone(),
            self.ports.order_log.clone(),
            self.memory.catalog.clone(),
            self.clock.clone(),
            outbox_relay::Limits {
                interval: Duration::from_millis(relay.interval_ms),
                min_age,
                batch_orders_max: relay.batch_orders_max,
            },
        )
    }

    fn rebuilder(&self, recovery: Recovery) -> anyhow::Result<Rebuilder> {
        Ok(Rebuilder {
            recovery,
            gates: self.ports.gates.clone(),
            sales: self.ports.sales.clone(),
            adjustments: self.ports.adjustments.clone(),
            order_log: self.ports.order_log.clone(),
            positions: self.ports.positions.clone(),
            // Nobody delivers an entry of a bucket that sells nothing, so none is too young.
            relay: self.relay_of(Duration::ZERO),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            map: self.config.shard_map()?,
            period: REBUILD_INTERVAL,
        })
    }

    fn release_relay(&self, releases: Arc<dyn Releases>) -> anyhow::Result<ReleaseRelay> {
        Ok(ReleaseRelay {
            releases,
            inventory: self.ports.inventory.clone(),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            map: self.config.shard_map()?,
            period: Duration::from_millis(self.config.relay.release_interval_ms),
            batch_rows_max: self.config.relay.batch_orders_max,
            read_up_to: Mutex::default(),
        })
    }

    fn event_reader(&self, name: &str) -> EventReader {
        let (events, holder) = (self.ports.events.clone(), self.holder);
        EventReader { events, name: name.to_owned(), holder, lease: EVENTS_LEASE }
    }

    fn webhook_sender(&self) -> WebhookSender {
        WebhookSender {
            subscriptions: self.ports.subscriptions.clone(),
            events: self.ports.events.clone(),
            audit_log: self.ports.audit_log.clone(),
            outbound: self.outbound.clone(),
            clock: self.clock.clone(),
            chance: Chance::System,
            holder: self.holder,
            period: Duration::from_millis(self.config.events.interval_ms),
            pause_after: Duration::from_millis(self.config.events.webhook_pause_after_ms),
            pauses: Mutex::default(),
            readers: Mutex::default(),
        }
    }

    fn housekeeping(&self) -> Housekeeping {
        let retention = &self.config.retention;
        Housekeeping {
            retention: self.ports.retention.clone(),
            settling: self.ports.settling.clone(),
            subscriptions: self.ports.subscriptions.clone(),
            instances: self.ports.events.instances(),
            has_topic: self.ports.event_topic.is_some(),
            clock: self.clock.clone(),
            ages: Ages {
                events_ms: retention.events_ms,
                dead_letters_ms: retention.dead_letters_ms,
                audit_log_ms: retention.audit_log_ms,
            },
            period: HOUSEKEEPING_INTERVAL,
        }
    }

    fn expiry_sweeper(&self) -> ExpirySweeper {
        let payment = &self.config.payment;
        ExpirySweeper {
            changes: self.ports.order_changes.clone(),
            catalog: self.memory.catalog.clone(),
            is_dry_run: payment.expiry == Expiry::DryRun,
            grace: Grace { ms: payment.grace_ms, closing_ms: payment.closing_max_ms },
            period: EXPIRY_INTERVAL,
        }
    }

    fn order_writer(&self) -> anyhow::Result<order_writer::Parts> {
        let writer = &self.config.writer;
        Ok(order_writer::Parts {
            order_log: self.ports.order_log.clone(),
            order_writes: self.ports.order_writes.clone(),
            positions: self.ports.positions.clone(),
            sales: self.ports.sales.clone(),
            inventory: self.ports.inventory.clone(),
            announcer: self.announcer.clone(),
            catalog: self.memory.catalog.clone(),
            clock: self.clock.clone(),
            map: self.config.shard_map()?,
            tasks: self.tasks.clone(),
            limits: order_writer::Limits {
                batch_records_max: writer.batch_records_max,
                batch_wait: Duration::from_millis(writer.batch_wait_ms),
                buffer_records_max: writer.buffer_records_max,
                retry_first: Duration::from_millis(writer.retry_first_ms),
                retry_last: Duration::from_millis(writer.retry_last_ms),
            },
        })
    }
}

/// Answers who is called when an alarm stands; `None` when nobody is.
pub fn receiver_of_calls(config: &Config, outbound: &Arc<dyn Outbound>) -> Option<Receiver> {
    let NotifyConfig { url, secret, .. } = &config.notify;
    let (url, secret, outbound) = (url.clone(), secret.expose().to_owned(), outbound.clone());
    (!url.is_empty()).then_some(Receiver { outbound, url, secret })
}
