//! Second chances. Buyers who heard "sold out" come again with the same key, because units return to sale.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::answer::Answer;
use crate::journal::Class;

/// The pause before a buyer comes again.
pub const PAUSE: Duration = Duration::from_millis(500);
/// The most clicks of all second chances of a run. The audit needs every click, and a click takes some 400 bytes.
pub const CLICKS_MAX: u64 = 3_000_000;

/// Until when refused buyers come again.
pub struct SecondChance {
    /// The SKU's stock; `None` when it is not known.
    stock: Option<u64>,
    /// How long after the last click of the schedule buyers come.
    lasts: Duration,
    /// Units that were seen paid.
    paid: AtomicU64,
    /// Clicks that were taken.
    clicks: AtomicU64,
}

impl SecondChance {
    /// Makes second chances that end `lasts` after the last click of the schedule, or when `stock` units are paid.
    pub fn new(stock: Option<u64>, lasts: Duration) -> Self {
        Self { stock, lasts, paid: AtomicU64::new(0), clicks: AtomicU64::new(0) }
    }

    /// Returns how long after the last click of the schedule buyers come.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// Notes that units were seen paid.
    pub fn note_paid(&self, units: u32) {
        self.paid.fetch_add(u64::from(units), Ordering::Relaxed);
    }

    /// Takes one of the clicks. Returns `false` when all units are paid, or there were too many clicks: then nobody
    /// comes again.
    pub fn take_click(&self) -> bool {
        let are_all_paid = self.stock.is_some_and(|stock| self.paid.load(Ordering::Relaxed) >= stock);
        !are_all_paid && self.clicks.fetch_add(1, Ordering::Relaxed) < CLICKS_MAX
    }

    /// Returns whether second chances ended early, because there were too many clicks.
    pub fn is_cut_off(&self) -> bool {
        self.clicks.load(Ordering::Relaxed) > CLICKS_MAX
    }
}

/// What a buyer does after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Comes again after a pause.
    Again(Duration),
    /// Has an order.
    Accepted,
    /// Leaves, because the shop says that there is nothing to come for.
    Leaves,
    /// Leaves, because the shop answered what it should not.
    Fails,
}

impl Turn {
    /// Decides by an answer. A click that could not be sent, or got no answer, is repeated, because the process may be
    /// starting again.
    pub fn of(answer: &Answer) -> Self {
        let pause = answer.retry_after_ms.map_or(PAUSE, Duration::from_millis).max(PAUSE);
        match answer.class {
            Class::Won | Class::Replayed => Self::Accepted,
            Class::Closed if answer.code.as_deref() == Some("sale_ended") => Self::Leaves,
            Class::Limited | Class::Unpaid => Self::Leaves,
            Class::SoldOut | Class::Throttled | Class::Shed | Class::Closed | Class::Unknown => {
                Self::Again(pause)
            }
            Class::Error if answer.is_unsent() => Self::Again(pause),
            Class::Error => Self::Fails,
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;
    use crate::client::{NoReply, Reply};

    #[test]
    fn a_buyer_comes_again_until_the_shop_says_that_it_is_over() {
        let turn = |status: u16, body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            Turn::of(&Answer::of(Ok(Reply { status, replayed: false, body })))
        };
        assert_eq!(turn(409, r#"{"code":"sold_out"}"#), Turn::Again(PAUSE));
        let later = Turn::Again(Duration::from_millis(900));
        assert_eq!(turn(503, r#"{"code":"overloaded","retry_after_ms":900}"#), later);
        assert_eq!(turn(429, r#"{"code":"rate_limited","retry_after_ms":100}"#), Turn::Again(PAUSE));
        assert_eq!(turn(504, r#"{"code":"outcome_unknown"}"#), Turn::Again(PAUSE));
        assert_eq!(turn(409, r#"{"code":"sale_paused"}"#), Turn::Again(PAUSE));
        assert_eq!(turn(409, r#"{"code":"sale_ended"}"#), Turn::Leaves);
        assert_eq!(turn(409, r#"{"code":"limit_reached"}"#), Turn::Leaves);
        assert_eq!(turn(409, r#"{"code":"too_many_unpaid"}"#), Turn::Leaves);
        assert_eq!(turn(202, r#"{"id":"ord_1","status":"queued"}"#), Turn::Accepted);
        assert_eq!(turn(401, r#"{"code":"unauthenticated"}"#), Turn::Fails);
        assert_eq!(turn(200, "<html>"), Turn::Fails);
        for lost in [NoReply::NotSent("connect_failed"), NoReply::Unknown("connection_lost")] {
            assert_eq!(Turn::of(&Answer::of(Err(lost))), Turn::Again(PAUSE));
        }
    }

    #[test]
    fn nobody_comes_again_when_every_unit_is_paid() {
        let chance = SecondChance::new(Some(3), Duration::ZERO);
        chance.note_paid(2);
        assert!(chance.take_click());
        chance.note_paid(1);
        assert!(!chance.take_click() && !chance.is_cut_off());
        let unknown = SecondChance::new(None, Duration::ZERO);
        unknown.note_paid(1_000);
        assert!(unknown.take_click());
    }
}
