//! Reads events for their readers. One process has the folder, so every turn is its own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_journal::PART;
use super::sqlite_rows::{column, failed};
use crate::backend::readable::readable;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::{EventNumbers, Instance, StoredEvent};
use crate::ports::{Backlog, EventPage, OrderEvents, ReaderMover, StoreResult, Turn};

const READ: &str = "read events";
const BACKLOG: &str = "SELECT COALESCE((SELECT next_number FROM event_readers WHERE reader = ?), 1) AS next, \
     next_number AS ends FROM event_logs";
const KEPT: &str = "SELECT COALESCE((SELECT MIN(first_number) FROM order_events), next_number) AS next, \
     next_number AS ends FROM event_logs";
const MOVE: &str = "move a reader";
/// A cursor may point into a row.
const ROWS: &str = "SELECT first_number, events, at_ms, payload FROM order_events WHERE first_number >= \
     COALESCE((SELECT MAX(first_number) FROM order_events WHERE first_number <= ?1), ?1) \
     ORDER BY first_number LIMIT ?2";
const ADVANCE: &str = "INSERT INTO event_readers (reader, part, next_number) VALUES (?1, 0, ?2) \
     ON CONFLICT DO UPDATE SET next_number = excluded.next_number WHERE next_number = ?3";
const PUT: &str = "INSERT INTO event_readers (reader, part, next_number) VALUES (?1, 0, ?2) \
     ON CONFLICT DO UPDATE SET next_number = excluded.next_number";

/// Serves events from the database.
pub struct SqliteEvents {
    sqlite: Arc<Sqlite>,
    /// The readers that somebody else has moved since their last turn began. The writer alone asks, so that nothing
    /// comes between.
    put: Arc<Mutex<HashSet<String>>>,
}

impl SqliteEvents {
    /// Makes the port. It reads nothing.
    pub fn new(sqlite: Arc<Sqlite>) -> Self {
        Self { sqlite, put: Arc::default() }
    }
}

fn backlog(row: &SqliteRow) -> StoreResult<Backlog> {
    let (next, ends): (i64, i64) = (column(row, "next")?, column(row, "ends")?);
    Ok(Backlog { next: [(PART, next)].into(), ends: [(PART, ends)].into() })
}

fn read(row: &SqliteRow) -> StoreResult<Vec<StoredEvent>> {
    let numbers = (column(row, "first_number")?, column(row, "events")?);
    let events = StoredEvent::of_row(PART, numbers, column(row, "at_ms")?, column(row, "payload")?);
    events.map_err(|why| broken(READ, why))
}

#[async_trait]
impl OrderEvents for SqliteEvents {
    fn instances(&self) -> Vec<Instance> {
        vec![Instance::FIRST]
    }

    async fn turn(&self, at: Instance, turn: Turn<'_>) -> StoreResult<Option<Backlog>> {
        self.put.lock().expect("no code panics while holding it").remove(turn.reader);
        self.backlog(at, turn.reader).await.map(Some)
    }

    async fn backlog(&self, _: Instance, reader: &str) -> StoreResult<Backlog> {
        let row = sqlx::query(BACKLOG).bind(reader).fetch_one(self.sqlite.readers()).await;
        backlog(&row.map_err(|error| failed(READ, error))?)
    }

    async fn read(&self, _: Instance, from: &EventNumbers, rows_max: u32) -> StoreResult<EventPage> {
        let mut page = EventPage::default();
        let Some(from) = from.get(&PART).copied() else { return Ok(page) };
        let rows = sqlx::query(ROWS).bind(from).bind(rows_max).fetch_all(self.sqlite.readers()).await;
        for row in rows.map_err(|error| failed(READ, error))? {
            let (first_number, events): (i64, i64) = (column(&row, "first_number")?, column(&row, "events")?);
            page.next.insert(PART, first_number + events);
            page.events.extend(readable("order_events", read(&row)).unwrap_or_default());
        }
        page.events.retain(|event| event.number >= from);
        Ok(page)
    }

    async fn move_reader(&self, _: Instance, by: ReaderMover<'_>, to: &EventNumbers) -> StoreResult<()> {
        let Some(to) = to.get(&PART).copied() else { return Ok(()) };
        let (reader, from) = match by {
            ReaderMover::Reader(turn, from) => (turn.reader, from.get(&PART).copied().or(Some(FIRST_NUMBER))),
            ReaderMover::Other(reader) => (reader, None),
        };
        let (reader, put) = (reader.to_owned(), self.put.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let query = {
                let mut put = put.lock().expect("no code panics while holding it");
                match from {
                    Some(_) if put.contains(&reader) => return Ok(()),
                    Some(from) => sqlx::query(ADVANCE).bind(&reader).bind(to).bind(from),
                    None => {
                        put.insert(reader.clone());
                        sqlx::query(PUT).bind(&reader).bind(to)
                    }
                }
            };
            query.execute(connection).await.map(drop).map_err(|error| failed(MOVE, error))
        };
        self.sqlite.writer.write(MOVE, work).await
    }

    async fn kept(&self, _: Instance) -> StoreResult<Backlog> {
        let row = sqlx::query(KEPT).fetch_one(self.sqlite.readers()).await;
        backlog(&row.map_err(|error| failed(READ, error))?)
    }
}
