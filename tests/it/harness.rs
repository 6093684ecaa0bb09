//! One shop per test: migrated, served on port 0, with an operator's key and everything needed to look at
//! what it did from outside.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use metrics_exporter_prometheus::PrometheusHandle;
use seckill::app::{self, Role, Running};
use seckill::backend::distributed;
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::{ApiKey, Month};
use seckill::http::auth::api_key_hash;
use seckill::ports::Ports;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySqlPool, Row};

use crate::client::{Answer, call};

pub const SECRET: &str = "a secret of the tests, 32 bytes or more";
pub const API_KEY: &str = "sk_a-key-of-the-tests";
pub const READ_ONLY_KEY: &str = "sk_a-key-that-may-only-read";

/// How long a test waits for something that happens by itself. Far above what it takes; a test that needs it
/// has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct TestShop {
    pub config: Config,
    running: Option<Running>,
    pub shopper: SocketAddr,
    pub admin: SocketAddr,
}

pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| seckill::metrics::install().expect("installed once")).clone()
}

/// A configuration of the local stack with names of its own.
pub fn config(flags: &[(&str, &str)]) -> Config {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut all: Vec<(&str, String)> = vec![
        ("http.bind", "127.0.0.1:0".to_owned()),
        ("admin.bind", "127.0.0.1:0".to_owned()),
        ("http.workers", "2".to_owned()),
        ("auth.hs256_secret", SECRET.to_owned()),
        ("redis.key_prefix", format!("{name}:")),
        ("mysql.database_prefix", format!("{name}_")),
        ("kafka.topic", format!("{name}.orders")),
        ("kafka.group", name.clone()),
        ("kafka.session_timeout_ms", "2000".to_owned()),
        ("kafka.heartbeat_interval_ms", "300".to_owned()),
        ("shards.shards", "4".to_owned()),
        ("shards.partitions", "2".to_owned()),
        ("limits.user_per_s", "0".to_owned()),
        ("limits.address_per_s", "0".to_owned()),
        ("catalog.refresh_ms", "100".to_owned()),
        // A starved machine is no fault; tests of a Redis that hangs set the default again.
        ("redis.response_timeout_ms", "2000".to_owned()),
        ("log.filter", "off".to_owned()),
    ];
    all.extend(flags.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/distributed.toml");
    seckill::config::load(Some(&path), &all).expect("a valid configuration").config
}

/// This month and the next, so that a test that runs at a month's end passes too.
pub fn months() -> Vec<Month> {
    let month = Month::of_ms(Clock::System.now_ms());
    vec![month, month.next()]
}

pub async fn migrated(config: &Config) {
    let settings = app::backend_settings(config).expect("settings");
    distributed::migrate::run(&settings, &months(), |_| ()).await.unwrap_or_else(|error| {
        panic!("{error}\nIs the local stack up? `scripts/stack up`, then `scripts/stack status`.")
    });
}

pub async fn open(config: &Config) -> Ports {
    let settings = app::backend_settings(config).expect("settings");
    distributed::open(&settings, Clock::System).await.expect("an open backend")
}

impl TestShop {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(flags: &[(&str, &str)]) -> Self {
        let config = config(flags);
        migrated(&config).await;
        let backend = open(&config).await;
        Self::start_on(config, backend, Role::All).await
    }

    /// Starts over a backend that the test has put faults into. The databases must be migrated.
    pub async fn start_on(config: Config, backend: Ports, role: Role) -> Self {
        for (key, scopes) in [(API_KEY, "sales:read sales:write"), (READ_ONLY_KEY, "sales:read")] {
            let scopes = scopes.split(' ').map(str::to_owned).collect();
            let key_row = ApiKey { name: "tester".to_owned(), scopes };
            // A second shop over the same databases finds its keys there.
            drop(backend.sales.add_api_key(api_key_hash(key), &key_row).await);
        }
        let running = app::start_on(backend, &config, role, metrics()).await.expect("a started shop");
        let shopper = running.shopper.unwrap_or(running.admin);
        let admin = running.admin;
        Self { config, running: Some(running), shopper, admin }
    }

    /// Stops within the deadline and removes what the test made.
    pub async fn finish(mut self) {
        let running = self.running.take().expect("running");
        assert!(running.stop(Duration::from_secs(15)).await, "the shop did not drain in 15 s");
        remove(&self.config).await;
    }

    pub async fn stop(&mut self) {
        let running = self.running.take().expect("running");
        assert!(running.stop(Duration::from_secs(15)).await, "the shop did not drain in 15 s");
    }

    pub async fn operate(&self, method: &str, path: &str, body: Value) -> Answer {
        operate(self.admin, API_KEY, method, path, body).await
    }

    /// A sale that is on now, with the SKUs' stock given.
    pub async fn open_sale(&self, id: &str, buyer_limit: u32, stock: &[(&str, u32)]) {
        open_sale(self.admin, sale_body(id, buyer_limit, stock)).await;
    }

    pub async fn buy(&self, user: &str, sale: &str, sku: &str, key: &str) -> Answer {
        self.place(user, sale, key, &json!({ "sku_id": sku, "quantity": 1 }).to_string(), &[]).await
    }

    pub async fn place(
        &self,
        user: &str,
        sale: &str,
        key: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        place(self.shopper, user, sale, (key, body), headers).await
    }

    /// Reads as a shopper.
    pub async fn get(&self, user: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        call(self.shopper, "GET", path, &[("Authorization", &bearer)], "").await
    }

    /// The status that an order gets in the end.
    pub async fn decided(&self, user: &str, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let order = self.get(user, &format!("/api/v1/orders/{id}?wait=5")).await;
            if order.status == 200 && !matches!(order.json()["status"].as_str(), Some("queued" | "reserved"))
            {
                return order.json();
            }
            assert!(began.elapsed() < PATIENCE, "{id} is never decided: {order:?}");
        }
    }

    pub async fn stock(&self, sale: &str) -> HashMap<String, Value> {
        let answer = self.operate("GET", &format!("/sales/{sale}/stock"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json()["items"].as_array().expect("items").clone();
        items.into_iter().map(|item| (item["sku_id"].as_str().expect("id").to_owned(), item)).collect()
    }

    pub fn database(&self) -> Database {
        Database::of(&self.config)
    }
}

pub async fn operate(admin: SocketAddr, key: &str, method: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    call(admin, method, &format!("/api/v1/admin{path}"), &headers, body.to_string()).await
}

pub fn sale_body(id: &str, buyer_limit: u32, stock: &[(&str, u32)]) -> Value {
    let now_ms = Clock::System.now_ms();
    let price = json!({ "amount": 19900, "currency": "CNY" });
    let items: Vec<Value> = stock
        .iter()
        .map(|(sku, units)| json!({ "sku_id": sku, "name": sku, "stock": units, "price": price }))
        .collect();
    json!({
        "id": id, "name": id, "starts_at": rfc3339(now_ms - 1000), "ends_at": rfc3339(now_ms + 3_600_000),
        "buyer_limit": buyer_limit, "items": items,
    })
}

pub async fn open_sale(admin: SocketAddr, body: Value) {
    let id = body["id"].as_str().expect("id").to_owned();
    let created = operate(admin, API_KEY, "POST", "/sales", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    for action in ["publish", "preheat"] {
        let path = format!("/sales/{id}/{action}");
        let done = operate(admin, API_KEY, "POST", &path, json!({ "reason": "a test" })).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
}

pub async fn place(
    shopper: SocketAddr,
    user: &str,
    sale: &str,
    (key, body): (&str, &str),
    headers: &[(&str, &str)],
) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let mut all = vec![
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    all.extend(headers);
    call(shopper, "POST", &format!("/api/v1/sales/{sale}/orders"), &all, body.to_owned()).await
}

pub fn rfc3339(at_ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).expect("a time");
    at.format(&time::format_description::well_known::Rfc3339).expect("formatted")
}

pub fn token(user: &str) -> String {
    let exp = Clock::System.now_ms() / 1000 + 3600;
    token_of(&json!({ "sub": user, "aud": "seckill", "exp": exp }), SECRET)
}

pub fn token_of(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

/// Waits until `check` holds, looking every few milliseconds.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Looks into MySQL from outside.
pub struct Database {
    pools: Vec<MySqlPool>,
    prefix: String,
    shards: u16,
}

impl Database {
    pub fn of(config: &Config) -> Self {
        let pool = |address: &String| {
            let user = &config.mysql.user;
            let password = config.mysql.password.expose();
            MySqlPool::connect_lazy(&format!("mysql://{user}:{password}@{address}")).expect("an address")
        };
        Self {
            pools: config.mysql.instances.iter().map(pool).collect(),
            prefix: config.mysql.database_prefix.clone(),
            shards: config.shards.shards,
        }
    }

    pub fn pool(&self, instance: usize) -> &MySqlPool {
        &self.pools[instance]
    }

    pub fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    /// `(instance, database)` of every control database.
    pub fn controls(&self) -> Vec<(usize, String)> {
        (0..self.pools.len()).map(|i| (i, format!("{}control_{i:02}", self.prefix))).collect()
    }

    /// `(instance, database)` of every shard.
    pub fn shards(&self) -> Vec<(usize, String)> {
        let each = usize::from(self.shards) / self.pools.len();
        (0..usize::from(self.shards)).map(|s| (s / each, format!("{}shard_{s:04}", self.prefix))).collect()
    }

    pub async fn number(&self, instance: usize, text: &str) -> i64 {
        let row = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_one(&self.pools[instance]).await;
        row.unwrap_or_else(|error| panic!("{text}: {error}")).try_get(0).expect("a number")
    }

    pub async fn execute(&self, instance: usize, text: &str) {
        let done = sqlx::query(AssertSqlSafe(text.to_owned())).execute(&self.pools[instance]).await;
        done.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Orders of all shards and months of the tests, by state.
    pub async fn orders(&self, state: &str) -> i64 {
        let mut sum = 0;
        for (instance, shard) in self.shards() {
            for month in months() {
                let table = format!("{shard}.orders_{}", month.yyyymm());
                sum += self
                    .number(instance, &format!("SELECT COUNT(*) FROM {table} WHERE state = '{state}'"))
                    .await;
            }
        }
        sum
    }

    /// A sum over all control databases, such as `SUM(held)` of `ledger`.
    pub async fn control_sum(&self, expression: &str, table: &str) -> i64 {
        let mut sum = 0;
        for (instance, control) in self.controls() {
            let text = format!("SELECT CAST(COALESCE({expression}, 0) AS SIGNED) FROM {control}.{table}");
            sum += self.number(instance, &text).await;
        }
        sum
    }
}

/// Removes a test's databases and keys; its topic is left to the stack's retention.
pub async fn remove(config: &Config) {
    let database = Database::of(config);
    let mut names = database.controls();
    names.extend(database.shards());
    names.push((0, database.directory()));
    for (instance, name) in names {
        database.execute(instance, &format!("DROP DATABASE IF EXISTS {name}")).await;
    }
    let client = redis::Client::open(config.redis.url.as_str()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let pattern = format!("{}*", config.redis.key_prefix);
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.expect("keys");
    if !keys.is_empty() {
        let _: i64 = redis::cmd("DEL").arg(keys).query_async(&mut connection).await.expect("deleted");
    }
}
