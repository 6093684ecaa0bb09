//! The real binary as a process: signals, kills, and what is left afterwards.

#![expect(clippy::disallowed_methods, reason = "a crowd's task ends with its test")]

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use seckill::config::Config;
use seckill::domain::ApiKey;
use seckill::http::auth::api_key_hash;
use serde_json::json;

use crate::client::{call, try_call};
use crate::harness::{
    API_KEY, Database, SECRET, config, eventually, migrated, open, open_sale, remove, sale_body, token,
};

struct Process {
    child: Child,
    shopper: SocketAddr,
    admin: SocketAddr,
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

fn command(config: &Config) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
    command
        .env("SECKILL_CONFIG", concat!(env!("CARGO_MANIFEST_DIR"), "/config/distributed.toml"))
        .env("SECKILL__AUTH__HS256_SECRET", SECRET)
        .env("SECKILL__REDIS__KEY_PREFIX", &config.redis.key_prefix)
        .env("SECKILL__MYSQL__DATABASE_PREFIX", &config.mysql.database_prefix)
        .env("SECKILL__KAFKA__TOPIC", &config.kafka.topic)
        .env("SECKILL__KAFKA__GROUP", &config.kafka.group)
        .env("SECKILL__KAFKA__SESSION_TIMEOUT_MS", "2000")
        .env("SECKILL__KAFKA__HEARTBEAT_INTERVAL_MS", "300")
        .env("SECKILL__SHARDS__SHARDS", config.shards.shards.to_string())
        .env("SECKILL__SHARDS__PARTITIONS", config.shards.partitions.to_string())
        .env("SECKILL__LIMITS__USER_PER_S", "0")
        .env("SECKILL__LIMITS__ADDRESS_PER_S", "0")
        .env("SECKILL__CATALOG__REFRESH_MS", "100")
        .env("SECKILL__LOG__FILTER", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Process {
    async fn start(config: &Config, role: &str) -> Self {
        let (shopper, admin) = (free_address(), free_address());
        let child = command(config)
            .args([
                "serve",
                "--role",
                role,
                "--bind",
                &shopper.to_string(),
                "--admin-bind",
                &admin.to_string(),
            ])
            .spawn()
            .expect("the binary starts");
        let process = Self { child, shopper, admin };
        eventually("the process is ready", async || {
            try_call(admin, "GET", "/readyz", &[], "").await.is_some_and(|answer| answer.status == 200)
        })
        .await;
        process
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    async fn ended(&mut self, within: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(began.elapsed() < within, "the process did not end within {within:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also when the test failed half-way; an ended child answers an error that is of no interest.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn prepared() -> Config {
    let config = config(&[]);
    migrated(&config).await;
    let scopes = vec!["sales:read".to_owned(), "sales:write".to_owned()];
    let key = ApiKey { name: "tester".to_owned(), scopes };
    open(&config).await.sales.add_api_key(api_key_hash(API_KEY), &key).await.expect("a key");
    config
}

/// Buys for `users`, one after the other; answers the ids that were accepted. A connection that fails ends it.
async fn buy_until_refused(shopper: SocketAddr, prefix: String, users: usize) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in 0..users {
        let bearer = format!("Bearer {}", token(&format!("{prefix}-{n}")));
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", "k"),
        ];
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        let path = "/api/v1/sales/drop/orders";
        let mut answer = try_call(shopper, "POST", path, &headers, body).await;
        // What the API asks of a client whose outcome is unknown, which a starved machine may well make it.
        while answer.as_ref().is_some_and(|answer| answer.status == 504) {
            answer = try_call(shopper, "POST", path, &headers, body).await;
        }
        let Some(answer) = answer else { break };
        match answer.status {
            200 | 202 => accepted.push(answer.json()["id"].as_str().expect("id").to_owned()),
            503 => break,
            _ => panic!("{answer:?}"),
        }
    }
    accepted
}

async fn crowd(shopper: SocketAddr) -> Vec<String> {
    let buyers = (0..16).map(|n| tokio::spawn(buy_until_refused(shopper, format!("u{n}"), 400)));
    join_all(buyers).await.into_iter().flat_map(|ids| ids.expect("no panic")).collect()
}

/// Every answered order has its row, and nothing else holds units than rows.
async fn assert_all_written(config: &Config, accepted: usize) {
    let database = Database::of(config);
    let accepted = i64::try_from(accepted).expect("small");
    eventually("every accepted order has its row", async || {
        database.orders("awaiting_payment").await >= accepted
    })
    .await;
    assert_eq!(database.orders("rejected").await, 0);
    let held = database.control_sum("SUM(held)", "ledger").await;
    assert_eq!(held, database.orders("awaiting_payment").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_no_accepted_order_and_exits_zero() {
    let config = prepared().await;
    let mut first = Process::start(&config, "all").await;
    open_sale(first.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(first.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    first.signal("-TERM");
    let status = first.ended(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    let accepted = load.await.expect("no panic").len();
    assert!(accepted > 100);
    let mut second = Process::start(&config, "worker").await;
    assert_all_written(&config, accepted).await;
    second.signal("-TERM");
    assert!(second.ended(Duration::from_secs(20)).await.success());
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_the_whole_process_loses_no_accepted_order() {
    let config = prepared().await;
    let mut first = Process::start(&config, "all").await;
    open_sale(first.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(first.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    first.signal("-KILL");
    assert!(!first.ended(Duration::from_secs(5)).await.success());
    let accepted = load.await.expect("no panic").len();
    let second = Process::start(&config, "worker").await;
    assert_all_written(&config, accepted).await;
    drop(second);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_one_of_two_writers_is_taken_over() {
    let config = prepared().await;
    let front = Process::start(&config, "api").await;
    let mut dying = Process::start(&config, "worker").await;
    let _survivor = Process::start(&config, "worker").await;
    open_sale(front.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(front.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    dying.signal("-KILL");
    dying.ended(Duration::from_secs(5)).await;
    let accepted = load.await.expect("no panic").len();
    assert_eq!(accepted, 6400, "the front does not notice");
    assert_all_written(&config, accepted).await;
    remove(&config).await;
}

#[test]
fn serving_without_a_secret_is_refused_with_exit_code_3() {
    let output = command(&config(&[]))
        .env_remove("SECKILL__AUTH__HS256_SECRET")
        .arg("serve")
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("SECKILL__AUTH__HS256_SECRET"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_runs_a_sale_from_key_to_end() {
    let config = prepared().await;
    let process = Process::start(&config, "all").await;
    let run = |args: &[&str], key: Option<&str>| {
        let mut command = command(&config);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("SECKILL_ADMIN", process.admin.to_string());
        if let Some(key) = key {
            command.env("SECKILL_API_KEY", key);
        }
        let output = command.output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, key, _) = run(&["key", "create", "--name", "cli"], None);
    assert!(code == Some(0) && key.starts_with("sk_"), "{code:?}");
    let file = std::env::temp_dir().join(format!("{}.json", config.kafka.topic));
    std::fs::write(&file, sale_body("cli-sale", 1, &[("phone", 3)]).to_string()).expect("written");
    let created = run(&["sale", "create", file.to_str().expect("a path")], Some(&key));
    assert!(created.0 == Some(0) && created.1.contains("draft"), "{created:?}");
    std::fs::remove_file(&file).expect("removed");
    for (action, state) in [("publish", "published"), ("preheat", "preheated"), ("end", "ended")] {
        let done = run(&["sale", action, "cli-sale", "-o", "json"], Some(&key));
        assert!(done.0 == Some(0) && done.1.contains(state), "{done:?}");
    }
    let refused = run(&["sale", "resume", "cli-sale"], Some(&key));
    assert!(refused.0 == Some(1) && refused.2.contains("allowed"), "{refused:?}");
    let (code, minted, _) = run(&["token", "mint", "--user", "alice"], None);
    assert_eq!(code, Some(0));
    let bearer = format!("Bearer {minted}");
    let orders = call(process.shopper, "GET", "/api/v1/orders", &[("Authorization", &bearer)], "").await;
    assert_eq!(orders.json()["orders"], json!([]));
    assert_eq!(run(&["sale"], None).0, Some(2), "usage");
    remove(&config).await;
}
