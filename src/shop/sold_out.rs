//! The local sold-out flag: it refuses without I/O what Redis refused a moment ago.
//!
//! A buyer who already holds an order must get it again when the request is repeated, also after the last unit is gone.
//! So the flag comes with the bucket's winners: everybody who ever held an order in it, read after the stock ran out.
//! Purchases of winners still go to Redis, and all others are refused here. The flag ends by itself, counted from the
//! moment at which Redis was asked, so that nobody is refused for longer when units come back. Purchases then ask Redis
//! again, until an answer renews it.

use std::collections::{BTreeMap, HashSet};
use std::sync::RwLock;

use crate::clock::{Clock, Moment};
use crate::domain::{BucketId, SkuId, UserId};

/// The sold-out flags of one process, by bucket and SKU.
pub struct SoldOut {
    clock: Clock,
    // There are few buckets and few SKUs, so to compare a name or two costs less than to hash it.
    buckets: RwLock<BTreeMap<BucketId, Flags>>,
}

#[derive(Default)]
struct Flags {
    /// Users who ever held an order in the bucket.
    winners: HashSet<UserId>,
    /// How many orders the bucket had ever held when `winners` was read; `None` before the first reading.
    orders_seen: Option<u64>,
    /// Whether the winners are being read.
    reading: bool,
    /// SKU → when its flag ends.
    until: BTreeMap<SkuId, Moment>,
}

impl Flags {
    /// Raises the flag of a SKU until `until`, unless it is up for longer.
    fn raise(&mut self, sku: &SkuId, until: Moment) {
        let up = self.until.entry(sku.clone()).or_insert(until);
        *up = until.max(*up);
    }
}

impl SoldOut {
    /// Makes flags of which none is up.
    pub fn new(clock: Clock) -> Self {
        Self { clock, buckets: RwLock::default() }
    }

    /// Answers whether to refuse a user's purchase of a SKU now. Costs no I/O.
    pub fn refuses(&self, bucket: &BucketId, sku: &SkuId, user: &UserId) -> bool {
        let buckets = self.buckets.read().expect("no code panics while holding it");
        buckets.get(bucket).is_some_and(|flags| {
            let is_up = flags.until.get(sku).is_some_and(|until| self.clock.monotonic() < *until);
            is_up && !flags.winners.contains(user)
        })
    }

    /// Notes that a user holds an order in a bucket now. Where no flag was ever up, nothing is kept.
    pub fn note_winner(&self, bucket: &BucketId, user: &UserId) {
        let is_flagged = |buckets: &BTreeMap<BucketId, Flags>| {
            buckets.get(bucket).is_some_and(|it| !it.winners.contains(user))
        };
        if is_flagged(&self.buckets.read().expect("no code panics while holding it"))
            && let Some(flags) =
                self.buckets.write().expect("no code panics while holding it").get_mut(bucket)
        {
            flags.winners.insert(user.clone());
        }
    }

    /// Notes that Redis had no unit left. Raises the flag until `until` when the winners are those that were read last.
    /// Otherwise the flag stays as it is, and the answer is whether the caller has to read the winners and hand them to
    /// [`Self::set_winners`].
    pub fn note(&self, bucket: &BucketId, sku: &SkuId, orders_seen: u64, until: Moment) -> bool {
        let mut buckets = self.buckets.write().expect("no code panics while holding it");
        let flags = buckets.entry(bucket.clone()).or_default();
        if flags.orders_seen == Some(orders_seen) {
            flags.raise(sku, until);
            return false;
        }
        !std::mem::replace(&mut flags.reading, true)
    }

    /// Ends the reading that [`Self::note`] asked for, and raises the flag until `until`. `winners` comes with the
    /// number of orders ever held; it is `None` when the reading failed, and then the flag stays as it is.
    pub fn set_winners(
        &self,
        bucket: &BucketId,
        sku: &SkuId,
        winners: Option<(Vec<UserId>, u64)>,
        until: Moment,
    ) {
        let mut buckets = self.buckets.write().expect("no code panics while holding it");
        let flags = buckets.entry(bucket.clone()).or_default();
        flags.reading = false;
        if let Some((winners, orders_seen)) = winners {
            flags.winners.extend(winners);
            flags.orders_seen = Some(orders_seen);
            flags.raise(sku, until);
        }
    }

    /// Forgets the buckets that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(&BucketId) -> bool) {
        self.buckets.write().expect("no code panics while holding it").retain(|bucket, _| keep(bucket));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::SaleId;

    #[test]
    fn a_winner_is_never_refused_locally_and_a_stranger_only_while_the_flag_is_up() {
        let clock = Clock::manual(0);
        let flag = SoldOut::new(clock.clone());
        let bucket = BucketId { sale: SaleId::parse("s").expect("slug"), bucket: 0 };
        let sku = SkuId::parse("x").expect("slug");
        let [winner, late, stranger] = ["w", "l", "z"].map(|user| UserId::parse(user).expect("user"));
        let in_a_second = || clock.monotonic() + Duration::from_secs(1);
        flag.note_winner(&bucket, &late);
        assert!(flag.note(&bucket, &sku, 7, in_a_second()), "the first note asks for the winners");
        assert!(!flag.note(&bucket, &sku, 7, in_a_second()), "only one reader at a time");
        assert!(!flag.refuses(&bucket, &sku, &stranger), "no flag before the winners are known");
        flag.set_winners(&bucket, &sku, Some((vec![winner.clone()], 7)), in_a_second());
        assert!(flag.refuses(&bucket, &sku, &stranger) && flag.refuses(&bucket, &sku, &late));
        assert!(!flag.refuses(&bucket, &sku, &winner));
        flag.note_winner(&bucket, &late);
        assert!(!flag.refuses(&bucket, &sku, &late), "this process has just sold to them");
        clock.advance_ms(1000);
        assert!(!flag.refuses(&bucket, &sku, &stranger), "the flag lapses");
        assert!(!flag.note(&bucket, &sku, 7, in_a_second()), "no new winner, no new reading");
        assert!(flag.refuses(&bucket, &sku, &stranger));
        assert!(flag.note(&bucket, &sku, 8, in_a_second()), "a new winner asks for a new reading");
    }
}
