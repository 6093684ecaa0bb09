//! `seckill doctor` on the real servers: each thing that is wrong is told, and nothing else. The variables of MySQL are
//! in `tests/outages/doctor.rs`, because they would make others' tests fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use seckill::backend::distributed::Unawaited;
use seckill::config::{Config, Mode};
use serde_json::Value;

use crate::harness::process::program;
use crate::harness::{MONTHS_AHEAD, SECRET, Servers, config, migrated, months, remove, temporary};
use crate::own_redis::OwnRedis;

/// What a doctor says: exit code, and of each check its level.
pub struct Said {
    code: Option<i32>,
    levels: BTreeMap<String, String>,
    pub text: String,
}

impl Said {
    /// Answers the level of a check.
    pub fn level(&self, check: &str) -> &str {
        self.levels.get(check).map_or("not there", String::as_str)
    }

    /// Answers the checks that are not well, without those that are on a machine for development.
    fn ill(&self) -> BTreeSet<&str> {
        let usual = [
            "redis.memory",
            "redis.aof",
            "kafka.brokers",
            "kafka.replication",
            "process.calls",
            "process.open_files",
            "process.payments",
        ];
        let is_usual = |name: &str| {
            let of_mysql = ["buffer_pool", "sync_binlog", "flush", "binlog", "connections"];
            usual.contains(&name) || of_mysql.iter().any(|check| name.ends_with(&format!(".{check}")))
        };
        let ill = self.levels.iter().filter(|(_, level)| *level != "ok");
        ill.map(|(name, _)| name.as_str()).filter(|name| !is_usual(name)).collect()
    }
}

/// Runs one over the stores of `config`, with settings of its own.
pub fn doctor(config: &Config, settings: &[(&str, &str)]) -> Said {
    said_by(called(config, settings))
}

fn called(config: &Config, settings: &[(&str, &str)]) -> Command {
    let mut command = program(config);
    command.env("SECKILL__AUTH__HS256_SECRET", SECRET);
    command.env("SECKILL__SHARDS__MONTHS_AHEAD", MONTHS_AHEAD.to_string());
    command.envs(settings.iter().map(|(key, value)| (format!("SECKILL__{key}"), *value)));
    command.args(["doctor", "-o", "json"]);
    command
}

fn said_by(mut command: Command) -> Said {
    let done = command.stdin(Stdio::null()).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let talk = String::from_utf8_lossy(&done.stderr).into_owned();
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{talk}"));
    let checks = answer["checks"].as_array().expect("a list");
    let word = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    for check in checks {
        assert_eq!(check["fix"].is_string(), check["level"] != "ok", "what is ill says what helps: {check}");
    }
    let levels = checks.iter().map(|check| (word(check, "name"), word(check, "level"))).collect();
    Said { code: done.status.code(), levels, text: format!("{text}{talk}") }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shop_that_is_well_has_no_error_and_at_least_thirty_checks() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let said = doctor(&config, &[]);
    assert_eq!(said.ill(), BTreeSet::new(), "{}", said.text);
    assert!(
        said.text.contains("2 processes take up to"),
        "one that starts, and its other half: {}",
        said.text
    );
    assert!(said.levels.len() >= 60, "{}", said.levels.len());
    remove(&config).await;
}

/// What breaks a Redis, what mends it, which check tells it, and how much it matters.
const FAULTS: [[&str; 4]; 9] = [
    [
        "CONFIG SET maxmemory-policy allkeys-lru",
        "CONFIG SET maxmemory-policy noeviction",
        "redis.eviction",
        "error",
    ],
    ["CONFIG SET appendfsync no", "CONFIG SET appendfsync everysec", "redis.fsync", "warning"],
    ["CONFIG SET maxmemory 1mb", "CONFIG SET maxmemory 200mb", "redis.memory", "error"],
    ["CONFIG SET maxclients 50", "CONFIG SET maxclients 1000", "redis.clients", "warning"],
    ["REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE", "redis.role", "error"],
    ["ACL SETUSER default -eval -evalsha", "ACL SETUSER default +eval +evalsha", "redis.scripts", "error"],
    ["ACL SETUSER default -hvals", "ACL SETUSER default +hvals", "redis.rights", "error"],
    ["ACL SETUSER default -info", "ACL SETUSER default +info", "redis.info", "warning"],
    ["CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "redis.scripts", "error"],
];

async fn tell(redis: &OwnRedis, line: &str) {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    let _: redis::Value = command.query_async(&mut redis.connection().await).await.expect("done");
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_is_wrong_with_redis_is_told() {
    let mut redis = OwnRedis::start(&["--maxmemory", "200mb", "--appendfsync", "everysec"]).await;
    let config = config(Mode::Distributed, &[("redis.url", &redis.url())]);
    migrated(&config).await;
    let said = doctor(&config, &[]);
    assert_eq!(said.ill(), BTreeSet::new(), "{}", said.text);
    for [break_it, mend_it, check, level] in FAULTS {
        tell(&redis, break_it).await;
        let said = doctor(&config, &[]);
        assert_eq!(said.level(check), level, "{break_it:?}: {}", said.text);
        assert_eq!(said.code == Some(4), said.levels.values().any(|level| level == "error"), "{}", said.text);
        tell(&redis, mend_it).await;
        assert_eq!(doctor(&config, &[]).level(check), "ok", "{mend_it:?}");
    }
    // A user with the keys and the channel of the shop and nothing else may do all that is needed.
    let own = &config.redis.key_prefix;
    tell(&redis, &format!("ACL SETUSER shop on >secret ~{own}* &{own}* +@all -@admin")).await;
    let url = format!("redis://shop:secret@{}", redis.address());
    let said = doctor(&config, &[("REDIS__URL", &url)]);
    assert_eq!(said.ill(), BTreeSet::new(), "{}", said.text);
    tell(&redis, "ACL SETUSER shop -getdel resetchannels").await;
    let said = doctor(&config, &[("REDIS__URL", &url)]);
    assert_eq!(said.level("redis.rights"), "error", "{}", said.text);
    for command in ["getdel", "publish", "subscribe"] {
        assert!(said.text.contains(command), "{command}: {}", said.text);
    }
    let node = OwnRedis::start(&["--cluster-enabled", "yes"]).await;
    let said = doctor(&config, &[("REDIS__URL", &node.url())]);
    assert_eq!(said.level("redis.cluster"), "error", "{}", said.text);
    let said = doctor(&config, &[("REDIS__PASSWORD", "wrong")]);
    assert_eq!((said.level("redis.reached"), said.code), ("error", Some(4)), "{}", said.text);
    redis.kill();
    let said = doctor(&config, &[]);
    assert_eq!((said.level("redis.reached"), said.code), ("error", Some(4)), "{}", said.text);
    assert_eq!(said.level("mysql-0.reached"), "ok", "the others are looked at all the same");
    redis.start_again().await;
    remove(&config).await;
}

/// A library that sets the wall clock of a program forward by `AHEAD_S` seconds, and no other clock.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += atoi(getenv("AHEAD_S"));
  return done;
}
"#;

fn compiled(folder: &Path) -> String {
    std::fs::create_dir_all(folder).expect("a folder");
    let (source, library) = (folder.join("shift.c"), folder.join("shift.so"));
    std::fs::write(&source, SHIFT).expect("written");
    let mut compiler = Command::new("cc");
    let done = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    let done = done.expect("a C compiler, as the build needs one");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library.to_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_machine_whose_clock_is_wrong_is_told_of_every_server() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let folder = temporary(&format!("shift-{}", std::process::id()));
    let library = compiled(&folder);
    for (ahead_s, level) in [("0", "ok"), ("2", "warning"), ("-30", "error"), ("30", "error")] {
        let mut command = called(&config, &[]);
        command.env("LD_PRELOAD", &library).env("AHEAD_S", ahead_s);
        let said = said_by(command);
        for check in ["redis.clock", "mysql-0.clock", "mysql-1.clock"] {
            assert_eq!(said.level(check), level, "{ahead_s} s: {}", said.text);
        }
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
    remove(&config).await;
}

struct Kafka(Unawaited<AdminClient<DefaultClientContext>>, String);

impl Kafka {
    fn of(config: &Config) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.kafka.brokers);
        Self(Unawaited::new(client.create().expect("a client")), config.kafka.topic.clone())
    }

    async fn set(&self, name: &str, value: &str) {
        let settings = AlterConfig::new(ResourceSpecifier::Topic(&self.1)).set(name, value);
        let done = self.0.alter_configs(&[settings], &AdminOptions::new()).await.expect("an answer");
        done.into_iter().for_each(|done| drop(done.expect("it is set")));
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_is_wrong_with_kafka_is_told() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let kafka = Kafka::of(&config);
    for (name, value, check, level) in [
        ("cleanup.policy", "compact", "kafka.cleanup", "error"),
        ("retention.ms", "60000", "kafka.retention", "error"),
        ("retention.bytes", "1000000", "kafka.retention_bytes", "warning"),
        ("unclean.leader.election.enable", "true", "kafka.unclean", "error"),
        ("min.insync.replicas", "2", "kafka.min_insync", "error"),
        ("max.message.bytes", "1000", "kafka.record_bytes", "error"),
    ] {
        // What is not named goes back to the broker's own.
        kafka.set(name, value).await;
        let said = doctor(&config, &[]);
        assert_eq!(said.level(check), level, "{name}: {}", said.text);
    }
    kafka.set("cleanup.policy", "delete").await;
    let more =
        kafka.0.create_partitions(&[NewPartitions::new(&config.kafka.topic, 3)], &AdminOptions::new()).await;
    more.expect("an answer").into_iter().for_each(|done| drop(done.expect("added")));
    let said = doctor(&config, &[]);
    assert_eq!(said.level("kafka.foreign_partitions"), "warning", "{}", said.text);
    let said = doctor(&config, &[("SHARDS__PARTITIONS", "4")]);
    assert_eq!(
        (said.level("kafka.partitions"), said.level("mysql.schema")),
        ("error", "error"),
        "{}",
        said.text
    );
    let said = doctor(&config, &[("KAFKA__EVENTS_TOPIC", "no-such-topic")]);
    assert_eq!(said.level("kafka.events"), "error", "{}", said.text);
    let said = doctor(&config, &[("KAFKA__TOPIC", "no-such-topic")]);
    assert_eq!((said.level("kafka.topic"), said.code), ("error", Some(4)), "{}", said.text);
    let said = doctor(&config, &[("KAFKA__BROKERS", "127.0.0.1:9")]);
    assert_eq!((said.level("kafka.reached"), said.code), ("error", Some(4)), "{}", said.text);
    let database = Servers::of(&config);
    for (instance, control) in database.controls() {
        let other = format!("UPDATE {control}.consumer_positions SET log_id = REPEAT('x', 16)");
        database.execute(instance, &other).await;
    }
    let said = doctor(&config, &[]);
    assert_eq!(said.level("kafka.identity"), "error", "{}", said.text);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_is_wrong_with_the_databases_is_told() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let database = Servers::of(&config);
    let (instance, shard) = database.shards().into_iter().next_back().expect("a shard");
    let months = months();
    for (month, level) in [(months[1], "warning"), (months[0], "error")] {
        database.execute(instance, &format!("DROP TABLE {shard}.orders_{}", month.yyyymm())).await;
        let said = doctor(&config, &[]);
        assert_eq!(said.level(&format!("mysql-{instance}.months")), level, "{}", said.text);
    }
    migrated(&config).await;
    assert_eq!(doctor(&config, &[]).ill(), BTreeSet::new());
    let said = doctor(&config, &[("SHARDS__SHARDS", "8")]);
    assert_eq!(said.level("mysql.schema"), "error", "{}", said.text);
    let said = doctor(&config, &[("MYSQL__PASSWORD", "wrong")]);
    assert_eq!((said.level("mysql-0.reached"), said.code), ("error", Some(4)), "{}", said.text);
    let said = doctor(&config, &[("MYSQL__POOL_CONNECTIONS_MAX", "1000")]);
    assert_eq!(said.level("mysql-0.connections"), "error", "{}", said.text);
    let (instance, control) = database.controls().into_iter().next_back().expect("a database");
    database.execute(instance, &format!("UPDATE {control}.watermark SET server = 'another'")).await;
    let said = doctor(&config, &[]);
    assert_eq!(said.level(&format!("mysql-{instance}.watermark")), "error", "{}", said.text);
    database.execute(instance, &format!("DROP TABLE {control}.consumer_positions")).await;
    let said = doctor(&config, &[]);
    assert_eq!(said.level(&format!("mysql-{instance}.writes")), "error", "{}", said.text);
    remove(&config).await;
}
