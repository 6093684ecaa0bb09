//! The use cases: buying, asking what became of it, and operating a sale.
//!
//! Handlers translate and backends store; the decisions are made here. Nothing in this module knows HTTP, SQL,
//! Redis or Kafka. Invariant: the front never gives stock back (protocol step 5); what it reserved is either
//! an order in the log or an entry in the outbox.

pub mod admission;
pub mod batching;
pub mod catalog;
pub mod desk;
pub mod health;
pub mod operate;
pub mod pace;
pub mod sold_out;
pub mod status;
pub mod submit;

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::ShardMap;
use crate::domain::{BucketId, Sale, Shard};
use crate::ports::{Effect, Ports, StoreError};
use crate::shutdown::Tasks;

use admission::Admission;
use catalog::Catalog;
use desk::Desk;
use pace::Pace;

/// Bounds of the use cases; units in the names.
#[derive(Debug, Clone)]
pub struct Settings {
    pub in_flight_max: usize,
    pub reserve_batch_max: usize,
    pub sold_out_recheck_ms: i64,
    pub opening_skew_ms: i64,
    pub append_wait_ms: u64,
    pub outbox_orders_max: u64,
    pub wait_s_max: u64,
    pub waiters_max: usize,
    pub user_per_s: u32,
    pub user_burst: u32,
    pub address_per_s: u32,
    pub address_burst: u32,
}

/// A use case that could not be carried out, as far as a client may know. The cause is logged here, where it
/// is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A component did not do its part; nothing was changed.
    Unavailable,
    /// A component did not answer; the change may stand. Repeat the call.
    OutcomeUnknown,
}

impl Failure {
    /// A read changes nothing, whatever it failed with.
    fn of_read(error: StoreError) -> Self {
        Self::from(StoreError { effect: Effect::NotApplied, ..error })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "use case failed");
        match error.effect {
            Effect::NotApplied => Self::Unavailable,
            Effect::Unknown => Self::OutcomeUnknown,
        }
    }
}

/// The shop: all use cases over one backend. Shared by every request.
pub struct Shop {
    pub ports: Ports,
    pub settings: Settings,
    pub map: ShardMap,
    pub clock: Clock,
    pub tasks: Tasks,
    pub catalog: Catalog,
    pub pace: Pace,
    admission: Admission,
    desk: Desk,
    waiters: tokio::sync::Semaphore,
}

impl Shop {
    pub fn new(ports: Ports, settings: Settings, map: ShardMap, clock: Clock, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(&settings),
            desk: Desk::new(&settings),
            waiters: tokio::sync::Semaphore::new(settings.waiters_max),
            catalog: Catalog::default(),
            pace: Pace::new(map.parts()),
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

    /// One round of what the front repeats: renew the catalog, notice a full outbox, forget idle limiters.
    /// Sales that cannot be read stay as they were known; what the inventory says of them is renewed all the same.
    pub async fn refresh(&self) {
        let sales = self.ports.sales.sales().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "sales not read; the last known stay in use");
            self.catalog.snapshot().sales.values().cloned().collect()
        });
        self.catalog.renew(sales, &self.ports, self.clock.now_ms()).await;
        let orders = self.catalog.snapshot().outbox_orders;
        self.admission.note_outbox(orders, self.settings.outbox_orders_max);
        self.admission.gauge_in_flight();
        self.admission.forget_idle();
        self.desk.forget_except(&self.catalog.snapshot(), self.clock.now_ms());
    }

    /// From now on purchases are answered "draining".
    pub fn drain(&self) {
        self.admission.drain();
    }

    pub fn is_draining(&self) -> bool {
        self.admission.is_draining()
    }
}
