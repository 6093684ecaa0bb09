//! Keeps the adjustments of stock that are under way, in the directory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_audit_log::audit;
use super::mysql_shares::Share;
use super::mysql_text::NOW_MS;
use crate::domain::operator::Subject;
use crate::domain::{Adjustment, Change, Instance, Sale, SaleId, SkuId};
use crate::ports::{StoreError, StoreResult};

const CONTEXT: &str = "adjust stock";
const COLUMNS: &str = "sale_id, adjustment_id, sku_id, stock_before, stock_after, returned, plan, actor, reason, \
                       request_id, is_listed";

/// What is decided when an adjustment begins, and stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The epoch of each bucket, ascending; `None` for one that is not in place.
    pub epochs: Vec<Option<u32>>,
    /// How many of the units that go back on sale each instance withholds, by its number.
    pub returned: Vec<(u16, u32)>,
}

/// An adjustment that is under way.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Its id.
    pub id: [u8; 16],
    /// The sale.
    pub sale: SaleId,
    /// What is adjusted.
    pub adjustment: Adjustment,
    /// How.
    pub plan: Plan,
    /// Who wanted it and why.
    pub change: Change,
    /// Whether the directory has the new stock.
    pub is_listed: bool,
}

impl Begun {
    /// Answers what an instance's share becomes.
    pub fn share(&self, at: Instance, stock: u32) -> Share {
        let of = self.plan.returned.iter().find(|(number, _)| *number == at.number());
        let mut id = self.id;
        // The id is random, and each instance needs one of its own.
        let [.., high, low] = &mut id;
        [*high, *low] = at.number().to_be_bytes();
        Share { at, stock, returned: of.map_or(0, |(_, units)| *units), id }
    }
}

/// Serves the table of adjustments.
pub struct MysqlAdjustments {
    mysql: Arc<Mysql>,
}

impl MysqlAdjustments {
    /// Makes it. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    /// Inserts an adjustment, if the sale still has the version of `sale`. Answers `false` when it has not, or another
    /// adjustment of it is under way.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn begin(&self, sale: &Sale, begun: &Begun) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, self.insert(sale, begun)).await
    }

    async fn insert(&self, sale: &Sale, begun: &Begun) -> StoreResult<bool> {
        let fault = |error| failed(CONTEXT, error);
        let plan = serde_json::to_string(&begun.plan).map_err(|error| damaged(error.to_string()))?;
        // The version is looked at in the same statement: a sale that was ended or settled meanwhile has another one.
        let text = format!(
            "INSERT INTO {{directory}}.stock_adjustments ({COLUMNS}, begun_ms) \
             SELECT sale_id, ?, ?, ?, ?, ?, ?, ?, ?, ?, FALSE, {NOW_MS} FROM {{directory}}.sales \
             WHERE sale_id = ? AND version = ?"
        );
        let inserted = sqlx::query(self.mysql.directory_sql(&text))
            .bind(begun.id.as_slice())
            .bind(begun.adjustment.sku_id.as_str().as_bytes())
            .bind(begun.adjustment.before)
            .bind(begun.adjustment.after)
            .bind(begun.adjustment.returned)
            .bind(plan)
            .bind(&begun.change.actor)
            .bind(&begun.change.reason)
            .bind(&begun.change.request_id)
            .bind(sale.id.as_str().as_bytes())
            .bind(sale.version)
            .execute(self.mysql.directory_pool())
            .await;
        match inserted {
            Ok(done) => Ok(done.rows_affected() == 1),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(fault(error)),
        }
    }

    /// Reads the adjustments that are under way: that of one sale, or all that began longer ago than `age_ms`.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn under_way(&self, sale: Option<&SaleId>, age_ms: i64) -> StoreResult<Vec<Begun>> {
        self.mysql.read(CONTEXT, self.read(sale, age_ms)).await
    }

    async fn read(&self, sale: Option<&SaleId>, age_ms: i64) -> StoreResult<Vec<Begun>> {
        let wanted = if sale.is_some() { "sale_id = ? AND" } else { "" };
        let text = format!(
            "SELECT {COLUMNS} FROM {{directory}}.stock_adjustments WHERE {wanted} begun_ms <= {NOW_MS} - ?"
        );
        let mut query = sqlx::query(self.mysql.directory_sql(&text));
        if let Some(sale) = sale {
            query = query.bind(sale.as_str().as_bytes());
        }
        let rows = query.bind(age_ms).fetch_all(self.mysql.directory_pool()).await;
        rows.map_err(|error| failed(CONTEXT, error))?.iter().map(begun).collect()
    }

    /// Gives the items the new stock, and writes the audit row. Idempotent. Answers `false` when the adjustment is not
    /// under way any more.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn list(&self, sale: &Sale, begun: &Begun) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, self.write_stock(sale, begun)).await
    }

    async fn write_stock(&self, sale: &Sale, begun: &Begun) -> StoreResult<bool> {
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CONTEXT).await?;
        // The sale's row is locked first, as by everybody who changes a sale. Its version says what the row is of.
        let text = "UPDATE {directory}.sales SET version = version + 1 WHERE sale_id = ?";
        self.execute(text, begun, &[], &mut tx).await?;
        let text = "UPDATE {directory}.stock_adjustments SET is_listed = TRUE \
                    WHERE sale_id = ? AND adjustment_id = ? AND NOT is_listed";
        if self.execute(text, begun, &[begun.id.as_slice()], &mut tx).await? == 0 {
            tx.rollback().await.map_err(|error| failed(CONTEXT, error))?;
            let standing = self.read(Some(&begun.sale), 0).await?;
            return Ok(standing.iter().any(|standing| standing.id == begun.id));
        }
        let text = format!(
            "UPDATE {{directory}}.items SET stock = {} WHERE sale_id = ? AND sku_id = ?",
            begun.adjustment.after
        );
        self.execute(&text, begun, &[begun.adjustment.sku_id.as_str().as_bytes()], &mut tx).await?;
        let sale = Box::new(begun.adjustment.applied_to(sale));
        let subject = Subject::Stock { sale, adjusted: begun.adjustment.clone() };
        audit(&self.mysql, &begun.change, &subject, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(true)
    }

    async fn execute(
        &self,
        text: &str,
        begun: &Begun,
        more: &[&[u8]],
        tx: &mut Transaction<'_, MySql>,
    ) -> StoreResult<u64> {
        let mut query = sqlx::query(self.mysql.directory_sql(text)).bind(begun.sale.as_str().as_bytes());
        for value in more {
            query = query.bind(*value);
        }
        let done = query.execute(&mut **tx).await;
        done.map(|done| done.rows_affected()).map_err(|error| failed(CONTEXT, error))
    }

    /// Removes an adjustment that is at its end. Idempotent.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn end(&self, begun: &Begun) -> StoreResult<()> {
        let remove = async {
            let text = "DELETE FROM {directory}.stock_adjustments WHERE sale_id = ? AND adjustment_id = ?";
            let query = sqlx::query(self.mysql.directory_sql(text))
                .bind(begun.sale.as_str().as_bytes())
                .bind(begun.id.as_slice());
            let done = query.execute(self.mysql.directory_pool()).await;
            done.map(drop).map_err(|error| failed(CONTEXT, error))
        };
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, remove).await
    }

    /// Decides which instances give back how many of the units that they withhold. There may be fewer than `units`.
    ///
    /// # Errors
    /// When an instance could not be read.
    pub async fn withholders(
        &self,
        sale: &SaleId,
        sku: &SkuId,
        mut units: u32,
    ) -> StoreResult<Vec<(u16, u32)>> {
        let mut returned = Vec::new();
        for at in self.mysql.map.ring_of(sku) {
            if units == 0 {
                break;
            }
            let text = "SELECT withheld FROM {control}.ledger WHERE sale_id = ? AND sku_id = ?";
            let query = sqlx::query_scalar(self.mysql.control_sql(at, text))
                .bind(sale.as_str().as_bytes())
                .bind(sku.as_str().as_bytes());
            let withheld: Option<i64> = self
                .mysql
                .read(CONTEXT, async {
                    query.fetch_optional(self.mysql.pool(at)).await.map_err(|error| failed(CONTEXT, error))
                })
                .await?;
            let of = units.min(u32::try_from(withheld.unwrap_or(0)).unwrap_or(0));
            if of > 0 {
                returned.push((at.number(), of));
                units -= of;
            }
        }
        Ok(returned)
    }
}

fn damaged(what: String) -> StoreError {
    StoreError::broken(CONTEXT, what)
}

fn begun(row: &MySqlRow) -> StoreResult<Begun> {
    let fault = |error| failed(CONTEXT, error);
    let bytes = |column: &str| -> StoreResult<Vec<u8>> { row.try_get(column).map_err(fault) };
    let text = |column: &str| -> StoreResult<String> { row.try_get(column).map_err(fault) };
    let slug = |column: &str| String::from_utf8(bytes(column)?).map_err(|error| damaged(error.to_string()));
    let units = |column: &str| -> StoreResult<u32> {
        let number: i32 = row.try_get(column).map_err(fault)?;
        u32::try_from(number).map_err(|error| damaged(error.to_string()))
    };
    let id =
        bytes("adjustment_id")?.try_into().map_err(|_| damaged("an id of other than 16 bytes".to_owned()))?;
    Ok(Begun {
        id,
        sale: SaleId::parse(&slug("sale_id")?).map_err(|error| damaged(error.to_string()))?,
        adjustment: Adjustment {
            sku_id: SkuId::parse(&slug("sku_id")?).map_err(|error| damaged(error.to_string()))?,
            before: units("stock_before")?,
            after: units("stock_after")?,
            returned: units("returned")?,
        },
        plan: serde_json::from_str(&text("plan")?).map_err(|error| damaged(error.to_string()))?,
        change: Change {
            actor: text("actor")?,
            action: Adjustment::ACTION,
            reason: text("reason")?,
            request_id: text("request_id")?,
        },
        is_listed: row.try_get("is_listed").map_err(fault)?,
    })
}
