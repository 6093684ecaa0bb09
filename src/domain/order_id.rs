//! The id of an order, which says where its row is.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ids::{IdempotencyKey, InvalidId, SaleId, UserId};
use super::shard::{Month, Shard};

/// An order's identity: shard u16 | month u16 | 12 bytes of SHA-256, all big-endian.
///
/// The id is deterministic, so a retry at any layer meets the same order. It names its shard and month, so a look-up
/// needs no directory. `tests/vectors/ids.json` freezes it. Source: docs/protocol/steps.md, "Arithmetic";
/// docs/adr/0002-order-id-without-sku.md.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrderId([u8; 16]);

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "ord_";
const DIGITS: usize = 26;

impl OrderId {
    /// Answers the least id that names a shard and a month.
    pub fn first_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, 0)
    }

    /// Answers the greatest id that names a shard and a month.
    pub fn last_of(shard: Shard, month: Month) -> Self {
        Self::within(shard, month, u8::MAX)
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
        let mut value: u128 = 0;
        for byte in digits.bytes() {
            let canonical = match byte.to_ascii_lowercase() {
                b'o' => b'0',
                b'i' | b'l' => b'1',
                other => other,
            };
            let digit = CROCKFORD.iter().position(|&c| c == canonical).ok_or(invalid.clone())?;
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
