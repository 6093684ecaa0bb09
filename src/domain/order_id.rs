//! The id of an order, which says where its row is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::ids::{IdempotencyKey, InvalidId, SaleId, Text, UserId};
use super::shard::{Month, Shard};

/// An order's identity: shard u16 | month u16 | 12 bytes of SHA-256, all big-endian.
///
/// The id is deterministic, so a retry at any layer meets the same order. It names its shard and month, so a look-up
/// needs no directory. `tests/vectors/ids.json` freezes it. Source: docs/protocol/steps.md, "Arithmetic";
/// docs/adr/0002-order-id-without-sku.md.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId([u8; 16]);

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "ord_";
const DIGITS: usize = 26;
/// The value of each byte as a digit; [`NO_DIGIT`] of one that is none.
const VALUES: [u8; 256] = values();
const NO_DIGIT: u8 = u8::MAX;

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let (mut place, mut byte) = (0, 0_u8);
    while place < values.len() {
        values[place] = value_of(byte);
        (place, byte) = (place + 1, byte.wrapping_add(1));
    }
    values
}

const fn value_of(byte: u8) -> u8 {
    let canonical = match byte.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    let (mut place, mut value) = (0, 0);
    while place < CROCKFORD.len() {
        if CROCKFORD[place] == canonical {
            return value;
        }
        (place, value) = (place + 1, value + 1);
    }
    NO_DIGIT
}

impl OrderId {
    /// Answers the least id that names a shard and a month.
    pub fn first_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, 0)
    }

    /// Answers the greatest id that names a shard and a month.
    pub fn last_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, u8::MAX)
    }

    /// Answers the id before this one in the order of ids.
    pub fn before(&self) -> Self {
        Self(u128::from_be_bytes(self.0).saturating_sub(1).to_be_bytes())
    }

    fn within(shard: Shard, month: Month, rest: u8) -> Self {
        let mut bytes = [rest; 16];
        bytes[..2].copy_from_slice(&shard.number().to_be_bytes());
        bytes[2..4].copy_from_slice(&month.number().to_be_bytes());
        Self(bytes)
    }

    /// Derives the id of an order. The same arguments give the same id in every process, now and later.
    pub fn derive(shard: Shard, month: Month, sale: &SaleId, user: &UserId, key: &IdempotencyKey) -> Self {
        let digest = Sha256::new()
            .chain_update(b"seckill/order/1\0")
            .chain_update(sale.as_str())
            .chain_update(b"\0")
            .chain_update(user.as_str())
            .chain_update(b"\0")
            .chain_update(key.as_str())
            .finalize();
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&shard.number().to_be_bytes());
        bytes[2..4].copy_from_slice(&month.number().to_be_bytes());
        bytes[4..].copy_from_slice(&digest[..12]);
        Self(bytes)
    }

    /// Answers the shard that the id names. An id from outside may name one that does not exist.
    pub fn shard(self) -> Shard {
        Shard::new(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// Answers the month that the id names.
    pub fn month(self) -> Month {
        Month::new(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// Answers whether the order is one of so many in a million, the same everywhere and always.
    pub fn is_among(&self, per_million: u32) -> bool {
        // Every digit of an id is as good as a random one.
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a, b, c, d]) % 1_000_000 < per_million
    }

    /// Answers the 16 bytes of the id.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads an id from its bytes.
    ///
    /// # Errors
    /// [`InvalidId`] unless `bytes` is exactly 16 long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        let rule = "16 bytes";
        bytes.try_into().map(Self).map_err(|_| InvalidId { what: "order id", rule })
    }

    /// Reads `ord_` and 26 Crockford base32 digits, in either case. `o` reads as `0`, and `i` and `l` read as `1`, so
    /// that an id can be read aloud and typed.
    ///
    /// # Errors
    /// [`InvalidId`] for any other text, also one whose value exceeds 128 bits.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "order id", rule: "ord_ and 26 Crockford base32 digits" };
        let is_prefix = |prefix: &str| prefix.eq_ignore_ascii_case(PREFIX);
        let Some((_, digits)) =
            text.split_at_checked(PREFIX.len()).filter(|(p, digits)| is_prefix(p) && digits.len() == DIGITS)
        else {
            return Err(invalid);
        };
        let (mut value, mut is_lost): (u128, bool) = (0, false);
        for byte in digits.bytes() {
            let digit = VALUES[usize::from(byte)];
            // What is above 128 bits would be shifted out.
            is_lost |= digit == NO_DIGIT || value >> (u128::BITS - 5) != 0;
            value = value << 5 | u128::from(digit);
        }
        if is_lost { Err(invalid) } else { Ok(Self(value.to_be_bytes())) }
    }

    /// Answers the text that [`Self::parse`] reads, in ASCII.
    fn text(self) -> [u8; PREFIX.len() + DIGITS] {
        let mut text = [b'0'; PREFIX.len() + DIGITS];
        let (prefix, digits) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        let mut value = u128::from_be_bytes(self.0);
        for digit in digits.iter_mut().rev() {
            let low = usize::try_from(value & 31).expect("five bits fit a usize");
            *digit = CROCKFORD[low];
            value >>= 5;
        }
        text
    }
}

impl Serialize for OrderId {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(ascii(&self.text()))
    }
}

impl PartialSchema for OrderId {
    fn schema() -> RefOr<Schema> {
        let text =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^ord_[0-7][0-9a-hjkmnp-tv-z]{25}$"));
        text.description(Some("`ord_` and 26 Crockford base32 digits.")).into()
    }
}

impl ToSchema for OrderId {}

impl<'de> Deserialize<'de> for OrderId {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_str(Text(Self::parse))
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ascii(&self.text()))
    }
}

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("the alphabet is ASCII")
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::shard::ShardMap;

    #[derive(Deserialize)]
    struct Vector {
        sale: SaleId,
        user: UserId,
        key: IdempotencyKey,
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

    /// Another program made the vectors, and every stored id rests on them. Never change one.
    #[test]
    fn ids_shards_and_months_are_frozen() {
        let text = include_str!("../../tests/vectors/ids.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).expect("vectors");
        assert!(vectors.len() >= 7);
        for v in vectors {
            let map = ShardMap::new(v.shards, v.partitions, v.instances).expect("valid map");
            let shard = map.shard_of(&v.user);
            let month = Month::of_ms(v.starts_ms);
            assert_eq!((shard.number(), month.number(), month.yyyymm()), (v.shard, v.month, v.yyyymm));
            assert_eq!(map.part_of(shard).number(), v.partition);
            assert_eq!(map.instance_of(shard).number(), v.instance);
            let id = OrderId::derive(shard, month, &v.sale, &v.user, &v.key);
            assert_eq!(id.to_string(), v.order_id);
            assert_eq!((id.shard(), id.month()), (shard, month));
            let (upper, digits) = (v.order_id.to_uppercase(), &v.order_id["ord_".len()..]);
            let spoken = format!("Ord_{}", digits.replace('0', "O").replace('1', "l"));
            for spelled in
                [upper.clone(), upper.replace("ORD_", "ord_"), spoken.clone(), spoken.replace('l', "I")]
            {
                assert_eq!(OrderId::parse(&spelled), Ok(id), "{spelled}");
            }
        }
    }

    #[test]
    fn texts_that_are_no_order_id_are_refused() {
        for text in ["", "ord_", "ord_0", "ord_80000000000000000000000000", "ord_0000000000000000000000000u"]
        {
            assert!(OrderId::parse(text).is_err(), "{text}");
        }
    }
}
