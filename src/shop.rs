//! The use cases: buying, asking what became of an order, and operating a sale.
//!
//! Handlers translate and backends store; the decisions are made here. Nothing in this module knows HTTP, SQL, Redis or
//! Kafka. Invariant: the front never gives stock back (step 5 of docs/protocol/steps.md). An order that it reserved has
//! a record in the order log, or an entry in the outbox.

pub mod admission;
pub mod batching;
pub mod bucket_queues;
pub mod cancel;
pub mod dead_letters;
pub mod events;
pub mod failure;
mod gather;
pub mod health;
pub mod keys;
pub mod ladder;
mod needed_units;
pub mod operate;
mod order_rows;
pub mod pay;
pub mod payment_events;
pub mod payment_rounds;
pub mod preflight;
pub mod proofs;
pub mod purchase;
pub mod reconcile;
pub mod rules;
pub mod search;
pub mod settings;
pub mod settle;
pub mod sold_out;
pub mod status;
pub mod stock;
pub mod streams;
pub mod submit;
pub mod subscriptions;
pub mod till;
pub mod tokens;
pub mod traffic;
pub mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::gauge;

use crate::clock::Clock;
use crate::domain::{BucketId, Order, Sale, SaleId, Shard, ShardMap, SkuId};
use crate::memory::Memory;
use crate::memory::catalog::Snapshot;
use crate::memory::pace::DELAYED_MS;
use crate::metrics::DEGRADED;
use crate::ports::{Outbound, Ports};
use crate::shutdown::Tasks;

use admission::Admission;
use bucket_queues::BucketQueues;
pub use failure::Failure;
use ladder::Step;
use order_rows::{OrderRows, Source};
pub use settings::Settings;
pub use till::Till;
use traffic::Traffic;

/// The shop: all use cases over one backend. Every request shares it.
pub struct Shop {
    ports: Ports,
    settings: Settings,
    map: ShardMap,
    clock: Clock,
    tasks: Tasks,
    memory: Memory,
    /// How it takes money; `None` where it takes none.
    till: Option<Till>,
    /// How it sends events to addresses that operators gave.
    outbound: Arc<dyn Outbound>,
    admission: Admission,
    queues: BucketQueues,
    waiters: tokio::sync::Semaphore,
    rows: OrderRows,
    traffic: Arc<Traffic>,
    leaving: AtomicBool,
    out: AtomicBool,
}

impl Shop {
    /// Makes a shop over an opened backend. Workers keep `memory` fresh, `till` takes its money, if it takes any,
    /// `outbound` sends its events to others, and `tasks` own what purchases and payments spawn.
    pub fn new(
        (ports, till, outbound): (Ports, Option<Till>, Arc<dyn Outbound>),
        memory: Memory,
        settings: Settings,
        map: ShardMap,
        clock: Clock,
        tasks: Tasks,
    ) -> Arc<Self> {
        let source = Source {
            orders: ports.orders.clone(),
            payments: till.as_ref().map(|_| ports.payments.clone()),
            copies: ports.order_copies.clone(),
        };
        Arc::new(Self {
            rows: OrderRows::new(memory.orders.clone(), source, clock.clone(), tasks.clone()),
            admission: Admission::new(&settings),
            queues: BucketQueues::new(&settings, clock.clone()),
            waiters: tokio::sync::Semaphore::new(settings.waiters_max),
            traffic: Traffic::new(
                memory.rules.clone(),
                ports.token_leases.clone(),
                clock.clone(),
                tasks.clone(),
            ),
            leaving: AtomicBool::new(false),
            out: AtomicBool::new(false),
            memory,
            till,
            outbound,
            ports,
            settings,
            map,
            clock,
            tasks,
        })
    }

    fn bucket(&self, sale: &Sale, shard: Shard) -> BucketId {
        BucketId { sale: sale.id.clone(), bucket: self.map.bucket_of(shard, sale.buckets) }
    }

    /// Answers the rules of traffic.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Answers the sales as they are known now. Costs no I/O.
    pub fn catalog(&self) -> Arc<Snapshot> {
        self.memory.catalog.snapshot()
    }

    /// Answers whether units of a SKU that is sold out may come back. Costs no I/O; the answer is at most
    /// `catalog.refresh_ms` old.
    pub fn may_return(&self, sale: &SaleId, sku: &SkuId) -> bool {
        self.catalog().may_return(sale, sku)
    }

    /// Answers the time in ms since 1970, UTC.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Answers after how many ms to ask again for an order that is not decided.
    pub fn poll_after_ms(&self, order: &Order) -> u64 {
        if order.is_delayed {
            return DELAYED_MS;
        }
        self.memory.pace.poll_after_ms(self.map.part_of(order.id.shard()))
    }

    /// Answers how many seconds a client waits that asks for `wanted_s`: at most `admission.wait_s_max`, and none while
    /// waits are left out.
    pub fn wait_s(&self, wanted_s: u64) -> u64 {
        if self.is_degraded(Step::Waits) { 0 } else { wanted_s.min(self.settings.wait_s_max) }
    }

    /// Answers whether something is left out now: because more purchases come than there is room for, or because an
    /// operator has switched it off.
    pub fn is_degraded(&self, step: Step) -> bool {
        self.admission.ladder.holds(step, self.clock.monotonic()) || self.traffic.is_off(step.switch())
    }

    /// Forgets what belongs to sales that are over. Shows as metrics how many purchases are in flight, what is left
    /// out, and the series of the sales that sell.
    pub fn tidy(&self) {
        self.admission.gauge_in_flight();
        for step in Step::ALL {
            gauge!(DEGRADED, "step" => step.as_str()).set(f64::from(u8::from(self.is_degraded(step))));
        }
        let catalog = self.catalog();
        self.queues.register_outcomes(&catalog, self.now_ms());
        self.queues.forget_except(&catalog, self.now_ms());
        self.memory.guards.tidy(self.clock.monotonic().ns());
    }

    /// Says that this process goes away soon. It serves on until it drains.
    pub fn announce_end(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Takes this process out of service, or back: it is not ready, asks its clients to come over another connection,
    /// and serves who comes all the same.
    pub fn take_out(&self, is_out: bool) {
        if self.out.swap(is_out, Ordering::Relaxed) != is_out {
            tracing::info!(is_out, "an operator has decided whether this process is out of service");
        }
    }

    /// Answers whether this process goes away: soon, because it drains, or because an operator wants it.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.out.load(Ordering::Relaxed) || self.is_draining()
    }

    /// Refuses purchases from now on, because this process drains. Checks that refuse earlier keep their own answers.
    pub fn drain(&self) {
        self.admission.drain();
    }

    /// Answers whether this process drains.
    pub fn is_draining(&self) -> bool {
        self.admission.is_draining()
    }
}
