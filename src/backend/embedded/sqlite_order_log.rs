//! The order log as a table. Records are appended by the reservation's own transaction, so nothing is ever
//! between inventory and log: [`Outbox`] has nothing to relay.
//!
//! The log is kept: it is the journal of what was accepted.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use tokio::runtime::Handle;

use super::sqlite::{Sqlite, column, failed, insert};
use crate::domain::batch_plan::LogRecord;
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, OrderId, OrderRecord, Part, ShardMap};
use crate::ports::{LogEvent, OrderLog, OrderLogReader, Outbox, StoreResult};

const END: &str = "SELECT COALESCE(MAX(log_offset) + 1, 0) AS end FROM order_log WHERE part = ?";
const RECORDS: &str = "SELECT log_offset, payload FROM order_log WHERE part = ? AND log_offset >= ? \
     ORDER BY log_offset LIMIT ?";

/// The offset that a partition's next record gets.
///
/// # Errors
/// When the log cannot be read.
async fn end(connection: &mut SqliteConnection, part: Part) -> StoreResult<i64> {
    let row = sqlx::query(END).bind(part.number()).fetch_one(connection).await;
    column(&row.map_err(|error| failed("read end of log", error))?, "end")
}

/// Appends records, and answers the new end of each partition they went to.
///
/// # Errors
/// When the log cannot be read or written.
pub async fn append(
    connection: &mut SqliteConnection,
    records: impl Iterator<Item = &OrderRecord>,
    map: ShardMap,
) -> StoreResult<BTreeMap<Part, i64>> {
    let mut ends = BTreeMap::new();
    let mut rows = Vec::new();
    for record in records {
        let part = map.part_of(record.order_id.shard());
        let end = match ends.get(&part) {
            Some(end) => *end,
            None => end(connection, part).await?,
        };
        rows.push((part.number(), end, record.encode()));
        ends.insert(part, end + 1);
    }
    insert(
        connection,
        ("order_log (part, log_offset, payload)", 3, ""),
        &rows,
        |query, (part, end, payload)| query.bind(*part).bind(*end).bind(payload.as_slice()),
    )
    .await?;
    Ok(ends)
}

/// The committed end of every partition, and a bell for whoever waits for more.
pub struct Ends {
    ends: Mutex<Vec<i64>>,
    moved: Condvar,
}

impl Ends {
    /// # Errors
    /// When the log cannot be read.
    pub async fn read(sqlite: &Sqlite) -> StoreResult<Self> {
        let connection = sqlite.readers().acquire().await;
        let mut connection = connection.map_err(|error| failed("read end of log", error))?;
        let mut ends = Vec::new();
        for part in sqlite.map.all_parts() {
            ends.push(end(&mut connection, part).await?);
        }
        Ok(Self { ends: Mutex::new(ends), moved: Condvar::new() })
    }

    fn all(&self) -> Vec<i64> {
        self.ends.lock().expect("no code panics while holding it").clone()
    }

    /// Records ever appended.
    pub fn sum(&self) -> i64 {
        self.all().iter().sum()
    }

    /// Notes what a committed transaction appended. Calls may come in any order.
    pub fn advance(&self, appended: &BTreeMap<Part, i64>) {
        if appended.is_empty() {
            return;
        }
        let mut ends = self.ends.lock().expect("no code panics while holding it");
        for (part, end) in appended {
            if let Some(known) = ends.get_mut(usize::from(part.number())) {
                *known = (*known).max(*end);
            }
        }
        self.moved.notify_all();
    }

    /// Waits until `is_behind` holds of the ends, at most `timeout`.
    fn wait(&self, timeout: Duration, is_behind: impl Fn(&[i64]) -> bool) {
        let ends = self.ends.lock().expect("no code panics while holding it");
        drop(self.moved.wait_timeout_while(ends, timeout, |ends| !is_behind(ends)));
    }
}

pub struct SqliteOrderLog {
    pub sqlite: Arc<Sqlite>,
    pub ends: Arc<Ends>,
    /// Where the reader's thread does its reading.
    pub runtime: Handle,
}

#[async_trait]
impl OrderLog for SqliteOrderLog {
    /// The record is in the log since it was reserved.
    async fn append(&self, _: OrderId, _: Vec<u8>) -> StoreResult<()> {
        Ok(())
    }

    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()> {
        let (records, map) = (records.to_vec(), self.sqlite.map);
        let work =
            async move |connection: &mut SqliteConnection| append(connection, records.iter(), map).await;
        let ends = self.sqlite.writer.write("append imported records", work).await?;
        self.ends.advance(&ends);
        Ok(())
    }

    async fn ends(&self) -> StoreResult<Vec<i64>> {
        Ok(self.ends.all())
    }

    async fn flush(&self, _: Duration) -> StoreResult<()> {
        Ok(())
    }

    /// The only reader: every partition is its own.
    fn reader(&self) -> StoreResult<Box<dyn OrderLogReader>> {
        let parts = self.sqlite.map.all_parts().map(|part| (part, Progress::default()));
        Ok(Box::new(SqliteReader {
            sqlite: self.sqlite.clone(),
            ends: self.ends.clone(),
            runtime: self.runtime.clone(),
            parts: parts.collect(),
            is_assigned: false,
        }))
    }
}

struct SqliteReader {
    sqlite: Arc<Sqlite>,
    ends: Arc<Ends>,
    runtime: Handle,
    parts: BTreeMap<Part, Progress>,
    is_assigned: bool,
}

/// How long a partition rests that could not be read; the others go on.
const REST: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Progress {
    /// The next offset to read; `None` until the partition is sought.
    next: Option<i64>,
    paused: bool,
    rests_until: Option<Instant>,
}

impl Progress {
    fn is_behind(&self, part: Part, ends: &[i64]) -> bool {
        let end = ends.get(usize::from(part.number())).copied().unwrap_or(0);
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        !self.paused && !rests && self.next.is_some_and(|next| next < end)
    }
}

impl SqliteReader {
    async fn read(&self, part: Part, from: i64, limit: usize) -> StoreResult<Vec<LogRecord>> {
        let rows = sqlx::query(RECORDS)
            .bind(part.number())
            .bind(from)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read log", error))?;
        let record = |row| -> StoreResult<LogRecord> {
            let payload: Vec<u8> = column(&row, "payload")?;
            let order = OrderRecord::decode(&payload);
            Ok(LogRecord { offset: column(&row, "log_offset")?, payload, order })
        };
        rows.into_iter().map(record).collect()
    }
}

impl OrderLogReader for SqliteReader {
    fn poll(&mut self, timeout: Duration, limit: usize) -> StoreResult<Vec<LogEvent>> {
        if !self.is_assigned {
            self.is_assigned = true;
            return Ok(self.parts.keys().map(|part| LogEvent::Assigned { part: *part }).collect());
        }
        let parts = &self.parts;
        self.ends.wait(timeout, |ends| parts.iter().any(|(part, progress)| progress.is_behind(*part, ends)));
        let ends = self.ends.all();
        let mut events = Vec::new();
        let behind = self.parts.iter().filter(|(part, progress)| progress.is_behind(**part, &ends));
        let behind: Vec<(Part, i64)> =
            behind.filter_map(|(part, progress)| Some((*part, progress.next?))).collect();
        for (part, from) in behind {
            let left = limit.saturating_sub(events.len());
            let records = self.runtime.block_on(self.read(part, from, left)).unwrap_or_else(|error| {
                tracing::warn!(%error, part = part.number(), "order log not read");
                if let Some(progress) = self.parts.get_mut(&part) {
                    progress.rests_until = Some(Instant::now() + REST);
                }
                Vec::new()
            });
            for record in records {
                if let Some(progress) = self.parts.get_mut(&part) {
                    progress.next = Some(record.offset + 1);
                }
                events.push(LogEvent::Record { part, record });
            }
        }
        Ok(events)
    }

    fn seek(&mut self, part: Part, offset: i64) -> StoreResult<()> {
        if let Some(progress) = self.parts.get_mut(&part) {
            *progress = Progress { next: Some(offset), ..Progress::default() };
        }
        Ok(())
    }

    fn pause(&mut self, part: Part) -> StoreResult<()> {
        self.switch(part, true);
        Ok(())
    }

    fn resume(&mut self, part: Part) -> StoreResult<()> {
        self.switch(part, false);
        Ok(())
    }

    fn publish_position(&mut self, _: Part, _: i64) {}
}

impl SqliteReader {
    fn switch(&mut self, part: Part, paused: bool) {
        if let Some(progress) = self.parts.get_mut(&part) {
            progress.paused = paused;
        }
    }
}

/// Nothing is ever between inventory and log.
pub struct NoOutbox;

#[async_trait]
impl Outbox for NoOutbox {
    async fn pending(&self, _: &BucketId, _: Duration, _: usize) -> StoreResult<Vec<OutboxEntry>> {
        Ok(Vec::new())
    }

    async fn acknowledge(&self, _: &BucketId, _: &[OrderId], _: &[OutboxEntryId]) -> StoreResult<()> {
        Ok(())
    }

    async fn len(&self, _: &BucketId) -> StoreResult<u64> {
        Ok(0)
    }
}
