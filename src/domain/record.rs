//! The order record: what travels through the outbox and the order log, as JSON with a version.

use serde::{Deserialize, Serialize};

use super::ids::{OrderId, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::object::Object;
use super::order::RejectReason;

/// One accepted order. Unknown fields are ignored, so that a newer front may add some; a changed meaning
/// needs a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    pub v: u32,
    pub order_id: OrderId,
    pub sale_id: SaleId,
    pub sku_id: SkuId,
    pub user_id: UserId,
    pub quantity: Quantity,
    pub unit_price: Money,
    pub epoch: u32,
    /// When the front accepted it, ms since 1970.
    pub accepted_ms: i64,
    /// Only in records of an import: what another backend had decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
}

/// What became of an order in the backend that it was exported from. The order writer keeps it, but holds units
/// and claims under the same conditions as for any other record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// `None` for an order that waits for its payment.
    pub rejected: Option<RejectReason>,
    /// Times of its row, ms since 1970.
    pub created_ms: i64,
    pub expires_ms: i64,
}

/// Why a record can never become an order. The text is a stable word for `dead_letters.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poison {
    TooLarge,
    Garbage,
    UnknownVersion,
    UnknownSale,
    UnknownSku,
    OverLimit,
    WrongPlace,
}

impl Poison {
    pub const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::Garbage,
        Self::UnknownVersion,
        Self::UnknownSale,
        Self::UnknownSku,
        Self::OverLimit,
        Self::WrongPlace,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Garbage => "garbage",
            Self::UnknownVersion => "unknown_version",
            Self::UnknownSale => "unknown_sale",
            Self::UnknownSku => "unknown_sku",
            Self::OverLimit => "over_limit",
            Self::WrongPlace => "wrong_place",
        }
    }
}

impl OrderRecord {
    pub const VERSION: u32 = 1;
    /// A record we write has some 330 bytes; anything above this is not ours.
    pub const BYTES_MAX: usize = 4096;

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and integers always serialises")
    }

    /// # Errors
    /// [`Poison`] for what no retry can turn into an order.
    pub fn decode(payload: &[u8]) -> Result<Self, Poison> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        if payload.len() > Self::BYTES_MAX {
            return Err(Poison::TooLarge);
        }
        match serde_json::from_slice::<Object<Self>>(payload) {
            Ok(Object(record)) if record.v == Self::VERSION => Ok(record),
            Ok(_) => Err(Poison::UnknownVersion),
            Err(_) => match serde_json::from_slice::<Object<Version>>(payload) {
                Ok(Object(version)) if version.v != Self::VERSION => Err(Poison::UnknownVersion),
                _ => Err(Poison::Garbage),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_record_is_poison_and_never_a_panic() {
        assert_eq!(OrderRecord::decode(b""), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(&[0xff; 40]), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(br#"{"v":2,"anything":[]}"#), Err(Poison::UnknownVersion));
        assert_eq!(OrderRecord::decode(br#"{"v":1}"#), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(b"[2]"), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(&vec![b'['; 5000]), Err(Poison::TooLarge));
        assert_eq!(OrderRecord::decode(&vec![b'['; 4000]), Err(Poison::Garbage));
    }
}
