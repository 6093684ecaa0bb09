//! Checks source files: their length, their names, and the directions of their imports.

use std::collections::BTreeSet;

use crate::{files, files_ending, list, none, read};

const LINES_MAX: usize = 500;
const PORT_METHODS_MAX: usize = 6;
const BANNED_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "types", "manager", "misc"];

/// Each module, with the modules that it may use (docs/adr/0003). `app` and `cli` wire everything, and only `cli` and
/// `main` use `app`.
const DIRECTIONS: &[(&str, &str)] = &[
    ("domain", ""),
    ("clock", ""),
    ("chance", ""),
    ("shutdown", ""),
    ("ports", "domain"),
    ("metrics", "domain"),
    ("config", "domain"),
    ("telemetry", "clock config domain metrics trace"),
    ("trace", "domain clock chance metrics"),
    ("memory", "domain ports clock metrics"),
    ("shop", "domain ports memory clock metrics shutdown trace"),
    ("provider", "domain ports clock chance config trace"),
    ("outbound", "ports clock config trace"),
    ("http", "domain shop memory clock chance metrics provider trace"),
    ("worker", "domain ports memory clock chance metrics shutdown trace"),
    ("backend", "domain ports clock chance metrics config trace"),
    (
        "app",
        "backend chance clock config domain http memory metrics outbound ports provider shop shutdown trace worker",
    ),
    ("transfer", "domain ports clock"),
    (
        "cli",
        "app backend chance clock config domain http metrics ports provider shop shutdown telemetry transfer worker",
    ),
    ("main", ""),
    ("lib", ""),
];

/// Each module that may use only some names of another module: the module, the other one, and these names.
const NARROW: &[(&str, &str, &str)] = &[
    ("config", "domain", "ShardMap"),
    (
        "backend",
        "config",
        "RedisConfig KafkaConfig MysqlConfig TlsFiles SaslMechanism GroupProtocol EmbeddedConfig Synchronous",
    ),
];

/// Each client library, with the modules that may name it.
const LIBRARIES: &[(&str, &str)] = &[
    ("actix_web", "http app"),
    ("sqlx", "backend"),
    ("redis", "backend"),
    ("deadpool_redis", "backend"),
    ("rdkafka", "backend"),
    ("tokio", "clock shop worker backend outbound app cli shutdown metrics trace"),
    ("async_trait", "ports worker backend provider outbound app trace"),
    ("reqwest", "provider outbound app trace"),
    ("fastrand", "chance"),
    ("getrandom", "chance"),
    // `seckill demo --rush` takes its crowd from the load tool. A server that serves knows nothing of it.
    ("loadtest", "cli"),
];

pub fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lists the leaves of a path or use tree at the start of `rest`. Also returns how many bytes it takes.
pub fn leaves(rest: &str) -> (Vec<String>, usize) {
    if let Some(group) = rest.strip_prefix('{') {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(next) = group.get(at..).and_then(|tail| tail.chars().next()).filter(|c| *c != '}') {
            if is_word(next) || next == '{' {
                let (inner, length) = leaves(&group[at..]);
                found.extend(inner);
                at += length;
            } else {
                at += next.len_utf8();
            }
        }
        return (found, at + 2);
    }
    let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
    let Some(tail) =
        rest[name.len()..].strip_prefix("::").filter(|t| t.starts_with(|c| is_word(c) || c == '{'))
    else {
        return (vec![name.to_owned()], name.len().max(1));
    };
    let (inner, length) = leaves(tail);
    (inner.into_iter().map(|leaf| format!("{name}::{leaf}")).collect(), name.len() + 2 + length)
}

/// Lists what a source file takes of this crate, as paths without `crate::`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let text = without_comments(text);
    text.match_indices("crate::").flat_map(|(at, found)| leaves(&text[at + found.len()..]).0).collect()
}

/// Returns the top-level module to which a file below `src/` belongs.
fn module_of(path: &str) -> &str {
    let inner = path.strip_prefix("src/").expect("below src");
    inner.split('/').next().and_then(|first| first.split('.').next()).expect("a name")
}

#[test]
fn files_have_at_most_500_lines() {
    let code = files("").into_iter().filter(|path| {
        path.starts_with("scripts/") || [".rs", ".lua", ".sql", ".sh"].iter().any(|end| path.ends_with(end))
    });
    none(code.filter_map(|path| {
        let lines = read(&path).lines().count();
        (lines > LINES_MAX).then(|| format!("{path} has {lines} lines"))
    }));
}

#[test]
fn modules_use_only_what_the_table_of_directions_allows() {
    let mut breaches = Vec::new();
    for path in files_ending("src", ".rs") {
        let module = module_of(&path);
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == module) else {
            breaches.push(format!("{path}: module {module} has no row in the table of directions"));
            continue;
        };
        for used in crate_paths(&read(&path)) {
            let (to, name) = used.split_once("::").unwrap_or((&used, ""));
            if to != module && !list(allowed).contains(to) {
                breaches.push(format!("{path}: {module} may not use {to} (crate::{used})"));
            }
            let narrow = NARROW.iter().find(|(from, into, _)| *from == module && *into == to);
            if let Some((_, _, names)) = narrow.filter(|(_, _, names)| !list(names).contains(name)) {
                breaches.push(format!("{path}: of {to} only {names} may be used, not {name}"));
            }
        }
    }
    none(breaches);
}

#[test]
fn client_libraries_stay_where_they_belong() {
    let mut breaches = Vec::new();
    for path in files_ending("src", ".rs") {
        let text = without_comments(&read(&path));
        for (library, allowed) in LIBRARIES {
            let call = format!("{library}::");
            let is_named = text.match_indices(&call).any(|(at, _)| {
                // `self::redis::` and `my_redis::` name something else.
                !text[..at].ends_with(|c| is_word(c) || c == ':')
            });
            if is_named && !list(allowed).contains(module_of(&path)) {
                breaches.push(format!("{path} names {library}: only {allowed} may"));
            }
        }
    }
    none(breaches);
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let banned = |name: &str| name == "mod" || BANNED_NAMES.contains(&name);
    let mut breaches = Vec::new();
    for path in files_ending("", ".rs") {
        let stem = path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).expect("a name");
        if banned(stem) {
            breaches.push(format!("{path}: file name"));
        }
        for line in read(&path).lines() {
            let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
            let name = line.strip_prefix("mod ").map(|rest| rest.trim_end_matches([';', '{', ' ']));
            if name.is_some_and(banned) {
                breaches.push(format!("{path}: {line}"));
            }
        }
    }
    none(breaches);
}

#[test]
fn ports_have_at_most_six_methods() {
    let text: String = files_ending("src/ports", ".rs").iter().map(|path| read(path)).collect();
    let traits: Vec<&str> = text.split("\npub trait ").skip(1).collect();
    assert!(traits.len() >= 10, "src/ports has {} traits", traits.len());
    none(traits.into_iter().filter_map(|body| {
        let body = body.split("\n}").next().unwrap_or(body);
        let methods =
            body.lines().filter(|l| l.starts_with("    fn ") || l.starts_with("    async fn ")).count();
        let name = body.split([':', ' ']).next().unwrap_or(body);
        (methods > PORT_METHODS_MAX).then(|| format!("{name} has {methods} methods"))
    }));
}

#[test]
fn no_test_is_switched_off() {
    let mark = concat!("#[", "ignore");
    none(files_ending("", ".rs").into_iter().filter(|path| read(path).contains(mark)));
}

#[test]
fn migrations_and_scripts_say_what_they_are_for() {
    let mut breaches = Vec::new();
    for path in files_ending("migrations", ".sql").into_iter().chain(files_ending("lua", ".lua")) {
        let text = read(&path);
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("--")).collect();
        if header.first().is_none_or(|line| line.len() < 20) {
            breaches.push(format!("{path} does not begin with a comment"));
        }
        if path.ends_with(".lua") {
            let missing = ["KEYS", "ARGV", "Result"].into_iter().filter(|word| {
                !header.iter().any(|line| line.trim_start_matches(['-', ' ']).starts_with(word))
            });
            breaches.extend(missing.map(|word| format!("{path}: the header does not name {word}")));
        }
    }
    none(breaches);
}

/// The calls that read a clock, sleep, limit a wait or draw random numbers. Only [`RAW_OWNERS`] may make them.
/// Everything else is handed a `Clock` or a `Chance`, so that a test owns the time and can repeat a run.
const RAW: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    "tokio::time",
    "thread::sleep",
    "park_timeout",
    "rand::",
    "fastrand::",
    "getrandom::",
];
const RAW_OWNERS: &[(&str, &str)] = &[
    ("src/clock.rs", "is the clock"),
    ("src/chance.rs", "is the source of random numbers"),
    ("src/http/middleware.rs", "times requests, which nobody steps"),
    ("src/trace/exporter.rs", "tells the collector times in its own form"),
    ("src/cli/", "talks to a person, in their time"),
];

#[test]
fn time_and_randomness_come_from_their_owners() {
    let mut breaches = Vec::new();
    for path in files_ending("src", ".rs") {
        if RAW_OWNERS.iter().any(|(owner, _)| path.starts_with(owner)) {
            continue;
        }
        let text = without_comments(&read(&path));
        let raw = RAW.iter().filter(|raw| {
            text.match_indices(*raw).any(|(at, _)| !text[..at].ends_with(|c: char| is_word(c)))
        });
        breaches.extend(raw.map(|raw| format!("{path} uses {raw}: only its owner may")));
    }
    none(breaches);
}

#[test]
fn the_system_clock_is_handed_down_from_the_composition_root() {
    let outside = files_ending("src", ".rs")
        .into_iter()
        .filter(|path| !["src/app", "src/cli", "src/clock.rs"].iter().any(|owner| path.starts_with(owner)));
    none(outside.filter_map(|path| {
        let text = without_comments(&read(&path));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = path.contains("/tests");
        (!is_test && code.contains("Clock::System")).then(|| format!("{path} takes the system clock itself"))
    }));
}

#[test]
fn every_migration_is_in_the_program() {
    let listed = read("src/backend/migrations.rs");
    let files = files_ending("migrations", ".sql");
    assert!(files.len() >= 4, "{} migrations", files.len());
    none(files.into_iter().filter_map(|path| {
        let mut parts = path.rsplit('/');
        let (file, folder) = (parts.next().expect("a file"), parts.next().expect("a folder"));
        let list = listed
            .split(&format!("migrations!(\"{folder}\":"))
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        let is_listed = list.is_some_and(|list| list.contains(&format!("\"{file}\"")));
        (!is_listed).then(|| format!("{path} is not listed in src/backend/migrations.rs"))
    }));
}
