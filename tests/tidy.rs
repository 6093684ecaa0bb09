//! Style as a test: the rules of CONTRIBUTING.md that neither rustc nor clippy can check, and the places where
//! one fact is written twice. Each test names the rule it holds and lists every breach it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use seckill::http::problem::Code;
use seckill::metrics::{Kind, TABLE};
use yaml_rust2::{Yaml, YamlLoader};

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
    ("cli", "app backend clock config domain http metrics ports purchase shutdown telemetry worker"),
    ("main", ""),
    ("lib", ""),
];

/// Within an allowed module, the only names a user may take of it.
const NARROW: &[(&str, &str, &str)] = &[
    ("config", "domain", "ShardMap"),
    ("backend", "config", "RedisConfig KafkaConfig MysqlConfig GroupProtocol"),
];

/// Client library → the modules that may name it.
const LIBRARIES: &[(&str, &str)] = &[
    ("actix_web", "http app"),
    ("sqlx", "backend"),
    ("redis", "backend"),
    ("deadpool_redis", "backend"),
    ("rdkafka", "backend"),
    ("tokio", "purchase worker backend app cli shutdown"),
    ("async_trait", "ports backend"),
];

/// Hosts that a file here may link to. A package mirror or a colleague's machine is not among them.
const PUBLIC_HOSTS: &str = "127.0.0.1 localhost prometheus github.com docs.rs maven.apache.org www.apache.org \
     www.w3.org www.rfc-editor.org rustsec.org keepachangelog.com semver.org json-schema.org";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// Paths of the repository's files below `folder` ("" for all), with slashes; build and stack folders left out.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            let is_ours =
                !matches!(name.as_str(), "target" | ".git" | ".stack" | ".env" | ".idea" | ".vscode");
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.is_file() && is_ours && !name.ends_with(".log") {
                let path = path.strip_prefix(root()).expect("below the root");
                found.push(path.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn files_ending(folder: &str, end: &str) -> Vec<String> {
    files(folder).into_iter().filter(|path| path.ends_with(end)).collect()
}

#[track_caller]
fn none(breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{} breach(es):\n  {}", breaches.len(), breaches.join("\n  "));
}

/// Both directions of "these two say the same".
#[track_caller]
fn same<T: Ord + std::fmt::Debug>(left: &str, a: &BTreeSet<T>, right: &str, b: &BTreeSet<T>) {
    assert!(!a.is_empty(), "nothing found in {left}");
    let only = |here: &BTreeSet<T>, there: &BTreeSet<T>, name: &str| -> Vec<String> {
        here.difference(there).map(|row| format!("only in {name}: {row:?}")).collect()
    };
    none(only(a, b, left).into_iter().chain(only(b, a, right)));
}

/// Cells of the Markdown table rows whose first or second cell begins with a back-quote.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn unquoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

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

fn list(words: &str) -> BTreeSet<&str> {
    words.split_whitespace().collect()
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

#[test]
fn the_metrics_table_stands_in_the_docs() {
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let code: BTreeSet<(String, String, String)> = TABLE
        .iter()
        .map(|metric| (metric.name.to_owned(), kind(metric.kind).to_owned(), metric.labels.join(", ")))
        .collect();
    let docs = table_rows(&read("docs/operations.md"));
    let docs = docs.iter().filter_map(|row| {
        let name = unquoted(row.first()?).filter(|n| n.starts_with("seckill_") || n.starts_with("http_"))?;
        let labels = row.get(2)?.replace('`', "").replace('–', "");
        Some((name.to_owned(), row.get(1)?.clone(), labels))
    });
    same("src/metrics.rs", &code, "docs/operations.md", &docs.collect());
}

#[test]
fn the_problem_codes_stand_in_the_docs() {
    let retryable = |is_retryable| if is_retryable { "yes" } else { "no" };
    let code: BTreeSet<(String, String, String)> = Code::ALL
        .iter()
        .map(|c| (c.as_str().to_owned(), c.status().to_string(), retryable(c.is_retryable()).to_owned()))
        .collect();
    let docs = table_rows(&read("docs/api.md"));
    let docs = docs.iter().filter_map(|row| {
        let status = row.first().filter(|status| status.parse::<u16>().is_ok())?;
        Some((unquoted(row.get(1)?)?.to_owned(), status.clone(), row.get(2)?.clone()))
    });
    same("src/http/problem.rs", &code, "docs/api.md", &docs.collect());
}

#[test]
fn every_configuration_key_is_explained() {
    let text = read("config/default.toml");
    let (mut breaches, mut section, mut is_explained) = (Vec::new(), "", false);
    for line in text.lines().map(str::trim) {
        if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            if !is_explained {
                breaches.push(format!("config/default.toml: {section}{key} has no comment above it"));
            }
        } else {
            is_explained = line.starts_with('#');
            section = if line.starts_with('[') { line } else { section };
        }
    }
    none(breaches);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut breaches = Vec::new();
    for path in files_ending("", ".md") {
        let folder = Path::new(&path).parent().expect("a folder");
        for target in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !root().join(folder).join(file).exists() {
                breaches.push(format!("{path} links to {target}"));
            }
        }
    }
    none(breaches);
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let decisions = files_ending("docs/adr", ".md");
    assert!(!decisions.is_empty(), "no decisions in docs/adr");
    none(decisions.iter().enumerate().filter_map(|(index, path)| {
        let number = format!("{:04}", index + 1);
        let is_right = path.starts_with(&format!("docs/adr/{number}-"))
            && read(path).starts_with(&format!("# {number} "));
        (!is_right).then(|| format!("{path} should be {number}, in its name and in its title"))
    }));
}

#[test]
fn nothing_names_a_private_host_or_a_folder_of_somebodys_machine() {
    // In pieces, so that this file does not breach its own rule.
    let folders =
        [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let mut breaches = Vec::new();
    for path in files("").into_iter().filter(|path| path != "Cargo.lock") {
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            let folder = folders.iter().filter(|folder| line.contains(**folder));
            breaches.extend(folder.map(|folder| format!("{path}:{number} names {folder}")));
            for rest in line.split("://").skip(1) {
                let before = line.split("://").next().unwrap_or_default();
                let host: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || ".-".contains(*c)).collect();
                let is_web = before.ends_with("http") || before.ends_with("https");
                // An empty host is a placeholder such as {address}.
                if is_web && !host.is_empty() && !list(PUBLIC_HOSTS).contains(host.trim_end_matches('.')) {
                    breaches.push(format!("{path}:{number} names the host {host}"));
                }
            }
        }
    }
    none(breaches);
}

fn stack_env() -> BTreeMap<String, String> {
    let text = read("scripts/stack.env");
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The settings handed on to one server: "name=value", named as the server does.
fn handed_on(env: &BTreeMap<String, String>, prefix: &str, separator: &str) -> BTreeSet<String> {
    let settings = env.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
    settings.map(|(name, value)| format!("{}={value}", name.to_lowercase().replace('_', separator))).collect()
}

fn compose() -> Yaml {
    YamlLoader::load_from_str(&read("docker-compose.yml")).expect("docker-compose.yml is YAML").remove(0)
}

fn words(node: &Yaml) -> Vec<String> {
    node.as_vec().expect("a list").iter().map(|item| item.as_str().expect("a text").to_owned()).collect()
}

fn section(path: &str, name: &str) -> toml::Table {
    let file: toml::Table = toml::from_str(&read(path)).expect(path);
    file.get(name)
        .and_then(|section| section.as_table())
        .unwrap_or_else(|| panic!("no [{name}] in {path}"))
        .clone()
}

fn value(path: &str, name: &str, key: &str) -> String {
    let section = section(path, name);
    match section.get(key).unwrap_or_else(|| panic!("no {name}.{key} in {path}")) {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => {
            items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[test]
fn compose_publishes_the_ports_of_the_native_stack_and_the_configuration_uses_them() {
    let (env, compose) = (stack_env(), compose());
    let port = |key: &str| env.get(key).unwrap_or_else(|| panic!("no {key} in stack.env")).clone();
    let (redis, kafka) = (port("REDIS_PORT"), port("KAFKA_PORT"));
    let (mysql_a, mysql_b) = (port("MYSQL_A_PORT"), port("MYSQL_B_PORT"));
    let published = |service: &str| words(&compose["services"][service]["ports"]);
    assert_eq!(published("redis"), [format!("127.0.0.1:{redis}:6379")]);
    assert_eq!(published("mysql-a"), [format!("127.0.0.1:{mysql_a}:3306")]);
    assert_eq!(published("mysql-b"), [format!("127.0.0.1:{mysql_b}:3306")]);
    assert_eq!(published("kafka"), [format!("127.0.0.1:{kafka}:{kafka}")]);
    let kafka_env = &compose["services"]["kafka"]["environment"];
    let advertised = kafka_env["KAFKA_ADVERTISED_LISTENERS"].as_str().expect("listeners");
    assert_eq!(advertised, format!("PLAINTEXT://kafka:9092,HOST://127.0.0.1:{kafka}"));

    let local = "config/distributed.toml";
    assert_eq!(value(local, "redis", "url"), format!("redis://127.0.0.1:{redis}"));
    assert_eq!(value(local, "kafka", "brokers"), format!("127.0.0.1:{kafka}"));
    assert_eq!(value(local, "mysql", "instances"), format!("127.0.0.1:{mysql_a} 127.0.0.1:{mysql_b}"));

    let inside = "deploy/compose.toml";
    assert_eq!(value(inside, "redis", "url"), "redis://redis:6379");
    assert_eq!(value(inside, "kafka", "brokers"), "kafka:9092");
    assert_eq!(value(inside, "mysql", "instances"), "mysql-a:3306 mysql-b:3306");
    for (section, index) in [("http", 0), ("admin", 1)] {
        let port = value("config/default.toml", section, "bind").replace("127.0.0.1:", "");
        assert_eq!(value(inside, section, "bind"), format!("0.0.0.0:{port}"));
        assert_eq!(published("api")[index], format!("127.0.0.1:{port}:{port}"));
    }
}

#[test]
fn compose_gives_the_servers_the_settings_of_the_native_stack() {
    let (env, compose) = (stack_env(), compose());
    let services = &compose["services"];

    let redis = words(&services["redis"]["command"]);
    let redis = redis[1..].chunks(2).map(|pair| format!("{}={}", pair[0].trim_start_matches("--"), pair[1]));
    same("stack.env", &handed_on(&env, "REDIS_CFG_", "-"), "compose redis", &redis.collect());

    let mut wanted = handed_on(&env, "MYSQL_CFG_", "-");
    // The native stack gives it to MySQL only; MariaDB has no such thing.
    wanted.insert("mysqlx=OFF".to_owned());
    for instance in ["mysql-a", "mysql-b"] {
        let given = words(&services[instance]["command"]).iter().map(|w| w.replacen("--", "", 1)).collect();
        same("stack.env", &wanted, instance, &given);
    }

    // What makes a broker of it: the native stack writes the same with its own ports and folders.
    let shape = "process_roles node_id controller_quorum_voters controller_listener_names listeners \
         advertised_listeners listener_security_protocol_map inter_broker_listener_name log_dirs heap_opts";
    let kafka =
        services["kafka"]["environment"].as_hash().expect("a map").iter().filter_map(|(key, value)| {
            let name = key.as_str()?.strip_prefix("KAFKA_")?.to_lowercase();
            let value = value.as_str().expect("a text").to_owned();
            (!list(shape).contains(name.as_str())).then(|| format!("{}={value}", name.replace('_', ".")))
        });
    same("stack.env", &handed_on(&env, "KAFKA_CFG_", "."), "compose kafka", &kafka.collect());
    let heap = services["kafka"]["environment"]["KAFKA_HEAP_OPTS"].as_str().expect("heap");
    assert_eq!(heap, format!("-Xms{0} -Xmx{0}", env["KAFKA_HEAP"]));
    assert_eq!(services["kafka"]["image"].as_str(), Some(&*format!("apache/kafka:{}", env["KAFKA_VERSION"])));
}

#[test]
fn topic_account_and_shard_map_are_the_same_everywhere() {
    let (env, compose) = (stack_env(), compose());
    let (local, inside) = ("config/distributed.toml", "deploy/compose.toml");
    assert_eq!(value("config/default.toml", "kafka", "topic"), env["ORDERS_TOPIC"]);
    assert!(!section(local, "kafka").contains_key("topic"), "{local} names a topic of its own");
    assert_eq!(value(inside, "kafka", "topic"), env["ORDERS_TOPIC"]);
    let account = &compose["x-mysql"]["environment"];
    for (key, name) in [("user", "MYSQL_USER"), ("password", "MYSQL_PASSWORD")] {
        assert_eq!(value(local, "mysql", key), env[name], "{name}");
        assert_eq!(value(inside, "mysql", key), env[name], "{name}");
        assert_eq!(account[name].as_str(), Some(env[name].as_str()), "{name}");
    }
    assert_eq!(section(local, "shards"), section(inside, "shards"));
    for key in ["replication_factor", "min_insync_replicas"] {
        assert_eq!(value(local, "kafka", key), value(inside, "kafka", key), "{key}");
    }
}
