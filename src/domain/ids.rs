//! Identifiers. Each is a newtype whose only way in checks its alphabet and length, so that no later layer
//! has to escape one: every id is safe in a Redis key, a Lua argument, an SQL literal and a log line.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::shard::{Month, Shard};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    what: &'static str,
    rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest accepted length, in bytes.
            pub const LEN_MAX: usize = $max;

            /// # Errors
            /// [`InvalidId`] when the text is empty, longer than [`Self::LEN_MAX`] or holds another character.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let allowed: fn(u8) -> bool = $allowed;
                if text.is_empty() || text.len() > Self::LEN_MAX || !text.bytes().all(allowed) {
                    return Err(InvalidId { what: $what, rule: $rule });
                }
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                input.deserialize_str(Text(Self::parse))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Reads an id where it lies: every click has one, and a `String` that is thrown away is an allocation.
struct Text<T>(fn(&str) -> Result<T, InvalidId>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

fn is_slug(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'@')
}

text_id!(
    /// A sale's slug, chosen by the promoter.
    SaleId, "sale id", 32, is_slug, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A SKU's slug, unique within its sale.
    SkuId, "SKU id", 32, is_slug, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A shopper, as named by the verified token's `sub`. Never taken from a body or a query (I6).
    UserId, "user id", 64, is_safe, "1 to 64 characters of A-Z, a-z, 0-9 and - _ . : @"
);
text_id!(
    /// The client's idempotency key, scoped to (user, sale).
    IdempotencyKey, "idempotency key", 64, is_safe, "1 to 64 characters of A-Z, a-z, 0-9 and - _ . : @"
);

/// An order's identity: shard u16 | month u16 | 12 bytes of SHA-256, all big-endian.
///
/// Deterministic, so a retry at any layer meets the same order; it names its shard and month, so a look-up
/// needs no directory. Frozen by `tests/vectors/ids.json`. Source: docs/protocol.md §3, docs/adr/0002.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId([u8; 16]);

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "ord_";
const DIGITS: usize = 26;

impl OrderId {
    /// The least and the greatest id that names a shard and a month.
    pub fn first_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, 0)
    }

    pub fn last_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, u8::MAX)
    }

    fn within(shard: Shard, month: Month, rest: u8) -> Self {
        let mut bytes = [rest; 16];
        bytes[..2].copy_from_slice(&shard.number().to_be_bytes());
        bytes[2..4].copy_from_slice(&month.number().to_be_bytes());
        Self(bytes)
    }

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

    pub fn shard(self) -> Shard {
        Shard::new(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    pub fn month(self) -> Month {
        Month::new(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// # Errors
    /// [`InvalidId`] unless `bytes` is exactly 16 long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
        let rule = "16 bytes";
        bytes.try_into().map(Self).map_err(|_| InvalidId { what: "order id", rule })
    }

    /// Reads `ord_` and 26 Crockford base32 digits, in either case.
    ///
    /// # Errors
    /// [`InvalidId`] for any other text, also one whose value exceeds 128 bits.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "order id", rule: "ord_ and 26 Crockford base32 digits" };
        let Some(digits) = text.strip_prefix(PREFIX).filter(|d| d.len() == DIGITS) else {
            return Err(invalid);
        };
        let mut value: u128 = 0;
        for byte in digits.bytes() {
            let digit =
                CROCKFORD.iter().position(|&c| c == byte.to_ascii_lowercase()).ok_or(invalid.clone())?;
            let digit = u128::try_from(digit).map_err(|_| invalid.clone())?;
            value = value.checked_mul(32).and_then(|v| v.checked_add(digit)).ok_or(invalid.clone())?;
        }
        Ok(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = u128::from_be_bytes(self.0);
        let mut digits = [b'0'; DIGITS];
        for digit in digits.iter_mut().rev() {
            let low = usize::try_from(value & 31).expect("five bits fit a usize");
            *digit = CROCKFORD[low];
            value >>= 5;
        }
        f.write_str(PREFIX)?;
        f.write_str(std::str::from_utf8(&digits).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for OrderId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> String {
        id.to_string()
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

    /// The vectors were made by another program; every stored id rests on them. Never change one.
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
            assert_eq!(OrderId::parse(&v.order_id.to_uppercase().replace("ORD_", "ord_")), Ok(id));
        }
    }

    #[test]
    fn texts_that_are_no_order_id_are_refused() {
        for text in ["", "ord_", "ord_0", "ord_80000000000000000000000000", "ord_0000000000000000000000000u"]
        {
            assert!(OrderId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_with_unsafe_characters_are_refused() {
        assert!(SaleId::parse("Friday").is_err());
        assert!(SaleId::parse("a b").is_err());
        assert!(SaleId::parse(&"a".repeat(33)).is_err());
        assert!(UserId::parse("a|b").is_err());
        assert!(UserId::parse("a\0b").is_err());
        assert!(IdempotencyKey::parse("").is_err());
    }
}
