//! Takes orders along the arrows of their life, in the writer's transaction, with all that follows.

use sqlx::sqlite::SqliteConnection;

use super::sqlite_batch::{count_unpaid, free_buyer, return_units};
use super::sqlite_journal::{note_moves, tell};
use super::sqlite_order_store::{COLUMNS, read};
use super::sqlite_rows::{change_one, failed};
use crate::domain::order_life::{Arrow, LedgerColumn};
use crate::domain::{Decision, Mover, Order, OrderId, OrderMove, OrderState};
use crate::ports::{Moved, StoreResult};

const CONTEXT: &str = "change order";

/// Reads an order in the writer's transaction; `None` when it has no row.
///
/// # Errors
/// When it cannot be read.
pub async fn find(connection: &mut SqliteConnection, order: OrderId) -> StoreResult<Option<Order>> {
    let text = format!("SELECT {COLUMNS} FROM orders WHERE order_id = ?");
    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(order.to_string());
    let row = query.fetch_optional(connection).await.map_err(|error| failed(CONTEXT, error))?;
    row.as_ref().map(read).transpose()
}

/// Takes an order along an arrow, with all that follows. The units of an order that holds nothing any more go back on
/// sale, or else they are withheld when they were sold before.
///
/// # Errors
/// When a statement fails, or changes another number of rows than one.
pub async fn follow(
    connection: &mut SqliteConnection,
    (arrow, restock, mover): (&Arrow, bool, &Mover<'_>),
    mut order: Order,
    now_ms: i64,
) -> StoreResult<Moved> {
    let set = "UPDATE orders SET state = ? WHERE order_id = ? AND state = ?";
    let query =
        sqlx::query(set).bind(arrow.to.as_str()).bind(order.id.to_string()).bind(order.state.as_str());
    change_one(connection, query).await?;
    let moves = [OrderMove::of(&order, (arrow, restock), mover)];
    note_moves(connection, &moves, now_ms).await?;
    tell(connection, &moves, now_ms).await?;
    let units = |column| {
        let of = |state: OrderState| i64::from(state.facts().units == Some(column));
        (of(arrow.to) - of(order.state)) * i64::from(order.quantity.units())
    };
    let withheld = if restock { 0 } else { -units(LedgerColumn::Sold) };
    let count = "UPDATE ledger SET held = held + ?, sold = sold + ?, withheld = withheld + ? \
                 WHERE sale_id = ? AND sku_id = ?";
    let query =
        sqlx::query(count).bind(units(LedgerColumn::Held)).bind(units(LedgerColumn::Sold)).bind(withheld);
    change_one(connection, query.bind(order.sale.as_str()).bind(order.sku.as_str())).await?;
    order.state = arrow.to;
    let decision = if order.state.holds_nothing() {
        let drop = "DELETE FROM claims WHERE sale_id = ? AND user_id = ? AND order_id = ?";
        let query = sqlx::query(drop).bind(order.sale.as_str()).bind(order.user.as_str());
        let dropped = query.bind(order.id.to_string()).execute(&mut *connection).await;
        dropped.map_err(|error| failed(CONTEXT, error))?;
        give_back(connection, &order, restock).await?
    } else {
        Decision { order: order.id, state: order.state, buyer_keeps: None }
    };
    Ok(Moved::Done { order: Box::new(order), decision })
}

/// Takes the units of an order that holds nothing any more off its buyer, and puts them back on sale if they are to go
/// there. Its row changed to its last state in this transaction, so that happens once.
///
/// # Errors
/// When a statement fails.
pub async fn give_back(
    connection: &mut SqliteConnection,
    order: &Order,
    restock: bool,
) -> StoreResult<Decision> {
    let text = "SELECT COUNT(*) FROM claims WHERE sale_id = ? AND user_id = ?";
    let query = sqlx::query_scalar(text).bind(order.sale.as_str()).bind(order.user.as_str());
    let keeps: i64 = query.fetch_one(&mut *connection).await.map_err(|error| failed(CONTEXT, error))?;
    let keeps = u32::try_from(keeps).unwrap_or(u32::MAX);
    free_buyer(connection, order.id, keeps).await?;
    if matches!(order.state, OrderState::Cancelled | OrderState::Expired) {
        count_unpaid(connection, order.id).await?;
    }
    if restock {
        return_units(connection, order.id).await?;
    }
    Ok(Decision { order: order.id, state: order.state, buyer_keeps: Some(keeps) })
}
