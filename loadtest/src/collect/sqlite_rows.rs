//! Reads the tables of a folder, row by row, into the types of the evidence.

use std::collections::BTreeMap;

use anyhow::Context;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::record::record;
use super::sqlite_fields::{fetch, number, order_id, small, text};
use crate::evidence::{
    BucketFacts, Claim, DeadLetter, GrantRow, Hold, InstanceBooks, LedgerRow, LogFacts, Move, OrderRow,
    PartitionFacts, Place, PoolRow, RowState, SaleFacts,
};
use crate::ids::{OrderId, yyyymm};

const ORDERS: &str = "SELECT order_id, month, sku_id, user_id, quantity, unit_price, currency, state, reason, epoch, \
     accepted_ms, created_ms, expires_ms, reference FROM orders WHERE sale_id = ?";
/// Moves of the sale's orders, and moves that belong to no order of any sale.
const MOVES: &str = "SELECT m.order_id, m.kind, m.at_ms FROM order_moves m \
     LEFT JOIN orders o ON o.order_id = m.order_id WHERE o.sale_id = ? OR o.order_id IS NULL";
const GATES: &str =
    "SELECT bucket, epoch, state, opens_ms, closes_ms, buyer_limit FROM gates WHERE sale_id = ?";
/// The state of a reservation is that of its order's row. Without a row it waits in the log.
const HOLDS: &str = "SELECT r.bucket, r.order_id, r.sku_id, r.user_id, r.quantity, r.fingerprint, \
     COALESCE(o.state, 'queued'), COALESCE(o.state IN ('cancelled', 'expired', 'refunded') OR o.reason IN ('limit', 'given_up'), 0) \
     FROM reservations r LEFT JOIN orders o ON o.order_id = r.order_id \
     WHERE r.sale_id = ?";

/// Reads the order rows of a sale.
pub async fn orders(
    connection: &mut SqliteConnection,
    sale: &str,
    place: impl Fn(u16) -> Place,
) -> anyhow::Result<Vec<OrderRow>> {
    let found = fetch(connection, ORDERS, Some(sale)).await?;
    let order = |row: &SqliteRow| -> anyhow::Result<OrderRow> {
        let (id, state) = (order_id(row, 0)?, text(row, 7)?);
        Ok(OrderRow {
            place: place(id.shard()),
            yyyymm: yyyymm(small(row, 1)?),
            id,
            sku: text(row, 2)?,
            user: text(row, 3)?,
            quantity: number(row, 4)?,
            unit_price: number(row, 5)?,
            currency: text(row, 6)?,
            reference: sqlx::Row::try_get(row, 13)?,
            state: RowState::parse(&state).with_context(|| format!("unknown order state {state:?}"))?,
            reason: sqlx::Row::try_get(row, 8)?,
            epoch: number(row, 9)?,
            accepted_ms: number(row, 10)?,
            created_ms: number(row, 11)?,
            expires_ms: number(row, 12)?,
        })
    };
    found.iter().map(order).collect()
}

/// Reads the claims of a sale.
pub async fn claims(
    connection: &mut SqliteConnection,
    sale: &str,
    place: impl Fn(&str) -> Place,
) -> anyhow::Result<Vec<Claim>> {
    let query = "SELECT user_id, unit, order_id FROM claims WHERE sale_id = ?";
    let found = fetch(connection, query, Some(sale)).await?;
    let claim = |row: &SqliteRow| -> anyhow::Result<Claim> {
        let user = text(row, 0)?;
        Ok(Claim { place: place(&user), user, unit: number(row, 1)?, order: order_id(row, 2)? })
    };
    found.iter().map(claim).collect()
}

/// Reads the moves of the sale's orders, and those that belong to no order of any sale.
pub async fn moves(
    connection: &mut SqliteConnection,
    sale: &str,
    place: impl Fn(u16) -> Place,
) -> anyhow::Result<Vec<Move>> {
    let found = fetch(connection, MOVES, Some(sale)).await?;
    let step = |row: &SqliteRow| -> anyhow::Result<Move> {
        let order = order_id(row, 0)?;
        Ok(Move { place: place(order.shard()), order, kind: text(row, 1)?, at_ms: number(row, 2)? })
    };
    found.iter().map(step).collect()
}

/// Reads what a control database would hold of a sale, without the positions. A folder's ledger is also its pool, and
/// all units of the pool are granted to it.
pub async fn books(connection: &mut SqliteConnection, sale: &str) -> anyhow::Result<InstanceBooks> {
    let mut books = InstanceBooks::default();
    let query = "SELECT sku_id, stock, held, sold, withheld FROM ledger WHERE sale_id = ?";
    for row in fetch(connection, query, Some(sale)).await? {
        let (sku, stock) = (text(&row, 0)?, number(&row, 1)?);
        books.grants.push(GrantRow {
            id: Vec::new(),
            sku: sku.clone(),
            taker: 0,
            units: stock,
            from_ledger: false,
        });
        books.pools.push(PoolRow { sku: sku.clone(), stock, granted: stock });
        let (held, sold, withheld) = (number(&row, 2)?, number(&row, 3)?, number(&row, 4)?);
        books.ledger.push(LedgerRow { sku, allotted: stock, held, sold, withheld });
    }
    for row in fetch(connection, "SELECT part, log_offset, reason FROM dead_letters", None).await? {
        let (part, offset, reason) = (small(&row, 0)?, number(&row, 1)?, text(&row, 2)?);
        books.dead_letters.push(DeadLetter { part, offset, reason });
    }
    Ok(books)
}

/// Reads the inventory by bucket number. Rows of buckets that the sale does not have are read too.
pub async fn buckets(
    connection: &mut SqliteConnection,
    sale: &SaleFacts,
) -> anyhow::Result<Vec<Option<BucketFacts>>> {
    let mut found: BTreeMap<u16, BucketFacts> = BTreeMap::new();
    for row in fetch(connection, GATES, Some(&sale.id)).await? {
        let numbers = [("epoch", 1), ("opens_ms", 3), ("closes_ms", 4), ("buyer_limit", 5)];
        let gate = &mut found.entry(small(&row, 0)?).or_default().gate;
        gate.insert("state".to_owned(), text(&row, 2)?);
        for (field, index) in numbers {
            gate.insert(field.to_owned(), number(&row, index)?.to_string());
        }
    }
    let query = "SELECT bucket, sku_id, available FROM stock WHERE sale_id = ?";
    for row in fetch(connection, query, Some(&sale.id)).await? {
        found.entry(small(&row, 0)?).or_default().stock.insert(text(&row, 1)?, number(&row, 2)?);
    }
    let query = "SELECT bucket, user_id, units FROM buyers WHERE sale_id = ?";
    for row in fetch(connection, query, Some(&sale.id)).await? {
        found.entry(small(&row, 0)?).or_default().buyers.insert(text(&row, 1)?, number(&row, 2)?);
    }
    for row in fetch(connection, HOLDS, Some(&sale.id)).await? {
        let (id, hold) = hold(&row)?;
        found.entry(small(&row, 0)?).or_default().holds.insert(id, hold);
    }
    let last = found.keys().next_back().map_or(0, |last| last + 1);
    Ok((0..last.max(sale.buckets)).map(|bucket| found.remove(&bucket)).collect())
}

fn hold(row: &SqliteRow) -> anyhow::Result<(OrderId, Hold)> {
    let state = text(row, 6)?;
    let state = match (RowState::parse(&state), state.as_str()) {
        (Some(RowState::AwaitingPayment), _) => 'a',
        (Some(RowState::Paid), _) => 'p',
        (Some(RowState::Cancelled), _) => 'c',
        (Some(RowState::Expired), _) => 'e',
        (Some(RowState::Refunded), _) => 'f',
        (Some(RowState::Rejected), _) => 'x',
        (None, "queued") => 'q',
        (None, _) => '?',
    };
    let hold = Hold {
        state,
        // Units go back on sale in the transaction that frees them. What is sold out does not go back.
        released: number(row, 7)? != 0,
        fingerprint: text(row, 5)?,
        quantity: number(row, 4)?,
        sku: text(row, 2)?,
        user: text(row, 3)?,
    };
    Ok((order_id(row, 1)?, hold))
}

/// Reads the sale's records, and those that are not records at all.
pub async fn log(
    connection: &mut SqliteConnection,
    sale: &str,
    partitions: Vec<PartitionFacts>,
) -> anyhow::Result<LogFacts> {
    let mut facts = LogFacts { partitions, records: Vec::new() };
    for row in fetch(connection, "SELECT part, log_offset, payload FROM order_log", None).await? {
        let payload: Vec<u8> = sqlx::Row::try_get(&row, 2)?;
        facts.records.extend(record(small(&row, 0)?, number(&row, 1)?, &payload, sale));
    }
    Ok(facts)
}
