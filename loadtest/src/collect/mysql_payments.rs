//! Reads the money in the shards and in the directory, row by row.

use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::mysql_fields::{fetch, number, optional_text, order_id, text};
use super::mysql_rows::of_orders;
use super::payment::{orphan_state, payment, refund_state};
use crate::evidence::{OrphanRow, PaymentRow, Place, RefundRow};
use crate::ids::OrderId;

const PAYMENT: &str = "t.order_id, t.attempt, t.state, t.request, t.reference, t.capture";
const REFUND: &str = "t.order_id, t.attempt, t.amount, t.currency, t.capture, t.reason, t.state";

/// Reads the payments of the sale's orders in one shard, and those that belong to no order of any sale.
pub async fn payments(
    connection: &mut MySqlConnection,
    database: &str,
    months: &[u32],
    place: &Place,
    sale: &str,
) -> anyhow::Result<Vec<PaymentRow>> {
    let found = of_orders(connection, (database, "payments"), PAYMENT, months, sale).await?;
    let row = |row: &MySqlRow| -> anyhow::Result<PaymentRow> {
        let key = (order_id(row, 0)?, number(row, 1)?);
        let references = (optional_text(row, 4)?, optional_text(row, 5)?);
        payment(place.clone(), key, (&text(row, 2)?, &text(row, 3)?), references)
    };
    found.iter().map(row).collect()
}

/// Reads the refunds of the sale's orders in one shard, and those that belong to no order of any sale.
pub async fn refunds(
    connection: &mut MySqlConnection,
    database: &str,
    months: &[u32],
    place: &Place,
    sale: &str,
) -> anyhow::Result<Vec<RefundRow>> {
    let found = of_orders(connection, (database, "refunds"), REFUND, months, sale).await?;
    let row = |row: &MySqlRow| -> anyhow::Result<RefundRow> {
        Ok(RefundRow {
            place: place.clone(),
            order: order_id(row, 0)?,
            attempt: number(row, 1)?,
            amount: number(row, 2)?,
            currency: text(row, 3)?,
            capture: text(row, 4)?,
            reason: text(row, 5)?,
            state: refund_state(&text(row, 6)?)?,
        })
    };
    found.iter().map(row).collect()
}

/// Reads the orders of other sales in one shard that have payments.
pub async fn other_sales(
    connection: &mut MySqlConnection,
    database: &str,
    months: &[u32],
    sale: &str,
) -> anyhow::Result<Vec<OrderId>> {
    let mut orders = Vec::new();
    for yyyymm in months {
        let query = format!(
            "SELECT DISTINCT p.order_id FROM {database}.payments p JOIN {database}.orders_{yyyymm} o \
             ON o.order_id = p.order_id WHERE o.sale_id <> ?"
        );
        for row in fetch(connection, query, &[sale]).await? {
            orders.push(order_id(&row, 0)?);
        }
    }
    Ok(orders)
}

/// Reads the captures that no payment explains, of all sales.
pub async fn orphans(connection: &mut MySqlConnection, directory: &str) -> anyhow::Result<Vec<OrphanRow>> {
    let query = format!("SELECT capture, payment, amount, currency, state FROM {directory}.orphan_captures");
    let row = |row: &MySqlRow| -> anyhow::Result<OrphanRow> {
        Ok(OrphanRow {
            capture: text(row, 0)?,
            payment: text(row, 1)?,
            amount: number(row, 2)?,
            currency: text(row, 3)?,
            state: orphan_state(&text(row, 4)?)?,
        })
    };
    fetch(connection, query, &[]).await?.iter().map(row).collect()
}
