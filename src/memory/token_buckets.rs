//! Token buckets. One holds up to `burst` tokens and gains `rate` of them a second; who asks takes one.
//!
//! A bucket is one number: the moment at which it will be full again. So a bucket that is full needs no memory, and the
//! buckets of many keys stand in a table of a fixed size. Source: GCRA, ATM Forum Traffic Management 4.1, §4.4.2.
//!
//! Invariant: in any time span a bucket gives at most `burst + rate × span` tokens, unless more keys than the table has
//! room for are on the way to being full. Then the bucket that is nearest to full is forgotten, as if it were full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::key_table::{Fading, KeyTable};

/// A second, in ns.
pub const SECOND_NS: u64 = 1_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one token comes.
    each_ns: u64,
    /// Time in which an empty bucket is full.
    full_ns: u64,
}

impl Rate {
    /// Makes a rate of 1 to a million tokens a second. A burst of 0 is the tokens of one second.
    ///
    /// # Panics
    /// For a rate of 0.
    pub fn new(per_s: u32, burst: u32) -> Self {
        let each_ns = SECOND_NS / u64::from(per_s);
        let burst = if burst == 0 { per_s } else { burst };
        Self { each_ns, full_ns: each_ns * u64::from(burst) }
    }

    /// Answers a share of the rate, and of what the bucket holds, but at least one token.
    pub fn shared(self, share: f64) -> Self {
        let each_ns = Duration::from_nanos(self.each_ns).div_f64(share);
        let each_ns = u64::try_from(each_ns.as_nanos()).unwrap_or(u64::MAX / 2);
        Self { each_ns, full_ns: self.full_ns.max(each_ns) }
    }

    /// Answers the time in which an empty bucket is full, in ns.
    pub fn full_ns(self) -> u64 {
        self.full_ns
    }

    /// Answers how many tokens there are in a bucket that is full after so many ns.
    pub fn left(self, full_in_ns: u64) -> u64 {
        self.full_ns.saturating_sub(full_in_ns) / self.each_ns
    }

    /// Answers after how many ns a bucket is full that has so many tokens.
    pub fn full_in_ns(self, left: u32) -> u64 {
        self.full_ns.saturating_sub(self.each_ns.saturating_mul(left.into()))
    }

    /// Takes a token out of a bucket that is full at `full_at_ns`, and says when it is full then. One that was counted
    /// by a slower rate is as good as empty, also when it has no token.
    ///
    /// # Errors
    /// How long it is until there is a token.
    pub fn take(self, full_at_ns: &mut u64, now_ns: u64) -> Result<(), Duration> {
        *full_at_ns = (*full_at_ns).clamp(now_ns, now_ns + self.full_ns);
        let then_ns = *full_at_ns + self.each_ns;
        match (then_ns - now_ns).checked_sub(self.full_ns) {
            None | Some(0) => {
                *full_at_ns = then_ns;
                Ok(())
            }
            Some(wait_ns) => Err(Duration::from_nanos(wait_ns)),
        }
    }
}

/// One bucket. It begins full.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token, and answers after how many ns the bucket is full. `now_ns` is of a clock that never goes back.
    ///
    /// # Errors
    /// How long it is until there is a token.
    pub fn take(&self, rate: Rate, now_ns: u64) -> Result<u64, Duration> {
        let mut seen_ns = self.0.load(Ordering::Relaxed);
        loop {
            let mut full_at_ns = seen_ns;
            let taken = rate.take(&mut full_at_ns, now_ns).map(|()| full_at_ns - now_ns);
            // Who is refused changes nothing, but for a bucket that was counted by a slower rate.
            if taken.is_err() && full_at_ns >= seen_ns {
                return taken;
            }
            match self.0.compare_exchange_weak(seen_ns, full_at_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return taken,
                Err(changed) => seen_ns = changed,
            }
        }
    }
}

/// The buckets of many keys, in memory of a fixed size. A key takes 17 bytes.
pub type Buckets = KeyTable<FullAt>;

/// The moment at which a bucket is full, in ns.
#[derive(Debug, Clone, Copy, Default)]
pub struct FullAt(u64);

impl Fading for FullAt {
    fn fades_at_ns(&self) -> u64 {
        self.0
    }
}

impl Buckets {
    /// Takes a token of a key, and answers after how many ns its bucket is full.
    ///
    /// # Errors
    /// How long it is until there is a token.
    pub fn take(&self, key: u64, rate: Rate, now_ns: u64) -> Result<u64, Duration> {
        self.with(key, |full_at| {
            rate.take(&mut full_at.0, now_ns)?;
            Ok(full_at.0 - now_ns)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::key_table::PLACES;

    use super::*;

    fn taken(bucket: &Bucket, rate: Rate, now_ns: u64) -> u32 {
        (0..).take_while(|_| bucket.take(rate, now_ns).is_ok()).count().try_into().expect("few")
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 25));
        assert_eq!(taken(&bucket, rate, 5), 25);
        assert_eq!(bucket.take(rate, 5), Err(Duration::from_millis(100)));
        assert_eq!(taken(&bucket, rate, 5 + SECOND_NS / 2), 5);
        assert_eq!(taken(&bucket, rate, 5 + 100 * SECOND_NS), 25, "it holds no more");
        assert_eq!(Rate::new(7, 0), Rate::new(7, 7));
    }

    #[test]
    fn a_bucket_that_was_counted_by_a_slower_rate_is_full_as_soon_as_the_new_one_says() {
        let (bucket, slow, fast) = (Bucket::default(), Rate::new(10, 1000), Rate::new(1000, 1000));
        assert_eq!(taken(&bucket, slow, 5), 1000);
        assert_eq!(taken(&bucket, fast, 5), 0);
        assert_eq!(taken(&bucket, fast, 5 + SECOND_NS / 2), 500);
    }

    #[test]
    fn of_more_keys_than_there_is_room_for_the_nearest_to_full_is_forgotten() {
        let (buckets, slow, fast) = (Buckets::new(PLACES), Rate::new(1, 1), Rate::new(1000, 1));
        let now_ns = SECOND_NS;
        assert!(buckets.take(1, slow, now_ns).is_ok());
        for key in 2..100 {
            assert!(buckets.take(key, fast, now_ns).is_ok());
        }
        assert!(buckets.take(1, slow, now_ns).is_err(), "it is full last");
        assert!(buckets.take(99, fast, now_ns).is_err());
        assert!(buckets.take(2, fast, now_ns).is_ok(), "forgotten");
    }

    proptest! {
        #[test]
        fn no_span_gives_more_than_the_burst_and_the_rate(
            steps in prop::collection::vec((0u64..400_000_000, 0u64..3), 1..200),
            (per_s, burst) in (1u32..50, 1u32..20),
        ) {
            let (buckets, rate) = (Buckets::new(64), Rate::new(per_s, burst));
            let mut now_ns = 7;
            let mut given: Vec<(u64, u64)> = Vec::new();
            for (pause_ns, key) in steps {
                now_ns += pause_ns;
                let before: Vec<u64> = given.iter().filter(|(of, _)| *of == key).map(|(_, at)| *at).collect();
                match buckets.take(key, rate, now_ns) {
                    Ok(full_in_ns) => {
                        prop_assert!(full_in_ns <= rate.full_ns && rate.left(full_in_ns) < burst.into());
                        given.push((key, now_ns));
                    }
                    Err(wait) => {
                        // Refused only when the span since some token was given has had all that it may have.
                        let is_spent = before.iter().enumerate().any(|(index, at)| {
                            let tokens = u64::try_from(before.len() - index).expect("few");
                            tokens * rate.each_ns + rate.each_ns > rate.full_ns + (now_ns - at)
                        });
                        prop_assert!(is_spent, "refused without need");
                        prop_assert!(wait <= Duration::from_nanos(rate.each_ns));
                        prop_assert!(rate.take(&mut 0, now_ns).is_ok());
                    }
                }
                for (index, (_, from)) in given.iter().enumerate().filter(|(_, (of, _))| *of == key) {
                    let tokens = given[index..].iter().filter(|(of, _)| *of == key).count();
                    let tokens = u64::try_from(tokens).expect("few");
                    prop_assert!(tokens * rate.each_ns <= rate.full_ns + (now_ns - from));
                }
            }
        }
    }
}
