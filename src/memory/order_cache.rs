//! What a process has read of orders a moment ago, so that many readers of one order make one read.
//!
//! Invariants:
//! - What is answered was read at most [`KEPT`] ago.
//! - A read that begins after [`OrderCache::forget`] answers nothing that was read before.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use metrics::{Counter, counter};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::clock::Moment;
use crate::domain::{OrderId, WholeOrder};
use crate::metrics::ORDER_READS;
use crate::ports::StoreError;

/// How long what was read is answered at most, counted from the begin of the read.
pub const KEPT: Duration = Duration::from_millis(700);
/// How long what was read is answered before somebody reads it again. Up to a third more, so that orders that were read
/// together are not read again together.
const FRESH_MS: u64 = 300;

/// What a read of an order's row answers: the order with its payments, `None` when it has no row.
pub type Known = Result<Option<Arc<WholeOrder>>, Unknown>;

/// Why a read does not know the row of an order.
#[derive(Debug, Clone)]
pub enum Unknown {
    /// It looked for a copy alone, and there is none.
    NotCopied,
    /// The row could not be read.
    Failed(Arc<StoreError>),
}

/// The reads of a process. Those that were asked for least go first when there are too many.
pub struct OrderCache {
    reads: Cache<OrderId, Arc<Read>, UnitWeighter, foldhash::fast::RandomState>,
    /// Looked up by its label only once.
    answered: Counter,
}

/// One read.
struct Read {
    began: Moment,
    answer: Shared<BoxFuture<'static, Known>>,
    /// Whether somebody reads it again.
    is_renewed: AtomicBool,
    /// Whether the order has changed since.
    is_past: Arc<AtomicBool>,
    before: Option<Before>,
}

/// What was read before, for those who need not wait for it to be read again.
struct Before {
    began: Moment,
    row: Arc<WholeOrder>,
    is_past: Arc<AtomicBool>,
}

impl Read {
    fn new(
        began: Moment,
        read: impl FnOnce() -> BoxFuture<'static, Known>,
        before: Option<Before>,
    ) -> Arc<Self> {
        Arc::new(Self {
            began,
            answer: read().shared(),
            is_renewed: AtomicBool::new(false),
            is_past: Arc::default(),
            before,
        })
    }

    /// Answers what is known without waiting: of this read, or of the one before.
    fn known(&self, now: Moment) -> Option<&Arc<WholeOrder>> {
        let is_kept = |began| now.since(began) < KEPT;
        match self.answer.peek() {
            // An order without a row may have one at any moment.
            Some(Ok(None)) | Some(Err(_)) => None,
            Some(Ok(Some(row))) => Some(row).filter(|_| is_kept(self.began)),
            None => {
                let before = self.before.as_ref()?;
                let holds = is_kept(before.began) && !before.is_past.load(Ordering::Acquire);
                holds.then_some(&before.row)
            }
        }
    }

    fn is_fresh(&self, order: OrderId, now: Moment) -> bool {
        let more_ms = u64::from(order.bytes()[15]) % (FRESH_MS / 3);
        now.since(self.began) < Duration::from_millis(FRESH_MS + more_ms)
    }

    /// Answers whether nobody can be answered with it any more.
    fn is_over(&self, now: Moment) -> bool {
        now.since(self.began) >= KEPT || matches!(self.answer.peek(), Some(Err(_) | Ok(None)))
    }
}

impl OrderCache {
    /// Makes a cache of at most `orders_max` orders; none for 0.
    pub fn new(orders_max: usize) -> Self {
        let weight = u64::try_from(orders_max).unwrap_or(u64::MAX);
        Self {
            reads: Cache::with(
                orders_max,
                weight,
                UnitWeighter,
                foldhash::fast::RandomState::default(),
                DefaultLifecycle::default(),
            ),
            answered: counter!(ORDER_READS, "from" => "process"),
        }
    }

    /// Answers an order that was read a moment ago and has a row. Costs no I/O.
    pub fn recent(&self, order: OrderId, now: Moment) -> Option<Arc<WholeOrder>> {
        let read = self.reads.get(&order)?;
        let known = read.known(now)?.clone();
        let is_recent = read.is_fresh(order, now) || read.is_renewed.load(Ordering::Relaxed);
        is_recent.then(|| {
            self.answered.increment(1);
            known
        })
    }

    /// Answers what was read a moment ago, or reads it. Who comes while it is being read gets the same answer. `read`
    /// begins a read, which has to come to its end also when nobody waits for it: it may hold a connection.
    ///
    /// # Errors
    /// As the read's.
    pub async fn read<F>(&self, order: OrderId, now: Moment, read: F) -> Known
    where
        F: Fn() -> BoxFuture<'static, Known>,
    {
        if let Some(found) = self.reads.get(&order)
            && let Some(row) = found.known(now)
        {
            if found.is_fresh(order, now) || found.is_renewed.swap(true, Ordering::Relaxed) {
                self.answered.increment(1);
                return Ok(Some(row.clone()));
            }
            let before = Before { began: found.began, row: row.clone(), is_past: found.is_past.clone() };
            let again = Read::new(now, &read, Some(before));
            // It is there only while nobody has forgotten it.
            if self.reads.replace(order, again.clone(), true).is_ok() {
                return again.answer.clone().await;
            }
        }
        self.reads.remove_if(&order, |found| found.is_over(now));
        let mut is_new = false;
        let Ok(found) = self.reads.get_or_insert_with(&order, || {
            is_new = true;
            Ok::<_, Infallible>(Read::new(now, &read, None))
        });
        let known = found.answer.clone().await;
        if !is_new && matches!(known, Ok(Some(_))) {
            self.answered.increment(1);
        }
        known
    }

    /// Forgets what was read of an order, because it has changed.
    pub fn forget(&self, order: OrderId) {
        if let Some((_, read)) = self.reads.remove(&order) {
            read.is_past.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
