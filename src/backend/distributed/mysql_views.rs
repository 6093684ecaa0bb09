//! Keeps the sums of sales in the control databases of the instances whose events they are built of.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::mysql::{Mysql, failed};
use super::mysql_text::{ROWS_MAX, push_all, push_bytes};
use crate::backend::readable::readable;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::view::{CountKey, Counted, CountedSales, Counts, Tally, add_counts};
use crate::domain::{EventNumbers, Instance, Part, SaleId, SkuId};
use crate::ports::{StoreError, StoreResult, VIEWS, Views};

const ADD: &str = "add to views";
const READ: &str = "read views";
const COUNTS: &str = "view_counts (sale_id, part, sku_id, minute, kind, from_state, to_state, reason, currency, orders, \
                      units, amount)";
const MARKS: &str = "view_marks (part, sale_id, first_number, last_number, events)";
const MORE: &str = "ON DUPLICATE KEY UPDATE orders = orders + VALUES(orders), units = units + VALUES(units), \
                    amount = amount + VALUES(amount)";
const FURTHER: &str = "ON DUPLICATE KEY UPDATE last_number = GREATEST(last_number, VALUES(last_number)), \
                       events = events + VALUES(events)";

type Tx = Transaction<'static, MySql>;

/// Serves views from the instances' control databases.
pub struct MysqlViews {
    mysql: Arc<Mysql>,
}

impl MysqlViews {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    /// Locks where the reader is of some partitions of an instance. Answers whether it is at `from`.
    async fn is_at(&self, at: Instance, from: &EventNumbers, tx: &mut Tx) -> StoreResult<bool> {
        let fault = |error| failed(ADD, error);
        let parts: Vec<String> = from.keys().map(|part| part.number().to_string()).collect();
        let absent: Vec<String> =
            parts.iter().map(|part| format!("('{VIEWS}',{part},{FIRST_NUMBER})")).collect();
        let readers = format!("{}.event_readers", self.mysql.control(at));
        // A row that is not there cannot be locked.
        let made =
            format!("INSERT IGNORE INTO {readers} (reader, part, next_number) VALUES {}", absent.join(","));
        sqlx::raw_sql(AssertSqlSafe(made)).execute(&mut **tx).await.map_err(fault)?;
        let text = format!(
            "SELECT part, next_number FROM {readers} WHERE reader = '{VIEWS}' AND part IN ({}) ORDER BY part FOR UPDATE",
            parts.join(",")
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **tx).await.map_err(fault)?;
        let mut is_at = rows.len() == from.len();
        for row in rows {
            let (part, next): (i32, i64) = (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
            let part = u16::try_from(part).map(Part::new);
            is_at &= part.is_ok_and(|part| from.get(&part) == Some(&next));
        }
        Ok(is_at)
    }

    /// Writes sums and marks. `tails` say what happens to those that stand.
    async fn write<'a>(
        &self,
        at: Instance,
        sales: impl Iterator<Item = (Part, &'a SaleId, &'a Counted)>,
        (more, further): (&str, &str),
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let (mut counts, mut marks) = (Vec::new(), Vec::new());
        for (part, sale, counted) in sales {
            marks.push(mark_values(part, sale, counted));
            counts.extend(counted.counts.iter().map(|(key, tally)| count_values(part, sale, key, *tally)));
        }
        let control = self.mysql.control(at);
        for (table, values, tail) in [(COUNTS, &counts, more), (MARKS, &marks, further)] {
            for run in values.chunks(ROWS_MAX) {
                let text = format!("INSERT INTO {control}.{table} VALUES {} {tail}", run.join(","));
                let written = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **tx).await;
                written.map_err(|error| failed(ADD, error))?;
            }
        }
        Ok(())
    }

    async fn add_in(
        &self,
        at: Instance,
        (from, to): (&EventNumbers, &EventNumbers),
        sales: &CountedSales,
    ) -> StoreResult<bool> {
        let mut tx = self.mysql.begin(at, ADD).await?;
        if !self.is_at(at, from, &mut tx).await? {
            return Ok(false);
        }
        let rows = sales.iter().map(|((part, sale), counted)| (*part, sale, counted));
        self.write(at, rows, (MORE, FURTHER), &mut tx).await?;
        for (part, next) in to {
            let text = format!(
                "UPDATE {}.event_readers SET next_number = {next} WHERE reader = '{VIEWS}' AND part = {}",
                self.mysql.control(at),
                part.number()
            );
            let moved = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await;
            moved.map_err(|error| failed(ADD, error))?;
        }
        tx.commit().await.map_err(|error| failed(ADD, error))?;
        Ok(true)
    }

    /// Reads the sums of a sale at an instance, of all of its partitions or of those that a condition names.
    async fn read_counts(&self, at: Instance, sale: &SaleId, condition: &str) -> StoreResult<Counts> {
        let text = format!(
            "SELECT sku_id, minute, kind, from_state, to_state, reason, currency, \
             CAST(SUM(orders) AS SIGNED) AS orders, CAST(SUM(units) AS SIGNED) AS units, \
             CAST(SUM(amount) AS SIGNED) AS amount FROM {{control}}.view_counts WHERE sale_id = ? {condition} \
             GROUP BY sku_id, minute, kind, from_state, to_state, reason, currency"
        );
        let query = sqlx::query(self.mysql.control_sql(at, &text)).bind(sale.as_str().as_bytes());
        let rows = query.fetch_all(self.mysql.readers(at)).await.map_err(|error| failed(READ, error))?;
        Ok(rows.iter().filter_map(|row| readable("view_counts", read_count(row))).collect())
    }

    async fn read_marks(&self, part: Part) -> StoreResult<Vec<(SaleId, Counted)>> {
        let fault = |error| failed(READ, error);
        let at = self.mysql.map.instance_of_part(part);
        let text =
            "SELECT sale_id, first_number, last_number, events FROM {control}.view_marks WHERE part = ?";
        let query = sqlx::query(self.mysql.control_sql(at, text)).bind(part.number());
        let rows = query.fetch_all(self.mysql.pool(at)).await.map_err(fault)?;
        let read = |row: &MySqlRow| {
            let counted = Counted {
                counts: Counts::new(),
                first_number: row.try_get(1).map_err(fault)?,
                last_number: row.try_get(2).map_err(fault)?,
                events: row.try_get(3).map_err(fault)?,
            };
            Ok((SaleId::parse(&text_of(row, 0)?).map_err(|error| broken(error.to_string()))?, counted))
        };
        rows.iter().map(read).collect()
    }

    async fn replace_in(&self, part: Part, upto: i64, sales: &[(SaleId, Counted)]) -> StoreResult<bool> {
        let at = self.mysql.map.instance_of_part(part);
        let mut tx = self.mysql.begin(at, ADD).await?;
        if !self.is_at(at, &EventNumbers::from([(part, upto)]), &mut tx).await? {
            return Ok(false);
        }
        for (sale, _) in sales {
            for table in ["view_counts", "view_marks"] {
                let text = format!("DELETE FROM {{control}}.{table} WHERE sale_id = ? AND part = ?");
                let query = sqlx::query(self.mysql.control_sql(at, &text)).bind(sale.as_str().as_bytes());
                let deleted = query.bind(part.number()).execute(&mut *tx).await;
                deleted.map_err(|error| failed(ADD, error))?;
            }
        }
        let counted = sales.iter().filter(|(_, counted)| counted.events > 0);
        let rows = counted.map(|(sale, counted)| (part, sale, counted));
        self.write(at, rows, ("", ""), &mut tx).await?;
        tx.commit().await.map_err(|error| failed(ADD, error))?;
        Ok(true)
    }
}

fn count_values(part: Part, sale: &SaleId, key: &CountKey, tally: Tally) -> String {
    let mut text = "(".to_owned();
    push_bytes(&mut text, sale.as_str().as_bytes());
    push_all(&mut text, format_args!(",{},", part.number()));
    push_bytes(&mut text, key.sku.as_str().as_bytes());
    push_all(&mut text, format_args!(",{}", key.minute));
    for word in [&key.kind, &key.from, &key.to, &key.reason, &key.currency] {
        text.push(',');
        push_bytes(&mut text, word.as_bytes());
    }
    push_all(&mut text, format_args!(",{},{},{})", tally.orders, tally.units, tally.amount));
    text
}

fn mark_values(part: Part, sale: &SaleId, counted: &Counted) -> String {
    let mut text = format!("({},", part.number());
    push_bytes(&mut text, sale.as_str().as_bytes());
    let Counted { first_number, last_number, events, .. } = counted;
    push_all(&mut text, format_args!(",{first_number},{last_number},{events})"));
    text
}

fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::broken(READ, detail.into())
}

fn text_of(row: &MySqlRow, column: usize) -> StoreResult<String> {
    let bytes: Vec<u8> = row.try_get(column).map_err(|error| failed(READ, error))?;
    String::from_utf8(bytes).map_err(|error| broken(error.to_string()))
}

fn read_count(row: &MySqlRow) -> StoreResult<(CountKey, Tally)> {
    let fault = |error| failed(READ, error);
    let key = CountKey {
        sku: SkuId::parse(&text_of(row, 0)?).map_err(|error| broken(error.to_string()))?,
        minute: row.try_get("minute").map_err(fault)?,
        kind: row.try_get("kind").map_err(fault)?,
        from: row.try_get("from_state").map_err(fault)?,
        to: row.try_get("to_state").map_err(fault)?,
        reason: row.try_get("reason").map_err(fault)?,
        currency: row.try_get("currency").map_err(fault)?,
    };
    let tally = Tally {
        orders: row.try_get("orders").map_err(fault)?,
        units: row.try_get("units").map_err(fault)?,
        amount: row.try_get("amount").map_err(fault)?,
    };
    Ok((key, tally))
}

#[async_trait]
impl Views for MysqlViews {
    async fn add(
        &self,
        at: Instance,
        numbers: (&EventNumbers, &EventNumbers),
        sales: &CountedSales,
    ) -> StoreResult<bool> {
        self.mysql.change(at, ADD, self.add_in(at, numbers, sales)).await
    }

    async fn counts(&self, sale: &SaleId) -> StoreResult<Counts> {
        let mut counts = Counts::new();
        for at in self.mysql.map.all_instances() {
            add_counts(&mut counts, &self.mysql.read(READ, self.read_counts(at, sale, "")).await?);
        }
        Ok(counts)
    }

    async fn counts_in(&self, part: Part, sale: &SaleId) -> StoreResult<Counts> {
        let condition = format!("AND part = {}", part.number());
        let at = self.mysql.map.instance_of_part(part);
        self.mysql.read(READ, self.read_counts(at, sale, &condition)).await
    }

    async fn marks(&self, part: Part) -> StoreResult<Vec<(SaleId, Counted)>> {
        self.mysql.read(READ, self.read_marks(part)).await
    }

    async fn replace(&self, part: Part, upto: i64, sales: &[(SaleId, Counted)]) -> StoreResult<bool> {
        let at = self.mysql.map.instance_of_part(part);
        self.mysql.change(at, ADD, self.replace_in(part, upto, sales)).await
    }
}
