//! The local sold-out flag: refuses without I/O what Redis refused a moment ago.
//!
//! A buyer who already holds an order must get it again when a click is repeated, also after the last unit
//! is gone. So the flag comes with the set of everybody who ever held an order in the bucket, read after the
//! stock ran out: those still go to Redis, everybody else is refused here. The flag lapses by itself and one
//! purchase then asks Redis again.

use std::collections::{BTreeMap, HashSet};
use std::sync::RwLock;

use crate::domain::{BucketId, SkuId, UserId};

#[derive(Default)]
pub struct SoldOut {
    // Few buckets and few SKUs: comparing a name or two costs less than hashing it.
    buckets: RwLock<BTreeMap<BucketId, Flags>>,
}

#[derive(Default)]
struct Flags {
    winners: HashSet<UserId>,
    /// How many orders the bucket had ever held when `winners` was read; `None` before the first reading.
    orders_seen: Option<u64>,
    reading: bool,
    /// SKU → when the flag lapses, ms since 1970.
    until_ms: BTreeMap<SkuId, i64>,
}

impl SoldOut {
    /// Whether to refuse here and now.
    pub fn refuses(&self, bucket: &BucketId, sku: &SkuId, user: &UserId, now_ms: i64) -> bool {
        let buckets = self.buckets.read().expect("no code panics while holding it");
        buckets.get(bucket).is_some_and(|flags| {
            flags.until_ms.get(sku).is_some_and(|until| now_ms < *until) && !flags.winners.contains(user)
        })
    }

    /// Notes that Redis had no unit left. Answers whether the caller must now read the winners and hand them
    /// to [`Self::set_winners`]; until then the flag stays down.
    pub fn note(&self, bucket: &BucketId, sku: &SkuId, orders_seen: u64, until_ms: i64) -> bool {
        let mut buckets = self.buckets.write().expect("no code panics while holding it");
        let flags = buckets.entry(bucket.clone()).or_default();
        if flags.orders_seen == Some(orders_seen) {
            flags.until_ms.insert(sku.clone(), until_ms);
            return false;
        }
        !std::mem::replace(&mut flags.reading, true)
    }

    /// Ends the reading that [`Self::note`] asked for; `None` when it failed.
    pub fn set_winners(
        &self,
        bucket: &BucketId,
        sku: &SkuId,
        winners: Option<(Vec<UserId>, u64)>,
        until_ms: i64,
    ) {
        let mut buckets = self.buckets.write().expect("no code panics while holding it");
        let flags = buckets.entry(bucket.clone()).or_default();
        flags.reading = false;
        if let Some((winners, orders_seen)) = winners {
            flags.winners.extend(winners);
            flags.orders_seen = Some(orders_seen);
            flags.until_ms.insert(sku.clone(), until_ms);
        }
    }

    pub fn retain(&self, keep: impl Fn(&BucketId) -> bool) {
        self.buckets.write().expect("no code panics while holding it").retain(|bucket, _| keep(bucket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SaleId;

    #[test]
    fn a_winner_is_never_refused_locally_and_a_stranger_only_while_the_flag_is_up() {
        let flag = SoldOut::default();
        let bucket = BucketId { sale: SaleId::parse("s").expect("slug"), bucket: 0 };
        let sku = SkuId::parse("x").expect("slug");
        let (winner, stranger) = (UserId::parse("w").expect("user"), UserId::parse("z").expect("user"));
        assert!(flag.note(&bucket, &sku, 7, 1000), "the first note asks for the winners");
        assert!(!flag.note(&bucket, &sku, 7, 1000), "only one reader at a time");
        assert!(!flag.refuses(&bucket, &sku, &stranger, 500), "no flag before the winners are known");
        flag.set_winners(&bucket, &sku, Some((vec![winner.clone()], 7)), 1000);
        assert!(flag.refuses(&bucket, &sku, &stranger, 999));
        assert!(!flag.refuses(&bucket, &sku, &winner, 999));
        assert!(!flag.refuses(&bucket, &sku, &stranger, 1000), "the flag lapses");
        assert!(!flag.note(&bucket, &sku, 7, 2000), "no new winner, no new reading");
        assert!(flag.refuses(&bucket, &sku, &stranger, 1999));
        assert!(flag.note(&bucket, &sku, 8, 3000), "a new winner asks for a new reading");
    }
}
