//! Keeps the sums of sales in the database.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::sqlite::Sqlite;
use super::sqlite_journal::PART;
use super::sqlite_rows::{change_one, column, failed, insert, parsed};
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::view::{CountKey, Counted, CountedSales, Counts, Tally};
use crate::domain::{EventNumbers, Instance, Part, SaleId, SkuId};
use crate::ports::{StoreResult, VIEWS, Views};

const ADD: &str = "add to views";
const READ: &str = "read views";
const NEXT: &str = "SELECT next_number FROM event_readers WHERE reader = ? AND part = 0";
const MOVE: &str = "INSERT INTO event_readers (reader, part, next_number) VALUES (?, 0, ?) \
     ON CONFLICT DO UPDATE SET next_number = excluded.next_number";
const COUNTS: &str = "view_counts (sale_id, part, sku_id, minute, kind, from_state, to_state, reason, currency, orders, \
     units, amount)";
const MARKS: &str = "view_marks (part, sale_id, first_number, last_number, events)";
const MORE: &str = "ON CONFLICT DO UPDATE SET orders = orders + excluded.orders, units = units + excluded.units, \
     amount = amount + excluded.amount";
const FURTHER: &str = "ON CONFLICT DO UPDATE SET last_number = max(last_number, excluded.last_number), \
     events = events + excluded.events";

/// Serves views from the database.
pub struct SqliteViews {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

async fn next_number(connection: &mut SqliteConnection) -> StoreResult<i64> {
    let next = sqlx::query_scalar(NEXT).bind(VIEWS).fetch_optional(connection).await;
    Ok(next.map_err(|error| failed(ADD, error))?.unwrap_or(FIRST_NUMBER))
}

/// Writes sums and marks; `tails` say what happens to those that stand.
async fn write(
    connection: &mut SqliteConnection,
    sales: &[(SaleId, Counted)],
    (more, further): (&'static str, &'static str),
) -> StoreResult<()> {
    let counts: Vec<(&SaleId, &CountKey, &Tally)> = sales
        .iter()
        .flat_map(|(sale, counted)| counted.counts.iter().map(move |(key, tally)| (sale, key, tally)))
        .collect();
    insert(connection, (COUNTS, 12, more), &counts, |query, (sale, key, tally)| {
        let query = query.bind(sale.as_str()).bind(0).bind(key.sku.as_str()).bind(key.minute);
        let query = query.bind(&key.kind).bind(&key.from).bind(&key.to).bind(&key.reason).bind(&key.currency);
        query.bind(tally.orders).bind(tally.units).bind(tally.amount)
    })
    .await?;
    insert(connection, (MARKS, 5, further), sales, |query, (sale, counted)| {
        let query = query.bind(0).bind(sale.as_str()).bind(counted.first_number);
        query.bind(counted.last_number).bind(counted.events)
    })
    .await
}

fn read_count(row: &SqliteRow) -> StoreResult<(CountKey, Tally)> {
    let key = CountKey {
        sku: parsed(row, "sku_id", SkuId::parse)?,
        minute: column(row, "minute")?,
        kind: column(row, "kind")?,
        from: column(row, "from_state")?,
        to: column(row, "to_state")?,
        reason: column(row, "reason")?,
        currency: column(row, "currency")?,
    };
    let tally = Tally {
        orders: column(row, "orders")?,
        units: column(row, "units")?,
        amount: column(row, "amount")?,
    };
    Ok((key, tally))
}

#[async_trait]
impl Views for SqliteViews {
    async fn add(
        &self,
        _: Instance,
        (from, to): (&EventNumbers, &EventNumbers),
        sales: &CountedSales,
    ) -> StoreResult<bool> {
        let (Some(from), Some(to)) = (from.get(&PART).copied(), to.get(&PART).copied()) else {
            return Ok(true);
        };
        let sales: Vec<(SaleId, Counted)> =
            sales.iter().map(|((_, sale), counted)| (sale.clone(), counted.clone())).collect();
        let work = async move |connection: &mut SqliteConnection| {
            if next_number(connection).await? != from {
                return Ok(false);
            }
            write(connection, &sales, (MORE, FURTHER)).await?;
            change_one(connection, sqlx::query(MOVE).bind(VIEWS).bind(to)).await?;
            Ok(true)
        };
        self.sqlite.writer.write(ADD, work).await
    }

    async fn counts(&self, sale: &SaleId) -> StoreResult<Counts> {
        let rows = sqlx::query("SELECT * FROM view_counts WHERE sale_id = ?").bind(sale.as_str());
        let rows = rows.fetch_all(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        rows.iter().map(read_count).collect()
    }

    async fn counts_in(&self, _: Part, sale: &SaleId) -> StoreResult<Counts> {
        self.counts(sale).await
    }

    async fn marks(&self, _: Part) -> StoreResult<Vec<(SaleId, Counted)>> {
        let rows = sqlx::query("SELECT sale_id, first_number, last_number, events FROM view_marks")
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed(READ, error))?;
        let read = |row: &SqliteRow| {
            let counted = Counted {
                counts: Counts::new(),
                first_number: column(row, "first_number")?,
                last_number: column(row, "last_number")?,
                events: column(row, "events")?,
            };
            Ok((parsed(row, "sale_id", SaleId::parse)?, counted))
        };
        rows.iter().map(read).collect()
    }

    async fn replace(&self, _: Part, upto: i64, sales: &[(SaleId, Counted)]) -> StoreResult<bool> {
        let sales = sales.to_vec();
        let work = async move |connection: &mut SqliteConnection| {
            if next_number(connection).await? != upto {
                return Ok(false);
            }
            for (sale, _) in &sales {
                for text in
                    ["DELETE FROM view_counts WHERE sale_id = ?", "DELETE FROM view_marks WHERE sale_id = ?"]
                {
                    let deleted = sqlx::query(text).bind(sale.as_str()).execute(&mut *connection).await;
                    deleted.map_err(|error| failed(ADD, error))?;
                }
            }
            let counted: Vec<(SaleId, Counted)> =
                sales.iter().filter(|(_, counted)| counted.events > 0).cloned().collect();
            write(connection, &counted, ("", "")).await?;
            Ok(true)
        };
        self.sqlite.writer.write(ADD, work).await
    }
}
