//! Runs one shop per test, in either mode. The shop is migrated, it is served on port 0, and it has an operator's key.
//! The test has everything that it needs to look at the shop from outside.

#[cfg(feature = "embedded")]
#[path = "harness/data_folder.rs"]
pub mod data_folder;
#[path = "harness/ports.rs"]
pub mod ports;
#[path = "harness/process.rs"]
#[cfg_attr(
    all(test, not(feature = "distributed")),
    expect(dead_code, reason = "processes that share stores with a test are of the distributed mode")
)]
pub mod process;
#[path = "harness/promises.rs"]
pub mod promises;
#[cfg(feature = "distributed")]
#[path = "harness/servers.rs"]
mod servers;
#[cfg(feature = "distributed")]
#[path = "harness/topic.rs"]
pub mod topic;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use metrics_exporter_prometheus::PrometheusHandle;
use seckill::app::{self, Role, Running};
use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::{ApiKey, Change, OrderId, PaymentId, UserId};
use seckill::http::auth::api_key_hash;
use seckill::ports::{Ports, StoreResult};
use serde_json::{Value, json};

use crate::client::{Answer, call};

#[cfg(feature = "embedded")]
pub use data_folder::*;
pub use promises::*;
#[cfg(feature = "distributed")]
pub use servers::*;

pub const SECRET: &str = "a secret of the tests, 32 bytes or more";
pub const API_KEY: &str = "sk_a-key-of-the-tests";
pub const READ_ONLY_KEY: &str = "sk_a-key-that-may-only-read";

/// How long a test waits for something that happens by itself. This is far above what it takes: a test that waits so
/// long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Tables whose keys are promises.
pub const KEYED: [&str; 6] = ["orders", "claims", "order_moves", "payments", "refunds", "payment_events"];

pub struct TestShop {
    pub config: Box<Config>,
    running: Option<Running>,
    pub shopper: SocketAddr,
    pub admin: SocketAddr,
}

pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| seckill::metrics::install().expect("installed once")).clone()
}

/// Makes a configuration of the local stack with names of its own, or of a folder of its own.
pub fn config(mode: Mode, flags: &[(&str, &str)]) -> Config {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut all: Vec<(&str, String)> = vec![
        ("backend.mode", mode.as_str().to_owned()),
        ("http.bind", "127.0.0.1:0".to_owned()),
        ("admin.bind", "127.0.0.1:0".to_owned()),
        ("http.workers", "2".to_owned()),
        ("auth.hs256_secret", SECRET.to_owned()),
        ("redis.key_prefix", format!("{name}:")),
        ("mysql.database_prefix", format!("{name}_")),
        ("kafka.topic", format!("{name}.orders")),
        ("kafka.events_topic", format!("{name}.events")),
        ("kafka.group", name.clone()),
        ("kafka.session_timeout_ms", "2000".to_owned()),
        ("kafka.heartbeat_interval_ms", "300".to_owned()),
        ("embedded.folder", temporary(&name).to_str().expect("text").to_owned()),
        ("shards.shards", "4".to_owned()),
        ("shards.partitions", "2".to_owned()),
        ("limits.user_per_s", "0".to_owned()),
        ("limits.address_per_s", "0".to_owned()),
        ("catalog.refresh_ms", "100".to_owned()),
        ("sale.preheat_before_ms", "0".to_owned()),
        ("events.interval_ms", "50".to_owned()),
        ("events.views_interval_ms", "50".to_owned()),
        // A starved machine is no fault. Tests of a Redis that hangs set the default again.
        ("redis.response_timeout_ms", "2000".to_owned()),
        ("log.filter", "off".to_owned()),
    ];
    all.extend(flags.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/distributed.toml");
    seckill::config::load(Some(&path), &all).expect("a valid configuration").config
}

/// Names a folder of one test's own, and does not make it.
pub fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("seckill-{name}"))
}

/// Answers the path of a file of the stack's certificates (`scripts/stack.d/tls.sh`).
#[cfg(feature = "distributed")]
pub fn certificate(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/tls").join(name);
    assert!(path.exists(), "{} is missing: run `scripts/stack up`", path.display());
    path.to_str().expect("text").to_owned()
}

/// The stores behind one shop. A test makes and removes them, and looks into them from outside.
#[async_trait(?Send)]
pub trait Stage {
    /// Makes databases and the like. Idempotent.
    async fn migrate(&self);

    async fn open(&self) -> Ports;

    /// Removes what the test made.
    async fn remove(&self);

    /// Appends payloads to the partition of an order's shard, without a reservation.
    async fn append(&self, order: OrderId, payloads: Vec<Vec<u8>>);

    /// Reads the ids of the sales whose stock was put in place.
    async fn sales_in_place(&self) -> Vec<String>;

    /// Counts the orders in a state.
    async fn orders(&self, state: &str) -> i64;

    /// Sums an expression such as `SUM(held)` of `ledger` over all databases that have the table. The table is
    /// `ledger`, `consumer_positions`, `release_outbox`, `dead_letters`, `claims`, `payments`, `refunds`,
    /// `payment_events` or `orphan_captures`.
    async fn sum(&self, expression: &str, table: &str) -> i64;

    /// Reads `(actor, action, reason, request id)` of a sale's changes, in order. `None` reads those of all sales.
    async fn audit(&self, sale: Option<&str>) -> Vec<[String; 4]>;

    /// Reads reason and details of the changes of a kind that are no sale's, in order.
    async fn notes(&self, action: &str) -> Vec<(String, Value)>;

    /// Makes all sessions of admin pages older: since they began, and since they were used last.
    async fn age_sessions(&self, begun_ms: i64, seen_ms: i64);

    /// Reads the moves of an order by their word: who and why.
    async fn moves(&self, order: &str) -> BTreeMap<String, [String; 2]>;

    /// Notes the first step of every order, as versions did that told no events.
    async fn note_first_moves(&self);

    /// Executes a statement on every control database, as nobody but a person with a shell does. It names tables
    /// without their database.
    async fn execute_control(&self, statement: &str);

    /// Removes a unit of a SKU from the inventory, as nobody but a person with a shell does.
    async fn take_away(&self, sale: &str, sku: &str);

    /// Removes the ledger of a sale, as nobody but a person with a shell does.
    async fn drop_ledger(&self, sale: &str);

    /// Makes the payment of every order that waits for it due so many ms from now, as if the order were older.
    async fn make_due(&self, in_ms: i64);

    /// Makes everything due that the payment provider is asked about.
    async fn ask_now(&self);

    /// Reads the sale as its last change left it, as JSON.
    async fn audited_sale(&self, sale: &str) -> Value;

    /// Changes the row of a payment in `payments` or `refunds`, as no program of ours would.
    async fn damage(&self, table: &str, payment: PaymentId, set: &str);

    /// Reads everything that a purchase could change, by place.
    async fn contents(&self) -> BTreeMap<String, String>;

    /// Names those of [`KEYED`] in which a key refuses a second copy of every row. An empty table refuses nothing.
    async fn refused_copies(&self) -> Vec<&'static str>;
}

/// Makes the stage of a configuration's mode.
///
/// # Panics
/// For a mode that this program was built without.
pub fn stage(config: &Config) -> Box<dyn Stage> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => Box::new(Servers::of(config)),
        #[cfg(feature = "embedded")]
        Mode::Embedded => Box::new(DataFolder::of(config)),
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => panic!("built without {absent:?}"),
    }
}

pub async fn migrated(config: &Config) {
    stage(config).migrate().await;
}

pub async fn open(config: &Config) -> Ports {
    stage(config).open().await
}

pub async fn remove(config: &Config) {
    stage(config).remove().await;
}

/// Puts a key into the directory, with words of scopes and roles.
pub async fn add_key(ports: &Ports, key: &str, name: &str, words: &str) -> StoreResult<()> {
    let (actor, reason) = ("a test".to_owned(), "created".to_owned());
    let change = Change { actor, action: "key_create", reason, request_id: "-".to_owned() };
    ports.keys.add_api_key(api_key_hash(key), &ApiKey::of(name.to_owned(), words), &change).await
}

impl TestShop {
    pub async fn start(mode: Mode) -> Self {
        Self::start_with(mode, &[]).await
    }

    pub async fn start_with(mode: Mode, flags: &[(&str, &str)]) -> Self {
        let config = config(mode, flags);
        migrated(&config).await;
        let backend = open(&config).await;
        Self::start_on(config, backend, Role::All).await
    }

    /// Starts a shop over a backend into which the test has put faults. The databases must be migrated.
    pub async fn start_on(config: impl Into<Box<Config>>, backend: Ports, role: Role) -> Self {
        let config = config.into();
        for (key, name, words) in [(API_KEY, "tester", "admin"), (READ_ONLY_KEY, "reader", "sales:read")] {
            // A second shop over the same databases finds the key there already.
            drop(add_key(&backend, key, name, words).await);
        }
        let running =
            Box::pin(app::start_on(backend, &config, role, metrics())).await.expect("a started shop");
        let shopper = running.shopper.unwrap_or(running.admin);
        let admin = running.admin;
        Self { config, running: Some(running), shopper, admin }
    }

    /// Asserts that the promises are kept, stops the shop within the deadline, and removes what the test made.
    pub async fn finish(self) {
        self.finish_with(Books::LeftAlone).await;
    }

    /// Does what [`Self::finish`] does, and audits the payment provider's books if it is told to.
    pub async fn finish_with(mut self, books: Books) {
        let shopper = self.running.as_ref().and_then(|running| running.shopper);
        assert_kept(&self.config, shopper, books).await;
        self.stop().await;
        remove(&self.config).await;
    }

    pub async fn stop(&mut self) {
        let running = self.running.take().expect("running");
        assert!(running.stop(Duration::from_secs(15)).await, "the shop did not drain in 15 s");
    }

    /// Lets anybody be a buyer, as a demo does.
    pub fn let_anybody_buy(&self) {
        let mint = |user: &UserId| token(user.as_str());
        self.running.as_ref().expect("running").let_anybody_buy(std::sync::Arc::new(mint));
    }

    /// Says that the shop goes away, as it does after SIGTERM, and lets it serve on.
    pub async fn leave(&self) {
        self.running.as_ref().expect("running").give_notice(Duration::ZERO).await;
    }

    pub async fn operate(&self, method: &str, path: &str, body: Value) -> Answer {
        operate(self.admin, API_KEY, method, path, body).await
    }

    /// Opens a sale that is on now. `stock` gives the stock of each SKU.
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

    /// Sends a GET as a shopper.
    pub async fn get(&self, user: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        call(self.shopper, "GET", path, &[("Authorization", &bearer)], "").await
    }

    /// Waits until an order is decided, and returns the answer.
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

    pub fn stage(&self) -> Box<dyn Stage> {
        stage(&self.config)
    }
}

impl Drop for TestShop {
    fn drop(&mut self) {
        let is_forgotten = self.running.is_some() && !std::thread::panicking();
        assert!(!is_forgotten, "a test ends with `finish`, which asserts the promises");
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
