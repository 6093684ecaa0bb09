//! Reads what the folder has of a sale. The inventory and the orders are in one file, and no order is on its way
//! between them, so little can be wrong that no hand has changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, number, parsed};
use crate::domain::books::{BucketBooks, Drift, DriftKind, OrderSum, Place, SaleBooks, ShardBooks};
use crate::domain::order_life::STATES;
use crate::domain::{BucketId, Instance, Month, Sale, Shard, ShardMap, SkuId};
use crate::ports::{DatabaseBooks, InventoryBooks, StoreResult};

const BOOKS: &str = "read books";
const MEND: &str = "mend books";

/// Serves both sides of the books from the database.
pub struct SqliteBooks {
    /// The database.
    pub sqlite: Arc<Sqlite>,
    /// Says in which bucket orders are.
    pub map: ShardMap,
}

/// Fills the words of states whose orders hold nothing into a statement, for `{dead}`, and [`NUMBER`].
fn sql(text: &str) -> AssertSqlSafe<String> {
    let words =
        STATES.iter().filter(|facts| facts.state.holds_nothing()).map(|facts| format!("'{}'", facts.word));
    let text = text.replace("{dead}", &words.collect::<Vec<_>>().join(","));
    AssertSqlSafe(text.replace("{number}", NUMBER))
}

/// The units of each SKU in each bucket: for sale, and held by orders that are live or have no row yet.
const UNITS: &str = "SELECT bucket, sku_id, SUM(available) AS units, 0 AS held FROM stock WHERE sale_id = ?1 \
     GROUP BY bucket, sku_id UNION ALL \
     SELECT r.bucket, r.sku_id, SUM(r.quantity) AS units, SUM(r.quantity) AS held FROM reservations r \
     LEFT JOIN orders o ON o.order_id = r.order_id \
     WHERE r.sale_id = ?1 AND (o.state IS NULL OR o.state NOT IN ({dead})) GROUP BY r.bucket, r.sku_id";
/// The units of live orders and those that are claimed, by bucket; an order without a reservation counts to the first.
const SHARDS: &str = "SELECT COALESCE(r.bucket, 0) AS bucket, SUM(o.quantity) AS live, 0 AS claimed FROM orders o \
     LEFT JOIN reservations r ON r.order_id = o.order_id \
     WHERE o.sale_id = ?1 AND o.state NOT IN ({dead}) GROUP BY 1 UNION ALL \
     SELECT COALESCE(r.bucket, 0), 0, COUNT(*) FROM claims c LEFT JOIN reservations r ON r.order_id = c.order_id \
     WHERE c.sale_id = ?1 GROUP BY 1";
/// The units of holds, or of live orders, by bucket, and the sum over them of [`NUMBER`].
const HELD: &str = "SELECT r.bucket, SUM(r.quantity) AS units, SUM(r.quantity * {number}) AS checksum \
     FROM reservations r LEFT JOIN orders o ON o.order_id = r.order_id \
     WHERE r.sale_id = ?1 AND (o.state IS NULL OR o.state NOT IN ({dead})) GROUP BY r.bucket";
const LIVE: &str = "SELECT COALESCE(b.bucket, 0) AS bucket, SUM(r.quantity) AS units, \
     SUM(r.quantity * {number}) AS checksum FROM orders r \
     LEFT JOIN reservations b ON b.order_id = r.order_id \
     WHERE r.sale_id = ?1 AND r.state NOT IN ({dead}) GROUP BY 1";
/// The number that the last characters of an order's id make.
const NUMBER: &str = "((unicode(substr(r.order_id, -3)) * 256 + unicode(substr(r.order_id, -2))) * 256 \
     + unicode(substr(r.order_id, -1)))";
const LEDGER: &str = "SELECT sku_id, held + sold AS counted, withheld FROM ledger WHERE sale_id = ?";
const PENDING: &str = "SELECT COUNT(*) AS pending FROM dead_letters WHERE state = 'open'";
const STRAYS: &str = "SELECT COUNT(*) AS strays FROM payments p LEFT JOIN orders o ON o.order_id = p.order_id \
     WHERE o.order_id IS NULL";
const CLAIMS: &str = "DELETE FROM claims WHERE sale_id = ?1 AND NOT EXISTS (SELECT 1 FROM orders o \
     WHERE o.order_id = claims.order_id AND o.state NOT IN ({dead}))";
/// What is missing of each SKU of a sale: the stock without what is withheld, held and for sale.
const MISSING: &str = "SELECT l.sku_id, l.stock - l.withheld \
     - (SELECT COALESCE(SUM(s.available), 0) FROM stock s WHERE s.sale_id = l.sale_id AND s.sku_id = l.sku_id) \
     - (SELECT COALESCE(SUM(r.quantity), 0) FROM reservations r LEFT JOIN orders o ON o.order_id = r.order_id \
        WHERE r.sale_id = l.sale_id AND r.sku_id = l.sku_id AND (o.state IS NULL OR o.state NOT IN ({dead}))) \
     AS missing FROM ledger l WHERE l.sale_id = ?";

impl SqliteBooks {
    async fn rows(&self, text: &'static str, sale: &Sale) -> StoreResult<Vec<SqliteRow>> {
        let query = sqlx::query(sql(text)).bind(sale.id.as_str());
        query.fetch_all(self.sqlite.readers()).await.map_err(|error| failed(BOOKS, error))
    }

    /// Reads a sum of each bucket.
    async fn sums_of(&self, text: &'static str, sale: &Sale) -> StoreResult<BTreeMap<u16, OrderSum>> {
        let rows = self.rows(text, sale).await?;
        let sum = |row: &SqliteRow| {
            let (units, checksum) = (column(row, "units")?, column(row, "checksum")?);
            Ok((number(row, "bucket")?, OrderSum { units, checksum }))
        };
        rows.iter().map(sum).collect()
    }

    /// Answers one of the databases whose orders are in a bucket. Here they are all in one file.
    fn shard_of(&self, sale: &Sale, bucket: u16) -> Shard {
        let is_of = |shard: &Shard| self.map.bucket_of(*shard, sale.buckets) == bucket;
        self.map.all_shards().find(is_of).unwrap_or(Shard::new(0))
    }
}

#[async_trait]
impl InventoryBooks for SqliteBooks {
    async fn count(&self, sale: &Sale) -> StoreResult<Vec<Option<BucketBooks>>> {
        let mut buckets =
            vec![Some(BucketBooks { epoch: sale.epoch, ..Default::default() }); sale.buckets.into()];
        for row in self.rows(UNITS, sale).await? {
            let (bucket, sku): (u16, SkuId) =
                (number(&row, "bucket")?, parsed(&row, "sku_id", SkuId::parse)?);
            let (units, held): (i64, i64) = (column(&row, "units")?, column(&row, "held")?);
            if let Some(Some(books)) = buckets.get_mut(usize::from(bucket)) {
                *books.units.entry(sku).or_default() += units;
                books.held += held;
            }
        }
        Ok(buckets)
    }

    async fn sums(&self, sale: &Sale) -> StoreResult<Vec<OrderSum>> {
        let sums = self.sums_of(HELD, sale).await?;
        Ok((0..sale.buckets).map(|bucket| sums.get(&bucket).copied().unwrap_or_default()).collect())
    }

    /// Does nothing: there is no outbox.
    async fn mend_outbox(&self, _: &BucketId) -> StoreResult<u64> {
        Ok(0)
    }

    /// Makes the units that are for sale those that no order holds and that nobody withholds, in one transaction. That
    /// brings no hold back.
    async fn refill(&self, bucket: &BucketId, _: u32, kind: DriftKind) -> StoreResult<bool> {
        let bucket = bucket.clone();
        let work = async move |connection: &mut SqliteConnection| refill(connection, &bucket).await;
        self.sqlite.writer.write(MEND, work).await?;
        Ok(kind != DriftKind::HoldsDiffer)
    }
}

/// Brings what is missing of a sale to a bucket, and takes away what is too much, as far as the bucket has it.
async fn refill(connection: &mut SqliteConnection, bucket: &BucketId) -> StoreResult<()> {
    let fault = |error| failed(MEND, error);
    let rows = sqlx::query(sql(MISSING)).bind(bucket.sale.as_str()).fetch_all(&mut *connection).await;
    let mut missing: BTreeMap<SkuId, i64> = BTreeMap::new();
    for row in rows.map_err(fault)? {
        missing.insert(parsed(&row, "sku_id", SkuId::parse)?, column(&row, "missing")?);
    }
    let text =
        "UPDATE stock SET available = MAX(0, available + ?) WHERE sale_id = ? AND bucket = ? AND sku_id = ?";
    for (sku, units) in missing.into_iter().filter(|(_, units)| *units != 0) {
        sqlx::query(text)
            .bind(units)
            .bind(bucket.sale.as_str())
            .bind(bucket.bucket)
            .bind(sku.as_str())
            .execute(&mut *connection)
            .await
            .map_err(fault)?;
    }
    Ok(())
}

#[async_trait]
impl DatabaseBooks for SqliteBooks {
    async fn of_sale(&self, sale: &Sale) -> StoreResult<SaleBooks> {
        let mut books = SaleBooks::default();
        for row in self.rows(LEDGER, sale).await? {
            let (counted, withheld): (i64, i64) = (column(&row, "counted")?, column(&row, "withheld")?);
            *books.counted.entry(Instance::FIRST).or_default() += counted;
            books.withheld.insert(parsed(&row, "sku_id", SkuId::parse)?, withheld);
        }
        for row in self.rows(SHARDS, sale).await? {
            let shard = self.shard_of(sale, number(&row, "bucket")?);
            let of: &mut ShardBooks = books.shards.entry(shard).or_default();
            of.live += column::<i64>(&row, "live")?;
            of.claimed += column::<i64>(&row, "claimed")?;
        }
        let row = sqlx::query(PENDING).fetch_one(self.sqlite.readers()).await;
        books.pending = column(&row.map_err(|error| failed(BOOKS, error))?, "pending")?;
        Ok(books)
    }

    async fn sums(&self, sale: &Sale) -> StoreResult<BTreeMap<Shard, OrderSum>> {
        let sums = self.sums_of(LIVE, sale).await?;
        Ok(sums.into_iter().map(|(bucket, sum)| (self.shard_of(sale, bucket), sum)).collect())
    }

    /// Answers that it is this process's turn, because no other one has the folder.
    async fn turn(&self, _: [u8; 16], _: Duration) -> StoreResult<bool> {
        Ok(true)
    }

    /// Looks for payments alone: there is one ledger, so nothing was granted.
    async fn strays(&self, _: &[Month], even: Option<bool>) -> StoreResult<Vec<Drift>> {
        if even == Some(false) {
            return Ok(Vec::new());
        }
        let row = sqlx::query(STRAYS).fetch_one(self.sqlite.readers()).await;
        let amount: i64 = column(&row.map_err(|error| failed(BOOKS, error))?, "strays")?;
        let (kind, place) = (DriftKind::PaymentStray, Place::Instance(Instance::FIRST));
        Ok((amount > 0).then_some(Drift { kind, sale: None, place, amount }).into_iter().collect())
    }

    async fn mend_claims(&self, sale: &Sale, _: Shard) -> StoreResult<u64> {
        let sale = sale.id.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let removed = sqlx::query(sql(CLAIMS)).bind(sale.as_str()).execute(connection).await;
            removed.map(|done| done.rows_affected()).map_err(|error| failed(MEND, error))
        };
        self.sqlite.writer.write(MEND, work).await
    }

    /// Does nothing: there is one ledger.
    async fn mend_grants(&self) -> StoreResult<()> {
        Ok(())
    }
}
