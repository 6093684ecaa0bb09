//! Looks at Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redis::Script;

use super::told::{compare_clocks, of_privacy, version_of, why};
use crate::backend::distributed::redis_link::{NO_EVICTION, RedisLink};
use crate::backend::distributed::redis_nodes::RedisNodes;
use crate::backend::distributed::tls;
use crate::clock::Clock;
use crate::config::RedisConfig;
use crate::domain::check::{Check, Checks};
use crate::domain::node::Node;
use crate::ports::{Probe as _, StoreResult};

/// The oldest version whose commands the scripts know.
const VERSION_LEAST: (u32, u32) = (6, 2);
/// How long an answer is waited for at least, in ms.
const PATIENCE_MS: u64 = 2000;
/// How full the memory may be, in per cent.
const MEMORY_PERCENT: u64 = 80;
/// Connections that the server should have to spare, beside those of this process.
const CLIENTS_TO_SPARE: u64 = 100;
/// How long a round trip may take, in ms, before purchases wait for it.
const ROUND_TRIP_MS: u128 = 10;

/// Every command that a script of the shop runs, and those that the shop calls itself, on a key. Those that run scripts
/// have been run when this is asked.
const COMMANDS: &[&str] = &[
    "decrby",
    "del",
    "exists",
    "expire",
    "get",
    "getdel",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hlen",
    "hmget",
    "hscan",
    "hset",
    "hsetnx",
    "hvals",
    "incrby",
    "pexpire",
    "pttl",
    "sadd",
    "set",
    "sismember",
    "srem",
    "unlink",
    "xadd",
    "xdel",
    "xlen",
    "xrange",
];
/// Those that it calls on its channel.
const CHANNEL_COMMANDS: &[&str] = &["publish", "subscribe"];

/// What the server says of itself: a name and its value.
type Told = BTreeMap<String, String>;

/// Looks at the server. Answers a link to it as well, and the processes of the shop; `None` when they cannot be read.
pub async fn examine(
    config: &RedisConfig,
    clock: &Clock,
) -> (Vec<Check>, Option<(Arc<RedisLink>, Vec<Node>)>) {
    let mut checks = Checks::of("redis");
    // A slow answer is told as that, and not as none.
    let config =
        RedisConfig { response_timeout_ms: config.response_timeout_ms.max(PATIENCE_MS), ..config.clone() };
    let link = match RedisLink::new(&config, clock.clone()) {
        Ok(link) => Arc::new(link),
        Err(error) => {
            checks.need(
                "reached",
                false,
                why(&error),
                "redis.url is redis://HOST:PORT, or rediss:// with TLS",
            );
            return (checks.found(), None);
        }
    };
    // The first question makes the connection.
    if let Err(error) = link.now_ms().await {
        let tls =
            if config.is_tls() { "does it speak TLS at this port" } else { "does it want TLS (rediss://)" };
        let fix = format!(
            "is it running, {tls}, and are redis.url and redis.password right? `seckill config explain redis` says"
        );
        checks.need("reached", false, why(&error), tls::fix(&why(&error), "redis", fix));
        return (checks.found(), None);
    }
    checks.need("reached", true, "answers", "");
    of_privacy(&mut checks, link.host(), config.is_tls(), "redis.url to rediss://…");
    let (began, asked_ms) = (clock.monotonic(), clock.now_ms());
    if let Ok(theirs_ms) = link.now_ms().await {
        let took = clock.monotonic().since(began);
        compare_clocks(&mut checks, theirs_ms, (asked_ms, clock.now_ms()));
        checks.want(
            "round_trip",
            took.as_millis() <= ROUND_TRIP_MS,
            format!("a round trip takes {:.1} ms", took.as_secs_f64() * 1000.0),
            "put Redis into the same zone as the fronts: a purchase waits for one round trip or two",
        );
    }
    match link.command::<String>("read INFO", &redis::cmd("INFO")).await {
        Ok(text) => {
            checks.want("info", true, "tells of itself", "");
            of_info(&mut checks, &told(&text));
        }
        Err(error) => {
            checks.want("info", false, why(&error), "allow the user INFO: what it says is not looked at")
        }
    }
    fsync(&mut checks, &link).await;
    scripts(&mut checks, &link).await;
    let nodes = RedisNodes::new(link.clone()).seen().await.ok();
    (checks.found(), nodes.map(|nodes| (link, nodes)))
}

/// Reads the answer to INFO.
fn told(text: &str) -> Told {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn number(told: &Told, name: &str) -> Option<u64> {
    told.get(name).and_then(|value| value.parse().ok())
}

fn of_info(checks: &mut Checks, told: &Told) {
    let word = |name: &str| told.get(name).map_or("not told", String::as_str);
    let version = word("redis_version");
    let (major, minor) = VERSION_LEAST;
    checks.need(
        "version",
        version_of(version) >= VERSION_LEAST,
        format!("is {version}"),
        format!("use {major}.{minor} or newer"),
    );
    let policy = word("maxmemory_policy");
    checks.need(
        "eviction",
        policy == NO_EVICTION,
        format!("maxmemory-policy is {policy}"),
        "set maxmemory-policy noeviction: what is evicted was sold",
    );
    memory(checks, told);
    let role = word("role");
    checks.need(
        "role",
        role == "master",
        format!("is a {role}"),
        "let redis.url lead to the primary: a replica takes no writes",
    );
    let cluster = word("cluster_enabled");
    checks.need(
        "cluster",
        cluster != "1",
        if cluster == "1" { "is a node of a cluster" } else { "is one server" },
        "use one server (with replicas): the shop asks one node only",
    );
    checks.want(
        "aof",
        word("aof_enabled") == "1",
        if word("aof_enabled") == "1" { "keeps an append-only file" } else { "keeps no append-only file" },
        "set appendonly yes: a restart loses orders that Kafka does not have yet, and all buckets are rebuilt",
    );
    let saved = [word("rdb_last_bgsave_status"), word("aof_last_write_status")];
    checks.need(
        "persistence",
        saved.iter().all(|status| *status == "ok" || *status == "not told"),
        format!("the last snapshot was {}, the last write of the append-only file {}", saved[0], saved[1]),
        "see the log of Redis: its disk is full, or it may not write its folder",
    );
    let (Some(clients), Some(most)) = (number(told, "connected_clients"), number(told, "maxclients")) else {
        return;
    };
    checks.want(
        "clients",
        clients + CLIENTS_TO_SPARE <= most,
        format!("{clients} of {most} connections are taken"),
        "raise maxclients: every thread of every process keeps a connection",
    );
}

fn memory(checks: &mut Checks, told: &Told) {
    let (Some(used), Some(most)) = (number(told, "used_memory"), number(told, "maxmemory")) else { return };
    let mib = |bytes: u64| bytes >> 20;
    if most == 0 {
        let detail = format!("{} MiB are used, and maxmemory is not set", mib(used));
        let fix = "set maxmemory below the memory of the machine: else the system ends Redis when there is none left";
        checks.want("memory", false, detail, fix);
    } else {
        let detail = format!("{} of {} MiB are used", mib(used), mib(most));
        let fix = "raise maxmemory, or settle sales that are over: a full Redis refuses purchases";
        checks.need("memory", used.saturating_mul(100) <= most.saturating_mul(MEMORY_PERCENT), detail, fix);
    }
}

/// Looks how often the append-only file is flushed. Managed servers do not tell.
async fn fsync(checks: &mut Checks, link: &RedisLink) {
    let asked = redis::cmd("CONFIG").arg("GET").arg("appendfsync").to_owned();
    let told: StoreResult<Vec<String>> = link.command("read appendfsync", &asked).await;
    match told.ok().and_then(|pair| pair.into_iter().nth(1)) {
        Some(how) => checks.want(
            "fsync",
            how != "no",
            format!("appendfsync is {how}"),
            "set appendfsync everysec, or always: with no the system flushes when it likes",
        ),
        None => checks.add("fsync", "appendfsync is not told", None),
    }
}

/// Looks whether scripts run, and whether the user may run what they run.
async fn scripts(checks: &mut Checks, link: &RedisLink) {
    let fix = "the user needs +@scripting and +@write on the keys of redis.key_prefix, and the server has to take writes";
    match link.check().await {
        Err(fault) if !fault.still_works => checks.need("scripts", false, fault.words, fix),
        _ => checks.need("scripts", true, "a script that writes runs", fix),
    }
    let script = Script::new(include_str!("../../../../lua/doctor.lua"));
    let mut call = script.prepare_invoke();
    call.key(link.limit("doctor")).arg(link.announcements()).arg(CHANNEL_COMMANDS.len());
    for command in CHANNEL_COMMANDS.iter().chain(COMMANDS) {
        call.arg(*command);
    }
    // A user who may run no script has heard of it above.
    let Ok(refused) = link.script::<Option<BTreeSet<String>>>("read rights", &call).await else { return };
    let Some(refused) = refused else {
        return checks.add("rights", "before version 7 Redis does not tell what a user may run", None);
    };
    let refused: Vec<String> = refused.into_iter().collect();
    let detail = match refused.len() {
        0 => "the user may run what the shop runs".to_owned(),
        _ => format!("the user may not run {}", refused.join(", ")),
    };
    checks.need(
        "rights",
        refused.is_empty(),
        detail,
        "allow the user these commands: a script would end half-way",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::check::Level;

    fn levels(told: &[(&str, &str)]) -> BTreeMap<String, Level> {
        let mut all: Told = [
            ("redis_version", "7.0.15"),
            ("maxmemory_policy", "noeviction"),
            ("used_memory", "80"),
            ("maxmemory", "100"),
            ("role", "master"),
            ("cluster_enabled", "0"),
            ("aof_enabled", "1"),
            ("rdb_last_bgsave_status", "ok"),
            ("aof_last_write_status", "ok"),
            ("connected_clients", "20"),
            ("maxclients", "120"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(told.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut checks = Checks::of("redis");
        of_info(&mut checks, &all);
        checks.found().into_iter().map(|check| (check.name.into_owned(), check.level)).collect()
    }

    #[test]
    fn each_setting_is_red_when_it_is_wrong_and_only_then() {
        assert!(levels(&[]).values().all(|level| *level == Level::Ok), "{:?}", levels(&[]));
        for (name, value, check, level) in [
            ("redis_version", "6.0.16", "redis.version", Level::Error),
            ("maxmemory_policy", "allkeys-lru", "redis.eviction", Level::Error),
            ("used_memory", "81", "redis.memory", Level::Error),
            ("maxmemory", "0", "redis.memory", Level::Warning),
            ("role", "slave", "redis.role", Level::Error),
            ("cluster_enabled", "1", "redis.cluster", Level::Error),
            ("aof_enabled", "0", "redis.aof", Level::Warning),
            ("aof_last_write_status", "err", "redis.persistence", Level::Error),
            ("connected_clients", "21", "redis.clients", Level::Warning),
        ] {
            let found = levels(&[(name, value)]);
            let ill: Vec<_> = found.iter().filter(|(_, level)| **level != Level::Ok).collect();
            assert_eq!(ill, [(&check.to_owned(), &level)], "{name} {value}");
        }
    }

    #[test]
    fn every_command_of_the_scripts_is_asked_for() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lua");
        for entry in std::fs::read_dir(folder).expect("the scripts") {
            let path = entry.expect("a file").path();
            let text = std::fs::read_to_string(&path).expect("a script");
            for called in text.split("call('").skip(1).filter_map(|rest| rest.split('\'').next()) {
                let command = called.to_lowercase();
                let is_asked =
                    COMMANDS.contains(&command.as_str()) || ["info", "time"].contains(&command.as_str());
                assert!(is_asked, "{command} of {}", path.display());
            }
        }
    }
}
