//! The loop that the order store is measured against. It is the leanest loop that leaves the same rows with the same
//! durability. Every partition has one connection and one database, which is made from the product's own migrations. A
//! transaction moves the position and inserts 500 orders, claims and moves with one statement each, in key order. The
//! loop does not look at what is there, and it has no ledger and no second shard.

use std::time::Instant;

use anyhow::Context as _;
use futures::future::try_join_all;
use seckill::config::Config;
use seckill::domain::{Month, OrderRecord, Part};
use seckill::shutdown::Tasks;
use serde_json::json;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection};

use crate::{fixture, slices};

/// The same as STATEMENTS_CACHED in src/backend/distributed/mysql.rs.
const STATEMENTS_CACHED: usize = 1024;
const CONTROL: &str = include_str!("../../migrations/control/0001_ledger.sql");
const SHARD: &str = concat!(
    include_str!("../../migrations/shard/0001_claims.sql"),
    include_str!("../../migrations/shard/0002_user_ids.sql")
);
const ORDERS_MONTH: &str = concat!(
    include_str!("../../migrations/month/0001_orders.sql"),
    ";",
    include_str!("../../migrations/month/0002_user_ids.sql")
);

struct Lane {
    part: Part,
    connection: MySqlConnection,
    offset: i64,
    month: u32,
    batches: Vec<Vec<OrderRecord>>,
}

pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = slices::runtime()?;
    let tasks = runtime.block_on(async { Tasks::on_current_runtime() });
    let map = config.shard_map()?;
    let sale = fixture::sale("raw", 1)?;
    let mut lanes = Vec::new();
    for part in map.all_parts() {
        let address = config.mysql.instances.get(usize::from(map.instance_of_part(part).number()));
        let address = address.context("an instance per partition")?;
        lanes.push(runtime.block_on(Lane::open(config, address, part, sale.month()))?);
    }
    let mut batches = fixture::Batches::new(sale, map);
    slices::serve(|word, argument| match word {
        "prepare" => {
            for (lane, (part, records)) in lanes.iter_mut().zip(batches.take(argument.parse()?)?) {
                anyhow::ensure!(lane.part == part, "partitions ascend");
                lane.batches = records;
            }
            Ok(json!({ "lanes": lanes.len() }))
        }
        "go" => {
            let began = Instant::now();
            let spawned = lanes.drain(..).map(|mut lane| {
                tasks.spawn(async move {
                    let rows = lane.write().await?;
                    anyhow::Ok((lane, rows))
                })
            });
            let ended = runtime.block_on(try_join_all(spawned))?;
            let seconds = began.elapsed().as_secs_f64();
            let mut rows = 0;
            for ended in ended {
                let (lane, written) = ended?;
                lanes.push(lane);
                rows += written;
            }
            Ok(json!({ "rows": rows, "seconds": seconds }))
        }
        _ => anyhow::bail!("unknown word"),
    })
}

impl Lane {
    /// Makes the partition's database anew. The connection's settings are the product's.
    async fn open(config: &Config, address: &str, part: Part, month: Month) -> anyhow::Result<Self> {
        let database = format!("{}raw_{:02}", fixture::require_own_databases(config)?, part.number());
        let (host, port) = address.rsplit_once(':').context("host:port")?;
        let options = MySqlConnectOptions::new()
            .host(host)
            .port(port.parse()?)
            .username(&config.mysql.user)
            .password(config.mysql.password.expose())
            .statement_cache_capacity(STATEMENTS_CACHED);
        let mut connection = MySqlConnection::connect_with(&options).await?;
        let month = month.yyyymm();
        let text = format!(
            "DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}; USE {database}; {CONTROL} {SHARD} {}; \
             INSERT INTO consumer_positions (topic, part, next_offset) VALUES ('raw', {}, 0); \
             SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            ORDERS_MONTH.replace("{yyyymm}", &month.to_string()),
            part.number()
        );
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await?;
        Ok(Self { part, connection, offset: 0, month, batches: Vec::new() })
    }

    async fn write(&mut self) -> anyhow::Result<usize> {
        let mut rows = 0;
        for batch in std::mem::take(&mut self.batches) {
            rows += batch.len();
            self.write_batch(batch).await?;
        }
        Ok(rows)
    }

    async fn write_batch(&mut self, mut batch: Vec<OrderRecord>) -> anyhow::Result<()> {
        let next = self.offset + i64::try_from(batch.len())?;
        let now_ms = seckill::clock::Clock::System.now_ms();
        let mut tx = self.connection.begin().await?;
        let moved =
            "UPDATE consumer_positions SET next_offset = ? WHERE topic = ? AND part = ? AND next_offset = ?";
        let moved = sqlx::query(moved).bind(next).bind("raw").bind(self.part.number()).bind(self.offset);
        anyhow::ensure!(moved.execute(&mut *tx).await?.rows_affected() == 1, "the position moved");

        batch.sort_unstable_by_key(|record| record.order_id);
        let columns = "order_id, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason, epoch, \
                       accepted_ms, created_ms, expires_ms";
        let text = insert(&format!("orders_{} ({columns})", self.month), batch.len(), 13);
        let query = batch.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, record| {
            query
                .bind(record.order_id.bytes().as_slice())
                .bind(record.sale_id.as_str().as_bytes())
                .bind(record.sku_id.as_str().as_bytes())
                .bind(record.user_id.as_str().as_bytes())
                .bind(record.quantity.units())
                .bind(record.unit_price.amount())
                .bind(record.unit_price.currency())
                .bind("awaiting_payment")
                .bind(None::<&str>)
                .bind(record.epoch)
                .bind(record.accepted_ms)
                .bind(now_ms)
                .bind(now_ms + 900_000)
        });
        query.execute(&mut *tx).await?;
        let text = insert("order_moves (order_id, kind, at_ms)", batch.len(), 3);
        let query = batch.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, record| {
            query.bind(record.order_id.bytes().as_slice()).bind("persisted").bind(now_ms)
        });
        query.execute(&mut *tx).await?;
        batch.sort_unstable_by(|a, b| a.user_id.cmp(&b.user_id));
        let text = insert("claims (sale_id, user_id, unit, order_id)", batch.len(), 4);
        let query = batch.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, record| {
            query
                .bind(record.sale_id.as_str().as_bytes())
                .bind(record.user_id.as_str().as_bytes())
                .bind(0)
                .bind(record.order_id.bytes().as_slice())
        });
        query.execute(&mut *tx).await?;
        tx.commit().await?;
        self.offset = next;
        Ok(())
    }
}

fn insert(table: &str, rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    format!("INSERT INTO {table} VALUES {}", vec![row; rows].join(", "))
}
