//! What the use cases and the workers need of a backend, one file for each port. Each port has two real
//! implementations, and tests wrap some in fault injectors. Nothing above the ports is generic.
//!
//! Invariant: a failed call says whether its effect is excluded ([`Effect::NotApplied`]) or possible
//! ([`Effect::Unknown`]). Only an excluded effect may be compensated, or answered as "nothing happened".

mod alarms;
mod announcements;
mod archive;
mod attempt_counts;
mod audit_log;
mod books;
mod captures;
mod dead_letters;
mod gates;
mod inventory;
mod keys;
mod ledger;
mod nodes;
mod order_changes;
mod order_copies;
mod order_events;
mod order_log;
mod order_writes;
mod orders;
mod outbox;
mod payment_provider;
mod payments;
mod positions;
mod probe;
mod rebuilds;
mod refunds;
mod releases;
mod retention;
mod rules;
mod sale_store;
mod sessions;
mod settling;
mod stock_adjustments;
mod store_error;
mod stream_tickets;
mod subscriptions;
mod token_leases;
mod views;
mod watermarks;

use std::sync::Arc;

use crate::domain::NodeId;

pub use alarms::{Alarms, CallTimes};
pub use announcements::{ANNOUNCED_MAX, Announcements, Hearing, Told};
pub use archive::Archive;
pub use attempt_counts::AttemptCounts;
pub use audit_log::AuditLog;
pub use books::{Books, DatabaseBooks, InventoryBooks};
pub use captures::{Captures, Orphan, Taken};
pub use dead_letters::{DeadLetters, Redecided};
pub use gates::{BucketState, Gates, Placed, UnitMove};
pub use inventory::Inventory;
pub use keys::Keys;
pub use ledger::Ledger;
pub use nodes::Nodes;
pub use order_changes::{Ending, Grace, Moved, OrderChanges, Overdue};
pub use order_copies::{Copied, FORGOTTEN_MAX, OrderCopies};
pub use order_events::{Backlog, EventPage, EventTopic, OrderEvents, ReaderMover, Turn};
pub use order_log::{
    IMPORT_RECORDS_MAX, LogEvent, LogIdentity, Offsets, OrderLog, OrderLogReader, Wake, all_read,
};
pub use order_writes::{BatchOutcome, OrderWrites, TakenOver, Written, WrittenOrder};
pub use orders::Orders;
pub use outbox::Outbox;
pub use payment_provider::{
    Booked, News, OpenPage, PaymentProvider, ProviderBooks, ProviderEvent, ProviderRules, Standing,
};
pub use payments::{Opened, PaymentStep, Payments};
pub use positions::Positions;
pub use probe::{Duty, Fault, Probe};
pub use rebuilds::{Claim, Rebuilds, Recovery, Refills};
pub use refunds::{RefundStep, Refunds};
pub use releases::{Owed, Releases};
pub use retention::Retention;
pub use rules::Rules;
pub use sale_store::SaleStore;
pub use sessions::Sessions;
pub use settling::{Seal, Settling, Waiting};
pub use stock_adjustments::{Adjusted, StockAdjustments};
pub use store_error::{Effect, ErrorKind, StoreError, StoreResult};
pub use stream_tickets::StreamTickets;
pub use subscriptions::{Message, Outbound, Subscriptions};
pub use token_leases::{TokenGrant, TokenLeases, TokenWish};
pub use views::{VIEWS, Views};
pub use watermarks::Watermarks;

/// One opened backend. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    /// The id of this process.
    pub node: NodeId,
    /// Reserves units.
    pub inventory: Arc<dyn Inventory>,
    /// Puts stock in place, and opens and closes what the inventory sells.
    pub gates: Arc<dyn Gates>,
    /// Names accepted orders until the order log has them.
    pub outbox: Arc<dyn Outbox>,
    /// Queues accepted orders for the writers.
    pub order_log: Arc<dyn OrderLog>,
    /// Writes orders.
    pub order_writes: Arc<dyn OrderWrites>,
    /// Changes orders after they were accepted.
    pub order_changes: Arc<dyn OrderChanges>,
    /// Knows what happened to orders, in the order in which it happened.
    pub events: Arc<dyn OrderEvents>,
    /// Sums up what happened.
    pub views: Arc<dyn Views>,
    /// Knows where events are sent.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// Where events are passed on to; `None` for nowhere.
    pub event_topic: Option<Arc<dyn EventTopic>>,
    /// Knows the payments of orders.
    pub payments: Arc<dyn Payments>,
    /// Takes what was captured.
    pub captures: Arc<dyn Captures>,
    /// Knows what is paid back.
    pub refunds: Arc<dyn Refunds>,
    /// Knows the records that could not become orders.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Knows, halts and moves the writers' positions.
    pub positions: Arc<dyn Positions>,
    /// Reads orders.
    pub orders: Arc<dyn Orders>,
    /// Keeps copies of orders, for many readers; `None` where the database is in the process.
    pub order_copies: Option<Arc<dyn OrderCopies>>,
    /// Reads orders for an export.
    pub archive: Arc<dyn Archive>,
    /// Counts units.
    pub ledger: Arc<dyn Ledger>,
    /// Knows which units have to go back on sale; `None` where they go back with the decision that frees them.
    pub releases: Option<Arc<dyn Releases>>,
    /// Rebuilds what the inventory has lost; `None` where nothing is lost without the rest.
    pub recovery: Option<Recovery>,
    /// Looks whether what the inventory has and what the databases have fit together.
    pub books: Books,
    /// Knows which processes there are.
    pub nodes: Arc<dyn Nodes>,
    /// Sums up the attempts to buy.
    pub attempts: Arc<dyn AttemptCounts>,
    /// Tells other processes which orders have changed; `None` where one process is all.
    pub announcements: Option<Arc<dyn Announcements>>,
    /// Knows the tickets of streams.
    pub stream_tickets: Arc<dyn StreamTickets>,
    /// Knows the rules of traffic.
    pub rules: Arc<dyn Rules>,
    /// Shares buckets of tokens among the processes; `None` where one process is all.
    pub token_leases: Option<Arc<dyn TokenLeases>>,
    /// Knows the sales.
    pub sales: Arc<dyn SaleStore>,
    /// Adjusts the stock of sales that are on.
    pub adjustments: Arc<dyn StockAdjustments>,
    /// Settles sales.
    pub settling: Arc<dyn Settling>,
    /// Removes what is old.
    pub retention: Arc<dyn Retention>,
    /// Knows the operators' keys.
    pub keys: Arc<dyn Keys>,
    /// Knows the sessions of admin pages.
    pub sessions: Arc<dyn Sessions>,
    /// Notes who changed what and why.
    pub audit_log: Arc<dyn AuditLog>,
    /// Knows which alarms stand, and who was called.
    pub alarms: Arc<dyn Alarms>,
    /// The components that `/readyz` speaks of, each under its own name.
    pub probes: Vec<Arc<dyn Probe>>,
}
