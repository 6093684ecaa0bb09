//! Keeps the order log as a table. The transaction of a reservation appends its record, so no order is ever between
//! inventory and log, and [`Outbox`] has nothing to relay.
//!
//! The log is never cut, because it is the journal of what was accepted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, insert};
use crate::domain::batch_plan::LogRecord;
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, LogId, OrderId, OrderRecord, Part, ShardMap};
use crate::ports::{LogEvent, LogIdentity, Offsets, OrderLog, OrderLogReader, Outbox, StoreResult, Wake};

const END: &str = "SELECT COALESCE(MAX(log_offset) + 1, 0) AS end FROM order_log WHERE part = ?";
const RECORDS: &str = "SELECT log_offset, payload FROM order_log WHERE part = ? AND log_offset >= ? \
     ORDER BY log_offset LIMIT ?";

/// Reads the offset that a partition's next record gets.
///
/// # Errors
/// When the log cannot be read.
async fn end(connection: &mut SqliteConnection, part: Part) -> StoreResult<i64> {
    let row = sqlx::query(END).bind(part.number()).fetch_one(connection).await;
    column(&row.map_err(|error| failed("read end of log", error))?, "end")
}

/// Appends records in the caller's transaction, and answers the new end of each partition that they went to.
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

/// Holds the committed end of every partition, and the reader's signal that there is more.
pub struct Ends {
    ends: Mutex<Vec<i64>>,
    wake: Mutex<Option<Wake>>,
}

impl Ends {
    /// Reads the end of every partition.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn read(sqlite: &Sqlite) -> StoreResult<Self> {
        let connection = sqlite.readers().acquire().await;
        let mut connection = connection.map_err(|error| failed("read end of log", error))?;
        let mut ends = Vec::new();
        for part in sqlite.map.all_parts() {
            ends.push(end(&mut connection, part).await?);
        }
        Ok(Self { ends: Mutex::new(ends), wake: Mutex::default() })
    }

    fn all(&self) -> Vec<i64> {
        self.ends.lock().expect("no code panics while holding it").clone()
    }

    /// Answers how many records were ever appended.
    pub fn sum(&self) -> i64 {
        self.all().iter().sum()
    }

    /// Notes what a committed transaction appended, and wakes the reader. Calls may come in any order, because an end
    /// never moves back.
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
        drop(ends);
        if let Some(wake) = self.wake.lock().expect("no code panics while holding it").as_ref() {
            wake();
        }
    }
}

/// Serves the order log from the database.
pub struct SqliteOrderLog {
    /// The database.
    pub sqlite: Arc<Sqlite>,
    /// The committed end of every partition.
    pub ends: Arc<Ends>,
}

#[async_trait]
impl OrderLog for SqliteOrderLog {
    /// Does nothing, because the record is in the log since its order was reserved.
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

    /// Answers the same log always: it is in one file with the positions, so it cannot be another one than theirs.
    async fn identity(&self) -> StoreResult<LogIdentity> {
        let id = LogId::new(*b"seckill-embedded").expect("not all zeros");
        Ok(LogIdentity { id, parts: self.sqlite.map.parts().into() })
    }

    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let ends = self.ends.all();
        let end = |part: &Part| ends.get(usize::from(part.number())).copied().unwrap_or(0);
        // The log is never cut, so every partition begins at 0.
        Ok(parts.iter().map(|part| (*part, 0..end(part))).collect())
    }

    async fn flush(&self, _: Duration) -> StoreResult<()> {
        Ok(())
    }

    /// Makes the only reader. Every partition is assigned to it.
    fn reader(&self, wake: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
        *self.ends.wake.lock().expect("no code panics while holding it") = Some(wake.clone());
        let parts = self.sqlite.map.all_parts().map(|part| (part, Progress::default()));
        Ok(Box::new(SqliteReader {
            sqlite: self.sqlite.clone(),
            ends: self.ends.clone(),
            wake,
            parts: parts.collect(),
            is_assigned: false,
            sought: Vec::new(),
        }))
    }
}

struct SqliteReader {
    sqlite: Arc<Sqlite>,
    ends: Arc<Ends>,
    wake: Wake,
    parts: BTreeMap<Part, Progress>,
    is_assigned: bool,
    /// Partitions that were sought since records were last taken.
    sought: Vec<Part>,
}

#[derive(Default)]
struct Progress {
    /// The next offset to read; `None` until the partition is sought.
    next: Option<i64>,
    paused: bool,
}

impl SqliteReader {
    /// Answers where to read on in every partition that has more.
    fn behind(&self) -> Vec<(Part, i64)> {
        let ends = self.ends.all();
        let behind = self.parts.iter().filter_map(|(part, progress)| {
            let next = progress.next.filter(|_| !progress.paused)?;
            let end = ends.get(usize::from(part.number())).copied().unwrap_or(0);
            (next < end).then_some((*part, next))
        });
        behind.collect()
    }

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

    fn change(&mut self, part: Part, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.parts.get_mut(&part) {
            change(progress);
        }
    }
}

#[async_trait]
impl OrderLogReader for SqliteReader {
    /// Takes the next records of every partition that has more. A partition that cannot be read is silent until it is
    /// sought again, and the others go on.
    async fn take(&mut self, limit: usize) -> StoreResult<Vec<LogEvent>> {
        if !self.is_assigned {
            self.is_assigned = true;
            return Ok(self.parts.keys().map(|part| LogEvent::Assigned { part: *part }).collect());
        }
        let mut events: Vec<LogEvent> = self.sought.drain(..).map(|part| LogEvent::Sought { part }).collect();
        for (part, from) in self.behind() {
            match self.read(part, from, limit.saturating_sub(events.len())).await {
                Ok(records) => {
                    for record in records {
                        self.change(part, |progress| progress.next = Some(record.offset + 1));
                        events.push(LogEvent::Record { part, record });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, part = part.number(), "order log not read");
                    self.change(part, |progress| progress.next = None);
                    events.push(LogEvent::NotSought { part });
                }
            }
        }
        Ok(events)
    }

    fn seek(&mut self, part: Part, offset: i64) {
        self.change(part, |progress| *progress = Progress { next: Some(offset), paused: false });
        self.sought.push(part);
        (self.wake)();
    }

    fn pause(&mut self, part: Part) {
        self.change(part, |progress| progress.paused = true);
    }

    fn resume(&mut self, part: Part) {
        self.change(part, |progress| progress.paused = false);
        (self.wake)();
    }

    fn publish_position(&mut self, _: Part, _: i64) {}

    async fn leave(self: Box<Self>) {}
}

/// Serves an outbox that is always empty, because no order is ever between inventory and log.
pub struct NoOutbox;

#[async_trait]
impl Outbox for NoOutbox {
    async fn pending(&self, _: &BucketId, _: Duration, _: usize) -> StoreResult<Vec<OutboxEntry>> {
        Ok(Vec::new())
    }

    async fn acknowledge(&self, _: &BucketId, _: &[OrderId], _: &[OutboxEntryId]) -> StoreResult<()> {
        Ok(())
    }

    async fn set_aside(&self, _: &BucketId, _: &[OutboxEntryId]) -> StoreResult<()> {
        Ok(())
    }

    async fn len(&self, _: &BucketId) -> StoreResult<u64> {
        Ok(0)
    }
}
