//! Writes the journal in the transaction of what it tells: a row of `order_moves` for each step, and an event.
//!
//! An event's number is given when all else of its transaction is written. The row that counts the numbers of a
//! partition stays locked until the commit, so numbers are committed in their order and without gaps. A reader that
//! asks for what follows a number misses nothing.

use sqlx::{AssertSqlSafe, MySql, Transaction};

use super::mysql::{Mysql, failed};
use super::mysql_text::{push_all, push_bytes, push_insert};
use crate::domain::{Mover, NodeMark, OrderMove, Part, Shard, journal};
use crate::ports::{StoreError, StoreResult};

const TELL: &str = "write events";
/// Most bytes of a payload that is written into the text of its statement.
const LITERAL_BYTES_MAX: usize = 2048;

/// The columns that [`push_move`] writes.
pub const MOVE_COLUMNS: &str = "order_id, kind, mover, why, at_ms, node";

/// Appends the row of a step in `order_moves`. Its time is `@now_ms` and its process is `node`, unless the step was
/// taken elsewhere and has a time of its own.
pub fn push_move(text: &mut String, step: &OrderMove<'_>, node: NodeMark) {
    push_bytes(text, step.order_id.bytes());
    push_all(text, format_args!(",'{}'", step.kind));
    let is_writer = step.by == Mover::ORDER_WRITER.by;
    for words in [Some(&step.by).filter(|_| !is_writer), step.why.as_ref()] {
        match words {
            Some(words) => {
                text.push(',');
                push_bytes(text, words.as_bytes());
            }
            None => text.push_str(",NULL"),
        }
    }
    match step.at_ms {
        Some(at_ms) => push_all(text, format_args!(",{at_ms},NULL")),
        None => {
            text.push_str(",@now_ms,");
            push_bytes(text, &node.bytes());
        }
    }
}

/// Writes the rows of steps in `order_moves`, of orders of one shard. Their time is `@now_ms`.
///
/// # Errors
/// When a statement fails.
pub async fn note_moves(
    mysql: &Mysql,
    shard: Shard,
    moves: &[OrderMove<'_>],
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let table = format!("{}.order_moves ({MOVE_COLUMNS})", mysql.shard(shard));
    let mut statements = Vec::new();
    push_insert(&mut statements, &table, moves, |text, step| push_move(text, step, mysql.node.mark()));
    for statement in statements {
        let noted = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **tx).await;
        noted.map_err(|error| failed("write moves", error))?;
    }
    Ok(())
}

/// Writes the events of orders of one partition. Their time is `@now_ms`. It is the last that a transaction does, and
/// partitions come in ascending order: nobody who holds the lock of a partition's numbers waits for another lock.
///
/// # Errors
/// When a statement fails, or the partition has no numbers.
pub async fn tell(
    mysql: &Mysql,
    part: Part,
    moves: &[OrderMove<'_>],
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let control = mysql.control(mysql.map.instance_of_part(part));
    let (part, events) = (part.number(), moves.len());
    let payload = journal::encode(moves);
    let number = format!(
        "UPDATE {control}.event_logs SET next_number = LAST_INSERT_ID(next_number) + {events} WHERE part = {part};"
    );
    // A long payload as a literal costs more than a second round trip with a prepared statement. A statement that is
    // not kept would be closed in a packet that MySQL does not answer, and the next one would wait for its delayed
    // acknowledgement.
    let told = if payload.len() < LITERAL_BYTES_MAX {
        let mut text = format!(
            "{number}INSERT INTO {control}.order_events (part, first_number, events, at_ms, payload) \
             VALUES ({part},LAST_INSERT_ID(),{events},@now_ms,"
        );
        push_bytes(&mut text, &payload);
        text.push(')');
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **tx).await.map(|told| told.rows_affected())
    } else {
        let numbered = sqlx::raw_sql(AssertSqlSafe(number)).execute(&mut **tx).await;
        let numbered = numbered.map_err(|error| failed(TELL, error))?.rows_affected();
        let insert = format!(
            "INSERT INTO {control}.order_events (part, first_number, events, at_ms, payload) \
             VALUES (?, LAST_INSERT_ID(), ?, @now_ms, ?)"
        );
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        let query = sqlx::query(AssertSqlSafe(insert)).bind(part).bind(events).bind(payload);
        query.execute(&mut **tx).await.map(|told| told.rows_affected() + numbered)
    };
    match told.map_err(|error| failed(TELL, error))? {
        2 => Ok(()),
        _ => Err(StoreError::broken(TELL, format!("partition {part} has no numbers: run `seckill migrate`"))),
    }
}
