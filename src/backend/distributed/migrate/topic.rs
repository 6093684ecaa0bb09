//! Makes or checks the topics, and names the log of the positions.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use crate::backend::distributed::kafka_client::{
    METADATA_TIMEOUT, Unawaited, failed, settings as client_settings,
};
use crate::backend::distributed::mysql::Mysql;
use crate::backend::distributed::settings::Settings;
use crate::backend::distributed::{kafka_identity, mysql_positions};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::Position;
use crate::ports::{Effect, StoreError, StoreResult};

/// Longest time that the leader of a new partition may take to know that it leads.
const LEADER_WAIT: Duration = Duration::from_secs(10);
/// Time between two questions to a leader that refuses.
const LEADER_PAUSE: Duration = Duration::from_millis(100);

/// A topic as it is wanted.
struct Wanted<'a> {
    name: &'a str,
    parts: u16,
    settings: [(&'static str, String); 4],
}

/// Creates the topic of the order log, or compares the one that is there. Answers whether it created the topic, and how
/// many partitions it has beyond the shard map's.
///
/// # Errors
/// When the topic has other settings, or is gone although orders were written from it.
pub async fn make(settings: &Settings, mysql: &Mysql, clock: &Clock) -> StoreResult<(bool, usize)> {
    let kafka = &settings.kafka;
    if kafka_identity::read(kafka, clock).await?.is_none() {
        refuse_to_lose_a_log(mysql).await?;
    }
    let wanted = Wanted {
        name: &kafka.topic,
        parts: settings.map.parts(),
        settings: wanted_settings(kafka, kafka.retention_ms),
    };
    create_or_check(kafka, &wanted).await
}

/// Creates the topic of the events, or compares the one that is there. One that is gone may be made anew: the databases
/// have the events.
///
/// # Errors
/// When the topic has other settings.
pub async fn make_of_events(settings: &Settings) -> StoreResult<()> {
    let kafka = &settings.kafka;
    let wanted = Wanted {
        name: &kafka.events_topic,
        parts: settings.map.parts(),
        settings: wanted_settings(kafka, kafka.events_retention_ms),
    };
    create_or_check(kafka, &wanted).await.map(drop)
}

async fn create_or_check(kafka: &KafkaConfig, wanted: &Wanted<'_>) -> StoreResult<(bool, usize)> {
    let fault = |error| failed("make topic", Effect::Unknown, error);
    let admin: AdminClient<DefaultClientContext> = client_settings(kafka).create().map_err(fault)?;
    let admin = Unawaited::new(admin);
    let replication = TopicReplication::Fixed(i32::from(kafka.replication_factor));
    let mut topic = NewTopic::new(wanted.name, i32::from(wanted.parts), replication);
    for (name, value) in &wanted.settings {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let created = admin.create_topics(&[topic], &options).await.map_err(fault)?;
    match created.into_iter().next() {
        Some(Ok(_)) => Ok((true, 0)),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
            check(&admin, wanted).await.map(|foreign_parts| (false, foreign_parts))
        }
        Some(Err((_, code))) => Err(StoreError::broken(
            "make topic",
            format!("{}: {code} (replication factor {})", wanted.name, kafka.replication_factor),
        )),
        None => Err(StoreError::broken("make topic", "the broker gave no answer")),
    }
}

/// Refuses to make a topic anew from which orders were written. A new one would begin at offset 0, and the positions
/// would pass over what is appended to it.
async fn refuse_to_lose_a_log(mysql: &Mysql) -> StoreResult<()> {
    let mut advanced = 0;
    for instance in mysql.map.all_instances() {
        let positions = mysql_positions::read_all(mysql, instance).await?;
        advanced += positions.values().filter(|position| position.next_offset > 0).count();
    }
    if advanced == 0 {
        return Ok(());
    }
    let detail = format!(
        "topic {} is gone, and {advanced} stored positions are above 0: accepted orders may have been lost with it. \
         Nothing was changed. `seckill position show` lists the positions. To begin with a new topic, move them with \
         `seckill position move all --to 0 --reason …`, then migrate again",
        mysql.topic
    );
    Err(StoreError { effect: Effect::NotApplied, ..StoreError::broken("make topic", detail) })
}

/// Names the log of the positions that have none yet, so that another log of the same name is recognised. A position
/// that lies outside the log is left alone: its partition will be halted.
///
/// # Errors
/// When the topic or a position cannot be read.
pub async fn name_log_of_positions(settings: &Settings, mysql: &Mysql, clock: &Clock) -> StoreResult<()> {
    let context = "name the log of positions";
    let identity = async || {
        let log = kafka_identity::read(&settings.kafka, clock).await?;
        log.ok_or_else(|| StoreError::broken(context, "the topic is gone again"))
    };
    let log = of_new_topic(clock, identity).await?;
    let consumer: BaseConsumer = client_settings(&settings.kafka)
        .create()
        .map_err(|error| failed(context, Effect::NotApplied, error))?;
    let consumer = Unawaited::new(consumer);
    for instance in mysql.map.all_instances() {
        for (part, position) in mysql_positions::read_all(mysql, instance).await? {
            if position.log.is_some() {
                continue;
            }
            let number = i32::from(part.number());
            let ends = async || consumer.fetch_watermarks(&mysql.topic, number, METADATA_TIMEOUT);
            let ends = of_new_topic(clock, ends).await;
            let (low, high) = ends.map_err(|error| failed(context, Effect::NotApplied, error))?;
            let offsets = low..high;
            if position.halt_in(log.id, &offsets).is_none() {
                let named = Position { log: Some(log.id), ..position };
                // A writer that was quicker has named the log itself.
                mysql_positions::replace(mysql, part, &position, &named).await?;
            }
        }
    }
    Ok(())
}

/// Reads something of a topic that may have been made just now. For a while the brokers do not know of it, or of their
/// duty to lead its partitions; so they are asked again.
async fn of_new_topic<T, E>(clock: &Clock, ask: impl AsyncFn() -> Result<T, E>) -> Result<T, E> {
    let deadline = clock.monotonic() + LEADER_WAIT;
    loop {
        let answer = ask().await;
        if answer.is_ok() || clock.monotonic() >= deadline {
            return answer;
        }
        clock.sleep(LEADER_PAUSE).await;
    }
}

fn wanted_settings(kafka: &KafkaConfig, retention_ms: i64) -> [(&'static str, String); 4] {
    [
        ("min.insync.replicas", kafka.min_insync_replicas.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("retention.ms", retention_ms.to_string()),
        ("cleanup.policy", "delete".to_owned()),
    ]
}

async fn check(admin: &AdminClient<DefaultClientContext>, wanted: &Wanted<'_>) -> StoreResult<usize> {
    let fault = |error| failed("check topic", Effect::NotApplied, error);
    let name = wanted.name;
    let metadata = admin.inner().fetch_metadata(Some(name), METADATA_TIMEOUT).map_err(fault)?;
    let found = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let wanted_parts = usize::from(wanted.parts);
    if found < wanted_parts {
        let detail = format!(
            "topic {name} has {found} partitions and the configuration wants {wanted_parts}: partitions are frozen \
             with the shard map; add the missing ones (kafka-topics --alter --topic {name} --partitions {wanted_parts})"
        );
        return Err(StoreError::broken("check topic", detail));
    }
    let answers = admin
        .describe_configs(&[ResourceSpecifier::Topic(name)], &AdminOptions::new())
        .await
        .map_err(fault)?;
    let entries = match answers.into_iter().next() {
        Some(Ok(resource)) => resource.entries,
        Some(Err(code)) => return Err(StoreError::broken("check topic", format!("{name}: {code}"))),
        None => return Err(StoreError::broken("check topic", "the broker gave no answer")),
    };
    for (key, value) in &wanted.settings {
        let found = entries.iter().find(|entry| entry.name == *key).and_then(|entry| entry.value.as_deref());
        if found != Some(value.as_str()) {
            let detail = format!(
                "topic {name} has {key}={} and the configuration wants {value}: change one of them \
                 (kafka-configs --alter --topic {name} --add-config {key}={value})",
                found.unwrap_or("nothing")
            );
            return Err(StoreError::broken("check topic", detail));
        }
    }
    Ok(found - wanted_parts)
}
