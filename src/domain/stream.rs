//! What a client of a stream has seen, and what a ticket lets it see.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ids::{DeviceId, UserId};
use super::order::Order;
use super::order_id::OrderId;
use super::order_life::OrderState;

/// What a client has seen of a stream: a digest of the sale, one of its stock, and the sum of the digests of its
/// orders. As text it is the id of the event with which the client saw it, `SALE.STOCK.ORDERS`, each 16 hexadecimal
/// digits. All processes make the same digests, so a client goes on at any of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of the sale; 0 for nothing.
    pub sale: u64,
    /// Of its stock; 0 for nothing.
    pub stock: u64,
    /// Of the orders, in any order; 0 for none.
    pub orders: u64,
}

impl Seen {
    /// Reads the id of an event; nothing seen for a text that is none.
    pub fn parse(text: &str) -> Self {
        let number = |part: &str| {
            let is_digits = part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let numbers: Vec<Option<u64>> = text.split('.').map(number).collect();
        match numbers[..] {
            [Some(sale), Some(stock), Some(orders)] => Self { sale, stock, orders },
            _ => Self::default(),
        }
    }

    /// Notes that an order was seen in a state, and no longer in the one before.
    pub fn note(&mut self, order: OrderId, before: Option<OrderState>, now: OrderState) {
        if let Some(before) = before {
            self.orders = self.orders.wrapping_sub(digest_of(order, before));
        }
        self.orders = self.orders.wrapping_add(digest_of(order, now));
    }

    /// Takes back what [`Self::note`] has noted.
    pub fn unnote(&mut self, order: OrderId, before: Option<OrderState>, now: OrderState) {
        self.orders = self.orders.wrapping_sub(digest_of(order, now));
        if let Some(before) = before {
            self.orders = self.orders.wrapping_add(digest_of(order, before));
        }
    }

    /// Makes the sum of the digests of orders.
    pub fn of_orders(orders: &[Order]) -> u64 {
        orders.iter().fold(0, |sum, order| sum.wrapping_add(digest_of(order.id, order.state)))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:016x}.{:016x}", self.sale, self.stock, self.orders)
    }
}

/// Answers the digest of a text, which is not 0.
pub fn digest(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |word, byte| (word << 8) | u64::from(*byte)).max(1)
}

fn digest_of(order: OrderId, state: OrderState) -> u64 {
    digest(&format!("{order} {}", state.as_str()))
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process goes away.
    Drain,
    /// The token has ended with which it was opened.
    Token,
    /// Nothing has happened on it for long.
    Idle,
    /// There are too many streams, and this one gives its place to another.
    Evicted,
    /// The process may have missed an order: whoever comes again is told how all orders stand.
    Missed,
    /// Its client took nothing for too long.
    Slow,
    /// An operator has switched streams off.
    SwitchedOff,
}

impl End {
    /// All reasons.
    pub const ALL: [Self; 7] =
        [Self::Drain, Self::Token, Self::Idle, Self::Evicted, Self::Missed, Self::Slow, Self::SwitchedOff];

    /// Answers its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Token => "token",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Missed => "missed",
            Self::Slow => "slow",
            Self::SwitchedOff => "switched_off",
        }
    }
}

/// The names of what streams are sent.
pub const EVENTS: [&str; 5] = ["sale", "stock", "order", "beat", "bye"];

/// Whose orders a ticket shows, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketHolder {
    /// The buyer.
    pub user: UserId,
    /// The device that the token has named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// When the token ends for which the ticket was given, ms since 1970.
    pub until_ms: i64,
}

impl TicketHolder {
    /// How long a ticket that nobody takes is kept, in ms.
    pub const KEPT_MS: u64 = 30_000;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_read_as_it_was_written_and_anything_else_is_nothing() {
        let seen = Seen { sale: 1, stock: u64::MAX, orders: 0 };
        assert_eq!(Seen::parse(&seen.to_string()), seen);
        for other in ["", "1.2.3", "+000000000000001.0000000000000000.0000000000000000", "a.b.c.d"] {
            assert_eq!(Seen::parse(other), Seen::default(), "{other}");
        }
    }

    #[test]
    fn an_order_counts_in_its_last_state_alone_whatever_came_first() {
        let (one, other) =
            (OrderId::from_bytes(&[1; 16]).expect("an id"), OrderId::from_bytes(&[2; 16]).expect("an id"));
        let mut here = Seen::default();
        here.note(one, None, OrderState::AwaitingPayment);
        here.note(other, None, OrderState::Rejected);
        here.note(one, Some(OrderState::AwaitingPayment), OrderState::Paid);
        let mut there = Seen::default();
        there.note(other, None, OrderState::Rejected);
        there.note(one, None, OrderState::Paid);
        assert_eq!(here, there);
    }
}
