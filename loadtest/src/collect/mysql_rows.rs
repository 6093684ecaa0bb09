//! Reads the tables of control and shard databases, row by row.

use anyhow::Context;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::mysql_fields::{fetch, number, optional_text, order_id, text};
use crate::evidence::{
    Claim, DeadLetter, GrantRow, InstanceBooks, LedgerRow, Move, OrderRow, OwedRow, Place, PoolRow, RowState,
};

fn small(value: i64, what: &str) -> anyhow::Result<u16> {
    u16::try_from(value).with_context(|| format!("{what} {value} is out of range"))
}

/// Reads what a control database holds of a sale.
pub async fn books(
    connection: &mut MySqlConnection,
    control: &str,
    sale: &str,
    topic: &str,
) -> anyhow::Result<InstanceBooks> {
    let mut books = InstanceBooks::default();
    let query =
        format!("SELECT sku_id, allotted, held, sold, withheld FROM {control}.ledger WHERE sale_id = ?");
    for row in fetch(connection, query, &[sale]).await? {
        books.ledger.push(LedgerRow {
            sku: text(&row, 0)?,
            allotted: number(&row, 1)?,
            held: number(&row, 2)?,
            sold: number(&row, 3)?,
            withheld: number(&row, 4)?,
        });
    }
    let query = format!("SELECT sku_id, stock, granted FROM {control}.pool WHERE sale_id = ?");
    for row in fetch(connection, query, &[sale]).await? {
        books.pools.push(PoolRow { sku: text(&row, 0)?, stock: number(&row, 1)?, granted: number(&row, 2)? });
    }
    let query =
        format!("SELECT grant_id, sku_id, taker, units, from_ledger FROM {control}.grants WHERE sale_id = ?");
    for row in fetch(connection, query, &[sale]).await? {
        books.grants.push(GrantRow {
            id: sqlx::Row::try_get(&row, 0)?,
            sku: text(&row, 1)?,
            taker: small(number(&row, 2)?, "grants.taker")?,
            units: number(&row, 3)?,
            from_ledger: sqlx::Row::try_get(&row, 4)?,
        });
    }
    let query = format!("SELECT order_id, restock FROM {control}.release_outbox WHERE sale_id = ?");
    for row in fetch(connection, query, &[sale]).await? {
        books.owed.push(OwedRow { order: order_id(&row, 0)?, restock: sqlx::Row::try_get(&row, 1)? });
    }
    // Those of an earlier log of this name say nothing about the records of this one.
    let query = format!(
        "SELECT d.part, d.log_offset, d.reason FROM {control}.dead_letters d JOIN {control}.consumer_positions p \
         ON p.topic = d.topic AND p.part = d.part AND d.log_id IN (p.log_id, X'00000000000000000000000000000000') WHERE d.topic = ?"
    );
    for row in fetch(connection, query, &[topic]).await? {
        books.dead_letters.push(DeadLetter {
            part: small(number(&row, 0)?, "dead_letters.part")?,
            offset: number(&row, 1)?,
            reason: text(&row, 2)?,
        });
    }
    let query = format!("SELECT part, next_offset FROM {control}.consumer_positions WHERE topic = ?");
    for row in fetch(connection, query, &[topic]).await? {
        books.positions.insert(small(number(&row, 0)?, "consumer_positions.part")?, number(&row, 1)?);
    }
    Ok(books)
}

/// Reads the rows of a sale in one orders table.
pub async fn orders(
    connection: &mut MySqlConnection,
    database: &str,
    yyyymm: u32,
    place: &Place,
    sale: &str,
) -> anyhow::Result<Vec<OrderRow>> {
    let query = format!(
        "SELECT order_id, sku_id, user_id, quantity, unit_price, currency, state, reason, epoch, accepted_ms, \
         created_ms, expires_ms, reference FROM {database}.orders_{yyyymm} WHERE sale_id = ?"
    );
    let mut orders = Vec::new();
    for row in fetch(connection, query, &[sale]).await? {
        let state = text(&row, 6)?;
        orders.push(OrderRow {
            place: place.clone(),
            yyyymm,
            id: order_id(&row, 0)?,
            sku: text(&row, 1)?,
            user: text(&row, 2)?,
            quantity: number(&row, 3)?,
            unit_price: number(&row, 4)?,
            currency: text(&row, 5)?,
            reference: optional_text(&row, 12)?,
            state: RowState::parse(&state).with_context(|| format!("unknown order state {state:?}"))?,
            reason: optional_text(&row, 7)?,
            epoch: number(&row, 8)?,
            accepted_ms: number(&row, 9)?,
            created_ms: number(&row, 10)?,
            expires_ms: number(&row, 11)?,
        });
    }
    Ok(orders)
}

/// Reads the claims of a sale in one shard.
pub async fn claims(
    connection: &mut MySqlConnection,
    database: &str,
    place: &Place,
    sale: &str,
) -> anyhow::Result<Vec<Claim>> {
    let query = format!("SELECT user_id, unit, order_id FROM {database}.claims WHERE sale_id = ?");
    let mut claims = Vec::new();
    for row in fetch(connection, query, &[sale]).await? {
        claims.push(Claim {
            place: place.clone(),
            user: text(&row, 0)?,
            unit: number(&row, 1)?,
            order: order_id(&row, 2)?,
        });
    }
    Ok(claims)
}

/// Reads the moves of the sale's orders in one shard, and those that belong to no order of any sale.
pub async fn moves(
    connection: &mut MySqlConnection,
    database: &str,
    months: &[u32],
    place: &Place,
    sale: &str,
) -> anyhow::Result<Vec<Move>> {
    let table = (database, "order_moves");
    let found = of_orders(connection, table, "t.order_id, t.kind, t.at_ms", months, sale).await?;
    let step = |row: &MySqlRow| -> anyhow::Result<Move> {
        Ok(Move {
            place: place.clone(),
            order: order_id(row, 0)?,
            kind: text(row, 1)?,
            at_ms: number(row, 2)?,
        })
    };
    found.iter().map(step).collect()
}

/// Reads columns of a table `t` whose rows belong to orders: the rows of the sale's orders in one shard, and those that
/// belong to no order of any sale.
pub async fn of_orders(
    connection: &mut MySqlConnection,
    (database, table): (&str, &str),
    columns: &str,
    months: &[u32],
    sale: &str,
) -> anyhow::Result<Vec<MySqlRow>> {
    let mut found = Vec::new();
    let mut orphan = format!("SELECT {columns} FROM {database}.{table} t WHERE TRUE");
    for yyyymm in months {
        let orders = format!("{database}.orders_{yyyymm}");
        let query = format!(
            "SELECT {columns} FROM {orders} o JOIN {database}.{table} t ON t.order_id = o.order_id \
             WHERE o.sale_id = ?"
        );
        found.extend(fetch(connection, query, &[sale]).await?);
        orphan.push_str(&format!(" AND NOT EXISTS (SELECT 1 FROM {orders} o WHERE o.order_id = t.order_id)"));
    }
    found.extend(fetch(connection, orphan, &[]).await?);
    Ok(found)
}
