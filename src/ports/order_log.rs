//! The durable queue between the front and the order writers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store_error::{Effect, ErrorKind, StoreError, StoreResult};
use crate::domain::batch_plan::LogRecord;
use crate::domain::{LogId, OrderId, OrderRecord, Part};

/// Most records that one call of an import appends, and most orders that one call of an export reads.
pub const IMPORT_RECORDS_MAX: usize = 1000;

/// The offsets of each partition that was asked for: from that of its oldest record to the one that its next record
/// gets.
pub type Offsets = HashMap<Part, Range<i64>>;

/// Which log it is that the order log has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// The log.
    pub id: LogId,
    /// The number of its partitions. Those beyond our own were added by another hand, and nobody uses them.
    pub parts: usize,
}

impl dyn OrderLog {
    /// Reads which offsets the partitions `parts` have, each of them.
    ///
    /// # Errors
    /// When those of one cannot be read.
    pub async fn offsets(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let offsets = self.offsets_in_reach(parts).await?;
        all_read(parts, &offsets)?;
        Ok(offsets)
    }
}

/// Checks that `offsets` has every one of `parts`.
///
/// # Errors
/// `Unavailable` when it has not.
pub fn all_read(parts: &[Part], offsets: &Offsets) -> StoreResult<()> {
    let missing = parts.iter().filter(|part| !offsets.contains_key(part));
    let missing: Vec<String> = missing.map(|part| part.number().to_string()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let source = format!("partitions {} cannot be read now", missing.join(", ")).into();
    let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
    Err(StoreError { kind, effect, context: "read log ends", source })
}

/// The durable queue between the front and the order writers.
#[async_trait]
pub trait OrderLog: Send + Sync {
    /// Appends an encoded [`OrderRecord`] to the partition of its order's shard. Duplicates are harmless.
    ///
    /// # Errors
    /// `Unknown` unless the record certainly did not leave this process.
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()>;

    /// Appends the records of an import, for which no front reserved anything, at most [`IMPORT_RECORDS_MAX`].
    ///
    /// # Errors
    /// `Unknown` when some may be in the log. Appending them again is harmless.
    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()>;

    /// Reads which log this is now. It is not remembered, because a log may be replaced at any time.
    async fn identity(&self) -> StoreResult<LogIdentity>;

    /// Reads which offsets the partitions `parts` have. Those that cannot be read now are not in the answer.
    ///
    /// # Errors
    /// When none can be read.
    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets>;

    /// Waits until every appended record has its answer.
    ///
    /// # Errors
    /// When some have none after `timeout`.
    async fn flush(&self, timeout: Duration) -> StoreResult<()>;

    /// Joins the readers, and answers the new member. `wake` is called whenever it may have something to take.
    fn reader(&self, wake: Wake) -> StoreResult<Box<dyn OrderLogReader>>;
}

/// A function that tells a reader's owner that there may be something to take. Any thread may call it, and it must not
/// block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What a reader tells its writer.
#[derive(Debug)]
pub enum LogEvent {
    /// The partition was assigned to this member. It is silent until [`OrderLogReader::seek`].
    Assigned { part: Part },
    /// The partition was taken from this member.
    Revoked { part: Part },
    /// The next record of a partition. Offsets ascend from the one that was sought.
    Record { part: Part, record: LogRecord },
    /// A seek took effect: the records that follow are those from its offset on.
    Sought { part: Part },
    /// A seek failed, or the partition cannot be read any more. It stays silent until it is sought again.
    NotSought { part: Part },
}

/// One member of the readers. Only `take` and `leave` wait for anything.
#[async_trait]
pub trait OrderLogReader: Send {
    /// Takes what has come since the last call, at most `limit` records, without waiting for more.
    ///
    /// # Errors
    /// Only for failures that taking again cannot mend. The caller joins anew.
    async fn take(&mut self, limit: usize) -> StoreResult<Vec<LogEvent>>;

    /// Starts or continues a partition at `offset`. Records that were read ahead are dropped, and a paused partition is
    /// resumed. The outcome comes as an event.
    fn seek(&mut self, part: Part, offset: i64);

    /// Stops the delivery of a partition (back-pressure). Best effort: some records may still come.
    fn pause(&mut self, part: Part);

    /// Continues the delivery of a paused partition where it stopped.
    fn resume(&mut self, part: Part);

    /// Publishes a position for lag graphs. Nothing else depends on it.
    fn publish_position(&mut self, part: Part, next_offset: i64);

    /// Leaves the readers, and waits until the partitions are free for the others.
    async fn leave(self: Box<Self>);
}
