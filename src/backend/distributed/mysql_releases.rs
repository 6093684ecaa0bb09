//! Writes, reads and removes the rows of `release_outbox` in the instances' control databases.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::mysql::{Mysql, failed};
use super::mysql_text::insert_rows;
use crate::domain::order_life::STATES;
use crate::domain::reservation::ReleaseRequest;
use crate::domain::{Decision, Instance, OrderId, OrderState, Quantity, SaleId, SkuId, UserId};
use crate::ports::{Owed, Releases, StoreError, StoreResult};

/// Serves what is owed from the instances' control databases.
pub struct MysqlReleases {
    mysql: Arc<Mysql>,
}

impl MysqlReleases {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }
}

#[async_trait]
impl Releases for MysqlReleases {
    fn instances(&self) -> Vec<Instance> {
        self.mysql.map.all_instances().collect()
    }

    async fn owed(&self, at: Instance, after: i64, limit: usize) -> StoreResult<Vec<Owed>> {
        // A row of a state that this version does not know is left to a newer one, which has written it.
        let known = STATES.iter().filter(|facts| facts.state.holds_nothing());
        let known: Vec<String> = known.map(|facts| format!("'{}'", facts.word)).collect();
        let text = format!(
            "SELECT id, order_id, sale_id, state, buyer_keeps, restock FROM {{control}}.release_outbox \
             WHERE id > ? AND state IN ({}) ORDER BY id LIMIT ?",
            known.join(",")
        );
        let read = async {
            let query = sqlx::query(self.mysql.control_sql(at, &text)).bind(after);
            let query = query.bind(u32::try_from(limit).unwrap_or(u32::MAX));
            let rows = query.fetch_all(self.mysql.pool(at)).await;
            rows.map_err(|error| failed(READ, error))?.iter().map(owed).collect()
        };
        self.mysql.read(READ, read).await
    }

    async fn settle(&self, at: Instance, rows: &[i64]) -> StoreResult<()> {
        const CONTEXT: &str = "remove what is owed";
        if rows.is_empty() {
            return Ok(());
        }
        let ids = rows.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let text = format!("DELETE FROM {}.release_outbox WHERE id IN ({ids})", self.mysql.control(at));
        let remove = async {
            let removed = sqlx::raw_sql(AssertSqlSafe(text)).execute(self.mysql.pool(at)).await;
            removed.map(drop).map_err(|error| failed(CONTEXT, error))
        };
        self.mysql.change(at, CONTEXT, remove).await
    }
}

/// The units of one order that the inventory comes to be owed.
pub struct Owing<'a> {
    /// The order's sale.
    pub sale: &'a SaleId,
    /// What was bought.
    pub sku: &'a SkuId,
    /// The buyer.
    pub user: &'a UserId,
    /// How many units were bought.
    pub quantity: Quantity,
    /// What goes back.
    pub release: ReleaseRequest,
}

/// Writes what the inventory comes to be owed, in the transaction of the decision that frees the units.
///
/// # Errors
/// When a statement fails.
pub async fn owe(
    mysql: &Mysql,
    at: Instance,
    owed: &[Owing<'_>],
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let columns = "order_id, sale_id, sku_id, user_id, quantity, state, buyer_keeps, restock";
    let table = format!("{}.release_outbox ({columns})", mysql.control(at));
    insert_rows(tx, (&table, 8, ""), owed, |query, Owing { sale, sku, user, quantity, release }| {
        query
            .bind(release.decision.order.bytes().as_slice())
            .bind(sale.as_str().as_bytes())
            .bind(sku.as_str().as_bytes())
            .bind(user.as_str().as_bytes())
            .bind(quantity.units())
            .bind(release.decision.state.as_str())
            .bind(release.decision.buyer_keeps.unwrap_or(0))
            .bind(release.restock)
    })
    .await
}

const READ: &str = "read what is owed";

fn owed(row: &MySqlRow) -> StoreResult<Owed> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let (order, sale): (Vec<u8>, Vec<u8>) =
        (row.try_get("order_id").map_err(fault)?, row.try_get("sale_id").map_err(fault)?);
    let state: String = row.try_get("state").map_err(fault)?;
    let sale = std::str::from_utf8(&sale).ok().and_then(|sale| SaleId::parse(sale).ok());
    let keeps: i32 = row.try_get("buyer_keeps").map_err(fault)?;
    let decision = Decision {
        order: OrderId::from_bytes(&order).map_err(|error| broken(error.to_string()))?,
        state: OrderState::parse(&state).ok_or_else(|| broken(format!("state {state}")))?,
        buyer_keeps: Some(u32::try_from(keeps).unwrap_or(0)),
    };
    let restock = row.try_get("restock").map_err(fault)?;
    Ok(Owed {
        id: row.try_get("id").map_err(fault)?,
        sale: sale.ok_or_else(|| broken("a sale id that is not ours".to_owned()))?,
        release: ReleaseRequest { decision, restock },
    })
}
