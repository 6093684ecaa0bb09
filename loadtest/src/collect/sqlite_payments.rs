//! Reads the money in a folder, row by row.

use std::collections::BTreeSet;

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::payment::{orphan_state, payment, refund_state};
use super::sqlite_fields::{fetch, number, order_id, text};
use crate::evidence::{OrphanRow, PaymentRow, Place, RefundRow};
use crate::ids::OrderId;

/// Payments of the sale's orders, and payments that belong to no order of any sale.
const PAYMENTS: &str = "SELECT p.order_id, p.attempt, p.state, p.request, p.reference, p.capture FROM payments p \
     LEFT JOIN orders o ON o.order_id = p.order_id WHERE o.sale_id = ? OR o.order_id IS NULL";
/// Refunds of the same orders.
const REFUNDS: &str = "SELECT r.order_id, r.attempt, r.amount, r.currency, r.capture, r.reason, r.state FROM refunds r \
     LEFT JOIN orders o ON o.order_id = r.order_id WHERE o.sale_id = ? OR o.order_id IS NULL";
const OTHER_SALES: &str = "SELECT DISTINCT p.order_id FROM payments p JOIN orders o ON o.order_id = p.order_id \
     WHERE o.sale_id <> ?";
const ORPHANS: &str = "SELECT capture, payment, amount, currency, state FROM orphan_captures";

/// Reads the payments of the sale's orders, and those that belong to no order of any sale.
pub async fn payments(
    connection: &mut SqliteConnection,
    sale: &str,
    place: impl Fn(u16) -> Place,
) -> anyhow::Result<Vec<PaymentRow>> {
    let found = fetch(connection, PAYMENTS, Some(sale)).await?;
    let row = |row: &SqliteRow| -> anyhow::Result<PaymentRow> {
        let key = (order_id(row, 0)?, number(row, 1)?);
        let references = (sqlx::Row::try_get(row, 4)?, sqlx::Row::try_get(row, 5)?);
        payment(place(key.0.shard()), key, (&text(row, 2)?, &text(row, 3)?), references)
    };
    found.iter().map(row).collect()
}

/// Reads the refunds of the sale's orders, and those that belong to no order of any sale.
pub async fn refunds(
    connection: &mut SqliteConnection,
    sale: &str,
    place: impl Fn(u16) -> Place,
) -> anyhow::Result<Vec<RefundRow>> {
    let found = fetch(connection, REFUNDS, Some(sale)).await?;
    let row = |row: &SqliteRow| -> anyhow::Result<RefundRow> {
        let order = order_id(row, 0)?;
        Ok(RefundRow {
            place: place(order.shard()),
            order,
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

/// Reads the orders of other sales that have payments.
pub async fn other_sales(connection: &mut SqliteConnection, sale: &str) -> anyhow::Result<BTreeSet<OrderId>> {
    fetch(connection, OTHER_SALES, Some(sale)).await?.iter().map(|row| order_id(row, 0)).collect()
}

/// Reads the captures that no payment explains, of all sales.
pub async fn orphans(connection: &mut SqliteConnection) -> anyhow::Result<Vec<OrphanRow>> {
    let row = |row: &SqliteRow| -> anyhow::Result<OrphanRow> {
        Ok(OrphanRow {
            capture: text(row, 0)?,
            payment: text(row, 1)?,
            amount: number(row, 2)?,
            currency: text(row, 3)?,
            state: orphan_state(&text(row, 4)?)?,
        })
    };
    fetch(connection, ORPHANS, None).await?.iter().map(row).collect()
}
