//! The evidence: what the stores say about one sale, as it was read and before it is judged.

mod events;
mod payments;
mod place;

use std::collections::{BTreeMap, BTreeSet};

pub use events::{EventFacts, EventLog, EventRow, SumKey};
pub use payments::{Booked, OrphanRow, PaymentRow, PaymentState, RefundRow, RefundState};
pub use place::Place;

use crate::config::Mode;
use crate::ids::{Layout, OrderId};
use crate::journal::Entry;
use crate::order_life;

/// Everything that the audit looks at. What is `None` was not read, and it is not judged.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What the server stands on.
    pub mode: Mode,
    /// The sale as the directory defines it.
    pub sale: SaleFacts,
    /// The shard map.
    pub layout: Layout,
    /// host:port of each instance, by its number. For a data folder, the path of its database.
    pub servers: Vec<String>,
    /// Order rows of the sale, from all shards and all months.
    pub rows: Vec<OrderRow>,
    /// Claims of the sale, from all shards.
    pub claims: Vec<Claim>,
    /// Moves of the sale's orders, and those that belong to no order of any sale.
    pub moves: Vec<Move>,
    /// What the events of the sale say, and what is built of them.
    pub events: EventFacts,
    /// Payments of the sale's orders, and those that belong to no order of any sale.
    pub payments: Vec<PaymentRow>,
    /// Refunds of the sale's orders, and those that belong to no order of any sale.
    pub refunds: Vec<RefundRow>,
    /// Captures that no payment explains, of all sales.
    pub orphans: Vec<OrphanRow>,
    /// Orders of other sales that have payments. What the provider has booked for them is not judged here.
    pub other_sales: BTreeSet<OrderId>,
    /// All captures in the provider's books, of all sales and deployments.
    pub provider: Option<Vec<Booked>>,
    /// The control database of each instance, by its number.
    pub books: Vec<InstanceBooks>,
    /// The order log.
    pub log: Option<LogFacts>,
    /// The buckets, by number. A bucket without a gate is `None`.
    pub buckets: Option<Vec<Option<BucketFacts>>>,
    /// What shoppers read over HTTP.
    pub http: Option<HttpFacts>,
    /// Every click of the run and its answer.
    pub journal: Option<Vec<Entry>>,
    /// Orders that stood before the run began. No entry of the journal asked for them.
    pub before: BTreeSet<OrderId>,
}

impl Evidence {
    /// Adds the first moves that have no row of their own, because the row of their order says them. Source:
    /// docs/protocol/steps.md, "MySQL". An order that ended before the order writer came was due when its row was made,
    /// and all of its moves have rows.
    pub fn with_first_moves(mut self) -> Self {
        let noted: BTreeSet<OrderId> = self
            .moves
            .iter()
            .filter(|step| ["persisted", "rejected"].contains(&step.kind.as_str()))
            .map(|step| step.order)
            .collect();
        let unnoted =
            self.rows.iter().filter(|row| !noted.contains(&row.id) && row.expires_ms != row.created_ms);
        let first = |row: &OrderRow| Move {
            place: row.place.clone(),
            order: row.id,
            kind: if row.state == RowState::Rejected { "rejected" } else { "persisted" }.to_owned(),
            at_ms: row.created_ms,
        };
        let first: Vec<Move> = unnoted.map(first).collect();
        self.moves.extend(first);
        self
    }
}

/// A sale as the directory defines it.
#[derive(Debug, Clone, Default)]
pub struct SaleFacts {
    /// The sale's id.
    pub id: String,
    /// The state's word.
    pub state: String,
    /// The opening, ms since 1970.
    pub starts_ms: i64,
    /// The end, ms since 1970.
    pub ends_ms: i64,
    /// The most live units of one buyer.
    pub buyer_limit: i64,
    /// How many unpaid orders a buyer may give up, after which the buyer is refused; 0 is any number.
    pub unpaid_max: i64,
    /// How long an order may wait for its payment, in ms.
    pub payment_window_ms: i64,
    /// The number of buckets.
    pub buckets: u16,
    /// The epoch in which its buckets were put in place.
    pub epoch: i64,
    /// The epochs of buckets that were rebuilt.
    pub rebuilt: BTreeMap<u16, i64>,
    /// The items, ascending by SKU in distributed mode.
    pub items: Vec<ItemFacts>,
    /// What operators did to the sale, oldest first.
    pub actions: Vec<Action>,
    /// When the sale was read, by the clock of its actions, ms since 1970.
    pub read_ms: i64,
}

impl SaleFacts {
    /// Returns whether the sale was paused, ended or settled by operators when it was read.
    pub fn is_shut(&self) -> bool {
        matches!(self.state.as_str(), "paused" | "ended") || self.is_settled()
    }

    /// Returns whether the sale was settled: the inventory has nothing of it any more.
    pub fn is_settled(&self) -> bool {
        self.state == "settled"
    }
}

/// A row of the audit log.
#[derive(Debug, Clone)]
pub struct Action {
    /// When it was done, ms since 1970.
    pub at_ms: i64,
    /// The action's word.
    pub word: String,
}

/// An item of a sale.
#[derive(Debug, Clone)]
pub struct ItemFacts {
    /// The SKU.
    pub sku: String,
    /// The units that the sale may sell in all.
    pub stock: i64,
    /// The price of one unit, in the smallest unit of its currency.
    pub unit_price: i64,
    /// The currency's code.
    pub currency: String,
}

/// The state of an order row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowState {
    AwaitingPayment,
    Paid,
    Cancelled,
    Expired,
    Refunded,
    Rejected,
}

impl RowState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::AwaitingPayment, Self::Paid, Self::Cancelled, Self::Expired, Self::Refunded, Self::Rejected];

    /// Returns the state's word in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingPayment => "awaiting_payment",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Refunded => "refunded",
            Self::Rejected => "rejected",
        }
    }

    /// Reads the state's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Returns the ledger's column in which the order's units stand.
    pub fn units(self) -> Option<&'static str> {
        order_life::facts(self.as_str()).units.as_deref()
    }

    /// Returns whether the order holds units.
    pub fn is_live(self) -> bool {
        self.units().is_some()
    }
}

/// An order row.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// Where the row was found.
    pub place: Place,
    /// The suffix of the orders table in which the row was found.
    pub yyyymm: u32,
    /// The order's id.
    pub id: OrderId,
    /// The SKU.
    pub sku: String,
    /// The buyer.
    pub user: String,
    /// The units of the order.
    pub quantity: i64,
    /// The price of one unit.
    pub unit_price: i64,
    /// The currency's code.
    pub currency: String,
    /// The shop's own name for the order.
    pub reference: Option<String>,
    /// The order's state.
    pub state: RowState,
    /// Why the order was rejected.
    pub reason: Option<String>,
    /// The sale's epoch when the order was accepted.
    pub epoch: i64,
    /// When the front accepted the order, ms since 1970.
    pub accepted_ms: i64,
    /// When the order writer made the row, ms since 1970.
    pub created_ms: i64,
    /// When the payment is due, ms since 1970.
    pub expires_ms: i64,
}

/// A row of `claims`: one live unit of a buyer.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Where the row was found.
    pub place: Place,
    /// The buyer.
    pub user: String,
    /// The unit's number, from 0.
    pub unit: i64,
    /// The order that holds the unit.
    pub order: OrderId,
}

/// A row of `order_moves`.
#[derive(Debug, Clone)]
pub struct Move {
    /// Where the row was found.
    pub place: Place,
    /// The order.
    pub order: OrderId,
    /// What happened to the order.
    pub kind: String,
    /// When it happened, ms since 1970.
    pub at_ms: i64,
}

/// The control database of one instance.
#[derive(Debug, Clone, Default)]
pub struct InstanceBooks {
    /// The ledger of the sale.
    pub ledger: Vec<LedgerRow>,
    /// The pools of the sale.
    pub pools: Vec<PoolRow>,
    /// The grants of the sale.
    pub grants: Vec<GrantRow>,
    /// The releases that wait.
    pub owed: Vec<OwedRow>,
    /// The dead letters of the topic, of all sales.
    pub dead_letters: Vec<DeadLetter>,
    /// The next offset of every partition.
    pub positions: BTreeMap<u16, i64>,
}

/// A row of `ledger`.
#[derive(Debug, Clone)]
pub struct LedgerRow {
    /// The SKU.
    pub sku: String,
    /// Units that the instance may hold and sell.
    pub allotted: i64,
    /// Units of orders that await payment.
    pub held: i64,
    /// Units of paid orders.
    pub sold: i64,
    /// Units of refunded orders that nobody may buy.
    pub withheld: i64,
}

/// A row of `pool`.
#[derive(Debug, Clone)]
pub struct PoolRow {
    /// The SKU.
    pub sku: String,
    /// The instance's share of the stock.
    pub stock: i64,
    /// Units that were granted from the pool.
    pub granted: i64,
}

/// A row of `grants`, on the giver or on the taker.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// The grant's id.
    pub id: Vec<u8>,
    /// The SKU.
    pub sku: String,
    /// The instance whose ledger got the units.
    pub taker: u16,
    /// The units.
    pub units: i64,
    /// Whether they came from the giver's ledger, and not from its pool.
    pub from_ledger: bool,
}

/// A row of `release_outbox`: an order whose units Redis must get back.
#[derive(Debug, Clone)]
pub struct OwedRow {
    /// The order.
    pub order: OrderId,
    /// Whether its units go back on sale. Those that do not are withheld.
    pub restock: bool,
}

/// A row of `dead_letters`.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The record's partition.
    pub part: u16,
    /// The record's offset.
    pub offset: i64,
    /// Why the record cannot become an order.
    pub reason: String,
}

/// What the order log holds of a sale.
#[derive(Debug, Clone, Default)]
pub struct LogFacts {
    /// The bounds of the partitions, by number.
    pub partitions: Vec<PartitionFacts>,
    /// The sale's records, and those that could not be read at all.
    pub records: Vec<LogRecord>,
}

/// The bounds of a partition.
#[derive(Debug, Clone, Copy)]
pub struct PartitionFacts {
    /// The first offset that is still kept.
    pub low: i64,
    /// The offset that the next record will get.
    pub end: i64,
}

/// A record of the order log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The record's partition.
    pub part: u16,
    /// The record's offset.
    pub offset: i64,
    /// The record's order; `None` when the payload is not an order record.
    pub order: Option<RecordFacts>,
}

/// The order of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFacts {
    /// The order's id.
    pub id: OrderId,
    /// The SKU.
    pub sku: String,
    /// The buyer.
    pub user: String,
    /// The units of the order.
    pub quantity: i64,
    /// The price of one unit.
    pub unit_price: i64,
    /// The currency's code.
    pub currency: String,
    /// The shop's own name for the order.
    pub reference: Option<String>,
    /// The sale's epoch when the order was accepted.
    pub epoch: i64,
    /// When the front accepted the order, ms since 1970.
    pub accepted_ms: i64,
}

/// One bucket in Redis.
#[derive(Debug, Clone, Default)]
pub struct BucketFacts {
    /// The fields of the gate.
    pub gate: BTreeMap<String, String>,
    /// Available units, by SKU.
    pub stock: BTreeMap<String, i64>,
    /// Live units, by user.
    pub buyers: BTreeMap<String, i64>,
    /// The reservations, by order.
    pub holds: BTreeMap<OrderId, Hold>,
    /// The number of entries in the outbox.
    pub outbox: u64,
    /// The stored number of orders in those entries.
    pub outbox_orders: i64,
    /// The number of entries that were set aside for a person.
    pub set_aside: u64,
}

/// A reservation.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The state's letter: r reserved, q queued, a awaiting_payment, p paid, c cancelled, e expired, f refunded, x
    /// rejected.
    pub state: char,
    /// Whether the order's units went back on sale.
    pub released: bool,
    /// The fingerprint of the purchase's body.
    pub fingerprint: String,
    /// The units of the order.
    pub quantity: i64,
    /// The SKU.
    pub sku: String,
    /// The buyer.
    pub user: String,
}

/// What shoppers read over HTTP.
#[derive(Debug, Clone, Default)]
pub struct HttpFacts {
    /// A sample of orders, read by their buyers.
    pub orders: Vec<OrderAnswer>,
    /// A sample of lists.
    pub lists: Vec<ListAnswer>,
    /// Orders that another user asked for, and the HTTP status of the answer.
    pub strangers: Vec<(OrderId, u16)>,
}

/// The answer to a buyer who reads an order.
#[derive(Debug, Clone)]
pub struct OrderAnswer {
    /// The order.
    pub order: OrderId,
    /// The HTTP status; 0 without an answer.
    pub http_status: u16,
    /// The order's state in the answer.
    pub status: String,
    /// The SKU in the answer.
    pub sku: String,
    /// The units in the answer.
    pub quantity: i64,
}

/// The answer to a buyer who lists orders.
#[derive(Debug, Clone)]
pub struct ListAnswer {
    /// The buyer.
    pub user: String,
    /// The HTTP status; 0 without an answer.
    pub http_status: u16,
    /// The ids of the orders in the answer.
    pub orders: BTreeSet<String>,
    /// Whether there is no next page.
    pub complete: bool,
}
