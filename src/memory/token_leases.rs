//! Leases of tokens: what this process may give out of a bucket that all processes share.
//!
//! A lease is a number of tokens and the moment at which they are void. A process that has none left asks for the next
//! lease. While the bucket has too few it rests for a moment, so a crowd costs the store a hundred calls a second, not
//! one for each request. When the store cannot be asked, the process goes on alone, with its share of what all were
//! given.
//!
//! Invariant: what a process has in hand, beyond what waits for it, is at most a tenth of a second of the rate, but at
//! least one token. So in any time all processes let pass at most `burst + rate × time`, and one lease for each
//! process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::key_table::{Fading, KeyTable};
use super::token_buckets::{Rate, SECOND_NS};
use crate::domain::rule::TokenRate;
use crate::ports::TokenGrant;

/// After what time a lease is void.
const LIFE_NS: u64 = SECOND_NS;
/// For what time a lease is meant to be enough.
const AIM_NS: u64 = SECOND_NS / 20;
/// The least time from a call that found too few tokens to the next one.
const REST_NS: u64 = SECOND_NS / 100;
/// How long a process goes on alone before it asks again.
const ALONE_NS: u64 = SECOND_NS;
/// The time by whose tokens a share is measured, at least.
const SPLIT_NS: u64 = SECOND_NS;
/// The share of a process that has not seen yet what all were given.
const UNKNOWN_SHARE: f64 = 0.1;
/// The least share, so that nobody refuses everything.
const SHARE_MIN: f64 = 0.01;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It has a token, and so many may follow it at once, unless other processes let them pass.
    Given {
        /// How many.
        left: u32,
    },
    /// There is none, and after so long there may be one.
    Refused(Duration),
    /// This process has none, and may ask for more.
    Asks,
}

/// What this process knows of one shared bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    left: u32,
    /// How many tokens the bucket had left for all when it was asked last.
    left_of_all: u32,
    had: u32,
    began_ns: u64,
    void_at_ns: u64,
    refuses_until_ns: u64,
    alone_until_ns: u64,
    /// When the bucket is full from which this process gives alone.
    full_at_ns: u64,
    split: Split,
}

/// How much of what all were given this process was given.
#[derive(Debug, Clone, Copy, Default)]
struct Split {
    since_ns: u64,
    own: u32,
    /// What all had been given before.
    before: u64,
    share: Option<f64>,
}

impl Split {
    fn note(&mut self, tokens: u32, given: u64, now_ns: u64) {
        let all_before = given.saturating_sub(u64::from(tokens));
        if self.since_ns == 0 || all_before < self.before {
            // The first time, or the bucket was forgotten.
            *self = Self { since_ns: now_ns, own: 0, before: all_before, share: self.share };
        }
        self.own = self.own.saturating_add(tokens);
        let all = u32::try_from(given - self.before).unwrap_or(u32::MAX);
        if now_ns.saturating_sub(self.since_ns) >= SPLIT_NS && all > 0 {
            let share = (f64::from(self.own) / f64::from(all)).clamp(SHARE_MIN, 1.0);
            *self = Self { since_ns: now_ns, own: 0, before: given, share: Some(share) };
        }
    }
}

impl Lease {
    fn take(&mut self, rate: Rate, now_ns: u64) -> Taken {
        if self.left > 0 && now_ns < self.void_at_ns {
            self.left -= 1;
            return Taken::Given { left: self.left() };
        }
        if now_ns < self.alone_until_ns {
            let rate = rate.shared(self.split.share.unwrap_or(UNKNOWN_SHARE));
            return match rate.take(&mut self.full_at_ns, now_ns) {
                Ok(()) => {
                    let left = rate.left(self.full_at_ns - now_ns);
                    Taken::Given { left: u32::try_from(left).unwrap_or(u32::MAX) }
                }
                Err(wait) => Taken::Refused(wait),
            };
        }
        match self.refuses_until_ns.checked_sub(now_ns) {
            None | Some(0) => Taken::Asks,
            Some(wait_ns) => Taken::Refused(Duration::from_nanos(wait_ns)),
        }
    }

    fn left(&self) -> u32 {
        self.left.saturating_add(self.left_of_all)
    }

    /// Answers how many tokens to wish for when `waiting` requests have none: one for each of them, and in hand as many
    /// as were used of late in [`AIM_NS`], but at most four times as many as the last time, and at most `most`.
    fn wish(&self, most: u32, waiting: u32, now_ns: u64) -> u32 {
        let used = u64::from(self.had - self.left);
        let passed_ns = now_ns.saturating_sub(self.began_ns).max(SECOND_NS / 1000);
        let wanted = (used * AIM_NS / passed_ns).min(u64::from(self.had) * 4);
        let in_hand = u32::try_from(wanted).unwrap_or(most).min(most);
        if waiting == 0 { in_hand.max(1) } else { waiting + in_hand.saturating_sub(waiting) }
    }

    /// Serves those of `waiting` requests for which there are tokens in hand: a call that was under way while they came
    /// may have brought some.
    fn serve(&mut self, waiting: u32, now_ns: u64) -> u32 {
        let served = if now_ns < self.void_at_ns { waiting.min(self.left) } else { 0 };
        self.left -= served;
        served
    }

    /// Takes a grant for `waiting` requests, and answers how many of them have a token. The call began at `asked_ns`.
    /// What another call has brought meanwhile stays in hand, at most `most` in all.
    fn grant(&mut self, (wished, most): (u32, u32), waiting: u32, grant: TokenGrant, asked_ns: u64) -> u32 {
        let served = waiting.min(grant.tokens);
        let in_hand = if asked_ns < self.void_at_ns { self.left } else { 0 };
        self.left = in_hand.saturating_add(grant.tokens - served).min(most);
        (self.had, self.left_of_all) = (self.left + served, grant.left);
        (self.began_ns, self.void_at_ns) = (asked_ns, asked_ns + LIFE_NS);
        let wait_ns = u64::try_from(grant.wait.as_nanos()).unwrap_or(SECOND_NS);
        let is_short = grant.tokens < wished;
        self.refuses_until_ns = if is_short { asked_ns + wait_ns.max(REST_NS) } else { 0 };
        self.alone_until_ns = 0;
        self.split.note(grant.tokens, grant.given, asked_ns);
        served
    }

    /// Goes on alone. What it gives begins with nothing, because the others have what there was.
    fn fail(&mut self, rate: Rate, now_ns: u64) {
        if self.alone_until_ns == 0 {
            self.full_at_ns = now_ns + rate.shared(self.split.share.unwrap_or(UNKNOWN_SHARE)).full_ns();
        }
        (self.alone_until_ns, self.left_of_all) = (now_ns + ALONE_NS, 0);
    }
}

impl Fading for Lease {
    fn fades_at_ns(&self) -> u64 {
        self.void_at_ns.max(self.refuses_until_ns).max(self.alone_until_ns)
    }
}

/// The numbers of a shared bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// As operators say it.
    pub rate: TokenRate,
    /// How many tokens a lease has at most.
    most: u32,
    /// What this process may give when it is alone, if it had the whole of it.
    own: Rate,
    /// What all may give.
    pub all: Rate,
}

impl Shared {
    /// Makes the numbers. A lease has at most so many tokens, and at least one.
    pub fn new(rate: TokenRate, most: u32) -> Self {
        Self { rate, most, own: Rate::new(rate.rate, most), all: Rate::new(rate.rate, rate.holds()) }
    }
}

/// The lease of one bucket. Who is refused takes no lock.
#[derive(Debug, Default)]
pub struct OneLease {
    refuses_until_ns: AtomicU64,
    lease: Mutex<Lease>,
}

impl OneLease {
    /// Takes a token.
    pub fn take(&self, shared: &Shared, now_ns: u64) -> Taken {
        if let Some(wait_ns) = self.refuses_until_ns.load(Ordering::Relaxed).checked_sub(now_ns)
            && wait_ns > 0
        {
            return Taken::Refused(Duration::from_nanos(wait_ns));
        }
        let mut lease = self.lease.lock().expect("no code panics while holding it");
        let taken = lease.take(shared.own, now_ns);
        if matches!(taken, Taken::Refused(_)) && now_ns >= lease.alone_until_ns {
            self.refuses_until_ns.store(lease.refuses_until_ns, Ordering::Relaxed);
        }
        taken
    }
}

/// The leases of many buckets, in memory of a fixed size. A lease that is forgotten is lost, and asked for again.
pub type Leases = KeyTable<Lease>;

impl Leases {
    /// Takes a token of a key.
    pub fn take(&self, key: u64, shared: &Shared, now_ns: u64) -> Taken {
        self.with(key, |lease| lease.take(shared.own, now_ns))
    }
}

/// Where the lease of a bucket is kept. Cheap to clone.
#[derive(Clone)]
pub enum LeaseOf {
    /// By itself.
    One(Arc<OneLease>),
    /// With others, under a key.
    Key(Arc<Leases>, u64),
}

impl LeaseOf {
    fn with<R>(&self, act: impl FnOnce(&mut Lease) -> R) -> R {
        match self {
            Self::One(one) => act(&mut one.lease.lock().expect("no code panics while holding it")),
            Self::Key(leases, key) => leases.with(*key, act),
        }
    }

    /// Takes a token.
    pub fn take(&self, shared: &Shared, now_ns: u64) -> Taken {
        match self {
            Self::One(one) => one.take(shared, now_ns),
            Self::Key(leases, key) => leases.take(*key, shared, now_ns),
        }
    }

    /// Answers how many requests may follow at once, as far as this process knows.
    pub fn left(&self) -> u32 {
        self.with(|lease| lease.left())
    }

    /// Answers how many tokens to wish for when `waiting` requests have none.
    pub fn wish(&self, shared: &Shared, waiting: u32, now_ns: u64) -> u32 {
        self.with(|lease| lease.wish(shared.most, waiting, now_ns)).min(shared.rate.holds())
    }

    /// Serves those of `waiting` requests for which there are tokens in hand, and answers how many these are.
    pub fn serve(&self, waiting: u32, now_ns: u64) -> u32 {
        self.with(|lease| lease.serve(waiting, now_ns))
    }

    /// Takes a grant for `waiting` requests, and answers how many of them have a token. `asked_ns` is when the call
    /// began.
    pub fn grant(
        &self,
        shared: &Shared,
        (wished, waiting): (u32, u32),
        grant: TokenGrant,
        asked_ns: u64,
    ) -> u32 {
        self.with(|lease| lease.grant((wished, shared.most), waiting, grant, asked_ns))
    }

    /// Goes on alone for a while, because the bucket could not be asked.
    pub fn fail(&self, shared: &Shared, now_ns: u64) {
        self.with(|lease| lease.fail(shared.own, now_ns));
    }

    /// Goes on alone as [`Self::fail`], and answers a request that waits: after how long it may come again, if it is
    /// refused.
    ///
    /// # Errors
    /// The refusal.
    pub fn take_alone(&self, shared: &Shared, now_ns: u64) -> Result<(), Duration> {
        self.fail(shared, now_ns);
        match self.take(shared, now_ns) {
            Taken::Given { .. } => Ok(()),
            Taken::Refused(wait) => Err(wait),
            Taken::Asks => Err(Duration::from_nanos(REST_NS)),
        }
    }
}

/// A wish for a token of a bucket that all processes share.
#[derive(Clone)]
pub struct LeaseWish {
    /// The name of the bucket.
    pub bucket: String,
    /// Where its lease is kept.
    pub lease: LeaseOf,
    /// Its numbers.
    pub shared: Shared,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = SECOND_NS / 1000;

    fn shared(rate: u32) -> Shared {
        let rate = TokenRate { rate, burst: 0, cluster: true };
        Shared::new(rate, rate.lease_max())
    }

    fn grant(tokens: u32, given: u64) -> TokenGrant {
        TokenGrant { tokens, wait: Duration::from_millis(2), given, left: 7 }
    }

    fn taken(lease: &LeaseOf, shared: &Shared, now_ns: u64) -> usize {
        (0..100_000).take_while(|_| matches!(lease.take(shared, now_ns), Taken::Given { .. })).count()
    }

    fn both() -> [LeaseOf; 2] {
        [LeaseOf::One(Arc::default()), LeaseOf::Key(Arc::new(Leases::new(8)), 7)]
    }

    #[test]
    fn a_lease_is_given_out_once_and_is_void_after_its_life() {
        for lease in both() {
            let shared = shared(1000);
            assert_eq!(lease.take(&shared, MS), Taken::Asks);
            assert_eq!(lease.grant(&shared, (20, 2), grant(20, 20), MS), 2);
            assert_eq!(
                lease.take(&shared, 5 * MS),
                Taken::Given { left: 17 + 7 },
                "in hand, and of the bucket"
            );
            assert_eq!(taken(&lease, &shared, 5 * MS), 17);
            assert_eq!(lease.take(&shared, 5 * MS), Taken::Asks, "all that was wished for was there");
            assert_eq!(lease.left(), 7);
            assert_eq!(lease.grant(&shared, (20, 0), grant(20, 40), 6 * MS), 0);
            assert_eq!(lease.take(&shared, 6 * MS + LIFE_NS), Taken::Asks, "void");
        }
    }

    #[test]
    fn a_bucket_that_was_short_is_left_alone_for_a_moment() {
        for lease in both() {
            let shared = shared(1000);
            assert_eq!(lease.grant(&shared, (20, 3), grant(2, 2), MS), 2, "the third one has none");
            assert_eq!(lease.take(&shared, 2 * MS), Taken::Refused(Duration::from_millis(9)));
            assert_eq!(lease.take(&shared, 5 * MS), Taken::Refused(Duration::from_millis(6)));
            assert_eq!(lease.take(&shared, 11 * MS), Taken::Asks);
        }
    }

    #[test]
    fn a_wish_follows_what_was_used_and_has_a_bound() {
        let (lease, shared) = (LeaseOf::One(Arc::default()), shared(1000));
        assert_eq!(lease.wish(&shared, 1, MS), 1, "nothing is known yet");
        assert_eq!(lease.wish(&shared, 9, MS), 9, "so many wait");
        assert_eq!(lease.wish(&shared, 500, MS), 500, "one for each");
        lease.grant(&shared, (10, 10), grant(10, 10), 0);
        assert_eq!(lease.wish(&shared, 1, 5 * MS), 40, "four times as many");
        assert_eq!(lease.wish(&shared, 1, 50 * MS), 10, "that was enough for as long as it is meant to be");
        assert_eq!(lease.wish(&shared, 1, 500 * MS), 1);
        lease.grant(&shared, (100, 0), grant(100, 110), 0);
        assert_eq!(lease.wish(&shared, 1, 50 * MS), 1, "none was used");
    }

    #[test]
    fn what_two_calls_bring_is_all_there() {
        for lease in both() {
            let shared = shared(1000);
            assert_eq!(lease.grant(&shared, (50, 10), grant(50, 50), MS), 10);
            assert_eq!(lease.serve(15, 2 * MS), 15, "they came while it was asked for");
            assert_eq!(lease.grant(&shared, (60, 5), grant(30, 80), 2 * MS), 5);
            assert_eq!(lease.serve(1000, 3 * MS), 50);
            assert_eq!(lease.grant(&shared, (90, 0), grant(90, 170), 3 * MS), 0);
            lease.grant(&shared, (90, 0), grant(90, 260), 3 * MS);
            assert_eq!(lease.serve(1000, 3 * MS), 100, "no more in hand than a tenth of a second has");
            lease.grant(&shared, (90, 0), grant(90, 350), 3 * MS);
            assert_eq!(lease.serve(1, 3 * MS + LIFE_NS), 0, "void");
        }
    }

    #[test]
    fn a_slow_rate_is_leased_one_by_one() {
        let lease = LeaseOf::One(Arc::default());
        assert_eq!(
            (lease.wish(&shared(3), 1, MS), lease.wish(&shared(3), 5, MS)),
            (1, 3),
            "no more than there can be"
        );
    }

    #[test]
    fn a_process_goes_on_alone_with_its_share_of_what_all_were_given() {
        for lease in both() {
            let shared = shared(1000);
            let (mut now_ns, mut given) = (MS, 0);
            // A quarter is its own.
            for _ in 0..30 {
                given += 30;
                lease.grant(&shared, (10, 10), grant(10, given), now_ns);
                given += 10;
                now_ns += 100 * MS;
            }
            lease.fail(&shared, now_ns);
            assert_eq!(
                lease.take(&shared, now_ns),
                Taken::Refused(Duration::from_millis(4)),
                "it begins empty"
            );
            let passed: usize = (1..=100).map(|ms| taken(&lease, &shared, now_ns + ms * 10 * MS - 1)).sum();
            assert!((245..=250).contains(&passed), "{passed}");
            assert_eq!(lease.take(&shared, now_ns + ALONE_NS), Taken::Asks);
            // Failing again is no new burst.
            lease.fail(&shared, now_ns + ALONE_NS);
            assert!(taken(&lease, &shared, now_ns + ALONE_NS) <= 4);
            lease.grant(&shared, (10, 0), grant(10, 5), now_ns + ALONE_NS + MS);
            assert_eq!(taken(&lease, &shared, now_ns + ALONE_NS + MS), 10, "back");
        }
    }

    #[test]
    fn a_process_that_has_seen_nothing_goes_on_with_a_tenth() {
        let (lease, shared) = (LeaseOf::One(Arc::default()), shared(1000));
        assert_eq!(lease.take_alone(&shared, MS), Err(Duration::from_millis(10)));
        let passed: usize = (1..=99).map(|ms| taken(&lease, &shared, ms * 10 * MS)).sum();
        assert!((96..=100).contains(&passed), "{passed}");
    }
}
