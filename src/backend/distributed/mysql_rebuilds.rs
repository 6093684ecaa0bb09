//! Says who rebuilds a bucket of the inventory, and what the databases have of its sale.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{Row, raw_sql};

use super::mysql::{Mysql, connection, failed};
use super::mysql_fences as fences;
use super::mysql_order_store::is_missing_table;
use super::mysql_text::NOW_MS;
use crate::domain::rebuild::{TrueOrder, Truth};
use crate::domain::{
    BucketId, Instance, OrderId, OrderRecord, OrderState, Quantity, Reference, Sale, Shard, SkuId, UserId,
};
use crate::ports::{Claim, Rebuilds, StoreError, StoreResult};

const CLAIM: &str = "claim bucket";
const TRUTH: &str = "read the truth of a sale";
/// How long the reading of one instance may take. A sale of some millions of orders is read in that time.
const TRUTH_WITHIN: Duration = Duration::from_secs(60);

/// Serves rebuilds from the directory, the control databases and the shards.
pub struct MysqlRebuilds {
    mysql: Arc<Mysql>,
}

impl MysqlRebuilds {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn claim_in(&self, sale: &Sale, bucket: u16, lease: Duration) -> StoreResult<Option<Claim>> {
        let fault = |error| failed(CLAIM, error);
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CLAIM).await?;
        let absent = "INSERT INTO {directory}.bucket_epochs (sale_id, bucket, epoch, until_ms) \
                      VALUES (?, ?, ?, 0) ON DUPLICATE KEY UPDATE epoch = epoch";
        sqlx::query(self.mysql.directory_sql(absent))
            .bind(sale.id.as_str().as_bytes())
            .bind(bucket)
            .bind(sale.epoch)
            .execute(&mut *tx)
            .await
            .map_err(fault)?;
        let raise = format!(
            "UPDATE {{directory}}.bucket_epochs SET epoch = epoch + 1, until_ms = {NOW_MS} + ? \
             WHERE sale_id = ? AND bucket = ? AND until_ms <= {NOW_MS}"
        );
        let raised = sqlx::query(self.mysql.directory_sql(&raise))
            .bind(lease_ms)
            .bind(sale.id.as_str().as_bytes())
            .bind(bucket)
            .execute(&mut *tx)
            .await
            .map_err(fault)?;
        if raised.rows_affected() != 1 {
            return Ok(None);
        }
        let read = "SELECT epoch FROM {directory}.bucket_epochs WHERE sale_id = ? AND bucket = ?";
        let epoch: i32 = sqlx::query_scalar(self.mysql.directory_sql(read))
            .bind(sale.id.as_str().as_bytes())
            .bind(bucket)
            .fetch_one(&mut *tx)
            .await
            .map_err(fault)?;
        tx.commit().await.map_err(fault)?;
        let epoch = u32::try_from(epoch).map_err(|error| StoreError::broken(CLAIM, error.to_string()))?;
        Ok(Some(Claim { bucket: BucketId { sale: sale.id.clone(), bucket }, epoch }))
    }

    async fn prolong(&self, claim: &Claim, lease: Duration) -> StoreResult<bool> {
        let text = format!(
            "UPDATE {{directory}}.bucket_epochs SET until_ms = {NOW_MS} + ? \
             WHERE sale_id = ? AND bucket = ? AND epoch = ?"
        );
        let prolonged = sqlx::query(self.mysql.directory_sql(&text))
            .bind(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
            .bind(claim.bucket.sale.as_str().as_bytes())
            .bind(claim.bucket.bucket)
            .bind(claim.epoch)
            .execute(self.mysql.directory_pool())
            .await
            .map_err(|error| failed(CLAIM, error))?;
        Ok(prolonged.rows_affected() == 1)
    }

    /// Reads what one instance has of a sale, as it is at one moment.
    async fn truth_at(&self, at: Instance, sale: &Sale, truth: &mut Truth) -> StoreResult<()> {
        let fault = |error| failed(TRUTH, error);
        // A connection of its own: whoever stops waiting must not leave the transaction to somebody else.
        let mut connection = connection(self.mysql.pool(at), TRUTH).await?.detach();
        for text in [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        ] {
            raw_sql(text).execute(&mut connection).await.map_err(fault)?;
        }
        let mut written = BTreeSet::new();
        for shard in self.mysql.map.shards_of(at) {
            for row in self.rows_of(shard, sale, &mut connection).await? {
                let order = order(&row)?;
                written.insert(order.id);
                truth.orders.push(order);
            }
        }
        self.read_units(at, sale, truth, &mut connection).await?;
        let letters = self.letters_of(at, sale, &mut connection).await?;
        truth.orders.extend(letters.into_iter().filter(|order| !written.contains(&order.id)));
        Ok(())
    }

    async fn rows_of(
        &self,
        shard: Shard,
        sale: &Sale,
        connection: &mut MySqlConnection,
    ) -> StoreResult<Vec<MySqlRow>> {
        let text = "SELECT order_id, user_id, sku_id, quantity, CAST(state AS CHAR) AS state, accepted_ms, reference \
                    FROM {shard}.orders_{yyyymm} WHERE sale_id = ?";
        let rows = sqlx::query(self.mysql.shard_sql(shard, sale.month(), text))
            .bind(sale.id.as_str().as_bytes())
            .fetch_all(connection)
            .await;
        match rows {
            Ok(rows) => Ok(rows),
            Err(error) if is_missing_table(&error) => Ok(Vec::new()),
            Err(error) => Err(failed(TRUTH, error)),
        }
    }

    async fn read_units(
        &self,
        at: Instance,
        sale: &Sale,
        truth: &mut Truth,
        connection: &mut MySqlConnection,
    ) -> StoreResult<()> {
        let fault = |error| failed(TRUTH, error);
        let text = "SELECT sku_id, withheld, allotted - held - sold - withheld FROM {control}.ledger \
                    WHERE sale_id = ? UNION ALL \
                    SELECT sku_id, 0, stock - granted FROM {control}.pool WHERE sale_id = ?";
        let sale = sale.id.as_str().as_bytes();
        let query = sqlx::query(self.mysql.control_sql(at, text)).bind(sale).bind(sale);
        for row in query.fetch_all(connection).await.map_err(fault)? {
            let sku = SkuId::parse(&text_of(&row, 0)?).map_err(|error| broken(error.to_string()))?;
            let (withheld, free): (i64, i64) =
                (row.try_get(1).map_err(fault)?, row.try_get(2).map_err(fault)?);
            *truth.withheld.entry(sku.clone()).or_default() += withheld;
            *truth.free.entry(sku).or_default() += free;
        }
        Ok(())
    }

    /// Reads the orders of dead letters that nobody has decided. They hold their units until somebody does.
    async fn letters_of(
        &self,
        at: Instance,
        sale: &Sale,
        connection: &mut MySqlConnection,
    ) -> StoreResult<Vec<TrueOrder>> {
        let text = "SELECT payload FROM {control}.dead_letters WHERE state = 'open' AND topic = ?";
        let query = sqlx::query(self.mysql.control_sql(at, text)).bind(&self.mysql.topic);
        let rows = query.fetch_all(connection).await.map_err(|error| failed(TRUTH, error))?;
        let mut orders = Vec::new();
        for row in rows {
            let payload: Vec<u8> = row.try_get(0).map_err(|error| failed(TRUTH, error))?;
            let Ok(record) = OrderRecord::decode(&payload) else { continue };
            let is_of_sale = record.sale_id == sale.id && record.decided.is_none();
            if is_of_sale
                && sale.item(&record.sku_id).is_some()
                && self.mysql.map.holds(record.order_id.shard())
            {
                orders.push(TrueOrder {
                    id: record.order_id,
                    user: record.user_id,
                    sku: record.sku_id,
                    quantity: record.quantity,
                    state: Some(OrderState::Queued),
                    accepted_ms: record.accepted_ms,
                    reference: record.reference,
                });
            }
        }
        Ok(orders)
    }
}

fn broken(detail: impl Into<String>) -> StoreError {
    StoreError::broken(TRUTH, detail.into())
}

fn text_of(row: &MySqlRow, column: usize) -> StoreResult<String> {
    let bytes: Vec<u8> = row.try_get(column).map_err(|error| failed(TRUTH, error))?;
    String::from_utf8(bytes).map_err(|error| broken(error.to_string()))
}

fn order(row: &MySqlRow) -> StoreResult<TrueOrder> {
    let fault = |error| failed(TRUTH, error);
    let damaged = |error: &dyn std::fmt::Display| broken(format!("an order that is not ours: {error}"));
    let id: Vec<u8> = row.try_get("order_id").map_err(fault)?;
    let (quantity, state): (i32, String) =
        (row.try_get("quantity").map_err(fault)?, row.try_get("state").map_err(fault)?);
    let reference: Option<Vec<u8>> = row.try_get("reference").map_err(fault)?;
    let reference = reference.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let quantity = u32::try_from(quantity).map_err(|error| damaged(&error))?;
    Ok(TrueOrder {
        id: OrderId::from_bytes(&id).map_err(|error| damaged(&error))?,
        user: UserId::parse(&text_of(row, 1)?).map_err(|error| damaged(&error))?,
        sku: SkuId::parse(&text_of(row, 2)?).map_err(|error| damaged(&error))?,
        quantity: Quantity::new(quantity).map_err(|error| damaged(&error))?,
        state: OrderState::parse(&state),
        accepted_ms: row.try_get("accepted_ms").map_err(fault)?,
        reference: reference
            .map(|text| Reference::parse(&text))
            .transpose()
            .map_err(|error| damaged(&error))?,
    })
}

#[async_trait]
impl Rebuilds for MysqlRebuilds {
    async fn claim(&self, sale: &Sale, bucket: u16, lease: Duration) -> StoreResult<Option<Claim>> {
        self.mysql.change(Mysql::DIRECTORY, CLAIM, self.claim_in(sale, bucket, lease)).await
    }

    async fn keep(&self, claim: &Claim, lease: Duration) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CLAIM, self.prolong(claim, lease)).await
    }

    async fn fence(&self, sale: &Sale, claim: &Claim) -> StoreResult<()> {
        for part in self.mysql.map.parts_of_bucket(claim.bucket.bucket, sale.buckets) {
            fences::set(&self.mysql, part, claim).await?;
        }
        Ok(())
    }

    async fn truth(&self, sale: &Sale, instances: &BTreeSet<Instance>) -> StoreResult<Truth> {
        let is_whole = self.mysql.map.all_instances().all(|at| instances.contains(&at));
        let mut truth = Truth { is_whole, ..Truth::default() };
        for at in instances {
            let read = Box::pin(self.truth_at(*at, sale, &mut truth));
            self.mysql.within(TRUTH_WITHIN, TRUTH, read).await?;
        }
        Ok(truth)
    }
}
