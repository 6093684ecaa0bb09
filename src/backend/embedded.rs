//! The embedded backend: one process, one SQLite file, no service. One writer commits whatever waits as one
//! transaction, and an answer leaves after its commit is durable.
//!
//! Reservation and order-log record are rows of the same transaction, so there is no outbox to relay and
//! nothing to fence. Everything above the ports is the same as in the distributed mode.

mod folder;
mod sqlite;
mod sqlite_batch;
mod sqlite_gates;
mod sqlite_inventory;
mod sqlite_ledger;
mod sqlite_order_log;
mod sqlite_order_store;
mod sqlite_sale_store;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::config::EmbeddedConfig;
use crate::domain::ShardMap;
use crate::ports::{Effect, ErrorKind, Ports, Probe, SaleStore, StoreError, StoreResult};

use folder::Folder;
pub use folder::{InUse, holds_shop};
use sqlite::{Sqlite, column, failed};
use sqlite_gates::SqliteGates;
use sqlite_inventory::SqliteInventory;
use sqlite_ledger::SqliteLedger;
use sqlite_order_log::{Ends, NoOutbox, SqliteOrderLog};
use sqlite_order_store::SqliteOrderStore;
use sqlite_sale_store::SqliteSaleStore;

/// What this backend is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub embedded: EmbeddedConfig,
    pub map: ShardMap,
}

/// An opened folder.
pub struct Opened {
    pub ports: Ports,
    pub found: Found,
}

/// What stood in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub sales: i64,
    pub orders: i64,
    /// Accepted orders that have no row yet; the order writer goes on with them.
    pub unwritten: i64,
}

/// Opens the folder, makes or migrates its database, and locks it for this process.
///
/// # Errors
/// When it is in use, cannot be written, is damaged, was made by a newer version or with another shard map.
pub async fn open(settings: &Settings, clock: Clock) -> StoreResult<Opened> {
    let folder = Folder::lock(&settings.embedded.folder)?;
    let sqlite = Arc::new(Sqlite::open(folder, settings).await?);
    let ends = Arc::new(Ends::read(&sqlite).await?);
    let found = found(&sqlite, &ends).await?;
    let orders = Arc::new(SqliteOrderStore { sqlite: sqlite.clone(), clock: clock.clone() });
    let ports = Ports {
        inventory: Arc::new(SqliteInventory {
            sqlite: sqlite.clone(),
            ends: ends.clone(),
            clock: clock.clone(),
        }),
        gates: Arc::new(SqliteGates { sqlite: sqlite.clone() }),
        outbox: Arc::new(NoOutbox),
        order_log: Arc::new(SqliteOrderLog { sqlite: sqlite.clone(), ends, runtime: Handle::current() }),
        orders: orders.clone(),
        archive: orders,
        ledger: Arc::new(SqliteLedger { sqlite: sqlite.clone() }),
        sales: Arc::new(SqliteSaleStore { sqlite: sqlite.clone(), clock }),
        probes: vec![Arc::new(DataFolder { sqlite })],
    };
    Ok(Opened { ports, found })
}

/// Opens the folder for its directory of sales and keys alone.
///
/// # Errors
/// As [`open`].
pub async fn open_directory(settings: &Settings, clock: Clock) -> StoreResult<Arc<dyn SaleStore>> {
    Ok(open(settings, clock).await?.ports.sales)
}

async fn found(sqlite: &Sqlite, ends: &Ends) -> StoreResult<Found> {
    let text = "SELECT (SELECT COUNT(*) FROM sales) AS sales, \
        (SELECT COALESCE(SUM(orders_made), 0) FROM gates) AS orders, \
        (SELECT COALESCE(SUM(next_offset), 0) FROM consumer_positions) AS written";
    let row = sqlx::query(text).fetch_one(sqlite.readers()).await;
    let row = row.map_err(|error| failed("look into the folder", error))?;
    Ok(Found {
        sales: column(&row, "sales")?,
        orders: column(&row, "orders")?,
        unwritten: ends.sum() - column::<i64>(&row, "written")?,
    })
}

/// Whether the folder can be written.
struct DataFolder {
    sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Probe for DataFolder {
    fn name(&self) -> String {
        "folder".to_owned()
    }

    fn is_vital(&self) -> bool {
        true
    }

    /// A real write: a full disk answers reads.
    async fn check(&self) -> StoreResult<()> {
        let work = async |connection: &mut SqliteConnection| {
            let text = "INSERT INTO settings (name, value) VALUES ('probe', '0') \
                 ON CONFLICT (name) DO UPDATE SET value = (CAST(value AS INTEGER) + 1) % 1000";
            let done = sqlx::query(text).execute(connection).await;
            done.map(drop).map_err(|error| failed("write to the folder", error))
        };
        self.sqlite.writer.write("write to the folder", work).await
    }
}

/// A failure that is no outage: something is what it never should be.
fn broken(context: &'static str, detail: impl Into<String>) -> StoreError {
    failure(ErrorKind::Broken, context, detail.into())
}

/// The folder cannot be used now.
fn unavailable(context: &'static str, detail: impl Into<String>) -> StoreError {
    failure(ErrorKind::Unavailable, context, detail.into())
}

fn failure(kind: ErrorKind, context: &'static str, detail: String) -> StoreError {
    StoreError { kind, effect: Effect::NotApplied, context, source: detail.into() }
}
