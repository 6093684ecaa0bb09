//! Looks at Kafka.

use std::borrow::Cow;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::Metadata;

use super::told::{host_of, of_privacy, why};
use crate::backend::distributed::kafka_client::{METADATA_TIMEOUT, Unawaited, settings as client_settings};
use crate::backend::distributed::kafka_connection::{FIX, address_of};
use crate::backend::distributed::mysql::Mysql;
use crate::backend::distributed::settings::Settings;
use crate::backend::distributed::{kafka_identity, mysql_positions, tls};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::check::{Check, Checks, Level};
use crate::domain::{LogId, OrderRecord};

/// Brokers and replicas with which one may be lost without a loss of orders.
const REPLICAS_WANTED: usize = 3;
/// How long the order log should keep a record at least, in ms: as long as nobody may be there to end a fault.
const RETENTION_LEAST_MS: i64 = 3 * 86_400_000;
const DAY_MS: i64 = 86_400_000;

/// A partition: its number, whether it has a leader, its replicas, and those of them that are in sync.
type Part = (i32, bool, usize, usize);

/// A topic as the brokers tell of it.
struct Topic {
    parts: Vec<Part>,
    /// Its settings, those of the brokers where it has none of its own.
    settings: Vec<(String, String)>,
}

impl Topic {
    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(found, _)| found == name);
        found.map_or("not told", |(_, value)| value)
    }

    /// Answers how many replicas have to take a record; 0 when it is not told.
    fn in_sync_least(&self) -> usize {
        self.setting("min.insync.replicas").parse().unwrap_or(0)
    }
}

/// Looks at the brokers and the order log.
pub async fn examine(settings: &Settings, mysql: &Mysql, clock: &Clock) -> Vec<Check> {
    let mut checks = Checks::of("kafka");
    let kafka = &settings.kafka;
    let identity = match kafka_identity::read(kafka, clock).await {
        Ok(identity) => identity,
        Err(error) => {
            let fix = tls::fix(&why(&error), "kafka", FIX);
            checks.need("reached", false, why(&error), fix);
            return checks.found();
        }
    };
    checks.need("reached", true, "answers", "");
    let hosts = kafka.brokers.split(',').map(|broker| host_of(&address_of(broker)));
    of_privacy(&mut checks, hosts, kafka.tls, "kafka.tls");
    let Some(identity) = identity else {
        let detail = format!("there is no topic {}", kafka.topic);
        checks.need(
            "topic",
            false,
            detail,
            "run `seckill migrate`; it says what to do when the topic had orders",
        );
        return checks.found();
    };
    checks.need("topic", true, format!("{} is there", kafka.topic), "");
    of_positions(&mut checks, mysql, identity.id).await;
    match of_topic(kafka, &kafka.topic).await {
        Ok((brokers, topic)) => {
            checks.want(
                "brokers",
                brokers >= REPLICAS_WANTED,
                format!("there are {brokers}"),
                "run three brokers or more: with fewer a lost one stops the order log, or loses it",
            );
            of_log(&mut checks, kafka.retention_ms, usize::from(settings.map.parts()), &topic);
        }
        Err(said) => {
            checks.need("topic", false, said, "the user needs Describe and DescribeConfigs on the topic")
        }
    }
    checks.found()
}

/// Looks at the topic of the events.
pub async fn examine_events(settings: &Settings, clock: &Clock) -> Vec<Check> {
    let mut checks = Checks::of("kafka");
    let name = &settings.kafka.events_topic;
    if name.is_empty() {
        checks.need("events", true, "events go to no topic", "");
        return checks.found();
    }
    let kafka = KafkaConfig { topic: name.clone(), ..settings.kafka.clone() };
    let wanted = usize::from(settings.map.parts());
    let identity = match kafka_identity::read(&kafka, clock).await {
        Ok(identity) => identity,
        Err(error) => {
            // That Kafka does not answer at all is said of the order log.
            if kafka_identity::read(&settings.kafka, clock).await.is_ok() {
                let fix = "the user needs Describe and Write on the topic of kafka.events_topic";
                checks.need("events", false, format!("{name} cannot be read: {}", why(&error)), fix);
            }
            return checks.found();
        }
    };
    let parts = identity.map_or(0, |identity| identity.parts);
    checks.need(
        "events",
        parts >= wanted,
        format!("{name} has {parts} partitions of {wanted}"),
        "run `seckill migrate`; add partitions with kafka-topics --alter where some are missing",
    );
    checks.found()
}

/// Compares the topic with the log that the writers' positions name.
async fn of_positions(checks: &mut Checks, mysql: &Mysql, log: LogId) {
    let mut strangers = Vec::new();
    for instance in mysql.map.all_instances() {
        let asked = mysql.read("read positions", mysql_positions::read_all(mysql, instance)).await;
        // That an instance does not answer is said of the instance, and its positions are not compared.
        let Ok(positions) = asked else { return };
        let others = positions.iter().filter(|(_, position)| position.log.is_some_and(|named| named != log));
        strangers.extend(others.map(|(part, _)| part.number()));
    }
    strangers.sort_unstable();
    let detail = match strangers.len() {
        0 => "the positions of the writers are of this topic".to_owned(),
        _ => format!("the positions of partitions {strangers:?} are of another topic of this name"),
    };
    let fix =
        "see Partition halted in docs/operations.md: the topic was made anew, or it is the wrong cluster";
    checks.need("identity", strangers.is_empty(), detail, fix);
}

/// Reads a topic and the number of brokers.
async fn of_topic(kafka: &KafkaConfig, name: &str) -> Result<(usize, Topic), String> {
    let admin: AdminClient<DefaultClientContext> =
        client_settings(kafka).create().map_err(|error| error.to_string())?;
    let admin = Unawaited::new(admin);
    let described = admin.describe_configs(&[ResourceSpecifier::Topic(name)], &AdminOptions::new()).await;
    let resource = described.map_err(|error| error.to_string())?.into_iter().next();
    let entries = match resource {
        Some(Ok(resource)) => resource.entries,
        Some(Err(code)) => return Err(format!("the settings of {name} cannot be read: {code}")),
        None => return Err(format!("the settings of {name} cannot be read")),
    };
    let metadata =
        admin.inner().fetch_metadata(Some(name), METADATA_TIMEOUT).map_err(|error| error.to_string())?;
    let settings = entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
    Ok((metadata.brokers().len(), Topic { parts: parts_of(&metadata), settings }))
}

fn parts_of(metadata: &Metadata) -> Vec<Part> {
    let parts = metadata.topics().iter().flat_map(|topic| topic.partitions());
    parts.map(|part| (part.id(), part.leader() >= 0, part.replicas().len(), part.isr().len())).collect()
}

fn of_log(checks: &mut Checks, retention_ms: i64, wanted: usize, topic: &Topic) {
    of_parts(checks, wanted, topic);
    let replicas = topic.parts.iter().map(|part| part.2).min().unwrap_or(0);
    let in_sync_least = topic.in_sync_least();
    checks.want(
        "replication",
        replicas >= REPLICAS_WANTED,
        format!("each partition has {replicas} replicas"),
        "make the topic with kafka.replication_factor = 3: an accepted order is lost with its only broker",
    );
    checks.add(
        "min_insync",
        format!("min.insync.replicas is {in_sync_least} of {replicas}"),
        ill_of(in_sync_least, replicas),
    );
    let number = |name: &str| topic.setting(name).parse::<i64>().ok();
    let retention = number("retention.ms").unwrap_or(0);
    // Whoever wants a shorter time has said so; -1 is for ever.
    let least = if retention_ms < 0 { RETENTION_LEAST_MS } else { RETENTION_LEAST_MS.min(retention_ms) };
    checks.need(
        "retention",
        retention == -1 || retention >= least,
        format!("retention.ms is {retention} ({} days)", retention / DAY_MS),
        format!("set it to kafka.retention_ms ({retention_ms}): what expires before it is written is lost"),
    );
    let bytes = number("retention.bytes").unwrap_or(-1);
    checks.want(
        "retention_bytes",
        bytes == -1,
        format!("retention.bytes is {bytes}"),
        "set it to -1: a log that is full forgets orders before their time",
    );
    let policy = topic.setting("cleanup.policy");
    checks.need(
        "cleanup",
        policy == "delete",
        format!("cleanup.policy is {policy}"),
        "set it to delete: compaction makes gaps, at which a partition stands still",
    );
    let unclean = topic.setting("unclean.leader.election.enable");
    checks.need(
        "unclean",
        unclean != "true",
        format!("unclean.leader.election.enable is {unclean}"),
        "set it to false: a leader that is behind loses the end of the log",
    );
    let most = number("max.message.bytes").unwrap_or(i64::MAX);
    checks.need(
        "record_bytes",
        usize::try_from(most).is_ok_and(|most| most >= OrderRecord::BYTES_MAX),
        format!("max.message.bytes is {most}"),
        format!("set it to {} or more: longer records are refused for ever", OrderRecord::BYTES_MAX),
    );
}

/// Says what is wrong with the number of replicas that have to have a record.
fn ill_of(in_sync_least: usize, replicas: usize) -> Option<(Level, Cow<'static, str>)> {
    if in_sync_least > replicas {
        return Some((Level::Error, "lower it: no record is ever taken".into()));
    }
    if replicas > 1 && in_sync_least == replicas {
        return Some((
            Level::Warning,
            "set it one below the replicas: the loss of one broker stops the log".into(),
        ));
    }
    let is_alone = replicas > 2 && in_sync_least < 2;
    is_alone.then(|| (Level::Warning, "set it to 2: an acknowledged order may be on one broker alone".into()))
}

fn of_parts(checks: &mut Checks, wanted: usize, topic: &Topic) {
    let found = topic.parts.len();
    checks.need(
        "partitions",
        found >= wanted,
        format!("there are {found}, and shards.partitions is {wanted}"),
        "add the missing ones (kafka-topics --alter --partitions): the number is frozen with the shard map",
    );
    checks.want(
        "foreign_partitions",
        found <= wanted,
        format!("{} partitions are beyond shards.partitions", found.saturating_sub(wanted)),
        "see Foreign partitions in docs/operations.md: they stay empty, and nobody uses them",
    );
    let alone: Vec<i32> = topic.parts.iter().filter(|part| !part.1).map(|part| part.0).collect();
    checks.need(
        "leaders",
        alone.is_empty(),
        match alone.len() {
            0 => "every partition has a leader".to_owned(),
            _ => format!("partitions {alone:?} have no leader"),
        },
        "see which broker is down: orders of these partitions wait in the outbox",
    );
    of_replicas(checks, topic);
}

fn of_replicas(checks: &mut Checks, topic: &Topic) {
    let least = topic.in_sync_least();
    let numbers = |is_meant: fn(&Part, usize) -> bool| -> Vec<i32> {
        topic.parts.iter().filter(|part| is_meant(part, least)).map(|part| part.0).collect()
    };
    let (behind, stuck) = (numbers(|part, _| part.3 < part.2), numbers(|part, least| part.3 < least));
    let (detail, ill) = match (behind.is_empty(), stuck.is_empty()) {
        (true, _) => ("all replicas are in sync".to_owned(), None),
        (false, true) => (
            format!("replicas of partitions {behind:?} are behind"),
            Some((Level::Warning, "see which broker is down or slow".into())),
        ),
        (false, false) => (
            format!("partitions {stuck:?} have fewer than {least} replicas in sync, and take no record"),
            Some((Level::Error, "see which brokers are down: these orders wait in the outbox".into())),
        ),
    };
    checks.add("in_sync", detail, ill);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    fn levels(parts: &[Part], changed: &[(&str, &str)]) -> BTreeMap<String, Level> {
        let mut settings: BTreeMap<&str, &str> = BTreeMap::from([
            ("min.insync.replicas", "2"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "-1"),
            ("cleanup.policy", "delete"),
            ("unclean.leader.election.enable", "false"),
            ("max.message.bytes", "1048588"),
        ]);
        settings.extend(changed.iter().copied());
        let settings =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut checks = Checks::of("kafka");
        of_log(&mut checks, 604_800_000, 2, &Topic { parts: parts.to_vec(), settings });
        checks.found().into_iter().map(|check| (check.name.into_owned(), check.level)).collect()
    }

    const SOUND: Part = (0, true, 3, 3);

    #[test]
    fn each_setting_of_the_log_is_red_when_it_is_wrong_and_only_then() {
        let sound = levels(&[SOUND, SOUND], &[]);
        assert!(sound.values().all(|level| *level == Level::Ok), "{sound:?}");
        for (name, value, check, level) in [
            ("min.insync.replicas", "4", "kafka.min_insync", Level::Error),
            ("min.insync.replicas", "3", "kafka.min_insync", Level::Warning),
            ("min.insync.replicas", "1", "kafka.min_insync", Level::Warning),
            ("retention.ms", "3600000", "kafka.retention", Level::Error),
            ("retention.bytes", "1000000", "kafka.retention_bytes", Level::Warning),
            ("cleanup.policy", "compact", "kafka.cleanup", Level::Error),
            ("unclean.leader.election.enable", "true", "kafka.unclean", Level::Error),
            ("max.message.bytes", "100", "kafka.record_bytes", Level::Error),
        ] {
            let found = levels(&[SOUND, SOUND], &[(name, value)]);
            let ill: Vec<_> = found.iter().filter(|(_, level)| **level != Level::Ok).collect();
            assert_eq!(ill, [(&check.to_owned(), &level)], "{name} {value}");
        }
    }

    #[test]
    fn a_log_that_is_kept_for_ever_is_not_kept_for_a_minute() {
        let settings = vec![("retention.ms".to_owned(), "60000".to_owned())];
        let mut checks = Checks::of("kafka");
        of_log(&mut checks, -1, 1, &Topic { parts: vec![SOUND], settings });
        let found = checks.found();
        let check = found.iter().find(|check| check.name == "kafka.retention").expect("the check");
        assert_eq!(check.level, Level::Error);
    }

    #[test]
    fn each_fault_of_the_partitions_is_red_and_only_then() {
        for (parts, check, level) in [
            (&[SOUND][..], "kafka.partitions", Level::Error),
            (&[SOUND, SOUND, SOUND], "kafka.foreign_partitions", Level::Warning),
            (&[SOUND, (1, false, 3, 3)], "kafka.leaders", Level::Error),
            (&[SOUND, (1, true, 3, 2)], "kafka.in_sync", Level::Warning),
            (&[SOUND, (1, true, 3, 1)], "kafka.in_sync", Level::Error),
        ] {
            let found = levels(parts, &[]);
            let ill: Vec<_> = found.iter().filter(|(_, level)| **level != Level::Ok).collect();
            assert_eq!(ill, [(&check.to_owned(), &level)], "{parts:?}");
        }
    }
}
