//! Reads events for their readers, from the instances' control databases.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::mysql_text::{NOW_MS, push_all, push_bytes};
use crate::backend::readable::readable;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::{EventNumbers, Instance, Part, StoredEvent};
use crate::ports::{Backlog, EventPage, OrderEvents, ReaderMover, StoreError, StoreResult, Turn};

const READ: &str = "read events";
const TURN: &str = "take the turn of a reader";
const MOVE: &str = "move a reader";

/// Serves events from the instances' control databases.
pub struct MysqlEvents {
    mysql: Arc<Mysql>,
}

impl MysqlEvents {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    /// Reads where a reader is, and how long its lease lasts, if this holder has it, in ms.
    async fn look(&self, at: Instance, turn: &Turn<'_>) -> StoreResult<(Backlog, Lease)> {
        let fault = |error| failed(TURN, error);
        let text = format!(
            "SELECT l.part, COALESCE(r.next_number, {FIRST_NUMBER}), l.next_number, s.holder, \
             s.until_ms - {NOW_MS} FROM {{control}}.event_logs l \
             LEFT JOIN {{control}}.event_readers r ON r.part = l.part AND r.reader = ? \
             LEFT JOIN {{control}}.event_leases s ON s.reader = ?"
        );
        let rows = sqlx::query(self.mysql.control_sql(at, &text))
            .bind(turn.reader.as_bytes())
            .bind(turn.reader.as_bytes())
            .fetch_all(self.mysql.pool(at))
            .await;
        let (mut backlog, mut lease) = (Backlog::default(), Lease::Free);
        for row in rows.map_err(fault)? {
            let part = part(&row)?;
            backlog.next.insert(part, row.try_get(1).map_err(fault)?);
            backlog.ends.insert(part, row.try_get(2).map_err(fault)?);
            let (holder, left_ms): (Option<Vec<u8>>, Option<i64>) =
                (row.try_get(3).map_err(fault)?, row.try_get(4).map_err(fault)?);
            lease = match left_ms {
                Some(ms) if holder.as_deref() == Some(&turn.holder) => Lease::Own(ms),
                Some(ms) if ms > 0 => Lease::Foreign,
                _ => Lease::Free,
            };
        }
        Ok((backlog, lease))
    }

    /// Takes a lease, or prolongs it. Answers `false` when another process was quicker.
    async fn lease(&self, at: Instance, turn: &Turn<'_>) -> StoreResult<bool> {
        let text = format!(
            "INSERT INTO {{control}}.event_leases (reader, holder, until_ms) VALUES (?, ?, {NOW_MS} + ?) \
             ON DUPLICATE KEY UPDATE \
             until_ms = IF(holder = VALUES(holder) OR until_ms <= {NOW_MS}, VALUES(until_ms), until_ms), \
             holder = IF(until_ms = VALUES(until_ms), VALUES(holder), holder)"
        );
        let leased = sqlx::query(self.mysql.control_sql(at, &text))
            .bind(turn.reader.as_bytes())
            .bind(turn.holder.as_slice())
            .bind(i64::try_from(turn.lease.as_millis()).unwrap_or(i64::MAX))
            .execute(self.mysql.pool(at))
            .await;
        leased.map_err(|error| failed(TURN, error))?;
        Ok(matches!(self.look(at, turn).await?.1, Lease::Own(_)))
    }

    async fn take(&self, at: Instance, turn: Turn<'_>) -> StoreResult<Option<Backlog>> {
        let (backlog, lease) = self.look(at, &turn).await?;
        // What a round does is done in two thirds of a lease.
        let enough_ms = i64::try_from(turn.lease.as_millis() * 2 / 3).unwrap_or(i64::MAX);
        let is_ours = match lease {
            Lease::Own(left_ms) if left_ms > enough_ms => true,
            Lease::Foreign => false,
            // Nobody reads where nothing is to be read.
            Lease::Free if backlog.is_empty() => true,
            Lease::Own(_) | Lease::Free => self.lease(at, &turn).await?,
        };
        Ok(is_ours.then_some(backlog))
    }

    async fn rows(&self, at: Instance, from: &EventNumbers, rows_max: u32) -> StoreResult<EventPage> {
        let mut page = EventPage::default();
        if from.is_empty() {
            return Ok(page);
        }
        // A cursor may point into a row. The row before it is looked for by the key, backwards.
        let control = self.mysql.control(at);
        let each = from.iter().map(|(part, number)| {
            let part = part.number();
            format!(
                "(SELECT part, first_number, events, at_ms, payload FROM {control}.order_events WHERE part = {part} \
                 AND first_number >= COALESCE((SELECT first_number FROM {control}.order_events WHERE part = {part} \
                 AND first_number <= {number} ORDER BY first_number DESC LIMIT 1), {number}) \
                 ORDER BY first_number LIMIT {rows_max})"
            )
        });
        let text = each.collect::<Vec<_>>().join(" UNION ALL ");
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(at)).await;
        for row in rows.map_err(|error| failed(READ, error))? {
            let (part, first_number, events) = numbers(&row)?;
            let next = page.next.entry(part).or_default();
            *next = (*next).max(first_number + events);
            page.events.extend(readable("order_events", read(&row)).unwrap_or_default());
        }
        page.events.retain(|event| from.get(&event.part).is_some_and(|number| event.number >= *number));
        page.events.sort_by_key(|event| (event.part, event.number));
        Ok(page)
    }

    async fn move_on(
        &self,
        at: Instance,
        turn: Turn<'_>,
        from: &EventNumbers,
        to: &EventNumbers,
    ) -> StoreResult<()> {
        let mut cases = String::new();
        for part in to.keys() {
            let before = from.get(part).copied().unwrap_or(FIRST_NUMBER);
            push_all(&mut cases, format_args!(" WHEN {} THEN {before}", part.number()));
        }
        if cases.is_empty() {
            return Ok(());
        }
        let mut tx = self.mysql.begin(at, MOVE).await?;
        // `put` waits for this lock, or comes before it.
        let text = "SELECT 1 FROM {control}.event_leases WHERE reader = ? AND holder = ? FOR UPDATE";
        let turns = sqlx::query(self.mysql.control_sql(at, text))
            .bind(turn.reader.as_bytes())
            .bind(turn.holder.as_slice())
            .fetch_optional(&mut *tx)
            .await;
        if turns.map_err(|error| failed(MOVE, error))?.is_none() {
            return Ok(());
        }
        let number = format!("IF(next_number = CASE part{cases} END, VALUES(next_number), next_number)");
        let text = self.positions(at, turn.reader, to, &number);
        let moved = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await;
        moved.map_err(|error| failed(MOVE, error))?;
        tx.commit().await.map_err(|error| failed(MOVE, error))
    }

    async fn put(&self, at: Instance, reader: &str, to: &EventNumbers) -> StoreResult<()> {
        if to.is_empty() {
            return Ok(());
        }
        let mut tx = self.mysql.begin(at, MOVE).await?;
        let text = "INSERT INTO {control}.event_leases (reader, holder, until_ms) VALUES (?, ?, 0) \
                    ON DUPLICATE KEY UPDATE holder = VALUES(holder), until_ms = 0";
        let ended = sqlx::query(self.mysql.control_sql(at, text))
            .bind(reader.as_bytes())
            .bind([0; 16].as_slice())
            .execute(&mut *tx)
            .await;
        ended.map_err(|error| failed(MOVE, error))?;
        let text = self.positions(at, reader, to, "VALUES(next_number)");
        let moved = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await;
        moved.map_err(|error| failed(MOVE, error))?;
        tx.commit().await.map_err(|error| failed(MOVE, error))
    }

    /// Writes down the statement that stores where a reader is, of at least one partition. `number` is what becomes of
    /// a number that is there.
    fn positions(&self, at: Instance, reader: &str, to: &EventNumbers, number: &str) -> String {
        let mut rows = String::new();
        for (part, next) in to {
            rows.push_str(if rows.is_empty() { "(" } else { ",(" });
            push_bytes(&mut rows, reader.as_bytes());
            push_all(&mut rows, format_args!(",{},{next})", part.number()));
        }
        format!(
            "INSERT INTO {}.event_readers (reader, part, next_number) VALUES {rows} \
             ON DUPLICATE KEY UPDATE next_number = {number}",
            self.mysql.control(at)
        )
    }

    async fn ends(&self, at: Instance) -> StoreResult<Backlog> {
        let fault = |error| failed(READ, error);
        let text = "SELECT l.part, COALESCE((SELECT MIN(e.first_number) FROM {control}.order_events e \
                    WHERE e.part = l.part), l.next_number), l.next_number FROM {control}.event_logs l";
        let rows = sqlx::query(self.mysql.control_sql(at, text)).fetch_all(self.mysql.pool(at)).await;
        let mut kept = Backlog::default();
        for row in rows.map_err(fault)? {
            let part = part(&row)?;
            kept.next.insert(part, row.try_get(1).map_err(fault)?);
            kept.ends.insert(part, row.try_get(2).map_err(fault)?);
        }
        Ok(kept)
    }
}

/// Who may read for a reader.
enum Lease {
    /// The caller, for so many ms, which may be over.
    Own(i64),
    /// Another process.
    Foreign,
    /// Whoever comes first.
    Free,
}

fn part(row: &MySqlRow) -> StoreResult<Part> {
    let number: i32 = row.try_get(0).map_err(|error| failed(READ, error))?;
    u16::try_from(number).map(Part::new).map_err(|error| StoreError::broken(READ, error.to_string()))
}

/// Reads the partition of a row of events, the number of its first one, and how many these are.
fn numbers(row: &MySqlRow) -> StoreResult<(Part, i64, i64)> {
    let fault = |error| failed(READ, error);
    let events: i32 = row.try_get(2).map_err(fault)?;
    Ok((part(row)?, row.try_get(1).map_err(fault)?, events.into()))
}

fn read(row: &MySqlRow) -> StoreResult<Vec<StoredEvent>> {
    let (part, first_number, events) = numbers(row)?;
    let at_ms: i64 = row.try_get(3).map_err(|error| failed(READ, error))?;
    let payload: Vec<u8> = row.try_get(4).map_err(|error| failed(READ, error))?;
    StoredEvent::of_row(part, (first_number, events), at_ms, &payload)
        .map_err(|why| StoreError::broken(READ, why))
}

#[async_trait]
impl OrderEvents for MysqlEvents {
    fn instances(&self) -> Vec<Instance> {
        self.mysql.map.all_instances().collect()
    }

    async fn turn(&self, at: Instance, turn: Turn<'_>) -> StoreResult<Option<Backlog>> {
        self.mysql.change(at, TURN, self.take(at, turn)).await
    }

    async fn backlog(&self, at: Instance, reader: &str) -> StoreResult<Backlog> {
        let turn = Turn { reader, holder: [0; 16], lease: Duration::ZERO };
        self.mysql.read(READ, async { Ok(self.look(at, &turn).await?.0) }).await
    }

    async fn read(&self, at: Instance, from: &EventNumbers, rows_max: u32) -> StoreResult<EventPage> {
        self.mysql.read(READ, self.rows(at, from, rows_max)).await
    }

    async fn move_reader(&self, at: Instance, by: ReaderMover<'_>, to: &EventNumbers) -> StoreResult<()> {
        match by {
            ReaderMover::Reader(turn, from) => {
                self.mysql.change(at, MOVE, self.move_on(at, turn, from, to)).await
            }
            ReaderMover::Other(reader) => self.mysql.change(at, MOVE, self.put(at, reader, to)).await,
        }
    }

    async fn kept(&self, at: Instance) -> StoreResult<Backlog> {
        self.mysql.read(READ, self.ends(at)).await
    }
}
