//! The degradation ladder of a process: what it leaves undone while more purchases come than it has room for, so that
//! those that it takes go on.
//!
//! The surplus is refused as it comes, before Redis. When that lasts, lists of orders are left out, and then waits. A
//! process is pressed from the first purchase that it refuses for want of room until it has refused none for two
//! seconds; so a crowd that it can serve costs nothing here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Moment;
use crate::domain::rule::Switch;

/// After how long without a refusal a process is not pressed any more.
const CALM: Duration = Duration::from_secs(2);
/// After how long of pressure lists of orders are left out.
const LISTS_AFTER: Duration = Duration::from_millis(500);
/// After how long of pressure nobody waits for a decision.
const WAITS_AFTER: Duration = Duration::from_secs(1);

/// A step of the ladder: what is left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Purchases for which there is no room.
    Purchases,
    /// Lists of orders.
    Lists,
    /// Waits for a decision: the answer comes at once.
    Waits,
}

impl Step {
    /// All steps, in the order in which they are taken.
    pub const ALL: [Self; 3] = [Self::Purchases, Self::Lists, Self::Waits];

    /// Answers its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purchases => "purchases",
            Self::Lists => "lists",
            Self::Waits => "waits",
        }
    }

    /// Answers by what operators take the step.
    pub fn switch(self) -> Switch {
        match self {
            Self::Purchases => Switch::NoPurchases,
            Self::Lists => Switch::NoLists,
            Self::Waits => Switch::NoWaits,
        }
    }
}

/// The ladder of a process.
#[derive(Default)]
pub struct Ladder {
    /// When the pressure began, in ns.
    since_ns: AtomicU64,
    /// When a purchase was refused last, in ns; 0 when none was.
    refused_ns: AtomicU64,
}

impl Ladder {
    /// Notes that a purchase was refused because there was no room.
    pub fn note_refused(&self, now: Moment) {
        let before_ns = self.refused_ns.load(Ordering::Relaxed);
        if before_ns == 0 || now.ns().saturating_sub(before_ns) >= ns(CALM) {
            self.since_ns.store(now.ns(), Ordering::Relaxed);
        }
        // Whoever sees this sees since when.
        self.refused_ns.store(now.ns(), Ordering::Release);
    }

    /// Answers whether a step is taken.
    pub fn holds(&self, step: Step, now: Moment) -> bool {
        let refused_ns = self.refused_ns.load(Ordering::Acquire);
        if refused_ns == 0 || now.ns().saturating_sub(refused_ns) >= ns(CALM) {
            return false;
        }
        let pressed_ns = refused_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed));
        match step {
            Step::Purchases => true,
            Step::Lists => pressed_ns >= ns(LISTS_AFTER),
            Step::Waits => pressed_ns >= ns(WAITS_AFTER),
        }
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn held(ladder: &Ladder, clock: &Clock) -> Vec<&'static str> {
        let holds = |step: &Step| ladder.holds(*step, clock.monotonic());
        Step::ALL.into_iter().filter(holds).map(Step::as_str).collect()
    }

    #[test]
    fn steps_are_taken_while_purchases_are_refused_and_left_when_none_was_for_a_while() {
        let (ladder, clock) = (Ladder::default(), Clock::manual(0));
        clock.advance_ms(7);
        assert_eq!(held(&ladder, &clock), [""; 0]);
        for (after_ms, expected) in [
            (0, &["purchases"][..]),
            (499, &["purchases"]),
            (1, &["purchases", "lists"]),
            (499, &["purchases", "lists"]),
            (1, &["purchases", "lists", "waits"]),
            (1999, &["purchases", "lists", "waits"]),
        ] {
            clock.advance_ms(after_ms);
            ladder.note_refused(clock.monotonic());
            assert_eq!(held(&ladder, &clock), expected);
        }
        clock.advance_ms(1999);
        assert_eq!(held(&ladder, &clock), ["purchases", "lists", "waits"]);
        clock.advance_ms(1);
        assert_eq!(held(&ladder, &clock), [""; 0]);
        ladder.note_refused(clock.monotonic());
        assert_eq!(held(&ladder, &clock), ["purchases"], "from the first step again");
    }
}
