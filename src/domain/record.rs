//! The order record: an accepted order as it is appended to the order log, as JSON with a version.

use serde::{Deserialize, Serialize};

use super::decided::Decided;
use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::node::NodeMark;
use super::object::Object;
use super::order::Order;
use super::order_id::OrderId;
use super::order_life::OrderState;
use super::trace::{self, TraceContext};

/// One accepted order. A reader ignores fields that it does not know, so that a newer front may add some. A changed
/// meaning needs a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// The version of the record's form: [`Self::VERSION`], or [`Self::VERSION_DECIDED`] when it says what was decided.
    pub v: u32,
    /// The order's id, which names its shard and month.
    pub order_id: OrderId,
    /// Its sale.
    pub sale_id: SaleId,
    /// What is bought.
    pub sku_id: SkuId,
    /// The buyer.
    pub user_id: UserId,
    /// How many units are bought.
    pub quantity: Quantity,
    /// The price of one unit, as the sale had it.
    pub unit_price: Money,
    /// The shop's own name for the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The bucket's epoch in which the order was accepted.
    pub epoch: u32,
    /// When the front accepted it, ms since 1970. A record that the relay made has the time of the reservation.
    pub accepted_ms: i64,
    /// Whether its client waits for its row, so that the order writer does not let it wait for company.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaited: bool,
    /// The process that accepted it; `None` in a record of an older front, of a relay, and of an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeMark>,
    /// The step of a trace that accepted it, as a `traceparent`; `None` when no trace is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::read_boxed")]
    pub trace: Option<Box<TraceContext>>,
    /// What another backend had decided; only in records of an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Box<Decided>>,
}

impl OrderRecord {
    /// Answers the step of a trace that accepted it.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace.as_deref().copied()
    }

    /// Makes its order in a state, as its buyer sees it. When its payment is due says only its row.
    pub fn into_order(self, state: OrderState) -> Order {
        Order {
            id: self.order_id,
            sale: self.sale_id,
            sku: self.sku_id,
            user: self.user_id,
            quantity: self.quantity,
            unit_price: self.unit_price,
            reference: self.reference,
            state,
            reason: None,
            accepted_ms: self.accepted_ms,
            expires_ms: None,
            is_delayed: false,
        }
    }
}

/// Why a record can never become an order. Each has a stable word for `dead_letters.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poison {
    /// It has more than [`OrderRecord::BYTES_MAX`] bytes.
    TooLarge,
    /// It is no JSON, or a field is missing or out of its range.
    Garbage,
    /// It names another version than [`OrderRecord::VERSION`].
    UnknownVersion,
    /// Its sale is not in the directory, or is a draft or published.
    UnknownSale,
    /// Its sale has no such SKU.
    UnknownSku,
    /// Its quantity alone exceeds the buyer limit.
    OverLimit,
    /// It is in the wrong shard, partition or month.
    WrongPlace,
}

impl Poison {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::Garbage,
        Self::UnknownVersion,
        Self::UnknownSale,
        Self::UnknownSku,
        Self::OverLimit,
        Self::WrongPlace,
    ];

    /// Answers the reason's word in rows and metrics.
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
    /// The version of the records of fronts and relays.
    pub const VERSION: u32 = 1;
    /// The version of the records of an import, whose orders may be in any state. An order writer that does not know
    /// all states must not decide them.
    pub const VERSION_DECIDED: u32 = 2;
    /// Most bytes of a record. A record that we write has some 330 bytes, so a larger one is not ours.
    pub const BYTES_MAX: usize = 4096;
    const NAMED_BYTES_MAX: usize = 4 * Self::BYTES_MAX;

    fn is_known(&self) -> bool {
        self.v == Self::VERSION || (self.v == Self::VERSION_DECIDED && self.decided.is_some())
    }

    /// Encodes the record as JSON, at most [`Self::BYTES_MAX`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record of strings and integers always serialises")
    }

    /// Finds the order that a record of the order log names, also when no order can be made of it; `None` when it names
    /// none, or is far longer than a record of ours.
    pub fn order_named(payload: &[u8]) -> Option<OrderId> {
        if payload.len() > Self::NAMED_BYTES_MAX {
            return None;
        }
        #[derive(Deserialize)]
        struct Named {
            order_id: OrderId,
        }
        serde_json::from_slice::<Object<Named>>(payload).ok().map(|Object(named)| named.order_id)
    }

    /// Decodes a record of the order log. Any bytes get an answer, and none make it panic.
    ///
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
            Ok(Object(record)) if record.is_known() => Ok(record),
            Ok(_) => Err(Poison::UnknownVersion),
            Err(_) => match serde_json::from_slice::<Object<Version>>(payload) {
                Ok(Object(Version { v })) if v != Self::VERSION && v != Self::VERSION_DECIDED => {
                    Err(Poison::UnknownVersion)
                }
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
        assert_eq!(OrderRecord::decode(br#"{"v":3,"anything":[]}"#), Err(Poison::UnknownVersion));
        assert_eq!(OrderRecord::decode(br#"{"v":1}"#), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(b"[2]"), Err(Poison::Garbage));
        assert_eq!(OrderRecord::decode(&vec![b'['; 5000]), Err(Poison::TooLarge));
        assert_eq!(OrderRecord::decode(&vec![b'['; 4000]), Err(Poison::Garbage));
    }
}
