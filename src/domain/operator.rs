//! What operators leave behind and what they are told: who changed what and why, their keys, and the ledgers' units.

use serde::Serialize;

use super::adjustment::Adjustment;
use super::api_key::{ApiKey, KeyId};
use super::dead_letter::DeadLetterId;
use super::ids::{RuleId, SaleId};
use super::log_position::Position;
use super::order_id::OrderId;
use super::rule::RuleTerms;
use super::sale::Sale;
use super::shard::Part;
use super::subscription::SubscriptionId;

/// Who changes something and why; becomes one row of the audit log.
#[derive(Debug, Clone)]
pub struct Change {
    /// The name of the operator's API key, or `import`; `command line` for who has the stores' credentials, `signal`
    /// for who may send the process signals, `seckill` for what the shop does by itself.
    pub actor: String,
    /// The word of what is done.
    pub action: &'static str,
    /// Why it is done, in the operator's words.
    pub reason: String,
    /// The id of the request that asked for it; `-` when there was none.
    pub request_id: String,
}

/// What an audit row is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Subject {
    /// A sale, as it is after the change.
    Sale(Box<Sale>),
    /// The stock of a sale, as the sale is after it was adjusted.
    Stock {
        /// The sale.
        #[serde(flatten)]
        sale: Box<Sale>,
        /// What was adjusted.
        adjusted: Adjustment,
        /// Whether it could not be, and the stock stays.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        refused: bool,
    },
    /// A key.
    Key {
        /// Its id.
        id: KeyId,
        /// Whose it is, and what it may do.
        #[serde(flatten)]
        key: ApiKey,
    },
    /// An order.
    Order {
        /// The order.
        order_id: OrderId,
    },
    /// A record that could not become an order.
    DeadLetter {
        /// Its id.
        dead_letter: DeadLetterId,
    },
    /// A subscription. Its secret is in no log.
    Subscription {
        /// Its id.
        subscription: SubscriptionId,
        /// Its address, when it is made.
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
    /// A rule of traffic.
    Rule {
        /// Its name.
        rule: RuleId,
        /// What it says after the change; `None` when it was removed.
        terms: Option<Box<RuleTerms>>,
    },
    /// A refund.
    Refund {
        /// Its key: the id of the payment, or the provider's id of the capture.
        refund: String,
    },
    /// The provider's books of so many days.
    Books {
        /// The days, 1 to 365.
        days: u32,
    },
    /// What was found wrong in the books.
    Drifts {
        /// Each of the first 100, in a sentence.
        found: Vec<String>,
    },
    /// A process that is taken out of service, or back.
    Node {
        /// Its id.
        node: String,
    },
    /// The configuration of a process, which it reads again.
    Configuration {
        /// The id of the process.
        process: String,
    },
    /// Views that were made anew, and are others now.
    Views {
        /// Their sales, ascending, each once.
        sales: Vec<SaleId>,
    },
    /// Databases, tables and topics that were made or changed.
    Migration {
        /// The first 100 steps, each in a sentence.
        steps: Vec<String>,
    },
    /// A MySQL instance that was set back.
    Recovery {
        /// Its number.
        instance: u16,
        /// From when on was looked what it has lost, ms since 1970.
        since_ms: i64,
    },
    /// A stored position, before and after it was moved.
    Position {
        /// Its partition.
        part: Part,
        /// The position before.
        from: Position,
        /// The position after.
        to: Position,
    },
}

impl Change {
    /// Makes the row of somebody who has the stores' credentials, and needs no key.
    pub fn by_hand(action: &'static str, reason: &str) -> Self {
        Self::without_request("command line", action, reason)
    }

    /// Makes the row of somebody who may send the process signals.
    pub fn by_signal(action: &'static str, reason: &str) -> Self {
        Self::without_request("signal", action, reason)
    }

    /// Makes the row of what the shop does without an operator.
    pub fn by_itself(action: &'static str, reason: &str) -> Self {
        Self::without_request("seckill", action, reason)
    }

    fn without_request(actor: &str, action: &'static str, reason: &str) -> Self {
        Self { actor: actor.to_owned(), action, reason: reason.to_owned(), request_id: "-".to_owned() }
    }
}

impl Subject {
    /// Answers the sale that was changed, when it is a sale.
    pub fn sale(&self) -> Option<&SaleId> {
        match self {
            Self::Sale(sale) | Self::Stock { sale, .. } => Some(&sale.id),
            _ => None,
        }
    }
}

/// The units of one SKU in the pools and ledgers of all instances together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The stock of all pools.
    pub stock: i64,
    /// Units that left the pools.
    pub granted: i64,
    /// Units that the instances may hold and sell.
    pub allotted: i64,
    /// Units of orders that wait for their payment.
    pub held: i64,
    /// Units of paid orders.
    pub sold: i64,
    /// Units of refunded orders that nobody may buy until an operator brings them back.
    pub withheld: i64,
}
