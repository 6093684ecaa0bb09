//! What every reader of events does: it takes its turn, reads what it has not had, and moves on when that is done.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use metrics::gauge;

use super::driver::Progress;
use crate::domain::{EventNumbers, Instance};
use crate::metrics::EVENTS_UNREAD;
use crate::ports::{Backlog, EventPage, OrderEvents, ReaderMover, StoreResult, Turn};

/// Most rows of a partition that are read together. Each has the events of one transaction.
const ROWS_MAX: u32 = 64;

/// A reader of events, in one process. Any number of processes may read for the same reader, one at a time.
pub struct EventReader {
    /// The events.
    pub events: Arc<dyn OrderEvents>,
    /// The reader's name, which all of its processes share.
    pub name: String,
    /// The number of this process.
    pub holder: [u8; 16],
    /// How long other processes leave the reader to the process that has its turn.
    pub lease: Duration,
}

/// Events that a reader has not had, and where they begin.
pub struct Unread {
    /// The events. There are none when the rows could not be read.
    pub page: EventPage,
    /// Whether there are more.
    pub has_more: bool,
    from: EventNumbers,
}

impl Unread {
    /// Answers where the events begin, of every partition that was asked.
    pub fn from(&self) -> &EventNumbers {
        &self.from
    }
}

impl EventReader {
    /// Does a round: hands every instance to `one`, which answers how many events it has done and whether there are
    /// more. An instance that hangs holds up no other one.
    ///
    /// # Errors
    /// The first failure of an instance. The others were tried all the same.
    pub async fn round<F>(&self, one: impl Fn(Instance) -> F) -> StoreResult<Progress>
    where
        F: Future<Output = StoreResult<(usize, bool)>>,
    {
        let (mut done, mut has_more, mut failure) = (0, false, Ok(()));
        for of_one in join_all(self.events.instances().into_iter().map(one)).await {
            failure = failure.and(of_one.map(|(events, more)| {
                done += events;
                has_more |= more;
            }));
        }
        let again_in = has_more.then_some(Duration::ZERO);
        failure.map(|()| Progress { done, again_in })
    }

    /// Reads what the reader has not had; `None` when that is nothing, or another process has the turn.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub async fn unread(&self, at: Instance) -> StoreResult<Option<Unread>> {
        let backlog = self.events.turn(at, self.turn()).await?;
        let unread = backlog.as_ref().map_or(0, Backlog::len);
        show_unread(&self.name, at, unread);
        let Some(backlog) = backlog.filter(|_| unread > 0) else { return Ok(None) };
        let from = backlog.waiting();
        let page = self.events.read(at, &from, ROWS_MAX).await?;
        let is_behind = |(part, next): (_, &i64)| backlog.ends.get(part).is_some_and(|end| next < end);
        let has_more = page.next.iter().any(is_behind);
        Ok(Some(Unread { page, has_more, from }))
    }

    /// Moves the reader on behind what it has read.
    ///
    /// # Errors
    /// When that could not be kept. The reader gets the same events again.
    pub async fn done(&self, at: Instance, unread: &Unread) -> StoreResult<()> {
        self.events.move_reader(at, ReaderMover::Reader(self.turn(), &unread.from), &unread.page.next).await
    }

    fn turn(&self) -> Turn<'_> {
        Turn { reader: &self.name, holder: self.holder, lease: self.lease }
    }
}

/// Says of a reader that reads no more that it has nothing to read.
pub fn reads_no_more(name: &str, instances: impl IntoIterator<Item = Instance>) {
    instances.into_iter().for_each(|at| show_unread(name, at, 0));
}

fn show_unread(name: &str, at: Instance, unread: i64) {
    gauge!(EVENTS_UNREAD, "reader" => name.to_owned(), "database" => at.number().to_string())
        .set(f64::from(i32::try_from(unread).unwrap_or(i32::MAX)));
}
