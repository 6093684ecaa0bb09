//! Keeps the adjustments of stock, in the directory.

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
                       request_id, phase, taken_on_ms";

/// What is decided when an adjustment begins, and stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The epoch of each bucket, ascending; `None` for one that is not in place.
    pub epochs: Vec<Option<u32>>,
    /// How many of the units that go back on sale each instance withholds, by its number.
    pub returned: Vec<(u16, u32)>,
}

/// How far an adjustment is. It goes on from the first one to one of the others, and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has decided whether it can be.
    Begun,
    /// The directory has it.
    Listed,
    /// It cannot be.
    Refused,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Begun, Self::Listed, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Listed => "listed",
            Self::Refused => "refused",
        }
    }
}

/// An adjustment.
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
    /// How far it is.
    pub phase: Phase,
    /// When a process last set about it, ms since 1970; 0 before it is inserted.
    pub taken_on_ms: i64,
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
        // The version is looked at in the same statement, under a lock: a sale that is ended or settled meanwhile has
        // another one.
        let text = format!(
            "INSERT INTO {{directory}}.stock_adjustments ({COLUMNS}, under_way) \
             SELECT sale_id, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'begun', {NOW_MS}, TRUE FROM {{directory}}.sales \
             WHERE sale_id = ? AND version = ? LOCK IN SHARE MODE"
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

    /// Reads the adjustment of a sale that is under way; `None` when none is.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn under_way(&self, sale: &SaleId) -> StoreResult<Option<Begun>> {
        let which = "under_way AND sale_id = ?";
        let found = self.mysql.read(CONTEXT, self.read(which, Some(sale.as_str().as_bytes()))).await?;
        Ok(found.into_iter().next())
    }

    /// Reads all adjustments that are under way and that nobody has set about for `age_ms`.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn left(&self, age_ms: i64) -> StoreResult<Vec<Begun>> {
        let which = format!("under_way AND taken_on_ms <= {NOW_MS} - {age_ms}");
        self.mysql.read(CONTEXT, self.read(&which, None)).await
    }

    /// Reads the adjustments that a sale has had, in their order.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn listed(&self, sale: &SaleId) -> StoreResult<Vec<Begun>> {
        let which = "phase = 'listed' AND sale_id = ?";
        self.mysql.read(CONTEXT, self.read(which, Some(sale.as_str().as_bytes()))).await
    }

    async fn read(&self, which: &str, value: Option<&[u8]>) -> StoreResult<Vec<Begun>> {
        let text =
            format!("SELECT {COLUMNS} FROM {{directory}}.stock_adjustments WHERE {which} ORDER BY number");
        let query = sqlx::query(self.mysql.directory_sql(&text));
        let query = value.into_iter().fold(query, |query, value| query.bind(value));
        let rows = query.fetch_all(self.mysql.directory_pool()).await;
        rows.map_err(|error| failed(CONTEXT, error))?.iter().map(begun).collect()
    }

    /// Sets about an adjustment that somebody has left. Answers `false` when another process was quicker.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn take_on(&self, begun: &Begun) -> StoreResult<bool> {
        let text = format!(
            "UPDATE {{directory}}.stock_adjustments SET taken_on_ms = GREATEST({NOW_MS}, taken_on_ms + 1) \
             WHERE adjustment_id = ? AND under_way AND taken_on_ms = {}",
            begun.taken_on_ms
        );
        Ok(self.change(&text, begun).await? == 1)
    }

    /// Decides that an adjustment cannot be. Answers how far it is then, because another process may have decided;
    /// `None` when it is at its end.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn refuse(&self, begun: &Begun) -> StoreResult<Option<Phase>> {
        let text = "UPDATE {directory}.stock_adjustments SET phase = 'refused' \
                    WHERE adjustment_id = ? AND phase = 'begun'";
        self.change(text, begun).await?;
        self.phase(begun).await
    }

    /// Gives the items the new stock, and writes the audit row, unless it was decided otherwise. Idempotent. Answers as
    /// [`Self::refuse`].
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn list(&self, sale: &Sale, begun: &Begun) -> StoreResult<Option<Phase>> {
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, self.write_stock(sale, begun)).await?;
        self.phase(begun).await
    }

    async fn phase(&self, begun: &Begun) -> StoreResult<Option<Phase>> {
        let found = self.under_way(&begun.sale).await?;
        Ok(found.filter(|found| found.id == begun.id).map(|found| found.phase))
    }

    /// The sale's row is locked first, as by everybody who changes a sale.
    async fn write_stock(&self, sale: &Sale, begun: &Begun) -> StoreResult<()> {
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CONTEXT).await?;
        self.raise_version(begun, &mut tx).await?;
        let text = "UPDATE {directory}.stock_adjustments SET phase = 'listed' \
                    WHERE adjustment_id = ? AND phase = 'begun'";
        if execute(&self.mysql, text, &[&begun.id], &mut tx).await? == 0 {
            return Ok(());
        }
        let Adjustment { sku_id, after, .. } = &begun.adjustment;
        let text = format!("UPDATE {{directory}}.items SET stock = {after} WHERE sale_id = ? AND sku_id = ?");
        let item = [begun.sale.as_str().as_bytes(), sku_id.as_str().as_bytes()];
        execute(&self.mysql, &text, &item, &mut tx).await?;
        let sale = Box::new(begun.adjustment.applied_to(sale));
        let subject = Subject::Stock { sale, adjusted: begun.adjustment.clone(), refused: false };
        audit(&self.mysql, &begun.change, &subject, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))
    }

    /// Notes that an adjustment is at its end. Idempotent. One that was refused is noted in the audit log, and raises
    /// the sale's version: a rebuild that has not seen it begins anew.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn end(&self, sale: &Sale, begun: &Begun, phase: Phase) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, self.write_end(sale, begun, phase)).await
    }

    async fn write_end(&self, sale: &Sale, begun: &Begun, phase: Phase) -> StoreResult<()> {
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CONTEXT).await?;
        if phase == Phase::Refused {
            self.raise_version(begun, &mut tx).await?;
        }
        let text = "UPDATE {directory}.stock_adjustments SET under_way = NULL \
                    WHERE adjustment_id = ? AND under_way AND phase = ?";
        if execute(&self.mysql, text, &[&begun.id, phase.as_str().as_bytes()], &mut tx).await? == 0 {
            return Ok(());
        }
        if phase == Phase::Refused {
            let sale = Box::new(Sale { version: sale.version + 1, ..sale.clone() });
            let subject = Subject::Stock { sale, adjusted: begun.adjustment.clone(), refused: true };
            audit(&self.mysql, &begun.change, &subject, &mut tx).await?;
        }
        tx.commit().await.map_err(|error| failed(CONTEXT, error))
    }

    async fn raise_version(&self, begun: &Begun, tx: &mut Transaction<'_, MySql>) -> StoreResult<()> {
        let text = "UPDATE {directory}.sales SET version = version + 1 WHERE sale_id = ?";
        execute(&self.mysql, text, &[begun.sale.as_str().as_bytes()], tx).await.map(drop)
    }

    async fn change(&self, text: &str, begun: &Begun) -> StoreResult<u64> {
        let change = async {
            let query = sqlx::query(self.mysql.directory_sql(text)).bind(begun.id.as_slice());
            let done = query.execute(self.mysql.directory_pool()).await;
            done.map(|done| done.rows_affected()).map_err(|error| failed(CONTEXT, error))
        };
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, change).await
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

async fn execute(
    mysql: &Mysql,
    text: &str,
    values: &[&[u8]],
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u64> {
    let query = sqlx::query(mysql.directory_sql(text));
    let query = values.iter().fold(query, |query, value| query.bind(*value));
    let done = query.execute(&mut **tx).await;
    done.map(|done| done.rows_affected()).map_err(|error| failed(CONTEXT, error))
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
    let word = text("phase")?;
    let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == word);
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
        phase: phase.ok_or_else(|| damaged("a phase that is not ours".to_owned()))?,
        taken_on_ms: row.try_get("taken_on_ms").map_err(fault)?,
    })
}
