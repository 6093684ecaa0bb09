//! Puts units back on sale that nobody holds any more: step 16 of docs/protocol/steps.md.
//!
//! Invariant: a row of `release_outbox` is removed only after the inventory has its units again, or when there is no
//! inventory left to give them to. Repetitions are harmless, because a hold remembers that its units went back.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::reservation::{Release, ReleaseRequest, Released};
use crate::domain::{BucketId, Instance, Sale, ShardMap};
use crate::memory::catalog::{Catalog, Snapshot};
use crate::metrics::RELEASED;
use crate::ports::{Inventory, Owed, Releases, StoreResult};

/// The release relay of a process. Any number of processes may have one.
pub struct ReleaseRelay {
    /// What is owed.
    pub releases: Arc<dyn Releases>,
    /// To whom it is owed.
    pub inventory: Arc<dyn Inventory>,
    /// The sales.
    pub catalog: Arc<Catalog>,
    /// Says which sales are over.
    pub clock: Clock,
    /// Says in which bucket an order is held.
    pub map: ShardMap,
    /// Time between two rounds.
    pub period: Duration,
    /// Most rows of an instance in one round.
    pub batch_rows_max: usize,
    /// The last row that was read of each instance. Rows that cannot be settled now must not hold up those behind them,
    /// so a round begins where the last one ended.
    pub read_up_to: Mutex<HashMap<Instance, i64>>,
}

/// The orders of one bucket and the rows that name them.
type ByBucket = BTreeMap<BucketId, Vec<Owed>>;

#[async_trait]
impl Task for ReleaseRelay {
    fn name(&self) -> &'static str {
        "release_relay"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Settles the next rows of every instance.
    ///
    /// # Errors
    /// The first failure of an instance or a bucket. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        // An instance that hangs holds up no other one.
        let relays = self.releases.instances().into_iter().map(|at| self.relay_instance(at, &snapshot));
        let (mut done, mut has_more, mut failure) = (0, false, Ok(()));
        for (settled, is_full) in futures::future::join_all(relays).await {
            done += settled;
            failure = failure.and(is_full.map(|is_full| has_more |= is_full));
        }
        let again_in = has_more.then_some(Duration::ZERO);
        failure.map(|()| Progress { done, again_in })
    }
}

impl ReleaseRelay {
    /// Settles the next rows of an instance, and answers how many these were. Answers also whether all of a full batch
    /// were settled, so that more may be due.
    async fn relay_instance(&self, at: Instance, snapshot: &Snapshot) -> (usize, StoreResult<bool>) {
        let rows = match self.releases.owed(at, self.begin(at), self.batch_rows_max).await {
            Ok(rows) => rows,
            Err(error) => return (0, Err(error)),
        };
        let (read, is_full) = (rows.len(), rows.len() >= self.batch_rows_max);
        // The next round begins anew at the oldest row: rows do not become visible in the order of their ids.
        let last = rows.last().filter(|_| is_full).map_or(0, |last| last.id);
        self.read_up_to.lock().expect("no code panics while holding it").insert(at, last);
        // The inventory has nothing of a settled sale that could be on sale again.
        let of_settled = rows.iter().filter(|owed| snapshot.settled.contains_key(&owed.sale));
        let (mut settled, mut failure) = (of_settled.map(|owed| owed.id).collect::<Vec<_>>(), Ok(()));
        for (bucket, owed) in self.by_bucket(rows, snapshot) {
            let Some(sale) = snapshot.sales.get(&bucket.sale) else { continue };
            let released = self.release(sale, &bucket, &owed).await;
            failure = failure.and(released.map(|rows| settled.extend(rows)));
        }
        match self.releases.settle(at, &settled).await {
            Ok(()) => (settled.len(), failure.map(|()| is_full && settled.len() == read)),
            Err(error) => (0, Err(error)),
        }
    }

    /// Answers after which row of an instance a round begins.
    fn begin(&self, at: Instance) -> i64 {
        self.read_up_to.lock().expect("no code panics while holding it").get(&at).copied().unwrap_or(0)
    }

    /// Sorts rows by their bucket. The rows of a sale that this process does not know yet, or knows from before it was
    /// put in place, are left for later: its buckets may be others by now.
    fn by_bucket(&self, rows: Vec<Owed>, snapshot: &Snapshot) -> ByBucket {
        let mut sorted = ByBucket::new();
        for owed in rows {
            let sale = snapshot.sales.get(&owed.sale).filter(|sale| !sale.state.is_editable());
            let Some(sale) = sale else { continue };
            let bucket = self.map.bucket_of(owed.release.decision.order.shard(), sale.buckets);
            sorted.entry(BucketId { sale: owed.sale.clone(), bucket }).or_default().push(owed);
        }
        sorted
    }

    /// Gives the units of a bucket's orders back, and answers the rows that are settled.
    async fn release(&self, sale: &Sale, bucket: &BucketId, owed: &[Owed]) -> StoreResult<Vec<i64>> {
        let orders: Vec<ReleaseRequest> = owed.iter().map(|owed| owed.release).collect();
        let each = match self.inventory.release(bucket, &orders).await? {
            Released::Each(each) => each,
            // Nothing is sold any more of a sale that is over, so its rows have no use. All others wait until the
            // bucket is put in place again.
            Released::GateShut | Released::KeysLost if sale.is_selling(self.clock.now_ms()) => Vec::new(),
            Released::GateShut | Released::KeysLost => vec![Release::Nothing; owed.len()],
        };
        let mut settled = Vec::new();
        for (owed, release) in owed.iter().zip(each) {
            match release {
                Release::Done | Release::Nothing => settled.push(owed.id),
                Release::Contradicted => {
                    let (order, state) = (owed.release.decision.order, owed.release.decision.state.as_str());
                    tracing::error!(%order, state, "the inventory says that its buyer has the units");
                }
            }
            if release == Release::Done && owed.release.restock {
                counter!(RELEASED).increment(1);
            }
        }
        Ok(settled)
    }
}
