//! Connections with TLS and SASL to the real servers, with the certificates of `scripts/stack.d/tls.sh`. What is wrong
//! with one is told, and no connection is made.

use std::process::Stdio;

use seckill::config::{Config, Mode};
use tokio::sync::Mutex;

use crate::client::call;
use crate::doctor::doctor;
use crate::harness::ports::free_address;
use crate::harness::process::{Process, program};
use crate::harness::{
    Servers, TestShop, certificate as file, config, eventually, migrated, open, remove, token,
};
use crate::own_redis::OwnRedis;

/// Settings of a process: the variable's name without its prefix, and its value.
type Settings = Vec<(&'static str, String)>;

/// Only one test at a time changes the certificate of an instance.
static MYSQL: Mutex<()> = Mutex::const_new(());

fn borrowed(settings: &Settings) -> Vec<(&str, &str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

/// Looks with a doctor, and asserts that it cannot reach a server, and says why.
fn refused(config: &Config, settings: &Settings, check: &str, words: &str) {
    let said = doctor(config, &borrowed(settings));
    assert_eq!(said.level(check), "error", "{settings:?}: {}", said.text);
    assert!(said.text.contains(words), "{words:?} of {settings:?}: {}", said.text);
}

/// Starts a Redis with a port for TLS. Answers it, and the URL of that port.
async fn redis_with_tls() -> (OwnRedis, String) {
    let port = free_address().port().to_string();
    let files = [file("server.pem"), file("server.key"), file("ca.pem")];
    let tls = ["--tls-port", &port, "--tls-cert-file", &files[0], "--tls-key-file", &files[1]];
    let clients = ["--tls-ca-cert-file", &files[2], "--tls-auth-clients", "no", "--maxmemory", "200mb"];
    (OwnRedis::start(&[&tls[..], &clients[..]].concat()).await, format!("rediss://127.0.0.1:{port}"))
}

async fn set(redis: &OwnRedis, name: &str, value: &str) {
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg(name).arg(value);
    let () = command.query_async(&mut redis.connection().await).await.expect("set");
}

fn of_redis(url: &str) -> Settings {
    vec![
        ("REDIS__URL", url.to_owned()),
        ("REDIS__CA_FILE", file("ca.pem")),
        ("REDIS__CERT_FILE", file("client.pem")),
        ("REDIS__KEY_FILE", file("client.key")),
    ]
}

fn of_mysql(user: &str) -> Settings {
    vec![
        ("MYSQL__TLS", "true".to_owned()),
        ("MYSQL__CA_FILE", file("ca.pem")),
        ("MYSQL__CERT_FILE", file("client.pem")),
        ("MYSQL__KEY_FILE", file("client.key")),
        ("MYSQL__USER", user.to_owned()),
    ]
}

/// Answers settings with one of them changed, or one more.
fn with(settings: &Settings, key: &'static str, value: &str) -> Settings {
    let mut changed = settings.clone();
    changed.retain(|(found, _)| *found != key);
    changed.push((key, value.to_owned()));
    changed
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shop_migrates_sells_writes_and_is_audited_over_tls() {
    let _alone = MYSQL.lock().await;
    let (redis, url) = redis_with_tls().await;
    set(&redis, "tls-auth-clients", "yes").await;
    let config = config(Mode::Distributed, &[("redis.url", &redis.url())]);
    let databases = Servers::of(&config);
    // Another test may have been cut off.
    show(&databases, "server.pem").await;
    let user = format!("{}tls", databases.prefix());
    let password = config.mysql.password.expose();
    for instance in 0..config.mysql.instances.len() {
        for text in [
            format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}' REQUIRE X509"),
            format!("GRANT ALL ON *.* TO '{user}'@'127.0.0.1'"),
        ] {
            databases.execute(instance, &text).await;
        }
    }
    let settings: Settings = [of_redis(&url), of_mysql(&user)].concat();
    let (of_front, of_worker) = secured_logs(&settings);
    run(&config, &of_front, &["migrate"]);
    // It puts the sale in place, and takes no order.
    let shop = TestShop::start_on(config.clone(), open(&config).await, seckill::app::Role::Api).await;
    let mut front = Process::start(&config, "api", &borrowed(&of_front)).await;
    let mut worker = Process::start(&config, "worker", &borrowed(&of_worker)).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    eventually("the front sells", async || {
        call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await.text.contains("\"live\"")
    })
    .await;
    let bearer = format!("Bearer {}", token("ada"));
    let json = ("Content-Type", "application/json");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k"), json];
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let path = format!("/api/v1/orders/{}", bought.json()["id"].as_str().expect("an id"));
    eventually("the row is there", async || {
        let read = call(front.shopper, "GET", &path, &headers[..1], "").await;
        read.text.contains("awaiting_payment")
    })
    .await;
    run(&config, &of_worker, &["load", "audit", "--sale", "drop"]);
    assert_eq!((front.stop(), worker.stop()), (Some(0), Some(0)), "{}{}", front.log(), worker.log());
    shop.finish().await;
    for instance in 0..config.mysql.instances.len() {
        databases.execute(instance, &format!("DROP USER '{user}'@'127.0.0.1'")).await;
    }
    remove(&config).await;
}

/// Runs a command, which must succeed.
fn run(config: &Config, settings: &Settings, args: &[&str]) {
    let mut command = program(config);
    command.envs(settings.iter().map(|(key, value)| (format!("SECKILL__{key}"), value)));
    let done = command.args(args).stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_is_not_who_it_should_be_is_refused() {
    let (redis, url) = redis_with_tls().await;
    let config = config(Mode::Distributed, &[("redis.url", &redis.url())]);
    migrated(&config).await;
    let good = vec![("REDIS__URL", url.clone()), ("REDIS__CA_FILE", file("ca.pem"))];
    let said = doctor(&config, &borrowed(&good));
    assert_eq!(said.level("redis.reached"), "ok", "{}", said.text);
    let check = "redis.reached";
    refused(&config, &with(&good, "REDIS__CA_FILE", &file("other-ca.pem")), check, "redis.ca_file");
    // The authorities of this machine do not have ours among them.
    refused(&config, &vec![("REDIS__URL", url.clone())], check, "redis.ca_file");
    let plain = redis.url().replace("redis://", "rediss://");
    refused(&config, &with(&good, "REDIS__URL", &plain), check, "does it speak TLS at this port");
    let to_tls = url.replace("rediss://", "redis://");
    refused(&config, &vec![("REDIS__URL", to_tls)], check, "does it want TLS");
    for (certificate, words) in
        [("expired", "has expired"), ("elsewhere", "by a name that its certificate has")]
    {
        let mut pair = redis::cmd("CONFIG");
        pair.arg("SET").arg("tls-cert-file").arg(file(&format!("{certificate}.pem")));
        pair.arg("tls-key-file").arg(file(&format!("{certificate}.key")));
        let () = pair.query_async(&mut redis.connection().await).await.expect("set");
        refused(&config, &good, check, words);
    }
    let mut pair = redis::cmd("CONFIG");
    pair.arg("SET").arg("tls-cert-file").arg(file("server.pem")).arg("tls-key-file").arg(file("server.key"));
    let () = pair.query_async(&mut redis.connection().await).await.expect("set");
    set(&redis, "tls-auth-clients", "yes").await;
    refused(&config, &good, check, "redis.cert_file");
    let said = doctor(&config, &borrowed(&of_redis(&url)));
    assert_eq!(said.level("redis.reached"), "ok", "{}", said.text);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_mysql_that_is_not_who_it_should_be_is_refused() {
    let _alone = MYSQL.lock().await;
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let databases = Servers::of(&config);
    let user = config.mysql.user.clone();
    let (good, check) = (of_mysql(&user), "mysql-1.reached");
    show(&databases, "server.pem").await;
    let said = doctor(&config, &borrowed(&good));
    assert_eq!(said.level(check), "ok", "{}", said.text);
    refused(&config, &with(&good, "MYSQL__CA_FILE", &file("other-ca.pem")), check, "mysql.ca_file");
    show(&databases, "elsewhere.pem").await;
    let elsewhere = doctor(&config, &borrowed(&good));
    // The server takes none that has expired, so this one expires while it is shown.
    sign_for_seconds(5);
    show(&databases, "brief.pem").await;
    eventually("it has expired", async || doctor(&config, &borrowed(&good)).level(check) == "error").await;
    let expired = doctor(&config, &borrowed(&good));
    let without = doctor(&config, &[]);
    show(&databases, "server.pem").await;
    for (said, words) in [(&elsewhere, "by a name that its certificate has"), (&expired, "has expired")] {
        assert_eq!(said.level(check), "error", "{}", said.text);
        assert!(said.text.contains(words), "{words}: {}", said.text);
    }
    assert_eq!(without.level(check), "ok", "whoever asks for no TLS goes on");
    // A user of whom the server wants TLS.
    let strict = format!("{}strict", databases.prefix());
    let password = config.mysql.password.expose();
    let create = format!("CREATE USER '{strict}'@'127.0.0.1' IDENTIFIED BY '{password}' REQUIRE SSL");
    databases.execute(1, &create).await;
    refused(&config, &vec![("MYSQL__USER", strict.clone())], check, "mysql.tls, where the server wants TLS");
    databases.execute(1, &format!("DROP USER '{strict}'@'127.0.0.1'")).await;
    remove(&config).await;
}

/// Makes the certificate `brief.pem`, which holds for some seconds.
fn sign_for_seconds(seconds: u32) {
    let text = format!(
        "set -e; cd .stack/tls; source ../../scripts/stack.d/tls.sh; cp server.key brief.key; signed brief \
         IP:127.0.0.1,DNS:localhost 20200101000000Z $(date -u -d '+{seconds} seconds' +%Y%m%d%H%M%SZ)"
    );
    let mut command = std::process::Command::new("bash");
    let done = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", &text]).output().expect("bash");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Lets the second instance show a certificate of the stack to new connections.
async fn show(databases: &Servers, certificate: &str) {
    std::fs::copy(file(certificate), file("mysql-b.pem")).expect("copied");
    let is_mariadb = databases.number(1, "SELECT INSTR(@@version, 'MariaDB')").await > 0;
    databases.execute(1, if is_mariadb { "FLUSH SSL" } else { "ALTER INSTANCE RELOAD TLS" }).await;
}

/// Adds how a front and a worker reach Kafka: one by the certificate of a client, the other with a login.
#[cfg(feature = "kafka-tls")]
fn secured_logs(settings: &Settings) -> (Settings, Settings) {
    let by_login = of_login("scram-sha-512");
    ([settings.clone(), by_certificate()].concat(), [settings.clone(), by_login].concat())
}

#[cfg(not(feature = "kafka-tls"))]
fn secured_logs(settings: &Settings) -> (Settings, Settings) {
    (settings.clone(), settings.clone())
}

/// Where the listeners of the local Kafka are: `scripts/stack.env`.
#[cfg(feature = "kafka-tls")]
const KAFKA: [&str; 3] = ["127.0.0.1:19094", "127.0.0.1:19095", "127.0.0.1:19096"];

#[cfg(feature = "kafka-tls")]
fn by_certificate() -> Settings {
    vec![
        ("KAFKA__BROKERS", KAFKA[0].to_owned()),
        ("KAFKA__TLS", "true".to_owned()),
        ("KAFKA__CA_FILE", file("ca.pem")),
        ("KAFKA__CERT_FILE", file("client.pem")),
        ("KAFKA__KEY_FILE", file("client.key")),
    ]
}

#[cfg(feature = "kafka-tls")]
fn of_login(mechanism: &str) -> Settings {
    vec![
        ("KAFKA__BROKERS", KAFKA[2].to_owned()),
        ("KAFKA__TLS", "true".to_owned()),
        ("KAFKA__CA_FILE", file("ca.pem")),
        ("KAFKA__SASL_MECHANISM", mechanism.to_owned()),
        ("KAFKA__SASL_USER", "seckill".to_owned()),
        ("KAFKA__SASL_PASSWORD", "seckill-local".to_owned()),
    ]
}

#[cfg(feature = "kafka-tls")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_kafka_that_is_not_who_it_should_be_or_knows_us_not_is_refused() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let good = of_login(mechanism);
        let said = doctor(&config, &borrowed(&good));
        let levels = ["kafka.reached", "kafka.topic", "kafka.partitions"].map(|check| said.level(check));
        assert_eq!(levels, ["ok"; 3], "{mechanism}: {}", said.text);
        let wrong = with(&good, "KAFKA__SASL_PASSWORD", "another");
        refused(&config, &wrong, "kafka.reached", "does not take kafka.sasl_user");
    }
    let (good, check) = (by_certificate(), "kafka.reached");
    let said = doctor(&config, &borrowed(&good));
    assert_eq!([said.level(check), said.level("kafka.partitions")], ["ok"; 2], "{}", said.text);
    refused(&config, &with(&good, "KAFKA__CA_FILE", &file("other-ca.pem")), check, "kafka.ca_file");
    refused(&config, &with(&good, "KAFKA__BROKERS", KAFKA[1]), check, "has expired");
    refused(&config, &with(&good, "KAFKA__BROKERS", &config.kafka.brokers), check, "speaks no TLS");
    let unknown = vec![
        ("KAFKA__BROKERS", KAFKA[0].to_owned()),
        ("KAFKA__TLS", "true".to_owned()),
        ("KAFKA__CA_FILE", file("ca.pem")),
    ];
    refused(&config, &unknown, check, "kafka.cert_file");
    for secured in [KAFKA[0], KAFKA[1]] {
        refused(&config, &vec![("KAFKA__BROKERS", secured.to_owned())], check, "turn TLS on in [kafka]");
    }
    let nobody = with(&unknown, "KAFKA__BROKERS", KAFKA[2]);
    refused(&config, &nobody, check, "do they want a login (kafka.sasl_mechanism)");
    // A start says it as well, when it has waited for as long as it may.
    let stranger = with(&good, "KAFKA__CA_FILE", &file("other-ca.pem"));
    for (wrong, words) in
        [(stranger, "kafka.ca_file"), (unknown, "kafka.cert_file"), (nobody, "kafka.sasl_mechanism")]
    {
        let mut command = program(&config);
        command.envs(wrong.iter().map(|(key, value)| (format!("SECKILL__{key}"), value)));
        command.env("SECKILL__START__WAIT_MS", "1000");
        let done = command.arg("migrate").stdin(Stdio::null()).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(words), "{words}: {said}");
    }
    remove(&config).await;
}
