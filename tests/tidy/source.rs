//! Source files: length, names, directions.

use std::collections::BTreeSet;

use crate::{files, files_ending, list, none, read};

const LINES_MAX: usize = 500;
const PORT_METHODS_MAX: usize = 6;
const BANNED_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "types", "manager", "misc"];

/// Module → the modules it may use (house rules as amended by docs/adr/0003). `app` and `cli` wire everything;
/// only `cli` and `main` use `app`.
const DIRECTIONS: &[(&str, &str)] = &[
    ("domain", ""),
    ("clock", ""),
    ("shutdown", ""),
    ("ports", "domain"),
    ("metrics", "domain"),
    ("config", "domain"),
    ("telemetry", "config"),
    ("purchase", "domain ports clock metrics shutdown"),
    ("http", "domain purchase clock metrics"),
    ("worker", "domain ports clock metrics shutdown"),
    ("backend", "domain ports clock metrics config"),
    ("app", "backend clock config domain http metrics ports purchase shutdown telemetry worker"),
    ("transfer", "domain ports"),
    ("cli", "app backend clock config domain http metrics ports purchase shutdown telemetry transfer worker"),
    ("main", ""),
    ("lib", ""),
];

/// Within an allowed module, the only names a user may take of it.
const NARROW: &[(&str, &str, &str)] = &[
    ("config", "domain", "ShardMap"),
    ("backend", "config", "RedisConfig KafkaConfig MysqlConfig GroupProtocol EmbeddedConfig Synchronous"),
];

/// Client library → the modules that may name it.
const LIBRARIES: &[(&str, &str)] = &[
    ("actix_web", "http app"),
    ("sqlx", "backend"),
    ("redis", "backend"),
    ("deadpool_redis", "backend"),
    ("rdkafka", "backend"),
    ("tokio", "purchase worker backend app cli shutdown transfer"),
    ("async_trait", "ports backend"),
    // The crowd of `seckill demo --rush`: a server that serves knows nothing of it.
    ("loadtest", "cli"),
];

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The leaves of a path or use tree at the start of `rest`, and how many bytes it takes.
fn leaves(rest: &str) -> (Vec<String>, usize) {
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

/// What a source file takes of this crate, as paths without `crate::`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let text = without_comments(text);
    text.match_indices("crate::").flat_map(|(at, found)| leaves(&text[at + found.len()..]).0).collect()
}

/// The top-level module that a file below `src/` belongs to.
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
                // `self::redis::` or `my_redis::` would be something else.
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
    let text = read("src/ports.rs");
    let traits: Vec<&str> = text.split("\npub trait ").skip(1).collect();
    assert!(traits.len() >= 4, "ports.rs has {} traits", traits.len());
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
