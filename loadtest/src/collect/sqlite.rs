//! Reads the data folder of embedded mode: all of its tables in one snapshot, while the server runs.
//!
//! The folder is opened for reading only, and its lock is not taken. Any number of readers disturb nobody.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde::Deserialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};

use super::look::{Look, behind};
use super::sqlite_fields::{fetch, number, order_id, small, text};
use super::{sqlite_events, sqlite_payments as money, sqlite_rows as rows};
use crate::config::{Config, Mode};
use crate::evidence::{Action, Evidence, InstanceBooks, ItemFacts, PartitionFacts, Place, SaleFacts};
use crate::ids::{Layout, OrderId};

const DATABASE: &str = "seckill.db";

async fn connect(config: &Config) -> anyhow::Result<SqliteConnection> {
    let path = config.folder.join(DATABASE);
    let options = SqliteConnectOptions::new().filename(&path).read_only(true).create_if_missing(false);
    let connection = options.connect().await;
    connection.with_context(|| format!("cannot read {}; name the data folder with --data", path.display()))
}

/// Checks that the folder's layout is the configured one, and returns it. Ids and places are judged by it.
async fn layout(connection: &mut SqliteConnection, config: &Config) -> anyhow::Result<Layout> {
    let Layout { shards, partitions, .. } = config.layout;
    let configured = format!("{shards} shards, {partitions} partitions");
    let found = fetch(connection, "SELECT value FROM settings WHERE name = 'shard_map'", None).await?;
    let found = found.first().map(|row| text(row, 0)).transpose()?;
    if found.as_deref() != Some(&configured) {
        let found = found.as_deref().unwrap_or("no shard map");
        bail!("the folder was made with {found}, the configuration says {configured} ([shards])");
    }
    Ok(config.layout)
}

#[derive(Deserialize)]
struct Definition {
    state: String,
    starts_ms: i64,
    ends_ms: i64,
    buyer_limit: i64,
    #[serde(default = "unpaid_max_default")]
    unpaid_max: i64,
    payment_window_ms: i64,
    buckets: u16,
    epoch: i64,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    sku_id: String,
    stock: i64,
    price: Price,
}

#[derive(Deserialize)]
struct Price {
    amount: i64,
    currency: String,
}

/// Sales from before there was this term have the default of new ones.
fn unpaid_max_default() -> i64 {
    3
}

async fn definition(connection: &mut SqliteConnection, sale: &str) -> anyhow::Result<Option<SaleFacts>> {
    let query = "SELECT definition, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM sales WHERE sale_id = ?";
    let rows = fetch(connection, query, Some(sale)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let (text, read_ms) = (text(row, 0)?, number(row, 1)?);
    let found: Definition =
        serde_json::from_str(&text).with_context(|| format!("the definition of {sale} is damaged"))?;
    let item = |item: Item| ItemFacts {
        sku: item.sku_id,
        stock: item.stock,
        unit_price: item.price.amount,
        currency: item.price.currency,
    };
    Ok(Some(SaleFacts {
        id: sale.to_owned(),
        state: found.state,
        starts_ms: found.starts_ms,
        ends_ms: found.ends_ms,
        buyer_limit: found.buyer_limit,
        unpaid_max: found.unpaid_max,
        buckets: found.buckets,
        epoch: found.epoch,
        rebuilt: BTreeMap::new(),
        payment_window_ms: found.payment_window_ms,
        items: found.items.into_iter().map(item).collect(),
        actions: actions(connection, sale).await?,
        read_ms,
    }))
}

async fn actions(connection: &mut SqliteConnection, sale: &str) -> anyhow::Result<Vec<Action>> {
    let query = "SELECT at_ms, action FROM audit_log WHERE sale_id = ? ORDER BY id";
    let found = fetch(connection, query, Some(sale)).await?;
    found.iter().map(|row| Ok(Action { at_ms: number(row, 0)?, word: text(row, 1)? })).collect()
}

/// Reads a sale as the directory defines it. `None` means that there is no such sale.
///
/// # Errors
/// When the folder cannot be read.
pub async fn sale(config: &Config, sale: &str) -> anyhow::Result<Option<SaleFacts>> {
    let mut connection = connect(config).await?;
    let facts = definition(&mut connection, sale).await?;
    connection.close().await?;
    Ok(facts)
}

/// Reads the ids of all orders of a sale.
///
/// # Errors
/// When the folder cannot be read.
pub async fn order_ids(config: &Config, sale: &str) -> anyhow::Result<BTreeSet<OrderId>> {
    let mut connection = connect(config).await?;
    let found = fetch(&mut connection, "SELECT order_id FROM orders WHERE sale_id = ?", Some(sale)).await?;
    connection.close().await?;
    found.iter().map(|row| order_id(row, 0)).collect()
}

/// Reads everything that the folder holds of a sale, as it was at one moment. `None` means that there is no such sale.
///
/// # Errors
/// When the folder cannot be read or has another layout.
pub async fn stores(config: &Config, sale: &str) -> anyhow::Result<Option<Evidence>> {
    let mut connection = connect(config).await?;
    let layout = layout(&mut connection, config).await?;
    connection.execute("BEGIN").await?;
    let Some(facts) = definition(&mut connection, sale).await? else {
        return Ok(None);
    };
    let server = config.folder.join(DATABASE).display().to_string();
    // A folder has no shard databases. So the place of a row is the shard that its id or its buyer names.
    let place = |shard| Place { server: server.as_str().into(), shard };
    let orders = rows::orders(&mut connection, sale, place).await?;
    let claims = rows::claims(&mut connection, sale, |user| place(layout.shard_of(user))).await?;
    let moves = rows::moves(&mut connection, sale, place).await?;
    let events = sqlite_events::read(&mut connection, sale).await?;
    let payments = money::payments(&mut connection, sale, place).await?;
    let refunds = money::refunds(&mut connection, sale, place).await?;
    let orphans = money::orphans(&mut connection).await?;
    let other_sales = money::other_sales(&mut connection, sale).await?;
    let mut books: InstanceBooks = rows::books(&mut connection, sale).await?;
    books.positions = positions(&mut connection).await?;
    let buckets = rows::buckets(&mut connection, &facts).await?;
    let partitions = bounds(&mut connection, layout).await?;
    let log = rows::log(&mut connection, sale, partitions).await?;
    connection.execute("COMMIT").await?;
    connection.close().await?;
    Ok(Some(Evidence {
        mode: Mode::Embedded,
        layout,
        servers: vec![server],
        rows: orders,
        claims,
        moves,
        events,
        payments,
        refunds,
        orphans,
        other_sales,
        provider: None,
        books: vec![books],
        log: Some(log),
        buckets: Some(buckets),
        http: None,
        journal: None,
        before: BTreeSet::new(),
        sale: facts,
    }))
}

async fn positions(connection: &mut SqliteConnection) -> anyhow::Result<BTreeMap<u16, i64>> {
    let found = fetch(connection, "SELECT part, next_offset FROM consumer_positions", None).await?;
    found.iter().map(|row| Ok((small(row, 0)?, number(row, 1)?))).collect()
}

/// Reads the first and the next offset of every partition, by number.
async fn bounds(connection: &mut SqliteConnection, layout: Layout) -> anyhow::Result<Vec<PartitionFacts>> {
    let mut bounds = vec![PartitionFacts { low: 0, end: 0 }; usize::from(layout.partitions)];
    let query = "SELECT part, MIN(log_offset), MAX(log_offset) + 1 FROM order_log GROUP BY part";
    for row in fetch(connection, query, None).await? {
        let part = small(&row, 0)?;
        let facts = bounds.get_mut(usize::from(part));
        let facts = facts.with_context(|| format!("the log has a partition {part}"))?;
        *facts = PartitionFacts { low: number(&row, 1)?, end: number(&row, 2)? };
    }
    Ok(bounds)
}

/// Looks at the order writer's positions again and again, over a kept connection.
pub struct Watch {
    connection: SqliteConnection,
    target: Vec<PartitionFacts>,
}

impl Watch {
    /// Opens the folder, and notes where its log ends now.
    ///
    /// # Errors
    /// When the folder cannot be read or has another layout.
    pub async fn new(config: &Config) -> anyhow::Result<Self> {
        let mut connection = connect(config).await?;
        let layout = layout(&mut connection, config).await?;
        let target = bounds(&mut connection, layout).await?;
        Ok(Self { connection, target })
    }

    /// Looks at what still waits.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn look(&mut self) -> anyhow::Result<Look> {
        let stored = positions(&mut self.connection).await?;
        Ok(Look { outbox: 0, missing: Some(behind(&self.target, &stored)), releases: 0 })
    }
}

#[cfg(test)]
mod tests;
