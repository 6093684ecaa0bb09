//! Checks that the local stack is the same natively, in containers, and in the configuration.

use std::collections::{BTreeMap, BTreeSet};

use yaml_rust2::{Yaml, YamlLoader};

use crate::{list, read, same};

fn stack_env() -> BTreeMap<String, String> {
    let text = read("scripts/stack.env");
    let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Lists the settings that are handed on to one server, as "name=value" with the server's own names.
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
    // The native stack gives this setting to MySQL only, because MariaDB does not have it.
    wanted.insert("mysqlx=OFF".to_owned());
    for instance in ["mysql-a", "mysql-b"] {
        let given = words(&services[instance]["command"]).iter().map(|w| w.replacen("--", "", 1)).collect();
        same("stack.env", &wanted, instance, &given);
    }

    // These settings make the process a broker. The native stack writes the same ones with its own ports and folders.
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
