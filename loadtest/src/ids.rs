//! Order ids, payment ids, the shard map and months, implemented a second time.
//!
//! This code is not taken from the server, and that is on purpose. The audit compares where orders are with where the
//! protocol says they must be, and a fault in shared code would hide itself. `tests/vectors/ids.json` freezes both.
//! Source: docs/protocol/steps.md, "Arithmetic".

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Makes the name of a user of a run.
pub fn user_name(seed: u64, user: u32) -> String {
    format!("u{seed}-{user}")
}

/// Makes an idempotency key of a run.
pub fn key_name(seed: u64, key: u32) -> String {
    format!("k{seed}-{key}")
}

/// An order id: shard u16 | month u16 | 12 bytes of SHA-256, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId([u8; 16]);

const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: u32 = 26;

impl OrderId {
    /// Wraps the bytes of an id.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads the bytes of an id. `None` means that there are not exactly 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Derives the id to which a buyer's idempotency key must lead, whoever computes it.
    pub fn derive(shard: u16, month: u16, sale: &str, user: &str, key: &str) -> Self {
        let text = format!("seckill/order/1\0{sale}\0{user}\0{key}");
        let digest = Sha256::digest(text.as_bytes());
        let head = shard.to_be_bytes().into_iter().chain(month.to_be_bytes());
        let mut bytes = [0; 16];
        for (slot, byte) in bytes.iter_mut().zip(head.chain(digest)) {
            *slot = byte;
        }
        Self(bytes)
    }

    /// Returns the shard that the id names.
    pub fn shard(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Returns the month that the id names, counted from January 1970.
    pub fn month(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Returns the id's bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads `ord_` and 26 Crockford base32 digits. Anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("ord_")?.to_ascii_lowercase();
        if digits.len() != usize::try_from(DIGITS).ok()? {
            return None;
        }
        digits
            .chars()
            .try_fold(0u128, |value, digit| {
                let digit = u128::try_from(ALPHABET.find(digit)?).ok()?;
                // 26 digits carry 130 bits. The two spare bits must be zero.
                value.checked_mul(32)?.checked_add(digit)
            })
            .map(|value| Self(value.to_be_bytes()))
    }

    /// Returns the id of an attempt to pay the order: `pay_`, the digits of the order's id, `_` and the attempt.
    pub fn payment(self, attempt: i64) -> String {
        let order = self.to_string();
        format!("pay_{}_{attempt}", order.strip_prefix("ord_").unwrap_or(&order))
    }

    /// Reads the order that a payment's id names. Anything that is no such id is `None`.
    pub fn of_payment(id: &str) -> Option<Self> {
        let (digits, attempt) = id.strip_prefix("pay_")?.split_once('_')?;
        let order = Self::parse(&format!("ord_{digits}"))?;
        (order.payment(attempt.parse().ok()?) == id).then_some(order)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        f.write_str("ord_")?;
        for place in (0..DIGITS).rev() {
            let digit = usize::try_from((value >> (5 * place)) & 31).expect("five bits fit a usize");
            f.write_str(&ALPHABET[digit..=digit])?;
        }
        Ok(())
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for OrderId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not an order id"))
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> String {
        id.to_string()
    }
}

/// The shard map: S shards over P partitions over some instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of shards, S.
    pub shards: u16,
    /// The number of partitions, P.
    pub partitions: u16,
    /// The number of instances.
    pub instances: u16,
}

impl Layout {
    /// Makes a layout. It is `None` unless S and P are powers of two, 1 ≤ instances ≤ P ≤ S, and instances divide P.
    pub fn new(shards: u16, partitions: u16, instances: u16) -> Option<Self> {
        let powers = shards.is_power_of_two() && partitions.is_power_of_two();
        let ordered = 1 <= instances && instances <= partitions && partitions <= shards;
        (powers && ordered && partitions.is_multiple_of(instances)).then_some(Self {
            shards,
            partitions,
            instances,
        })
    }

    /// Returns the shard of a user.
    pub fn shard_of(self, user: &str) -> u16 {
        let masked = murmur3_x86_32(user.as_bytes()) % u32::from(self.shards);
        u16::try_from(masked).expect("a remainder by a u16 fits a u16")
    }

    /// Returns the instance that owns a shard.
    pub fn instance_of(self, shard: u16) -> u16 {
        shard / (self.shards / self.instances)
    }

    /// Returns the partition of a shard.
    pub fn partition_of(self, shard: u16) -> u16 {
        shard / (self.shards / self.partitions)
    }

    /// Returns which of a sale's `buckets` serves a shard.
    pub fn bucket_of(self, shard: u16, buckets: u16) -> u16 {
        shard / (self.shards / buckets.clamp(1, self.shards))
    }

    /// Returns the home of a SKU: the instance whose pool gets the first of the units that do not divide evenly.
    pub fn home_of(self, sku: &str) -> u16 {
        self.instance_of(self.shard_of(sku))
    }

    /// Returns the share of a SKU's stock that an instance's pool must have.
    pub fn share_of(self, sku: &str, stock: i64, instance: u16) -> i64 {
        let instances = i64::from(self.instances);
        let nth = (i64::from(instance) - i64::from(self.home_of(sku))).rem_euclid(instances);
        stock / instances + i64::from(nth < stock % instances)
    }
}

/// Counts the months from January 1970 (UTC) to a time in ms. `None` means that the time is outside the calendar.
pub fn month_of_ms(at_ms: i64) -> Option<u16> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok()?;
    let months = (at.year() - 1970) * 12 + i32::from(u8::from(at.month())) - 1;
    u16::try_from(months).ok()
}

/// Returns the suffix of the orders table of a month.
pub fn yyyymm(month: u16) -> u32 {
    let (years, months) = (u32::from(month) / 12, u32::from(month) % 12);
    (1970 + years) * 100 + months + 1
}

/// Hashes with MurmurHash3_x86_32, seed 0. Source: smhasher `MurmurHash3.cpp` (public domain).
fn murmur3_x86_32(key: &[u8]) -> u32 {
    let mix = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut state = 0u32;
    for chunk in key.chunks(4) {
        let mut word = [0u8; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        state ^= mix(u32::from_le_bytes(word));
        if chunk.len() == 4 {
            state = state.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
        }
    }
    state ^= u32::try_from(key.len()).expect("a key is shorter than 4 GiB");
    for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)] {
        state = (state ^ (state >> shift)).wrapping_mul(factor);
    }
    state ^ (state >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        sale: String,
        user: String,
        key: String,
        starts_ms: i64,
        shards: u16,
        partitions: u16,
        instances: u16,
        shard: u16,
        partition: u16,
        instance: u16,
        month: u16,
        yyyymm: u32,
        order_id: String,
    }

    /// The same file freezes the server's implementation.
    #[test]
    fn the_shared_vectors_hold() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/ids.json");
        let text = std::fs::read_to_string(path).expect("tests/vectors/ids.json is part of the project");
        let vectors: Vec<Vector> = serde_json::from_str(&text).expect("the vectors are JSON");
        assert!(!vectors.is_empty());
        for vector in vectors {
            let layout = Layout::new(vector.shards, vector.partitions, vector.instances).expect("a layout");
            assert_eq!(layout.shard_of(&vector.user), vector.shard, "{}", vector.user);
            assert_eq!(layout.partition_of(vector.shard), vector.partition, "{}", vector.user);
            assert_eq!(layout.instance_of(vector.shard), vector.instance, "{}", vector.user);
            assert_eq!(yyyymm(vector.month), vector.yyyymm);
            assert_eq!(month_of_ms(vector.starts_ms), Some(vector.month), "{}", vector.starts_ms);
            let id = OrderId::derive(vector.shard, vector.month, &vector.sale, &vector.user, &vector.key);
            assert_eq!(id.to_string(), vector.order_id);
            assert_eq!(OrderId::parse(&vector.order_id), Some(id));
        }
    }

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
    fn an_id_reads_back_and_names_its_shard_and_month() {
        let id = OrderId::derive(7, 676, "friday", "u-1", "k-1");
        assert_eq!((id.shard(), id.month()), (7, 676));
        assert_eq!(OrderId::parse(&id.to_string()), Some(id));
        assert_eq!(OrderId::parse("ord_zzzzzzzzzzzzzzzzzzzzzzzzzz"), None, "130 bits");
        assert_eq!(OrderId::parse("ord_1"), None);
        assert_eq!(yyyymm(676), 202_605);
    }

    #[test]
    fn a_payment_id_names_its_order() {
        let id = OrderId::derive(7, 676, "friday", "u-1", "k-1");
        let payment = id.payment(12);
        assert!(payment.starts_with("pay_") && payment.ends_with("_12"), "{payment}");
        assert_eq!(OrderId::of_payment(&payment), Some(id));
        for wrong in ["", "pay_1_1", "ord_1", &payment.replace("_12", "_012"), &payment.replace("_12", "")] {
            assert_eq!(OrderId::of_payment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn shards_map_to_contiguous_ranges() {
        let layout = Layout::new(128, 32, 8).expect("a layout");
        assert_eq!((layout.instance_of(0), layout.instance_of(15), layout.instance_of(16)), (0, 0, 1));
        assert_eq!((layout.partition_of(3), layout.partition_of(4)), (0, 1));
        assert_eq!((layout.bucket_of(127, 1), layout.bucket_of(127, 4)), (0, 3));
        assert!(Layout::new(8, 4, 3).is_none());
    }
}
