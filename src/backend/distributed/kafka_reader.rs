//! Reads the order log for an order writer. A member of the consumer group polls on a thread of its own, and the reader
//! sends it commands and takes its events.
//!
//! Invariant: What follows a seek is the partition from the sought offset on. Records that the thread had read before
//! it carried the seek out are dropped. They are recognised by the number of the seek that each of them
//! follows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::kafka_event_queue::{Command, EventQueue};
use super::kafka_member::Member;
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::{Part, ShardMap};
use crate::ports::{LogEvent, OrderLogReader, StoreError, StoreResult, Wake};

/// Serves one member of the consumer group to its owner. The thread of the member ends when this value is dropped.
pub struct KafkaReader {
    commands: Sender<Command>,
    queue: Arc<EventQueue>,
    wake: Wake,
    /// How often each partition was sought. What follows an earlier seek is out of date.
    seeks: HashMap<Part, u64>,
    left: oneshot::Receiver<()>,
}

impl KafkaReader {
    /// Joins the consumer group.
    ///
    /// # Errors
    /// When the settings are wrong or no thread can be had.
    pub fn join(config: &KafkaConfig, map: ShardMap, wake: Wake, clock: Clock) -> StoreResult<Self> {
        let member = Member::join(config, map, clock)?;
        let (commands, received) = channel();
        let (leave, left) = oneshot::channel();
        let queue = Arc::new(EventQueue::default());
        let (waiting, waker) = (queue.clone(), wake.clone());
        let thread = std::thread::Builder::new().name("kafka-reader".to_owned()).spawn(move || {
            member.serve(&received, &waiting, &waker);
            // The member is dropped by now, which leaves the group. The owner may not be waiting for it.
            let _ = leave.send(());
        });
        thread.map_err(|error| StoreError::broken("join readers", error.to_string()))?;
        Ok(Self { commands, queue, wake, seeks: HashMap::new(), left })
    }

    fn command(&self, command: Command) {
        // A thread that has ended has said why in the queue.
        let _ = self.commands.send(command);
    }
}

#[async_trait]
impl OrderLogReader for KafkaReader {
    async fn take(&mut self, limit: usize) -> StoreResult<Vec<LogEvent>> {
        let mut waiting = self.queue.lock();
        if let Some(error) = waiting.failure.take() {
            return Err(error);
        }
        let mut taken = Vec::new();
        let mut records = 0;
        while records < limit
            && let Some((seek, event)) = waiting.events.pop_front()
        {
            let (is_record, part) = match &event {
                LogEvent::Assigned { .. } | LogEvent::Revoked { .. } => {
                    taken.push(event);
                    continue;
                }
                LogEvent::Record { part, .. } => (true, *part),
                LogEvent::Sought { part } | LogEvent::NotSought { part } => (false, *part),
            };
            if self.seeks.get(&part) == Some(&seek) {
                records += usize::from(is_record);
                taken.push(event);
            }
        }
        if !waiting.events.is_empty() {
            (self.wake)();
        }
        self.queue.taken.notify_one();
        Ok(taken)
    }

    fn seek(&mut self, part: Part, offset: i64) {
        let seek = self.seeks.entry(part).or_default();
        *seek += 1;
        let seek = *seek;
        self.command(Command::Seek { part, offset, seek });
    }

    fn pause(&mut self, part: Part) {
        self.command(Command::Pause(part));
    }

    fn resume(&mut self, part: Part) {
        self.command(Command::Resume(part));
    }

    fn publish_position(&mut self, part: Part, next_offset: i64) {
        self.command(Command::Publish(part, next_offset));
    }

    async fn leave(self: Box<Self>) {
        let Self { commands, left, .. } = *self;
        drop(commands);
        let _ = left.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::batch_plan::LogRecord;
    use crate::domain::record::Poison;

    fn record(part: Part, offset: i64) -> LogEvent {
        let record = LogRecord { offset, payload: Vec::new(), order: Err(Poison::Garbage) };
        LogEvent::Record { part, record }
    }

    #[tokio::test]
    async fn what_was_read_before_a_seek_is_not_delivered_after_it() {
        let (commands, received) = channel();
        let (_leave, left) = oneshot::channel();
        let queue = Arc::new(EventQueue::default());
        let wake: Wake = Arc::new(|| ());
        let mut reader = KafkaReader { commands, queue: queue.clone(), wake, seeks: HashMap::new(), left };
        let (part, other) = (Part::new(0), Part::new(1));
        reader.seek(part, 7);
        reader.seek(other, 0);
        queue.put([(1, record(part, 7)), (1, record(other, 0))].into_iter());
        reader.seek(part, 5);
        let late = [(1, record(part, 8)), (1, LogEvent::NotSought { part }), (2, record(part, 5))];
        queue.put(late.into_iter());
        let offsets: Vec<(Part, i64)> = reader
            .take(100)
            .await
            .expect("events")
            .iter()
            .map(|event| match event {
                LogEvent::Record { part, record } => (*part, record.offset),
                event => panic!("{event:?} is out of date"),
            })
            .collect();
        assert_eq!(offsets, [(other, 0), (part, 5)]);
        assert_eq!(received.try_iter().count(), 3, "every seek is a command");
    }
}
