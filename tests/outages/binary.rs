//! Runs the real binary as a process, and a crowd that buys from it.

#![expect(clippy::disallowed_methods, reason = "a crowd's task ends with its test")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use seckill::config::Config;
use seckill::domain::OrderId;
use sqlx::{AssertSqlSafe, Row};
use tokio::task::JoinHandle;

use crate::client::try_call;
use crate::harness::ports::free_address;
use crate::harness::{
    API_KEY, Books, SECRET, Servers, Stage as _, assert_kept, eventually, months, open, token,
};

pub struct Process {
    child: Child,
    pub shopper: SocketAddr,
    pub admin: SocketAddr,
}

pub fn command(config: &Config) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
    command
        .env("SECKILL_CONFIG", concat!(env!("CARGO_MANIFEST_DIR"), "/config/distributed.toml"))
        .env("SECKILL__AUTH__HS256_SECRET", SECRET)
        .env("SECKILL__REDIS__KEY_PREFIX", &config.redis.key_prefix)
        .env("SECKILL__MYSQL__DATABASE_PREFIX", &config.mysql.database_prefix)
        .env("SECKILL__KAFKA__TOPIC", &config.kafka.topic)
        .env("SECKILL__KAFKA__EVENTS_TOPIC", &config.kafka.events_topic)
        .env("SECKILL__KAFKA__GROUP", &config.kafka.group)
        .env("SECKILL__KAFKA__BROKERS", &config.kafka.brokers)
        .env("SECKILL__KAFKA__SESSION_TIMEOUT_MS", config.kafka.session_timeout_ms.to_string())
        .env("SECKILL__KAFKA__HEARTBEAT_INTERVAL_MS", config.kafka.heartbeat_interval_ms.to_string())
        .env("SECKILL__REDIS__URL", &config.redis.url)
        .env("SECKILL__REDIS__RESPONSE_TIMEOUT_MS", config.redis.response_timeout_ms.to_string())
        .env("SECKILL__MYSQL__INSTANCES", config.mysql.instances.join(","))
        .env("SECKILL__WRITER__BATCH_RECORDS_MAX", config.writer.batch_records_max.to_string())
        .env("SECKILL__WRITER__BUFFER_RECORDS_MAX", config.writer.buffer_records_max.to_string())
        .env("SECKILL__SHARDS__SHARDS", config.shards.shards.to_string())
        .env("SECKILL__SHARDS__PARTITIONS", config.shards.partitions.to_string())
        .env("SECKILL__LIMITS__USER_PER_S", "0")
        .env("SECKILL__LIMITS__ADDRESS_PER_S", "0")
        .env("SECKILL__CATALOG__REFRESH_MS", "100")
        .env("SECKILL__SHUTDOWN__NOTICE_MS", "0")
        .env("SECKILL__LOG__FILTER", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Process {
    pub async fn start(config: &Config, role: &str) -> Self {
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

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
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
        // The child ends even when the test failed half-way. When it has ended already, the error is of no interest.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Adds [`API_KEY`] to the directory, so that it may operate.
pub async fn add_key(config: &Config) {
    crate::harness::add_key(&open(config).await, API_KEY, "tester", "promoter").await.expect("a key");
}

/// Buys for one user after the other until it is stopped or refused, or its connection fails. Returns the ids of the
/// orders that were accepted.
async fn buy_until_refused(shopper: SocketAddr, prefix: String, stopped: Arc<AtomicBool>) -> Vec<String> {
    let mut accepted = Vec::new();
    for n in (0..).take_while(|_: &u32| !stopped.load(Ordering::Relaxed)) {
        let bearer = format!("Bearer {}", token(&format!("{prefix}-{n}")));
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", "k"),
        ];
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        let path = "/api/v1/sales/drop/orders";
        let mut answer = try_call(shopper, "POST", path, &headers, body).await;
        // The API asks a client to repeat a click whose outcome is unknown. On a starved machine that may well happen.
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

/// Buyers who go on until they are stopped or refused.
pub struct Load {
    stopped: Arc<AtomicBool>,
    buyers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts the load. `name` makes its users' names differ from those of other loads.
    pub fn start(shopper: SocketAddr, name: &str, buyers: usize) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let buyer = |n| tokio::spawn(buy_until_refused(shopper, format!("{name}{n}"), stopped.clone()));
        let buyers = (0..buyers).map(buyer).collect();
        Self { stopped, buyers }
    }

    /// Stops the load, and returns the ids of all orders that were accepted.
    pub async fn stop(self) -> Vec<String> {
        self.stopped.store(true, Ordering::Relaxed);
        join_all(self.buyers).await.into_iter().flat_map(|ids| ids.expect("no panic")).collect()
    }
}

/// Asserts that every accepted order has its row, and that nothing but rows holds units.
pub async fn assert_all_written(config: &Config, accepted: &[String]) {
    let database = Servers::of(config);
    let least = i64::try_from(accepted.len()).expect("small");
    eventually("every accepted order has its row", async || {
        database.orders("awaiting_payment").await >= least
    })
    .await;
    let rows = order_ids(&database).await;
    let lost: Vec<&String> = accepted.iter().filter(|id| !rows.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {} accepted orders have no row: {lost:?}", lost.len(), accepted.len());
    assert_eq!(database.orders("rejected").await, 0);
    assert_eq!(database.sum("COUNT(*)", "dead_letters").await, 0);
    let held = database.sum("SUM(held)", "ledger").await;
    assert_eq!(held, database.orders("awaiting_payment").await);
    assert_kept(config, None, Books::LeftAlone).await;
}

/// Reads the ids of all orders, whatever their state.
async fn order_ids(database: &Servers) -> HashSet<String> {
    let mut ids = HashSet::new();
    for (instance, shard) in database.shards() {
        for month in months() {
            let text = format!("SELECT order_id FROM {shard}.orders_{}", month.yyyymm());
            let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(database.pool(instance)).await;
            for row in rows.expect("rows") {
                let bytes: Vec<u8> = row.try_get(0).expect("an id");
                ids.insert(OrderId::from_bytes(&bytes).expect("16 bytes").to_string());
            }
        }
    }
    ids
}
