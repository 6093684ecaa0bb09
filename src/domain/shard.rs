//! The map from a user to shard, instance, partition and bucket.
//!
//! It is pure arithmetic, frozen at the first migration: after a change of it orders would be looked for where they are
//! not. Source: docs/protocol/steps.md, "Arithmetic".

use serde::Serialize;
use std::collections::BTreeSet;

use super::ids::{SaleId, SkuId, UserId};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(u16);

        impl $name {
            /// Wraps a number without a check.
            pub const fn new(number: u16) -> Self {
                Self(number)
            }

            /// Answers the number.
            pub fn number(self) -> u16 {
                self.0
            }
        }
    };
}

number!(
    /// A logical part of all users: one database.
    Shard
);
number!(
    /// A MySQL server that owns a contiguous range of shards and one control database.
    Instance
);
number!(
    /// A partition of the order log.
    Part
);
number!(
    /// A month, counted from January 1970 (UTC). The month of a sale's start names its orders table.
    Month
);

impl Instance {
    /// The first instance.
    pub const FIRST: Self = Self(0);
}

impl Month {
    /// Answers the month of a time in ms since 1970, UTC. Times before 1970 count as its first month.
    pub fn of_ms(at_ms: i64) -> Self {
        // Civil-from-days, the proleptic Gregorian calendar. Source: Howard Hinnant, "chrono-Compatible
        // Low-Level Date Algorithms", civil_from_days.
        let days = at_ms.max(0) / 86_400_000 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self(u16::try_from((year - 1970) * 12 + month - 1).unwrap_or(u16::MAX))
    }

    /// Answers the month as `YYYYMM`, the suffix of the orders table.
    pub fn yyyymm(self) -> u32 {
        (1970 + u32::from(self.0) / 12) * 100 + u32::from(self.0) % 12 + 1
    }

    /// Answers the month after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A slice of one sale's stock that lives in one Redis slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId {
    /// The sale.
    pub sale: SaleId,
    /// The bucket's number, from 0.
    pub bucket: u16,
}

/// Why counts of shards, partitions and instances make no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShardMap {
    /// The number of shards is no power of two from 1 to [`ShardMap::SHARDS_MAX`].
    #[error("shards must be a power of two from 1 to 4096, not {0}")]
    Shards(u16),
    /// The number of partitions is no power of two from the instances to the shards.
    #[error("partitions must be a power of two from the number of instances up to the shards, not {0}")]
    Parts(u16),
    /// The number of instances does not divide the partitions.
    #[error("instances must divide the partitions evenly, not {0}")]
    Instances(u16),
}

/// The map of S shards over P partitions over some instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardMap {
    shards: u16,
    parts: u16,
    instances: u16,
}

impl ShardMap {
    /// Most shards.
    pub const SHARDS_MAX: u16 = 4096;

    /// Checks the counts and makes the map.
    ///
    /// # Errors
    /// [`InvalidShardMap`] unless S and P are powers of two, instances <= P <= S, and instances divide P
    /// (so that every partition's shards are on one instance).
    pub fn new(shards: u16, parts: u16, instances: u16) -> Result<Self, InvalidShardMap> {
        if !shards.is_power_of_two() || shards > Self::SHARDS_MAX {
            return Err(InvalidShardMap::Shards(shards));
        }
        if !parts.is_power_of_two() || parts > shards || parts < instances {
            return Err(InvalidShardMap::Parts(parts));
        }
        if instances == 0 || !parts.is_multiple_of(instances) {
            return Err(InvalidShardMap::Instances(instances));
        }
        Ok(Self { shards, parts, instances })
    }

    /// Answers the number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Answers the number of partitions.
    pub fn parts(&self) -> u16 {
        self.parts
    }

    /// Answers the number of instances.
    pub fn instances(&self) -> u16 {
        self.instances
    }

    /// Answers the shard of a user.
    pub fn shard_of(&self, user: &UserId) -> Shard {
        Shard(self.hash(user.as_str().as_bytes()))
    }

    /// Answers the partition that has a shard's records.
    pub fn part_of(&self, shard: Shard) -> Part {
        Part(shard.0 / (self.shards / self.parts))
    }

    /// Answers the instance that owns a shard.
    pub fn instance_of(&self, shard: Shard) -> Instance {
        self.instance_of_part(self.part_of(shard))
    }

    /// Answers the instance that owns all shards of a partition.
    pub fn instance_of_part(&self, part: Part) -> Instance {
        Instance(part.0 / (self.parts / self.instances))
    }

    /// Answers a SKU's home: the instance that is first in its ring.
    pub fn home_of(&self, sku: &SkuId) -> Instance {
        self.instance_of(Shard(self.hash(sku.as_str().as_bytes())))
    }

    /// Lists a SKU's ring: all instances, from its home on. In this order they get shares and are asked for units.
    pub fn ring_of(&self, sku: &SkuId) -> impl Iterator<Item = Instance> + use<> {
        let (home, instances) = (self.home_of(sku).0, self.instances);
        (0..instances).map(move |step| Instance((home + step) % instances))
    }

    /// Lists every instance's share of a SKU's stock, along its ring. The shares add up to `stock`. They differ by at
    /// most one unit, and the first ones are the larger ones.
    pub fn shares_of(&self, sku: &SkuId, stock: u32) -> impl Iterator<Item = (Instance, u32)> + use<> {
        let instances = u32::from(self.instances);
        let share = move |nth: u32| stock / instances + u32::from(nth < stock % instances);
        self.ring_of(sku).zip(0u32..).map(move |(instance, nth)| (instance, share(nth)))
    }

    /// Answers which of a sale's `buckets` (a power of two, at most the shards) serves a shard.
    pub fn bucket_of(&self, shard: Shard, buckets: u16) -> u16 {
        shard.0 / (self.shards / buckets.clamp(1, self.shards))
    }

    /// Answers the partitions that have orders of one of a sale's `buckets`.
    pub fn parts_of_bucket(&self, bucket: u16, buckets: u16) -> BTreeSet<Part> {
        let shards = self.all_shards().filter(|shard| self.bucket_of(*shard, buckets) == bucket);
        shards.map(|shard| self.part_of(shard)).collect()
    }

    /// Lists the shards of an instance, ascending.
    pub fn shards_of(&self, instance: Instance) -> impl Iterator<Item = Shard> + use<> {
        let each = self.shards / self.instances;
        (instance.0 * each..(instance.0 + 1) * each).map(Shard)
    }

    /// Lists all shards, ascending.
    pub fn all_shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.shards).map(Shard)
    }

    /// Lists all partitions, ascending.
    pub fn all_parts(&self) -> impl Iterator<Item = Part> + use<> {
        (0..self.parts).map(Part)
    }

    /// Lists all instances, ascending.
    pub fn all_instances(&self) -> impl Iterator<Item = Instance> + use<> {
        (0..self.instances).map(Instance)
    }

    /// Answers whether a shard number exists in this map.
    pub fn holds(&self, shard: Shard) -> bool {
        shard.0 < self.shards
    }

    fn hash(&self, key: &[u8]) -> u16 {
        let low = murmur3_x86_32(key) & u32::from(self.shards - 1);
        u16::try_from(low).expect("masked by at most 4095")
    }
}

/// Hashes with MurmurHash3_x86_32 and seed 0. Source: Austin Appleby, smhasher `MurmurHash3.cpp` (public domain).
fn murmur3_x86_32(key: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let scramble = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash: u32 = 0;
    let mut blocks = key.chunks_exact(4);
    for block in &mut blocks {
        let word = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        hash = (hash ^ scramble(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0u32, |word, &byte| (word << 8) | u32::from(byte));
        hash ^= scramble(word);
    }
    // Keys have at most 64 bytes. The reference casts the length to 32 bits as well.
    hash ^= u32::try_from(key.len()).unwrap_or(u32::MAX);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_matches_the_published_vectors() {
        for (key, hash) in [
            ("", 0u32),
            ("a", 0x3c25_69b2),
            ("abc", 0xb3dd_93fa),
            ("hello", 0x248b_fa47),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(murmur3_x86_32(key.as_bytes()), hash, "{key:?}");
        }
    }

    #[test]
    fn month_boundaries_are_utc_midnights() {
        assert_eq!(Month::of_ms(0).yyyymm(), 197_001);
        assert_eq!(Month::of_ms(1_767_225_599_999).yyyymm(), 202_512);
        assert_eq!(Month::of_ms(1_767_225_600_000).yyyymm(), 202_601);
        assert_eq!(Month::of_ms(1_709_164_800_000).yyyymm(), 202_402); // 29 February
        assert_eq!(Month::of_ms(1_709_251_200_000).yyyymm(), 202_403);
    }

    #[test]
    fn a_partition_never_spans_two_instances() {
        let map = ShardMap::new(128, 16, 8).expect("valid");
        for instance in map.all_instances() {
            for shard in map.shards_of(instance) {
                assert_eq!(map.instance_of(shard), instance);
                assert_eq!(map.instance_of_part(map.part_of(shard)), instance);
            }
        }
    }

    #[test]
    fn a_million_users_lie_evenly_on_eight_instances() {
        let map = ShardMap::new(128, 32, 8).expect("valid");
        // Shops give users such names: numbers, addresses, and ids that differ only in their last digits.
        let shops: [fn(u32) -> String; 3] =
            [|n| n.to_string(), |n| format!("buyer{n}@shop.example"), |n| format!("usr_{:032x}", n)];
        for name in shops {
            let mut users = vec![0u32; 8];
            for n in 0..1_000_000 {
                let user = UserId::parse(&name(n)).expect("a user");
                users[usize::from(map.instance_of(map.shard_of(&user)).number())] += 1;
            }
            let fair = 125_000;
            let worst = users.iter().map(|count| count.abs_diff(fair)).max().expect("eight");
            assert!(worst * 100 <= fair, "{users:?} for {}", name(0));
        }
    }

    #[test]
    fn the_shares_of_a_stock_add_up_to_it() {
        let map = ShardMap::new(128, 32, 8).expect("valid");
        for sku in ["phone", "pad", "watch"].map(|sku| SkuId::parse(sku).expect("a slug")) {
            for stock in [0, 1, 7, 8, 9, 1000, 1_000_003, u32::MAX] {
                let shares: Vec<(Instance, u32)> = map.shares_of(&sku, stock).collect();
                let sum: u64 = shares.iter().map(|(_, units)| u64::from(*units)).sum();
                assert_eq!(sum, u64::from(stock));
                assert!(shares.iter().all(|(_, units)| shares[0].1 - units <= 1), "{shares:?}");
                assert_eq!(shares[0].0, map.home_of(&sku));
                let instances: BTreeSet<u16> = shares.iter().map(|(i, _)| i.0).collect();
                assert_eq!(instances.len(), 8);
            }
        }
    }

    #[test]
    fn maps_that_would_split_a_partition_are_refused() {
        assert!(ShardMap::new(6, 2, 2).is_err());
        assert!(ShardMap::new(8, 16, 2).is_err());
        assert!(ShardMap::new(8, 2, 4).is_err());
        assert!(ShardMap::new(8, 8, 3).is_err());
        assert!(ShardMap::new(8, 4, 0).is_err());
        assert!(ShardMap::new(8, 4, 2).is_ok());
    }
}
