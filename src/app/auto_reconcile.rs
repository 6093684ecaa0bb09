//! Looks at the books of all sales, says what is wrong, and mends what can be mended: step 18 of
//! docs/protocol/steps.md. The task stands here because no worker may use the shop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{counter, gauge};

use crate::clock::{Clock, Moment};
use crate::domain::books::{Drift, DriftKind, Place};
use crate::metrics::{DRIFT, DRIFT_MENDED};
use crate::ports::StoreResult;
use crate::shop::Shop;
use crate::shop::reconcile::{Look, Payments, Reach};
use crate::worker::driver::{Progress, Task};

/// How long a drift that only costs sales is watched before it is mended, because that closes buckets for a moment.
const WATCHED: Duration = Duration::from_secs(60);
/// A look that took so long is followed by a rest of so many times that, so that looks take a fiftieth of a core.
const REST: u32 = 50;
/// How often whose holds and orders there are is compared.
const ORDERS_APART: Duration = Duration::from_secs(300);
/// The longest rest.
const RESTS_AT_MOST: Duration = Duration::from_secs(300);

/// The task that reconciles. Of all processes that have one, one has its turn.
pub struct AutoReconcile {
    /// Looks and mends.
    pub shop: Arc<Shop>,
    /// The clock.
    pub clock: Clock,
    /// The number of this process.
    pub holder: [u8; 16],
    /// Time between two looks.
    pub period: Duration,
    /// What was found before.
    pub memory: Mutex<Memory>,
}

/// What a process knows of its looks.
#[derive(Default)]
pub struct Memory {
    looks: u64,
    /// When it was compared last whose holds and orders there are.
    compared: Option<Moment>,
    rests_until: Option<Moment>,
    /// What is wrong, and since when.
    seen: Vec<(Drift, Moment)>,
}

impl Memory {
    /// Answers how far a look goes now. Whose orders there are is compared now and then, and for as long as holds and
    /// orders differ, so that a look sees it end.
    fn reach(&self, now: Moment) -> Reach {
        let payments = if self.looks.is_multiple_of(2) { Payments::Even } else { Payments::Odd };
        let differ = self.seen.iter().any(|(drift, _)| drift.kind == DriftKind::HoldsDiffer);
        let is_due = self.compared.is_none_or(|compared| now.since(compared) >= ORDERS_APART);
        Reach { payments, orders: differ || is_due }
    }

    /// Keeps what a look has found, and since when it is known.
    fn note(&mut self, now: Moment, look: &Look, reach: Reach) {
        let before = std::mem::take(&mut self.seen);
        // Half of the payments were looked at, and what was found in the other half stands. So does what was found of a
        // sale that cannot be looked at now, or whose holds cannot be compared now.
        let is_seen = |drift: &Drift| {
            was_looked_at(drift, reach.payments)
                && !is_uncompared(drift, look)
                && drift.sale.as_ref().is_none_or(|sale| !look.unseen.contains_key(sale))
        };
        self.seen = before.iter().filter(|(drift, _)| !is_seen(drift)).cloned().collect();
        for drift in &look.drifts {
            let known = before.iter().find(|(known, _)| known.is_same_as(drift));
            if known.is_none() {
                tracing::error!(%drift, "the books are wrong");
            }
            self.seen.push((drift.clone(), known.map_or(now, |(_, since)| *since)));
        }
        self.looks += 1;
        if reach.orders {
            self.compared = Some(now);
        }
    }
}

#[async_trait]
impl Task for AutoReconcile {
    fn name(&self) -> &'static str {
        "reconciler"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Looks once, when it is this process's turn and the last look has not taken long.
    ///
    /// # Errors
    /// When a component could not be read or mended. What was found before stands.
    async fn run_once(&self) -> StoreResult<Progress> {
        // The turn is kept while this process rests. Else others would do what it rests from.
        if !self.shop.has_turn(self.holder, self.period * 6).await? {
            *self.memory() = Memory::default();
            self.tell();
            return Ok(Progress::of(0));
        }
        let began = self.clock.monotonic();
        if self.memory().rests_until.is_some_and(|until| began < until) {
            return Ok(Progress::of(0));
        }
        let reach = self.memory().reach(began);
        let look = self.shop.look_at_books(reach).await;
        let took = look.as_ref().map_or_else(|_| self.clock.monotonic().since(began), |look| look.took);
        self.memory().rests_until = Some(began + (took * REST).min(RESTS_AT_MOST));
        let mut look = look?;
        self.memory().note(self.clock.monotonic(), &look, reach);
        self.tell();
        let mut failure =
            std::mem::take(&mut look.unseen).pop_first().map_or(Ok(()), |(_, error)| Err(error));
        let mut done = 0;
        for drift in look.drifts.iter().filter(|drift| self.is_due(drift, &look)) {
            match self.shop.mend(&look, drift).await {
                Ok(true) => {
                    done += 1;
                    tracing::warn!(%drift, "the books are mended");
                    counter!(DRIFT_MENDED, "kind" => drift.kind.as_str()).increment(1);
                }
                Ok(false) => {}
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure.map(|()| Progress::of(done))
    }
}

impl AutoReconcile {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics while holding it")
    }

    /// Shows what is wrong.
    fn tell(&self) {
        let memory = self.memory();
        for kind in DriftKind::ALL {
            let of_kind = memory.seen.iter().filter(|(drift, _)| drift.kind == kind);
            let amount: u64 = of_kind.map(|(drift, _)| drift.amount.unsigned_abs()).sum();
            gauge!(DRIFT, "kind" => kind.as_str()).set(f64::from(u32::try_from(amount).unwrap_or(u32::MAX)));
        }
    }

    /// Answers whether a drift is mended now. One that costs nothing but sales waits for a quiet moment.
    fn is_due(&self, drift: &Drift, look: &Look) -> bool {
        let is_quiet = drift.sale.as_ref().is_some_and(|sale| look.quiet.contains(sale));
        let now = self.clock.monotonic();
        let memory = self.memory();
        let since = memory.seen.iter().find(|(seen, _)| seen.is_same_as(drift)).map(|(_, since)| *since);
        let was_watched = since.is_some_and(|since| now.since(since) >= WATCHED);
        !drift.kind.can_wait() || is_quiet && was_watched
    }
}

/// Answers whether holds and orders differ in a sale of which a look has not compared them.
fn is_uncompared(drift: &Drift, look: &Look) -> bool {
    drift.kind == DriftKind::HoldsDiffer
        && drift.sale.as_ref().is_some_and(|sale| look.uncompared.contains(sale))
}

/// Answers whether a look at some payments would have found a drift again.
fn was_looked_at(drift: &Drift, payments: Payments) -> bool {
    let is_even = match &drift.place {
        Place::Shard(shard) => shard.number().is_multiple_of(2),
        _ => true,
    };
    drift.kind != DriftKind::PaymentStray
        || payments == Payments::All
        || (payments == Payments::Even) == is_even
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{SaleId, Shard};
    use crate::ports::StoreError;

    const ALL: Reach = Reach::ALL;

    fn holds_differ(sale: &SaleId) -> Drift {
        Drift { kind: DriftKind::HoldsDiffer, sale: Some(sale.clone()), place: Place::Bucket(0), amount: 1 }
    }

    fn found(drifts: Vec<Drift>) -> Look {
        let mut look = Look::default();
        look.drifts.extend(drifts);
        look
    }

    #[test]
    fn a_drift_stands_until_a_look_that_could_see_it_does_not() {
        let sale = SaleId::parse("drop").expect("a slug");
        let clock = Clock::manual(0);
        let mut memory = Memory::default();
        let mut note = |look: &Look, reach| {
            memory.note(clock.monotonic(), look, reach);
            memory.seen.iter().map(|(drift, _)| drift.kind).collect::<Vec<_>>()
        };
        assert_eq!(note(&found(vec![holds_differ(&sale)]), ALL), [DriftKind::HoldsDiffer]);
        let mut look = Look::default();
        look.uncompared.insert(sale.clone());
        assert_eq!(note(&look, ALL), [DriftKind::HoldsDiffer], "orders came, so nothing was compared");
        let mut look = Look::default();
        look.unseen.insert(sale, StoreError::broken("look", "down"));
        assert_eq!(note(&look, ALL), [DriftKind::HoldsDiffer], "the sale could not be looked at");
        assert_eq!(note(&Look::default(), ALL), []);

        let (kind, place) = (DriftKind::PaymentStray, Place::Shard(Shard::new(1)));
        let stray = Drift { kind, sale: None, place, amount: 1 };
        let (even, odd) =
            (Reach { payments: Payments::Even, ..ALL }, Reach { payments: Payments::Odd, ..ALL });
        assert_eq!(note(&found(vec![stray]), odd), [kind]);
        assert_eq!(note(&Look::default(), even), [kind], "the other half was looked at");
        assert_eq!(note(&Look::default(), odd), []);
    }

    #[test]
    fn whose_orders_there_are_is_compared_now_and_then_and_while_they_differ() {
        let sale = SaleId::parse("drop").expect("a slug");
        let clock = Clock::manual(0);
        let mut memory = Memory::default();
        assert!(memory.reach(clock.monotonic()).orders, "the first look does");
        memory.note(clock.monotonic(), &Look::default(), ALL);
        clock.advance_ms(299_000);
        assert!(!memory.reach(clock.monotonic()).orders);
        clock.advance_ms(1_000);
        assert!(memory.reach(clock.monotonic()).orders);
        memory.note(clock.monotonic(), &found(vec![holds_differ(&sale)]), ALL);
        assert!(memory.reach(clock.monotonic()).orders, "else nobody would see it end");
    }

    #[test]
    fn since_when_a_drift_is_known_is_kept() {
        let sale = SaleId::parse("drop").expect("a slug");
        let clock = Clock::manual(0);
        let mut memory = Memory::default();
        let first = clock.monotonic();
        for _ in 0..3 {
            memory.note(clock.monotonic(), &found(vec![holds_differ(&sale)]), ALL);
            clock.advance_ms(10_000);
        }
        assert_eq!(memory.seen, [(holds_differ(&sale), first)]);
    }
}
