//! Holds the commands and the events that go between the thread of a Kafka reader and the reader's owner.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::domain::Part;
use crate::ports::{LogEvent, StoreError};

/// The queue is full when this many events wait. The thread then polls no more until there is room, so that the queue
/// holds at most these and the events of one more poll.
const EVENTS_MAX: usize = 4_000;
/// Longest time that the thread waits at once for room. It looks for commands between two waits.
const ROOM_WAIT: Duration = Duration::from_millis(5);

/// A request of the reader's owner to the thread.
pub enum Command {
    /// Starts or continues a partition at an offset.
    Seek {
        /// The partition.
        part: Part,
        /// The offset of the next record to read.
        offset: i64,
        /// The number of this seek among those of its partition, from 1.
        seek: u64,
    },
    /// Stops the delivery of a partition.
    Pause(Part),
    /// Restarts the delivery of a partition.
    Resume(Part),
    /// Commits a partition's next offset to the group, for lag graphs only.
    Publish(Part, i64),
}

/// Holds the events that wait for the reader's owner, each with the number of the seek that it follows.
#[derive(Default)]
pub struct EventQueue {
    waiting: Mutex<Waiting>,
    /// Notified whenever events were taken.
    pub taken: Condvar,
}

/// Holds what is behind the queue's lock.
#[derive(Default)]
pub struct Waiting {
    /// Oldest first.
    pub events: VecDeque<(u64, LogEvent)>,
    /// Why nothing more comes.
    pub failure: Option<StoreError>,
}

impl EventQueue {
    /// Locks the queue.
    pub fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while holding it")
    }

    /// Adds events. They are taken in this order.
    pub fn put(&self, events: impl Iterator<Item = (u64, LogEvent)>) {
        self.lock().events.extend(events);
    }

    /// Notes why nothing more comes.
    pub fn fail(&self, error: StoreError) {
        self.lock().failure = Some(error);
    }

    /// Waits while the queue is full, but at most [`ROOM_WAIT`]. Answers whether there is room.
    pub fn has_room(&self) -> bool {
        let is_full = |waiting: &mut Waiting| waiting.events.len() >= EVENTS_MAX;
        let waited = self.taken.wait_timeout_while(self.lock(), ROOM_WAIT, is_full);
        waited.is_ok_and(|(_, late)| !late.timed_out())
    }
}
