//! Passes events on to a topic of their own. An order's events have its id as their key, and stand in the partition of
//! the same number as its record in the order log.

use std::collections::HashSet;

use async_trait::async_trait;

use super::kafka_client::producer_settings;
use super::kafka_producer::{KafkaProducer, Message};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::{OrderId, ShardMap, StoredEvent};
use crate::ports::{EventTopic, StoreResult};

/// Most events that are under way. More than one call passes on is never asked for.
const UNANSWERED_MAX: usize = 100_000;

/// Passes events on to Kafka.
pub struct KafkaEventTopic {
    producer: KafkaProducer,
}

impl KafkaEventTopic {
    /// Makes the producer. It connects at the first event.
    ///
    /// # Errors
    /// When the settings are wrong or no thread can be had.
    pub fn open(config: &KafkaConfig, map: ShardMap, clock: Clock) -> StoreResult<Self> {
        let settings = producer_settings(config);
        let producer = KafkaProducer::open(&settings, &config.events_topic, map, UNANSWERED_MAX, clock)?;
        Ok(Self { producer })
    }
}

#[async_trait]
impl EventTopic for KafkaEventTopic {
    async fn publish(&self, events: &[StoredEvent]) -> StoreResult<()> {
        for wave in waves(events) {
            let appends = wave.chunk_by(|one, next| one.part == next.part).map(|of_part| {
                let messages = of_part.iter().map(|event| Message {
                    key: Some(event.order.to_string().into_bytes()),
                    payload: event.encode(),
                });
                self.producer.append_all(of_part[0].part, messages)
            });
            futures::future::try_join_all(appends).await?;
        }
        Ok(())
    }
}

/// Cuts events into runs in which each order is named once: an event goes out when those of its order before it are
/// safe, because a failed record does not hold up the one behind it.
fn waves(events: &[StoredEvent]) -> impl Iterator<Item = &[StoredEvent]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut named: HashSet<OrderId> = HashSet::new();
        let size = rest.iter().take_while(|event| named.insert(event.order)).count();
        let (wave, after) = rest.split_at(size);
        rest = after;
        (size > 0).then_some(wave)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::Part;

    #[test]
    fn no_wave_names_an_order_twice_and_no_event_is_left_out() {
        let order = |number: u8| OrderId::from_bytes(&[number; 16]).expect("an id");
        let steps = [1, 2, 1, 3, 3, 2].map(|number| json!({ "order_id": order(number) }));
        let row = json!({ "common": { "kind": "paid" }, "moves": steps }).to_string();
        let events =
            StoredEvent::of_row(Part::new(0), (1, 6), 0, row.as_bytes()).expect("a row of six steps");
        let numbers: Vec<Vec<i64>> =
            waves(&events).map(|wave| wave.iter().map(|event| event.number).collect()).collect();
        assert_eq!(numbers, [vec![1, 2], vec![3, 4], vec![5, 6]]);
        assert_eq!(waves(&[]).count(), 0);
    }
}
