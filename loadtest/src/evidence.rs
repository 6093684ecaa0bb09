//! What the stores say about one sale, as read and not yet judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Mode;
use crate::ids::{Layout, OrderId};
use crate::journal::Entry;

/// Everything the audit looks at. A `None` was not read, and is not judged.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What the server stands on.
    pub mode: Mode,
    pub sale: SaleFacts,
    pub layout: Layout,
    /// host:port of each instance, by its number; of a folder, its database.
    pub servers: Vec<String>,
    /// Order rows of the sale, from all shards and all months.
    pub rows: Vec<OrderRow>,
    pub claims: Vec<Claim>,
    /// Moves of the sale's orders, and those that belong to no order of any sale.
    pub moves: Vec<Move>,
    /// Control database of each instance, by its number.
    pub books: Vec<InstanceBooks>,
    pub log: Option<LogFacts>,
    /// By bucket number; `None` inside where the bucket has no gate.
    pub buckets: Option<Vec<Option<BucketFacts>>>,
    pub http: Option<HttpFacts>,
    /// Every click of the run and its answer.
    pub journal: Option<Vec<Entry>>,
    /// Orders that stood before the run began, so that nobody in the journal asked for them.
    pub before: BTreeSet<OrderId>,
}

#[derive(Debug, Clone, Default)]
pub struct SaleFacts {
    pub id: String,
    pub state: String,
    pub starts_ms: i64,
    pub ends_ms: i64,
    pub buyer_limit: i64,
    pub buckets: u16,
    pub epoch: i64,
    pub items: Vec<ItemFacts>,
}

#[derive(Debug, Clone)]
pub struct ItemFacts {
    pub sku: String,
    pub stock: i64,
    pub unit_price: i64,
    pub currency: String,
}

/// Where a row was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As in [`Evidence::servers`].
    pub server: Arc<str>,
    /// Number in the database's name.
    pub shard: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowState {
    AwaitingPayment,
    Paid,
    Cancelled,
    Expired,
    Rejected,
}

impl RowState {
    pub const ALL: [Self; 5] =
        [Self::AwaitingPayment, Self::Paid, Self::Cancelled, Self::Expired, Self::Rejected];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingPayment => "awaiting_payment",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the order holds units.
    pub fn is_live(self) -> bool {
        matches!(self, Self::AwaitingPayment | Self::Paid)
    }
}

#[derive(Debug, Clone)]
pub struct OrderRow {
    pub place: Place,
    /// Suffix of the table it was found in.
    pub yyyymm: u32,
    pub id: OrderId,
    pub sku: String,
    pub user: String,
    pub quantity: i64,
    pub unit_price: i64,
    pub currency: String,
    pub state: RowState,
    pub reason: Option<String>,
    pub epoch: i64,
    pub accepted_ms: i64,
    pub created_ms: i64,
}

#[derive(Debug, Clone)]
pub struct Claim {
    pub place: Place,
    pub user: String,
    pub unit: i64,
    pub order: OrderId,
}

#[derive(Debug, Clone)]
pub struct Move {
    pub place: Place,
    pub order: OrderId,
    pub kind: String,
}

/// The control database of one instance.
#[derive(Debug, Clone, Default)]
pub struct InstanceBooks {
    pub ledger: Vec<LedgerRow>,
    pub pools: Vec<PoolRow>,
    pub grants: Vec<GrantRow>,
    pub owed: Vec<OwedRow>,
    pub dead_letters: Vec<DeadLetter>,
    /// Partition → next offset.
    pub positions: BTreeMap<u16, i64>,
}

#[derive(Debug, Clone)]
pub struct LedgerRow {
    pub sku: String,
    pub allotted: i64,
    pub held: i64,
    pub sold: i64,
}

#[derive(Debug, Clone)]
pub struct PoolRow {
    pub sku: String,
    pub stock: i64,
    pub granted: i64,
}

#[derive(Debug, Clone)]
pub struct GrantRow {
    pub id: Vec<u8>,
    pub sku: String,
    pub taker: u16,
    pub units: i64,
}

/// A row of `release_outbox`: stock that Redis is still to get back.
#[derive(Debug, Clone)]
pub struct OwedRow {
    pub order: OrderId,
}

#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub part: u16,
    pub offset: i64,
    pub reason: String,
}

#[derive(Debug, Clone, Default)]
pub struct LogFacts {
    /// By partition number.
    pub partitions: Vec<PartitionFacts>,
    /// The sale's records, and those that could not be read at all.
    pub records: Vec<LogRecord>,
}

#[derive(Debug, Clone, Copy)]
pub struct PartitionFacts {
    /// First offset still kept.
    pub low: i64,
    /// Offset that the next record will get.
    pub end: i64,
}

#[derive(Debug, Clone)]
pub struct LogRecord {
    pub part: u16,
    pub offset: i64,
    /// `None` for what is not an order record.
    pub order: Option<RecordFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFacts {
    pub id: OrderId,
    pub sku: String,
    pub user: String,
    pub quantity: i64,
    pub unit_price: i64,
    pub currency: String,
    pub epoch: i64,
    pub accepted_ms: i64,
}

/// One bucket in Redis.
#[derive(Debug, Clone, Default)]
pub struct BucketFacts {
    pub gate: BTreeMap<String, String>,
    pub stock: BTreeMap<String, i64>,
    pub buyers: BTreeMap<String, i64>,
    pub holds: BTreeMap<OrderId, Hold>,
    /// Length of the outbox stream.
    pub outbox: u64,
}

#[derive(Debug, Clone)]
pub struct Hold {
    /// r reserved, q queued, a awaiting_payment, p paid, c cancelled, e expired, x rejected.
    pub state: char,
    pub fingerprint: String,
    pub quantity: i64,
    pub sku: String,
    pub user: String,
}

/// What shoppers read.
#[derive(Debug, Clone, Default)]
pub struct HttpFacts {
    pub orders: Vec<OrderAnswer>,
    pub lists: Vec<ListAnswer>,
    /// Orders asked for by somebody else, and the status of the answer.
    pub strangers: Vec<(OrderId, u16)>,
}

#[derive(Debug, Clone)]
pub struct OrderAnswer {
    pub order: OrderId,
    pub http_status: u16,
    pub status: String,
    pub sku: String,
    pub quantity: i64,
}

#[derive(Debug, Clone)]
pub struct ListAnswer {
    pub user: String,
    pub http_status: u16,
    pub orders: BTreeSet<String>,
    /// Whether the page holds all there is.
    pub complete: bool,
}
