//! Writes the journal in the transaction of what it tells: a row of `order_moves` for each step, and an event.
//!
//! One thread writes, so all events of a folder are one partition, [`PART`], and are numbered in the order of their
//! commits.

use sqlx::sqlite::SqliteConnection;

use super::sqlite_rows::{change_one, failed, insert};
use crate::domain::{Mover, OrderMove, Part, journal};
use crate::ports::StoreResult;

/// The partition of all events of a folder.
pub const PART: Part = Part::new(0);

const NUMBER: &str =
    "UPDATE event_logs SET next_number = next_number + ? WHERE part = 0 RETURNING next_number";
const TELL: &str = "INSERT INTO order_events (first_number, events, at_ms, payload) VALUES (?, ?, ?, ?)";

/// Writes steps into `order_moves`.
///
/// # Errors
/// When a statement fails.
pub async fn note_moves(
    connection: &mut SqliteConnection,
    moves: &[OrderMove<'_>],
    now_ms: i64,
) -> StoreResult<()> {
    const MOVES: &str = "order_moves (order_id, kind, mover, why, at_ms)";
    insert(connection, (MOVES, 5, ""), moves, |query, step| {
        let query = query.bind(step.order_id.to_string()).bind(step.kind.as_ref());
        let mover = Some(step.by.as_ref()).filter(|by| *by != Mover::ORDER_WRITER.by);
        query.bind(mover).bind(step.why.as_deref()).bind(step.at_ms.unwrap_or(now_ms))
    })
    .await
}

/// Writes the events of steps.
///
/// # Errors
/// When a statement fails.
pub async fn tell(
    connection: &mut SqliteConnection,
    moves: &[OrderMove<'_>],
    now_ms: i64,
) -> StoreResult<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let events = i64::try_from(moves.len()).unwrap_or(i64::MAX);
    let next: i64 = sqlx::query_scalar(NUMBER)
        .bind(events)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| failed("write events", error))?;
    let query = sqlx::query(TELL).bind(next - events).bind(events).bind(now_ms);
    change_one(connection, query.bind(journal::encode(moves))).await
}
