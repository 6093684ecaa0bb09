//! The rules of `deploy/prometheus` in a real Prometheus with a real Alertmanager, beside processes in which something
//! is wrong. `scripts/stack install prometheus alertmanager` installs both.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seckill::app::Role;
use seckill::config::{Config, Mode};
use seckill::domain::OrderId;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::conformance::poison::users_of;
use crate::harness::ports::free_address;
use crate::harness::process::Process;
use crate::harness::{Servers, TestShop, config, eventually, migrated, months, open, remove, temporary};
use crate::receiver::Receiver;

/// How much longer than its rule says an alert may take to be heard: it is measured every ten seconds, read every five,
/// judged every five, and Alertmanager waits for company for five.
const HEARD_WITHIN: Duration = Duration::from_secs(45);

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name);
    std::fs::read_to_string(path).expect("a file of ours")
}

fn succeeds(program: &str, args: &[&str], input: Option<&Path>) {
    let mut command = Command::new(program);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus")).args(args);
    let input = input.map_or_else(Stdio::null, |input| std::fs::File::open(input).expect("a file").into());
    let done = command.stdin(input).output();
    let done = done.unwrap_or_else(|error| {
        panic!("{program}: {error}. Run `scripts/stack install prometheus alertmanager`.")
    });
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(done.status.success(), "{program} {args:?}: {said}");
}

#[test]
fn the_rules_and_their_tests_are_sound() {
    let tests =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus")).expect("the folder");
    let names = tests.map(|entry| entry.expect("a file").file_name().into_string().expect("text"));
    let tests: Vec<String> = names.filter(|name| name.ends_with(".test.yml")).collect();
    assert!(tests.len() >= 5, "{tests:?}");
    succeeds("promtool", &["check", "rules", "rules.yml"], None);
    succeeds("promtool", &["check", "config", "prometheus.yml"], None);
    succeeds("amtool", &["check-config", "alertmanager.yml"], None);
    let tests: Vec<&str> = ["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    succeeds("promtool", &tests, None);
}

/// A server that ends with its test.
struct Server(Child);

impl Server {
    fn start(program: &str, folder: &Path, args: &[&str]) -> Self {
        let log = std::fs::File::create(folder.join(format!("{program}.log"))).expect("a file");
        let child =
            Command::new(program).args(args).current_dir(folder).stdin(Stdio::null()).stderr(log).spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("{program}: {error}. Run `scripts/stack install prometheus alertmanager`.")
        }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Prometheus and Alertmanager with our files, whose addresses alone are others.
struct Watching {
    folder: PathBuf,
    _servers: [Server; 2],
}

impl Watching {
    async fn start(api: SocketAddr, worker: SocketAddr, receiver: &Receiver) -> Self {
        let (prometheus, alertmanager) = (free_address(), free_address());
        let folder = temporary(&format!("prometheus-{}", prometheus.port()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
        write("rules.yml", deployed("rules.yml"));
        let placed = deployed("prometheus.yml")
            .replace("api:9090", &api.to_string())
            .replace("worker:9090", &worker.to_string())
            .replace("alertmanager:9093", &alertmanager.to_string())
            .replace("127.0.0.1:9090", &prometheus.to_string());
        write("prometheus.yml", placed);
        let url = receiver.url();
        let placed = deployed("alertmanager.yml")
            .replace("http://127.0.0.1:9095/page", &url)
            .replace("http://127.0.0.1:9095/warn", &url);
        assert_eq!(placed.matches(&url).count(), 2, "both receivers are ours");
        write("alertmanager.yml", placed);
        let alerting = format!("--web.listen-address={alertmanager}");
        let listen = format!("--web.listen-address={prometheus}");
        let servers = [
            Server::start(
                "prometheus-alertmanager",
                &folder,
                &[
                    "--config.file=alertmanager.yml",
                    "--storage.path=alerts",
                    "--cluster.listen-address=",
                    &alerting,
                ],
            ),
            Server::start(
                "prometheus",
                &folder,
                &["--config.file=prometheus.yml", "--storage.tsdb.path=series", &listen],
            ),
        ];
        for address in [prometheus, alertmanager] {
            eventually("it listens", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
        }
        Self { folder, _servers: servers }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Answers the names of the alerts of which somebody has heard by now.
fn heard(receiver: &Receiver) -> Vec<String> {
    let mut names = Vec::new();
    for call in receiver.taken() {
        let message: Value = serde_json::from_slice(&call.body).expect("JSON");
        for alert in message["alerts"].as_array().expect("alerts") {
            names.push(alert["labels"]["alertname"].as_str().expect("a name").to_owned());
        }
    }
    names
}

/// Breaks five things. The transaction that is answered holds up a partition as long as it lives.
async fn break_things(shop: &TestShop, config: &Config) -> sqlx::MySqlConnection {
    let database = Servers::of(config);
    let (instance, shard) = database.shards().into_iter().next().expect("a shard");
    let refund = format!(
        "INSERT INTO {shard}.refunds (order_id, attempt, amount, currency, capture, reason, state, created_ms) \
         VALUES (REPEAT('r', 16), 1, 100, 'CNY', 'cap', 'operator', 'failed', 1)"
    );
    database.execute(instance, &refund).await;
    let order = OrderId::last_of(seckill::domain::Shard::new(0), months()[0]);
    let id: String = order.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let stray = format!(
        "INSERT INTO {shard}.payments (order_id, attempt, state, request, created_ms) VALUES (x'{id}', 1, 'captured', '', 1)"
    );
    database.execute(instance, &stray).await;
    let forced = json!({ "forced": "open", "until": "2036-01-01T00:00:00Z", "reason": "x" });
    let forced = shop.operate("POST", "/breakers/mysql-1", forced).await;
    assert_eq!(forced.status, 200, "{forced:?}");
    let controls = database.controls();
    let far = format!("UPDATE {}.consumer_positions SET next_offset = 1000000 WHERE part = 0", controls[0].1);
    database.execute(controls[0].0, &far).await;
    let options = database.pool(controls[1].0).connect_options();
    let mut held = sqlx::MySqlConnection::connect_with(&options).await.expect("connected");
    held.execute("BEGIN").await.expect("begun");
    let lock =
        format!("SELECT next_offset FROM {}.consumer_positions WHERE part = 1 FOR UPDATE", controls[1].1);
    held.execute(AssertSqlSafe(lock)).await.expect("locked");
    for user in users_of(shop, 1).take(10) {
        let bought = shop.buy(user.as_str(), "drop", "phone", "k").await;
        assert_eq!(bought.status, 202, "{bought:?}");
    }
    held
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_is_wrong_is_heard_in_time_and_nothing_else() {
    let config = config(Mode::Distributed, &[("payment.provider", "none")]);
    migrated(&config).await;
    let mut shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    let front = Process::start(&config, "api", &[]).await;
    // Only who could pay back counts what was not paid back. Nobody is asked for anything here.
    let provider = [
        ("PAYMENT__PROVIDER", "stripe"),
        ("PAYMENT__API_KEY", "sk_test_of_a_test"),
        ("PAYMENT__WEBHOOK_SECRET", "whsec_a_secret_of_a_test_0123456789abcdef"),
        ("PAYMENT__PROVIDER_URL", "http://127.0.0.1:9"),
        ("PAYMENT__RETURN_URL", "https://shop.example/thanks/{order}"),
    ];
    let worker = Process::start(&config, "worker", &provider).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    let receiver = Receiver::start().await;
    let watching = Watching::start(front.admin, worker.admin, &receiver).await;
    // Every name and type on the page is as Prometheus wants it, with series of all kinds on it.
    let page = watching.folder.join("metrics");
    let metrics = crate::client::call(front.admin, "GET", "/metrics", &[], "").await.text;
    std::fs::write(&page, metrics).expect("written");
    succeeds("promtool", &["check", "metrics"], Some(&page));

    let held = break_things(&shop, &config).await;
    let began = Instant::now();
    // By the time for which the rule waits. A stalled partition has stood still for 30 s, and drift for 180.
    let expected = BTreeMap::from([
        ("SeckillPartitionHalted", 0),
        ("SeckillBreakerOpen", 10 + 25),
        ("SeckillPartitionStalled", 30),
        ("SeckillRefundStuck", 60),
        ("SeckillBooksWrong", 180 + 10),
    ]);
    let mut times: BTreeMap<String, Duration> = BTreeMap::new();
    let longest = Duration::from_secs(190) + HEARD_WITHIN;
    while expected.keys().any(|name| !times.contains_key(*name)) && began.elapsed() < longest {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for name in heard(&receiver) {
            times.entry(name).or_insert_with(|| began.elapsed());
        }
    }
    println!("heard after: {times:?}");
    for (name, waits_s) in &expected {
        let time = times.get(*name).unwrap_or_else(|| panic!("{name} was not heard: {times:?}"));
        assert!(*time <= Duration::from_secs(*waits_s) + HEARD_WITHIN, "{name} after {time:?}");
    }
    let others: Vec<&String> = times.keys().filter(|name| !expected.contains_key(name.as_str())).collect();
    assert_eq!(others, Vec::<&String>::new(), "nothing else is wrong");
    drop((held, watching, front, worker));
    // Its records never get their rows.
    shop.stop().await;
    remove(&config).await;
}
