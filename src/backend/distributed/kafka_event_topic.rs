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
            let appends = wave.iter().map(|event| {
                let message =
                    Message { key: Some(event.order.to_string().into_bytes()), payload: event.encode() };
                self.producer.append(event.part, message)
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
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::domain::{IdempotencyKey, Month, Part, SaleId, Shard, UserId};

    fn event(number: i64, key: &str) -> StoredEvent {
        let (sale, user) = (SaleId::parse("drop").expect("a slug"), UserId::parse("u").expect("an id"));
        let key = IdempotencyKey::parse(key).expect("a key");
        StoredEvent {
            part: Part::new(0),
            number,
            at_ms: 0,
            order: OrderId::derive(Shard::new(0), Month::of_ms(0), &sale, &user, &key),
            kind: "paid".to_owned(),
            data: to_raw_value(&1).expect("JSON"),
        }
    }

    #[test]
    fn no_wave_names_an_order_twice_and_no_event_is_left_out() {
        let events: Vec<StoredEvent> =
            (1..).zip(["a", "b", "a", "c", "c", "b"]).map(|(number, key)| event(number, key)).collect();
        let numbers: Vec<Vec<i64>> =
            waves(&events).map(|wave| wave.iter().map(|event| event.number).collect()).collect();
        assert_eq!(numbers, [vec![1, 2], vec![3, 4], vec![5, 6]]);
        assert_eq!(waves(&[]).count(), 0);
    }
}
