//! Looks at the embedded mode from outside: it reads the database file through connections of the tests' own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use seckill::app;
use seckill::backend::embedded::{self, InUse};
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::{OrderId, PaymentId};
use seckill::ports::Ports;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use super::{KEYED, PATIENCE, Stage};

/// The folder of one configuration.
pub struct DataFolder {
    config: Config,
    folder: PathBuf,
}

impl DataFolder {
    pub fn of(config: &Config) -> Self {
        Self { config: config.clone(), folder: config.embedded.folder.clone() }
    }

    pub fn database(folder: &Path) -> PathBuf {
        folder.join("seckill.db")
    }

    async fn connect(&self, is_looking: bool) -> SqliteConnection {
        let options =
            SqliteConnectOptions::new().filename(Self::database(&self.folder)).read_only(is_looking);
        options.connect().await.expect("a database")
    }

    pub async fn number(&self, text: &str) -> i64 {
        let row = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_one(&mut self.connect(true).await).await;
        row.unwrap_or_else(|error| panic!("{text}: {error}")).try_get(0).expect("a number")
    }

    /// Reads the first column of every row.
    pub async fn texts(&self, text: &str) -> Vec<String> {
        let rows = sqlx::query(AssertSqlSafe(text.to_owned())).fetch_all(&mut self.connect(true).await).await;
        let rows = rows.unwrap_or_else(|error| panic!("{text}: {error}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Executes a statement, as nobody but a person with a shell does.
    ///
    /// # Errors
    /// As the database says.
    pub async fn try_execute(&self, text: &str) -> Result<(), sqlx::Error> {
        sqlx::query(AssertSqlSafe(text.to_owned())).execute(&mut self.connect(false).await).await.map(drop)
    }
}

#[async_trait(?Send)]
impl Stage for DataFolder {
    /// Opening a folder makes what is missing.
    async fn migrate(&self) {}

    async fn open(&self) -> Ports {
        let settings = app::embedded_settings(&self.config).expect("settings");
        // The threads of a shop that was stopped may have the folder for a moment more.
        let began = Instant::now();
        loop {
            match embedded::open(&settings, Clock::System).await {
                Ok(opened) => return opened.ports,
                Err(error) if error.source.is::<InUse>() && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("the folder does not open: {error}"),
            }
        }
    }

    async fn remove(&self) {
        std::fs::remove_dir_all(&self.folder).expect("a folder to remove");
    }

    async fn append(&self, order: OrderId, payloads: Vec<Vec<u8>>) {
        let part = self.config.shard_map().expect("a map").part_of(order.shard()).number();
        let mut connection = self.connect(false).await;
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await;
        begun.expect("begun");
        for payload in payloads {
            let text = "INSERT INTO order_log (part, log_offset, payload) \
                 SELECT ?1, COALESCE(MAX(log_offset) + 1, 0), ?2 FROM order_log WHERE part = ?1";
            let done = sqlx::query(text).bind(part).bind(payload).execute(&mut connection).await;
            done.expect("appended");
        }
        sqlx::query("COMMIT").execute(&mut connection).await.expect("committed");
    }

    async fn sales_in_place(&self) -> Vec<String> {
        let text = "SELECT sale_id FROM sales WHERE definition ->> '$.state' NOT IN ('draft', 'published') ORDER BY sale_id";
        self.texts(text).await
    }

    async fn orders(&self, state: &str) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM orders WHERE state = '{state}'")).await
    }

    async fn sum(&self, expression: &str, table: &str) -> i64 {
        self.number(&format!("SELECT COALESCE({expression}, 0) FROM {table}")).await
    }

    async fn audit(&self, sale: Option<&str>) -> Vec<[String; 4]> {
        let text = "SELECT actor, action, reason, request_id FROM audit_log \
             WHERE sale_id = COALESCE(?, sale_id) ORDER BY id";
        let rows = sqlx::query(text).bind(sale).fetch_all(&mut self.connect(true).await).await.expect("rows");
        rows.iter().map(|row| [0, 1, 2, 3].map(|column| row.get::<String, _>(column))).collect()
    }

    async fn notes(&self, action: &str) -> Vec<(String, Value)> {
        let text = "SELECT reason, details FROM audit_log WHERE action = ? AND sale_id IS NULL ORDER BY id";
        let rows =
            sqlx::query(text).bind(action).fetch_all(&mut self.connect(true).await).await.expect("rows");
        rows.iter().map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("JSON"))).collect()
    }

    async fn moves(&self, order: &str) -> BTreeMap<String, [String; 2]> {
        let text = "SELECT kind, COALESCE(mover, 'order_writer'), COALESCE(why, '') FROM order_moves WHERE order_id = ?";
        let rows =
            sqlx::query(text).bind(order).fetch_all(&mut self.connect(true).await).await.expect("rows");
        rows.iter().map(|row| (row.get(0), [1, 2].map(|column| row.get(column)))).collect()
    }

    async fn note_first_moves(&self) {
        let text = "INSERT OR IGNORE INTO order_moves (order_id, kind, at_ms) SELECT order_id, \
                    IIF(state = 'rejected', 'rejected', 'persisted'), created_ms FROM orders WHERE expires_ms <> created_ms";
        self.try_execute(text).await.expect("a database");
    }

    async fn execute_control(&self, statement: &str) {
        self.try_execute(statement).await.expect("done");
    }

    async fn take_away(&self, sale: &str, sku: &str) {
        let text = format!(
            "UPDATE stock SET available = available - 1 WHERE sale_id = '{sale}' AND sku_id = '{sku}' AND bucket = 0"
        );
        self.try_execute(&text).await.expect("done");
    }

    async fn drop_ledger(&self, sale: &str) {
        self.try_execute(&format!("DELETE FROM ledger WHERE sale_id = '{sale}'")).await.expect("done");
    }

    async fn make_due(&self, in_ms: i64) {
        // The time of the first step is that of the row, unless it is noted.
        self.note_first_moves().await;
        let due_ms = Clock::System.now_ms() + in_ms;
        let text = format!(
            "UPDATE orders SET created_ms = created_ms - expires_ms + {due_ms}, expires_ms = {due_ms} \
             WHERE state = 'awaiting_payment'"
        );
        self.try_execute(&text).await.expect("done");
    }

    async fn ask_now(&self) {
        for (table, column) in
            [("payments", "ask_ms"), ("refunds", "next_ms"), ("orphan_captures", "next_ms")]
        {
            let text = format!("UPDATE {table} SET {column} = 0 WHERE {column} IS NOT NULL");
            self.try_execute(&text).await.expect("done");
        }
    }

    async fn age_sessions(&self, begun_ms: i64, seen_ms: i64) {
        let text = format!(
            "UPDATE admin_sessions SET begun_ms = begun_ms - {begun_ms}, seen_ms = seen_ms - {seen_ms}"
        );
        self.try_execute(&text).await.expect("done");
    }

    async fn audited_sale(&self, sale: &str) -> Value {
        let text = "SELECT sale_after FROM audit_log WHERE sale_id = ? ORDER BY id DESC LIMIT 1";
        let row = sqlx::query(text).bind(sale).fetch_one(&mut self.connect(true).await).await;
        serde_json::from_str(row.expect("a row").get(0)).expect("JSON")
    }

    /// Reads every row of every table but `settings`, which holds what `/readyz` writes.
    async fn contents(&self) -> BTreeMap<String, String> {
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' \
             AND name NOT IN ('settings', '_sqlx_migrations', 'processes') AND name NOT LIKE 'sqlite_%'";
        let mut contents = BTreeMap::new();
        for table in self.texts(tables).await {
            let columns = self.texts(&format!("SELECT name FROM pragma_table_info('{table}')")).await;
            let shown: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
            let rows = format!("SELECT {} FROM {table} ORDER BY 1", shown.join(" || ' ' || "));
            contents.insert(table, self.texts(&rows).await.join("\n"));
        }
        contents
    }

    async fn damage(&self, table: &str, PaymentId { order, attempt }: PaymentId, set: &str) {
        let text = format!("UPDATE {table} SET {set} WHERE order_id = '{order}' AND attempt = {attempt}");
        self.try_execute(&text).await.expect("changed");
    }

    async fn refused_copies(&self) -> Vec<&'static str> {
        let mut refused = Vec::new();
        for table in KEYED {
            let copied = self.try_execute(&format!("INSERT INTO {table} SELECT * FROM {table}")).await;
            let error = copied.err().and_then(sqlx::Error::into_database_error);
            if error.is_some_and(|error| error.is_unique_violation()) {
                refused.push(table);
            }
        }
        refused
    }
}
