//! Events of orders, in the order in which they were committed, for readers that go on where they were.

use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{EventNumbers, Instance, StoredEvent};

/// What a reader has before it, of the partitions of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The number of the event that it wants next, of every partition.
    pub next: EventNumbers,
    /// The number that the next event gets, of every partition.
    pub ends: EventNumbers,
}

impl Backlog {
    /// Counts the events that the reader has not had.
    pub fn len(&self) -> i64 {
        let behind = |(part, end): (_, &i64)| end - self.next.get(part).copied().unwrap_or(*end);
        self.ends.iter().map(behind).filter(|behind| *behind > 0).sum()
    }

    /// Answers whether the reader has had every event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Answers where the reader is, of those partitions alone that have events for it.
    pub fn waiting(&self) -> EventNumbers {
        let waits = |part, next: i64| self.ends.get(part).is_some_and(|end| next < *end);
        let waiting = self.next.iter().filter(|(part, next)| waits(part, **next));
        waiting.map(|(part, next)| (*part, *next)).collect()
    }
}

/// Events that were read together.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// The events, ascending by partition and number.
    pub events: Vec<StoredEvent>,
    /// The number after the last event that was read, of every partition of which one was read.
    pub next: EventNumbers,
}

/// A process that asks to read for a reader.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The reader's name, 1 to 64 bytes.
    pub reader: &'a str,
    /// The process, by a number of its own.
    pub holder: [u8; 16],
    /// How long others are kept from reading for the reader.
    pub lease: Duration,
}

/// Who moves a reader.
#[derive(Debug, Clone, Copy)]
pub enum ReaderMover<'a> {
    /// The process that reads for it, on from these numbers. Partitions where the reader is elsewhere are left alone,
    /// and all of them when the turn is another's or was ended meanwhile: what was read is read again.
    Reader(Turn<'a>, &'a EventNumbers),
    /// Somebody who wants the reader of this name elsewhere. The turn of whoever reads for it ends, so that nothing
    /// which is under way moves it from there.
    Other(&'a str),
}

/// The events of orders. Every instance has partitions of its own, whose events are numbered from
/// [`crate::domain::stored_event::FIRST_NUMBER`] on, without gaps.
#[async_trait]
pub trait OrderEvents: Send + Sync {
    /// Answers the instances.
    fn instances(&self) -> Vec<Instance>;

    /// Takes the turn of reading for a reader, or keeps it, and answers what is before the reader; `None` while another
    /// process has the turn. A turn that is lost unnoticed does no harm: [`ReaderMover::Reader`] is refused then.
    async fn turn(&self, at: Instance, turn: Turn<'_>) -> StoreResult<Option<Backlog>>;

    /// Answers what is before a reader, whoever reads for it.
    async fn backlog(&self, at: Instance, reader: &str) -> StoreResult<Backlog>;

    /// Reads events of the partitions that `from` names, from those numbers on or from the oldest that is kept,
    /// ascending in each partition: whole transactions, at most `rows_max` of each partition. A row that this version
    /// cannot read is counted and passed over.
    async fn read(&self, at: Instance, from: &EventNumbers, rows_max: u32) -> StoreResult<EventPage>;

    /// Moves a reader to these numbers. Partitions that are not named stay where they are. Idempotent.
    async fn move_reader(&self, at: Instance, by: ReaderMover<'_>, to: &EventNumbers) -> StoreResult<()>;

    /// Answers the numbers of the oldest event that is kept and of the next one, of every partition.
    async fn kept(&self, at: Instance) -> StoreResult<Backlog>;
}

/// Where events are made public beside the databases.
#[async_trait]
pub trait EventTopic: Send + Sync {
    /// Passes events on, and answers when all of them are safe. Events of one order go out one after the other.
    ///
    /// # Errors
    /// When one of them may not be safe. The caller passes all of them on again.
    async fn publish(&self, events: &[StoredEvent]) -> StoreResult<()>;
}
