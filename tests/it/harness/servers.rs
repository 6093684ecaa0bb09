//! Looks at the distributed mode from outside: it reads MySQL, Redis and Kafka with clients of the tests' own.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use seckill::app;
use seckill::backend::distributed::{self, Unawaited};
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::{Month, OrderId, PaymentId};
use seckill::ports::Ports;
use serde_json::Value;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, MySqlPool, Row};

use super::{KEYED, Stage};

/// How many months have tables, this one and those after it.
pub const MONTHS_AHEAD: usize = 2;

/// Returns this month and the next, and the last one on the first day of a month: a test may run over a month's end,
/// and its sales may have begun before it.
pub fn months() -> Vec<Month> {
    static MONTHS: LazyLock<Vec<Month>> = LazyLock::new(|| {
        let now_ms = Clock::System.now_ms();
        let [before, now] = [now_ms - 86_400_000, now_ms].map(Month::of_ms);
        let mut months: Vec<Month> =
            std::iter::successors(Some(now), |month| Some(month.next())).take(MONTHS_AHEAD).collect();
        months.extend(Some(before).filter(|before| *before != now));
        months
    });
    MONTHS.clone()
}

/// The databases, keys and topic of one configuration.
pub struct Servers {
    config: Config,
    pools: Vec<MySqlPool>,
    prefix: String,
}

impl Servers {
    pub fn of(config: &Config) -> Self {
        let pool = |address: &String| {
            let user = &config.mysql.user;
            let password = config.mysql.password.expose();
            // One connection, so that a test that lists the connections of an instance can tell its own from the
            // product's.
            let pool = MySqlPoolOptions::new().max_connections(1);
            let url = format!("mysql://{user}:{password}@{address}?ssl-mode=DISABLED");
            pool.connect_lazy(&url).expect("an address")
        };
        Self {
            config: config.clone(),
            pools: config.mysql.instances.iter().map(pool).collect(),
            prefix: config.mysql.database_prefix.clone(),
        }
    }

    pub fn pool(&self, instance: usize) -> &MySqlPool {
        &self.pools[instance]
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    /// Lists `(instance, database)` of every control database.
    pub fn controls(&self) -> Vec<(usize, String)> {
        (0..self.pools.len()).map(|i| (i, format!("{}control_{i:02}", self.prefix))).collect()
    }

    /// Lists `(instance, database)` of every shard.
    pub fn shards(&self) -> Vec<(usize, String)> {
        let shards = usize::from(self.config.shards.shards);
        let each = shards / self.pools.len();
        (0..shards).map(|s| (s / each, format!("{}shard_{s:04}", self.prefix))).collect()
    }

    pub async fn number(&self, instance: usize, text: &str) -> i64 {
        let row = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_one(&self.pools[instance]).await;
        row.unwrap_or_else(|error| panic!("{text}: {error}")).try_get(0).expect("a number")
    }

    /// Executes a statement. Of two that lock each other out the server gives one up, and beside a shop that runs that
    /// may be this one. So it is repeated.
    pub async fn execute(&self, instance: usize, text: &str) {
        let is_deadlock = |error: &sqlx::Error| {
            error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code == "40001")
        };
        for left in (0..10).rev() {
            match sqlx::query(AssertSqlSafe(text.to_owned())).execute(&self.pools[instance]).await {
                Ok(_) => return,
                Err(error) if left > 0 && is_deadlock(&error) => {}
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.config.redis.url.as_str()).expect("a client");
        client.get_multiplexed_async_connection().await.expect("Redis")
    }

    async fn keys(&self, connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
        let pattern = format!("{}*", self.config.redis.key_prefix);
        redis::cmd("KEYS").arg(pattern).query_async(connection).await.expect("keys")
    }

    /// Sums a number over the orders of all shards and of the tests' months.
    async fn of_rows(&self, expression: &str, condition: &str) -> i64 {
        let mut sum = 0;
        for (instance, shard) in self.shards() {
            for month in months() {
                let table = format!("{shard}.orders_{}", month.yyyymm());
                let value = format!("CAST(COALESCE({expression}, 0) AS SIGNED)");
                sum += self.number(instance, &format!("SELECT {value} FROM {table} WHERE {condition}")).await;
            }
        }
        sum
    }

    fn log_ends(&self) -> Vec<i64> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.config.kafka.brokers).set("group.id", "onlooker");
        let consumer: Unawaited<BaseConsumer> = Unawaited::new(client.create().expect("a consumer"));
        let topic = &self.config.kafka.topic;
        let end = |part| consumer.fetch_watermarks(topic, part, Duration::from_secs(10));
        (0..i32::from(self.config.shards.partitions)).map(|part| end(part).expect("watermarks").1).collect()
    }
}

#[async_trait(?Send)]
impl Stage for Servers {
    async fn migrate(&self) {
        let settings = app::backend_settings(&self.config).expect("settings");
        distributed::migrate::run(&settings, &months(), Clock::System, |_| ()).await.unwrap_or_else(
            |error| {
                panic!("{error}\nIs the local stack up? `scripts/stack up`, then `scripts/stack status`.")
            },
        );
    }

    async fn open(&self) -> Ports {
        let settings = app::backend_settings(&self.config).expect("settings");
        distributed::open(&settings, Clock::System).await.expect("an open backend")
    }

    /// Removes databases, keys and the topics. A broker with thousands of topics takes minutes to start.
    async fn remove(&self) {
        let mut names = self.controls();
        names.extend(self.shards());
        names.push((0, self.directory()));
        for (instance, name) in names {
            self.execute(instance, &format!("DROP DATABASE IF EXISTS {name}")).await;
        }
        let mut connection = self.redis().await;
        let keys = self.keys(&mut connection).await;
        if !keys.is_empty() {
            let _: i64 = redis::cmd("DEL").arg(keys).query_async(&mut connection).await.expect("deleted");
        }
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.config.kafka.brokers);
        let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
        let admin = Unawaited::new(admin);
        // A test may have removed one before.
        let topics = [self.config.kafka.topic.as_str(), &self.config.kafka.events_topic];
        drop(admin.delete_topics(&topics, &AdminOptions::new()).await.expect("answered"));
    }

    async fn append(&self, order: OrderId, payloads: Vec<Vec<u8>>) {
        let log = self.open().await.order_log;
        let appends = payloads.into_iter().map(|payload| log.append(order, payload));
        futures::future::join_all(appends).await.into_iter().for_each(|done| done.expect("appended"));
    }

    async fn sales_in_place(&self) -> Vec<String> {
        let text = format!(
            "SELECT sale_id FROM {}.sales WHERE state NOT IN ('draft', 'published') ORDER BY sale_id",
            self.directory()
        );
        let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(self.pool(0)).await.expect("rows");
        rows.iter().map(|row| String::from_utf8(row.get(0)).expect("a slug")).collect()
    }

    async fn orders(&self, state: &str) -> i64 {
        self.of_rows("COUNT(*)", &format!("state = '{state}'")).await
    }

    async fn sum(&self, expression: &str, table: &str) -> i64 {
        let mut sum = 0;
        let databases = match table {
            "claims" | "payments" | "refunds" | "payment_events" => self.shards(),
            "orphan_captures" => vec![(0, self.directory())],
            _ => self.controls(),
        };
        for (instance, database) in databases {
            let text = format!("SELECT CAST(COALESCE({expression}, 0) AS SIGNED) FROM {database}.{table}");
            sum += self.number(instance, &text).await;
        }
        sum
    }

    async fn audit(&self, sale: Option<&str>) -> Vec<[String; 4]> {
        let text = format!(
            "SELECT actor, action, reason, request_id FROM {}.audit_log \
             WHERE sale_id = COALESCE(?, sale_id) ORDER BY id",
            self.directory()
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(sale.map(str::as_bytes));
        let rows = query.fetch_all(self.pool(0)).await.expect("rows");
        rows.iter().map(|row| [0, 1, 2, 3].map(|column| row.get::<String, _>(column))).collect()
    }

    async fn notes(&self, action: &str) -> Vec<(String, Value)> {
        let text = format!(
            "SELECT reason, details FROM {}.audit_log WHERE action = ? AND sale_id IS NULL ORDER BY id",
            self.directory()
        );
        let rows = sqlx::query(AssertSqlSafe(text)).bind(action).fetch_all(self.pool(0)).await.expect("rows");
        rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("JSON"))).collect()
    }

    async fn moves(&self, order: &str) -> BTreeMap<String, [String; 2]> {
        let order = OrderId::parse(order).expect("an order id").bytes().to_vec();
        let mut moves = BTreeMap::new();
        for (instance, shard) in self.shards() {
            let text = format!(
                "SELECT kind, COALESCE(mover, 'order_writer'), COALESCE(why, '') FROM {shard}.order_moves \
                 WHERE order_id = ?"
            );
            let rows = sqlx::query(AssertSqlSafe(text)).bind(&order).fetch_all(self.pool(instance)).await;
            let rows = rows.expect("rows");
            moves.extend(rows.iter().map(|row| (row.get(0), [1, 2].map(|column| row.get(column)))));
        }
        moves
    }

    async fn note_first_moves(&self) {
        for (instance, shard) in self.shards() {
            for month in months() {
                let text = format!(
                    "INSERT IGNORE INTO {shard}.order_moves (order_id, kind, at_ms) SELECT order_id, \
                     IF(state = 'rejected', 'rejected', 'persisted'), created_ms FROM {shard}.orders_{} \
                     WHERE expires_ms <> created_ms",
                    month.yyyymm()
                );
                self.execute(instance, &text).await;
            }
        }
    }

    async fn execute_control(&self, statement: &str) {
        for (instance, control) in self.controls() {
            let mut connection = Box::pin(self.pool(instance).acquire()).await.expect("a connection");
            for text in [format!("USE {control}"), statement.to_owned()] {
                sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.expect("done");
            }
            connection.close().await.expect("closed");
        }
    }

    async fn take_away(&self, sale: &str, sku: &str) {
        let key = format!("{}{{{sale}.0}}:stock", self.config.redis.key_prefix);
        let mut connection = self.redis().await;
        let taken = redis::cmd("HINCRBY").arg(key).arg(sku).arg(-1).query_async::<i64>(&mut connection).await;
        taken.expect("a number");
    }

    async fn drop_ledger(&self, sale: &str) {
        for (instance, control) in self.controls() {
            self.execute(instance, &format!("DELETE FROM {control}.ledger WHERE sale_id = '{sale}'")).await;
        }
    }

    async fn make_due(&self, in_ms: i64) {
        // The time of the first step is that of the row, unless it is noted.
        self.note_first_moves().await;
        for (instance, shard) in self.shards() {
            for month in months() {
                let table = format!("{shard}.orders_{}", month.yyyymm());
                let text = format!(
                    "UPDATE {table} SET created_ms = created_ms - expires_ms + UNIX_TIMESTAMP() * 1000 + {in_ms}, \
                     expires_ms = UNIX_TIMESTAMP() * 1000 + {in_ms} WHERE state = 'awaiting_payment'"
                );
                self.execute(instance, &text).await;
            }
        }
    }

    async fn ask_now(&self) {
        for (instance, shard) in self.shards() {
            for (table, column) in [("payments", "ask_ms"), ("refunds", "next_ms")] {
                let text = format!("UPDATE {shard}.{table} SET {column} = 0 WHERE {column} IS NOT NULL");
                self.execute(instance, &text).await;
            }
        }
        let table = format!("{}.orphan_captures", self.directory());
        self.execute(0, &format!("UPDATE {table} SET next_ms = 0 WHERE next_ms IS NOT NULL")).await;
    }

    async fn age_sessions(&self, begun_ms: i64, seen_ms: i64) {
        let text = format!(
            "UPDATE {}.admin_sessions SET begun_ms = begun_ms - {begun_ms}, seen_ms = seen_ms - {seen_ms}",
            self.directory()
        );
        self.execute(0, &text).await;
    }

    async fn audited_sale(&self, sale: &str) -> Value {
        let text = format!(
            "SELECT CAST(sale_after AS CHAR) FROM {}.audit_log WHERE sale_id = ? ORDER BY id DESC LIMIT 1",
            self.directory()
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(sale.as_bytes());
        let text: String = query.fetch_one(self.pool(0)).await.expect("a row").get(0);
        serde_json::from_str(&text).expect("JSON")
    }

    async fn contents(&self) -> BTreeMap<String, String> {
        let mut contents = BTreeMap::new();
        let mut connection = self.redis().await;
        for key in self.keys(&mut connection).await {
            // The marks of the instances grow each second, processes tell of themselves, attempts are counted whatever
            // came of them, and the lease of a gate is prolonged all the time.
            if key.ends_with(":watermarks") || key.ends_with(":nodes") || key.contains(":attempts:") {
                continue;
            }
            if key.ends_with(":gate") {
                let mut gate: BTreeMap<String, String> =
                    redis::cmd("HGETALL").arg(&key).query_async(&mut connection).await.expect("a gate");
                gate.retain(|field, _| field != "lease_ms" && field != "run_id");
                contents.insert(format!("Redis {key}"), format!("{gate:?}"));
                continue;
            }
            let dump: Vec<u8> =
                redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.expect("a dump");
            contents.insert(format!("Redis {key}"), format!("{dump:?}"));
        }
        let ends = tokio::task::block_in_place(|| self.log_ends());
        contents.insert("ends of the log".to_owned(), format!("{ends:?}"));
        let ledger = ["SUM(allotted)", "SUM(held)", "SUM(sold)"].map(|sum| (sum, "ledger"));
        let rest = [("SUM(granted)", "pool"), ("SUM(next_offset)", "consumer_positions")];
        let counts = ["grants", "dead_letters", "release_outbox"].map(|table| ("COUNT(*)", table));
        for (expression, table) in ledger.into_iter().chain(rest).chain(counts) {
            let sum = self.sum(expression, table).await;
            contents.insert(format!("{expression} {table}"), sum.to_string());
        }
        let mut tables = vec!["claims".to_owned(), "order_moves".to_owned()];
        tables.extend(months().iter().map(|month| format!("orders_{}", month.yyyymm())));
        for (instance, shard) in self.shards() {
            for table in &tables {
                let name = format!("{shard}.{table}");
                let count = self.number(instance, &format!("SELECT COUNT(*) FROM {name}")).await;
                contents.insert(name, count.to_string());
            }
        }
        contents
    }

    async fn damage(&self, table: &str, PaymentId { order, attempt }: PaymentId, set: &str) {
        let order: String = order.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        for (instance, shard) in self.shards() {
            let of = format!("order_id = x'{order}' AND attempt = {attempt}");
            self.execute(instance, &format!("UPDATE {shard}.{table} SET {set} WHERE {of}")).await;
        }
    }

    async fn refused_copies(&self) -> Vec<&'static str> {
        let mut refused = Vec::new();
        for kind in KEYED {
            let mut tables = vec![kind.to_owned()];
            if kind == "orders" {
                tables = months().iter().map(|month| format!("orders_{}", month.yyyymm())).collect();
            }
            for (instance, shard) in self.shards() {
                for table in &tables {
                    let copy = format!("INSERT INTO {shard}.{table} SELECT * FROM {shard}.{table}");
                    let done = sqlx::query(AssertSqlSafe(copy)).execute(self.pool(instance)).await;
                    let error = done.err().and_then(sqlx::Error::into_database_error);
                    if error.is_some_and(|error| error.is_unique_violation()) {
                        refused.push(kind);
                    }
                }
            }
        }
        refused.dedup();
        refused
    }
}
