//! The embedded backend is one process with one SQLite database, and it needs no service. One thread writes. It commits
//! the jobs that wait as one transaction, and an answer leaves after its commit is durable.
//!
//! A reservation and its order-log record are rows of the same transaction, so there is no outbox to relay. One process
//! has the folder, so there is nothing to fence. Everything above the ports is the same as in the distributed mode.

pub mod doctor;
mod failures;
mod folder;
mod own_attempts;
mod own_node;
mod own_tickets;
mod sqlite;
mod sqlite_adjustments;
mod sqlite_alarms;
mod sqlite_archive;
mod sqlite_audit_log;
mod sqlite_batch;
mod sqlite_books;
mod sqlite_captures;
mod sqlite_dead_letters;
mod sqlite_events;
mod sqlite_gates;
mod sqlite_inventory;
mod sqlite_journal;
mod sqlite_keys;
mod sqlite_ledger;
mod sqlite_order_changes;
mod sqlite_order_log;
mod sqlite_order_moves;
mod sqlite_order_store;
mod sqlite_payments;
mod sqlite_refunds;
mod sqlite_retell;
mod sqlite_retention;
mod sqlite_rows;
mod sqlite_rules;
mod sqlite_sale_store;
mod sqlite_settling;
mod sqlite_subscriptions;
mod sqlite_views;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use crate::clock::{Clock, Moment};
use crate::config::EmbeddedConfig;
use crate::domain::ShardMap;
use crate::ports::{Books, Duty, Fault, Ports, Probe, StoreResult};

use folder::Folder;
pub use folder::{InUse, holds_shop};
use own_attempts::OwnAttempts;
use own_node::OwnNode;
use own_tickets::OwnTickets;
use sqlite::Sqlite;
pub use sqlite::plan;
use sqlite_adjustments::SqliteAdjustments;
use sqlite_alarms::SqliteAlarms;
use sqlite_archive::SqliteArchive;
use sqlite_audit_log::SqliteAuditLog;
use sqlite_books::SqliteBooks;
use sqlite_captures::SqliteCaptures;
use sqlite_dead_letters::SqliteDeadLetters;
use sqlite_events::SqliteEvents;
use sqlite_gates::SqliteGates;
use sqlite_inventory::SqliteInventory;
use sqlite_keys::SqliteKeys;
use sqlite_ledger::SqliteLedger;
use sqlite_order_changes::SqliteOrderChanges;
use sqlite_order_log::{Ends, NoOutbox, SqliteOrderLog};
use sqlite_order_store::SqliteOrderStore;
use sqlite_payments::SqlitePayments;
use sqlite_refunds::SqliteRefunds;
use sqlite_retention::SqliteRetention;
use sqlite_rows::{column, failed};
use sqlite_rules::SqliteRules;
use sqlite_sale_store::SqliteSaleStore;
use sqlite_settling::SqliteSettling;
use sqlite_subscriptions::SqliteSubscriptions;
use sqlite_views::SqliteViews;

/// Holds the settings of this backend.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The section `[embedded]`: where the folder is, and which failures an answered order survives.
    pub embedded: EmbeddedConfig,
    /// How users are spread over shards and partitions.
    pub map: ShardMap,
}

/// Holds what came of opening a folder.
pub struct Opened {
    /// The ports that the folder serves.
    pub ports: Ports,
    /// What stood in the folder when it was opened.
    pub found: Found,
}

/// Says what stood in the folder when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Sales in the directory.
    pub sales: i64,
    /// Orders that were ever reserved here. Imported orders are not among them.
    pub orders: i64,
    /// Records of the order log that the order writer has not written yet. It goes on with them.
    pub unwritten: i64,
    /// When the newest order was reserved, ms since 1970; 0 when there is none. A folder that was put back from a
    /// backup knows nothing of what came after it.
    pub newest_ms: i64,
}

/// Locks the folder for this process, makes or migrates its database, and opens it.
///
/// # Errors
/// When the folder is in use, cannot be written, is damaged, or was made by a newer version or with another shard map.
pub async fn open(settings: &Settings, clock: Clock) -> StoreResult<Opened> {
    let folder = Folder::lock(&settings.embedded.folder)?;
    let sqlite = Arc::new(Sqlite::open(folder, &settings.embedded, settings.map, clock.clone()).await?);
    sqlite_retell::tell_all(&sqlite).await?;
    let ends = Arc::new(Ends::read(&sqlite).await?);
    let found = found(&sqlite, &ends).await?;
    let orders = Arc::new(SqliteOrderStore { sqlite: sqlite.clone() });
    let keys = Arc::new(SqliteKeys { sqlite: sqlite.clone() });
    let books = Arc::new(SqliteBooks { sqlite: sqlite.clone(), map: settings.map });
    let ports = Ports {
        node: sqlite.node,
        inventory: Arc::new(SqliteInventory { sqlite: sqlite.clone(), ends: ends.clone() }),
        gates: Arc::new(SqliteGates { sqlite: sqlite.clone() }),
        outbox: Arc::new(NoOutbox),
        order_log: Arc::new(SqliteOrderLog { sqlite: sqlite.clone(), ends }),
        order_writes: orders.clone(),
        order_changes: Arc::new(SqliteOrderChanges { sqlite: sqlite.clone() }),
        events: Arc::new(SqliteEvents::new(sqlite.clone())),
        views: Arc::new(SqliteViews { sqlite: sqlite.clone() }),
        subscriptions: Arc::new(SqliteSubscriptions { sqlite: sqlite.clone() }),
        token_leases: None,
        order_copies: None,
        nodes: Arc::new(OwnNode {
            clock: clock.clone(),
            told: Mutex::default(),
            is_out: AtomicBool::new(false),
        }),
        announcements: None,
        attempts: Arc::<OwnAttempts>::default(),
        stream_tickets: Arc::new(OwnTickets::new(clock.clone())),
        rules: Arc::new(SqliteRules { sqlite: sqlite.clone() }),
        event_topic: None,
        payments: Arc::new(SqlitePayments { sqlite: sqlite.clone() }),
        captures: Arc::new(SqliteCaptures { sqlite: sqlite.clone() }),
        refunds: Arc::new(SqliteRefunds { sqlite: sqlite.clone() }),
        dead_letters: Arc::new(SqliteDeadLetters { sqlite: sqlite.clone() }),
        positions: orders.clone(),
        orders,
        archive: Arc::new(SqliteArchive { sqlite: sqlite.clone() }),
        ledger: Arc::new(SqliteLedger { sqlite: sqlite.clone() }),
        releases: None,
        recovery: None,
        books: Books { inventory: books.clone(), databases: books },
        sales: Arc::new(SqliteSaleStore { sqlite: sqlite.clone() }),
        adjustments: Arc::new(SqliteAdjustments { sqlite: sqlite.clone() }),
        settling: Arc::new(SqliteSettling { sqlite: sqlite.clone() }),
        retention: Arc::new(SqliteRetention { sqlite: sqlite.clone() }),
        sessions: keys.clone(),
        keys,
        audit_log: Arc::new(SqliteAuditLog { sqlite: sqlite.clone() }),
        alarms: Arc::new(SqliteAlarms { sqlite: sqlite.clone() }),
        probes: vec![Arc::new(DataFolder { sqlite, written_at: Mutex::default() })],
    };
    Ok(Opened { ports, found })
}

async fn found(sqlite: &Sqlite, ends: &Ends) -> StoreResult<Found> {
    let text = "SELECT (SELECT COUNT(*) FROM sales) AS sales, \
        (SELECT COALESCE(SUM(orders_made), 0) FROM gates) AS orders, \
        (SELECT COALESCE(MAX(reserved_ms), 0) FROM reservations) AS newest_ms, \
        (SELECT COALESCE(SUM(next_offset), 0) FROM consumer_positions) AS written";
    let row = sqlx::query(text).fetch_one(sqlite.readers()).await;
    let row = row.map_err(|error| failed("look into the folder", error))?;
    Ok(Found {
        sales: column(&row, "sales")?,
        orders: column(&row, "orders")?,
        unwritten: ends.sum() - column::<i64>(&row, "written")?,
        newest_ms: column(&row, "newest_ms")?,
    })
}

/// How long a folder that was written to is taken for one that can be written to. A shop in which nothing happens
/// should leave the disk alone.
const WRITTEN_LATELY: Duration = Duration::from_millis(1_400);

/// Probes whether the folder can be written.
struct DataFolder {
    sqlite: Arc<Sqlite>,
    /// When the last write was committed.
    written_at: Mutex<Option<Moment>>,
}

#[async_trait]
impl Probe for DataFolder {
    fn name(&self) -> String {
        "folder".to_owned()
    }

    fn duties(&self) -> &'static [Duty] {
        &[Duty::Buy, Duty::Write]
    }

    fn is_own(&self) -> bool {
        true
    }

    /// Writes a row, because a full disk still answers reads.
    async fn check(&self) -> Result<(), Fault> {
        self.sqlite.gauge_wal();
        let now = self.sqlite.clock.monotonic();
        let written_at = *self.written_at.lock().expect("no code panics while holding it");
        if written_at.is_some_and(|at| now.since(at) < WRITTEN_LATELY) {
            return Ok(());
        }
        let work = async |connection: &mut SqliteConnection| {
            let text = "INSERT INTO settings (name, value) VALUES ('probe', '0') \
                 ON CONFLICT (name) DO UPDATE SET value = (CAST(value AS INTEGER) + 1) % 1000";
            let done = sqlx::query(text).execute(connection).await;
            done.map(drop).map_err(|error| failed("write to the folder", error))
        };
        let written = self.sqlite.writer.write("write to the folder", work).await;
        written.map_err(|error| Fault::down(format!("cannot be written: {}", error.source)))?;
        *self.written_at.lock().expect("no code panics while holding it") = Some(now);
        Ok(())
    }
}
