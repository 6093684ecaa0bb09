//! Reads what the databases have of a sale, and brings together again what belongs together.
//!
//! Invariant: what is counted of an instance is read by one statement, which sees the instance as it is at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::mysql_grants as grants;
use super::mysql_order_store::is_missing_table;
use super::mysql_text::{NOW_MS, push_bytes};
use crate::domain::books::{Drift, DriftKind, LedgerBooks, OrderSum, Place, SaleBooks};
use crate::domain::order_life::STATES;
use crate::domain::{Instance, Month, OrderId, Sale, Shard, SkuId};
use crate::ports::{DatabaseBooks, StoreError, StoreResult};

const BOOKS: &str = "read books";
const TURN: &str = "take the turn of looking";
/// The name of the turn among those of the readers of events.
const READER: &[u8] = b"reconciler";
const STRAYS: &str = "look for strays";
const CLAIMS: &str = "mend claims";
/// How long the reading of an instance may take.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// Serves the books from the directory, the control databases and the shards.
pub struct MysqlBooks {
    mysql: Arc<Mysql>,
}

/// Answers the words of states whose orders hold nothing, as a list. An order in a state that this version does not
/// know counts as live.
fn dead() -> String {
    let words =
        STATES.iter().filter(|facts| facts.state.holds_nothing()).map(|facts| format!("'{}'", facts.word));
    words.collect::<Vec<_>>().join(",")
}

fn literal(bytes: &[u8]) -> String {
    let mut text = String::new();
    push_bytes(&mut text, bytes);
    text
}

impl MysqlBooks {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    /// Writes the statement that reads an instance. Each row has a word, a number and a SKU that say where, units, and
    /// what more the word needs.
    fn statement(&self, at: Instance, sale: &Sale) -> String {
        let (id, control, dead) = (literal(sale.id.as_str().as_bytes()), self.mysql.control(at), dead());
        let mut parts = Vec::new();
        for shard in self.mysql.map.shards_of(at) {
            let (number, name, month) = (shard.number(), self.mysql.shard(shard), sale.month().yyyymm());
            parts.push(format!(
                "SELECT 'live', {number}, '', CAST(COALESCE(SUM(quantity), 0) AS SIGNED), 0 \
                 FROM {name}.orders_{month} WHERE sale_id = {id} AND state NOT IN ({dead})"
            ));
            parts.push(format!(
                "SELECT 'claimed', {number}, '', COUNT(*), 0 FROM {name}.claims WHERE sale_id = {id}"
            ));
        }
        for (word, units) in [("allotted", "allotted"), ("withheld", "withheld"), ("counted", "held + sold")]
        {
            parts.push(format!(
                "SELECT '{word}', 0, sku_id, {units}, 0 FROM {control}.ledger WHERE sale_id = {id}"
            ));
        }
        let (own, grants) = (at.number(), format!("FROM {control}.grants WHERE sale_id = {id}"));
        parts.push(format!(
            "SELECT 'granted', 0, sku_id, CAST(SUM(CASE WHEN taker = {own} THEN units WHEN from_ledger THEN -units \
             ELSE 0 END) AS SIGNED), 0 {grants} GROUP BY sku_id"
        ));
        // A grant of an older version names no giver, so it explains what another side has, and demands nothing.
        parts.push(format!(
            "SELECT 'given', taker, sku_id, CAST(SUM(units) AS SIGNED), \
             CAST(SUM(IF(settled AND giver = {own}, units, 0)) AS SIGNED) {grants} AND taker <> {own} \
             GROUP BY taker, sku_id"
        ));
        parts.push(format!(
            "SELECT 'taken', {own}, sku_id, CAST(SUM(IF(giver <> {own}, units, 0)) AS SIGNED), \
             CAST(SUM(units) AS SIGNED) {grants} AND taker = {own} AND (giver IS NULL OR giver <> {own}) \
             GROUP BY sku_id"
        ));
        parts.push(format!(
            "SELECT 'unreturned', 0, sku_id, CAST(SUM(quantity) AS SIGNED), 0 FROM {control}.release_outbox \
             WHERE sale_id = {id} AND NOT restock GROUP BY sku_id"
        ));
        parts.push(format!(
            "SELECT 'pending', 0, '', COUNT(*), 0 FROM {control}.release_outbox WHERE sale_id = {id}"
        ));
        parts.push(format!(
            "SELECT 'pending', 0, '', COUNT(*), 0 FROM {control}.dead_letters WHERE state = 'open'"
        ));
        parts.join(" UNION ALL ")
    }

    async fn rows_of(&self, at: Instance, sale: &Sale) -> StoreResult<Vec<MySqlRow>> {
        let read = async {
            let rows =
                sqlx::raw_sql(AssertSqlSafe(self.statement(at, sale))).fetch_all(self.mysql.pool(at)).await;
            rows.map_err(|error| failed(BOOKS, error))
        };
        self.mysql.within(READ_WITHIN, BOOKS, read).await
    }

    /// Sums up the live orders of each of an instance's databases of orders.
    async fn sums_at(&self, at: Instance, sale: &Sale) -> StoreResult<Vec<(Shard, OrderSum)>> {
        let fault = |error| failed(BOOKS, error);
        let (id, dead, month) = (literal(sale.id.as_str().as_bytes()), dead(), sale.month().yyyymm());
        let mut sums = Vec::new();
        for shard in self.mysql.map.shards_of(at) {
            let text = format!(
                "SELECT CAST(COALESCE(SUM(quantity), 0) AS SIGNED), \
                 CAST(COALESCE(SUM(quantity * CONV(HEX(RIGHT(order_id, 3)), 16, 10)), 0) AS SIGNED) \
                 FROM {}.orders_{month} WHERE sale_id = {id} AND state NOT IN ({dead})",
                self.mysql.shard(shard)
            );
            let row = sqlx::raw_sql(AssertSqlSafe(text)).fetch_one(self.mysql.pool(at)).await;
            let row = row.map_err(fault)?;
            let (units, checksum) = (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
            sums.push((shard, OrderSum { units, checksum }));
        }
        Ok(sums)
    }

    async fn read_epochs(&self, sale: &Sale, books: &mut SaleBooks) -> StoreResult<()> {
        let fault = |error| failed(BOOKS, error);
        let text = format!(
            "SELECT bucket, epoch FROM {{directory}}.bucket_epochs WHERE sale_id = ? AND until_ms <= {NOW_MS}"
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(sale.id.as_str().as_bytes());
        for row in query.fetch_all(self.mysql.directory_pool()).await.map_err(fault)? {
            let (bucket, epoch): (i32, i32) =
                (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
            if let (Ok(bucket), Ok(epoch)) = (u16::try_from(bucket), u32::try_from(epoch)) {
                books.epochs.insert(bucket, epoch);
            }
        }
        Ok(())
    }

    async fn count(&self, at: Instance, text: String) -> StoreResult<i64> {
        let count = async {
            let counted = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(self.mysql.pool(at)).await;
            match counted {
                // A month whose table was dropped has no orders that could be compared.
                Err(error) if is_missing_table(&error) => Ok(0),
                counted => counted.map_err(|error| failed(STRAYS, error)),
            }
        };
        self.mysql.within(READ_WITHIN, STRAYS, count).await
    }

    async fn take_turn(&self, holder: [u8; 16], lease: Duration) -> StoreResult<bool> {
        let fault = |error| failed(TURN, error);
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let take = format!(
            "INSERT INTO {{control}}.event_leases (reader, holder, until_ms) VALUES (?, ?, {NOW_MS} + ?) \
             ON DUPLICATE KEY UPDATE \
             holder = IF(until_ms <= {NOW_MS}, VALUES(holder), holder), \
             until_ms = IF(holder = VALUES(holder), VALUES(until_ms), until_ms)"
        );
        sqlx::query(self.mysql.control_sql(Mysql::DIRECTORY, &take))
            .bind(READER)
            .bind(holder.as_slice())
            .bind(lease_ms)
            .execute(self.mysql.directory_pool())
            .await
            .map_err(fault)?;
        let read = "SELECT holder FROM {control}.event_leases WHERE reader = ?";
        let found: Vec<u8> = sqlx::query_scalar(self.mysql.control_sql(Mysql::DIRECTORY, read))
            .bind(READER)
            .fetch_one(self.mysql.directory_pool())
            .await
            .map_err(fault)?;
        Ok(found == holder)
    }

    async fn grants_at(&self, at: Instance) -> StoreResult<Vec<Drift>> {
        let text = format!(
            "SELECT COUNT(*) FROM {}.grants WHERE NOT settled AND at < NOW(3) - INTERVAL 10 SECOND",
            self.mysql.control(at)
        );
        Ok(stray(DriftKind::GrantStray, Place::Instance(at), self.count(at, text).await?))
    }

    async fn payments_at(
        &self,
        at: Instance,
        months: &[Month],
        even: Option<bool>,
    ) -> StoreResult<Vec<Drift>> {
        let mut drifts = Vec::new();
        let is_meant = |shard: &Shard| even.is_none_or(|even| shard.number().is_multiple_of(2) == even);
        for shard in self.mysql.map.shards_of(at).filter(is_meant) {
            let mut strays = 0;
            for month in months {
                let (name, yyyymm) = (self.mysql.shard(shard), month.yyyymm());
                let (first, last) = (OrderId::first_of(shard, *month), OrderId::last_of(shard, *month));
                let (first, last) = (literal(first.bytes()), literal(last.bytes()));
                let text = format!(
                    "SELECT COUNT(*) FROM {name}.payments p LEFT JOIN {name}.orders_{yyyymm} o USING (order_id) \
                     WHERE p.order_id BETWEEN {first} AND {last} AND o.order_id IS NULL"
                );
                strays += self.count(at, text).await?;
            }
            drifts.extend(stray(DriftKind::PaymentStray, Place::Shard(shard), strays));
        }
        Ok(drifts)
    }

    /// Removes the claims of orders that hold nothing, and answers how many there were. An order's row is locked before
    /// it is believed.
    async fn remove_claims(&self, sale: &Sale, shard: Shard) -> StoreResult<u64> {
        let fault = |error| failed(CLAIMS, error);
        let at = self.mysql.map.instance_of(shard);
        let text = format!(
            "SELECT c.user_id, c.unit, c.order_id FROM {{shard}}.claims c \
             LEFT JOIN {{shard}}.orders_{{yyyymm}} o ON o.order_id = c.order_id AND o.state NOT IN ({}) \
             WHERE c.sale_id = ? AND o.order_id IS NULL",
            dead()
        );
        let found = sqlx::query(self.mysql.shard_sql(shard, sale.month(), &text))
            .bind(sale.id.as_str().as_bytes())
            .fetch_all(self.mysql.pool(at))
            .await
            .map_err(fault)?;
        let mut removed = 0;
        for row in found {
            let (user, order): (Vec<u8>, Vec<u8>) =
                (row.try_get(0).map_err(fault)?, row.try_get(2).map_err(fault)?);
            let unit: i32 = row.try_get(1).map_err(fault)?;
            let mut tx = self.mysql.begin(at, CLAIMS).await?;
            let text = format!(
                "SELECT COUNT(*) FROM {{shard}}.orders_{{yyyymm}} WHERE order_id = ? AND state NOT IN ({}) FOR UPDATE",
                dead()
            );
            let live: i64 = sqlx::query_scalar(self.mysql.shard_sql(shard, sale.month(), &text))
                .bind(&order)
                .fetch_one(&mut *tx)
                .await
                .map_err(fault)?;
            if live == 0 {
                let text = "DELETE FROM {shard}.claims \
                            WHERE sale_id = ? AND user_id = ? AND unit = ? AND order_id = ?";
                let gone = sqlx::query(self.mysql.shard_sql(shard, sale.month(), text))
                    .bind(sale.id.as_str().as_bytes())
                    .bind(user)
                    .bind(unit)
                    .bind(order)
                    .execute(&mut *tx)
                    .await
                    .map_err(fault)?;
                removed += gone.rows_affected();
            }
            tx.commit().await.map_err(fault)?;
        }
        Ok(removed)
    }
}

fn stray(kind: DriftKind, place: Place, amount: i64) -> Vec<Drift> {
    (amount != 0).then_some(Drift { kind, sale: None, place, amount }).into_iter().collect()
}

/// Units that went from one instance to another one, by taker and SKU, as either side has them.
#[derive(Default)]
struct Exchanged {
    /// Those that were given.
    given: i64,
    /// Of those, the ones that are known to be taken, and by whom they were given.
    settled: i64,
    /// Those that were taken, and of which it is known who gave them.
    taken: i64,
    /// Those that may have been taken from others.
    takable: i64,
}

impl Exchanged {
    /// Counts the units that are on one side only: more were taken than were given, or, below 0, fewer.
    fn ungiven(&self) -> i64 {
        (self.taken - self.given).max(0) - (self.settled - self.takable).max(0)
    }
}

/// What was read of the instances so far.
#[derive(Default)]
struct Read {
    books: SaleBooks,
    exchanged: BTreeMap<(u16, SkuId), Exchanged>,
}

/// Adds a row of the statement that reads an instance.
fn add(read: &mut Read, at: Instance, row: &MySqlRow) -> StoreResult<()> {
    let fault = |error| failed(BOOKS, error);
    let damaged = |what: String| StoreError::broken(BOOKS, what);
    let (word, number): (String, i64) = (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
    let number = u16::try_from(number).map_err(|error| damaged(error.to_string()))?;
    let sku: Vec<u8> = row.try_get(2).map_err(fault)?;
    let (units, more): (i64, i64) = (row.try_get(3).map_err(fault)?, row.try_get(4).map_err(fault)?);
    let books = &mut read.books;
    match word.as_str() {
        "live" => books.shards.entry(Shard::new(number)).or_default().live += units,
        "claimed" => books.shards.entry(Shard::new(number)).or_default().claimed += units,
        "pending" => books.pending += units,
        "counted" => *books.counted.entry(at).or_default() += units,
        word => {
            let sku = std::str::from_utf8(&sku).ok().and_then(|sku| SkuId::parse(sku).ok());
            let sku = sku.ok_or_else(|| damaged("a SKU id that is not ours".to_owned()))?;
            add_units(read, word, (at, number, sku), (units, more));
        }
    }
    Ok(())
}

/// Adds what an instance has of a SKU. `taker` is the instance that was given something, or has taken something.
fn add_units(
    read: &mut Read,
    word: &str,
    (at, taker, sku): (Instance, u16, SkuId),
    (units, more): (i64, i64),
) {
    let books = &mut read.books;
    match word {
        "withheld" => *books.withheld.entry(sku).or_default() += units,
        "unreturned" => *books.unreturned.entry(sku).or_default() += units,
        "allotted" => books.ledgers.push(LedgerBooks { at, sku, allotted: units, granted: 0, ungiven: 0 }),
        "given" => {
            let exchanged = read.exchanged.entry((taker, sku)).or_default();
            (exchanged.given, exchanged.settled) = (exchanged.given + units, exchanged.settled + more);
        }
        "taken" => {
            let exchanged = read.exchanged.entry((taker, sku)).or_default();
            (exchanged.taken, exchanged.takable) = (units, more);
        }
        _ => {
            let of = |ledger: &&mut LedgerBooks| ledger.at == at && ledger.sku == sku;
            if let Some(ledger) = books.ledgers.iter_mut().find(of) {
                ledger.granted += units;
            }
        }
    }
}

#[async_trait]
impl DatabaseBooks for MysqlBooks {
    async fn of_sale(&self, sale: &Sale) -> StoreResult<SaleBooks> {
        let instances: Vec<Instance> = self.mysql.map.all_instances().collect();
        let answers = try_join_all(instances.iter().map(|at| self.rows_of(*at, sale))).await?;
        let mut read = Read::default();
        for (at, rows) in instances.iter().zip(&answers) {
            for row in rows {
                add(&mut read, *at, row)?;
            }
        }
        let Read { mut books, exchanged } = read;
        for ledger in &mut books.ledgers {
            let of_ledger = exchanged.get(&(ledger.at.number(), ledger.sku.clone()));
            ledger.ungiven = of_ledger.map_or(0, Exchanged::ungiven);
        }
        self.mysql.read(BOOKS, self.read_epochs(sale, &mut books)).await?;
        Ok(books)
    }

    async fn sums(&self, sale: &Sale) -> StoreResult<BTreeMap<Shard, OrderSum>> {
        let each = self.mysql.map.all_instances();
        let each = each.map(|at| self.mysql.within(READ_WITHIN, BOOKS, self.sums_at(at, sale)));
        Ok(try_join_all(each).await?.into_iter().flatten().collect())
    }

    async fn turn(&self, holder: [u8; 16], lease: Duration) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, TURN, self.take_turn(holder, lease)).await
    }

    async fn strays(&self, months: &[Month], even: Option<bool>) -> StoreResult<Vec<Drift>> {
        let each = self.mysql.map.all_instances().map(async |at| {
            let payments = self.payments_at(at, months, even).await?;
            Ok::<_, StoreError>([payments, self.grants_at(at).await?].concat())
        });
        Ok(try_join_all(each).await?.concat())
    }

    async fn mend_claims(&self, sale: &Sale, shard: Shard) -> StoreResult<u64> {
        self.mysql.change(self.mysql.map.instance_of(shard), CLAIMS, self.remove_claims(sale, shard)).await
    }

    async fn mend_grants(&self) -> StoreResult<()> {
        for taker in self.mysql.map.all_instances() {
            grants::apply_strays(&self.mysql, taker).await?;
        }
        Ok(())
    }
}
