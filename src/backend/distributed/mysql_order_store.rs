//! Keeps orders in their shards: writes the order writers' batches, and reads orders for buyers and exports.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::{mysql_batch, mysql_fences, mysql_grants, mysql_positions};
use crate::backend::multi_row::placeholders;
use crate::backend::readable::readable;
use crate::domain::batch_plan::LogBatch;
use crate::domain::{
    Money, Month, Order, OrderCursor, OrderId, OrderState, Part, Quantity, Reference, RejectReason, SaleId,
    Sales, Shard, SkuId, UserId,
};
use crate::ports::{BatchOutcome, OrderWrites, Orders, StoreError, StoreResult, TakenOver};

/// Serves orders from the shards.
pub struct MysqlOrderStore {
    mysql: Arc<Mysql>,
}

impl MysqlOrderStore {
    /// Makes the store. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn read_order(&self, order: OrderId) -> StoreResult<Option<Order>> {
        let context = "read order";
        let (shard, month) = (order.shard(), order.month());
        let text = format!("SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} WHERE order_id = ?");
        let row = sqlx::query(self.mysql.shard_sql(shard, month, &text))
            .bind(order.bytes().as_slice())
            .fetch_optional(self.mysql.readers(self.mysql.map.instance_of(shard)))
            .await;
        match row {
            Ok(row) => row.as_ref().map(read).transpose(),
            Err(error) if is_missing_table(&error) => Ok(None),
            Err(error) => Err(failed(context, error)),
        }
    }

    async fn look_for_dead_letter(&self, order: OrderId) -> StoreResult<bool> {
        let instance = self.mysql.map.instance_of(order.shard());
        let text = "SELECT EXISTS(SELECT 1 FROM {control}.dead_letters WHERE order_id = ? AND topic = ? \
                    AND state = 'open')";
        let context = "look for dead letter";
        sqlx::query_scalar(self.mysql.control_sql(instance, text))
            .bind(order.bytes().as_slice())
            .bind(&self.mysql.topic)
            .fetch_one(self.mysql.readers(instance))
            .await
            .map_err(|error| failed(context, error))
    }

    async fn look_for_month(&self, month: Month) -> StoreResult<bool> {
        let context = "look for monthly tables";
        for instance in self.mysql.map.all_instances() {
            let shards: Vec<String> =
                self.mysql.map.shards_of(instance).map(|shard| self.mysql.shard(shard)).collect();
            let text = format!(
                "SELECT COUNT(*) FROM information_schema.tables WHERE table_name = ? AND table_schema IN {}",
                placeholders(1, shards.len())
            );
            let query = sqlx::query(AssertSqlSafe(text)).bind(format!("orders_{}", month.yyyymm()));
            let row = shards.iter().fold(query, |query, shard| query.bind(shard));
            let row = row.fetch_one(self.mysql.pool(instance)).await.map_err(|e| failed(context, e))?;
            let found: i64 = row.try_get(0).map_err(|error| failed(context, error))?;
            if usize::try_from(found) != Ok(shards.len()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read_orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> sqlx::Result<Vec<MySqlRow>> {
        if months.is_empty() {
            return Ok(Vec::new());
        }
        let shard = self.mysql.map.shard_of(user);
        let page = |month: &Month| {
            format!(
                "(SELECT {COLUMNS}, {} AS month FROM {}.orders_{} WHERE user_id = ? \
                 AND (accepted_ms < ? OR (accepted_ms = ? AND order_id < ?)) \
                 ORDER BY accepted_ms DESC, order_id DESC LIMIT ?)",
                month.number(),
                self.mysql.shard(shard),
                month.yyyymm()
            )
        };
        let pages: Vec<String> = months.iter().map(page).collect();
        let text = format!(
            "{} ORDER BY month DESC, accepted_ms DESC, order_id DESC LIMIT ?",
            pages.join(" UNION ALL ")
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for month in months {
            let below = below.filter(|below| below.month == *month);
            let (at_ms, id) = below.map_or((i64::MAX, [0; 16]), |c| (c.accepted_ms, *c.order.bytes()));
            query = query.bind(user.as_str().as_bytes());
            query = query.bind(at_ms).bind(at_ms).bind(id.to_vec()).bind(limit);
        }
        let readers = self.mysql.readers(self.mysql.map.instance_of(shard));
        query.bind(limit).fetch_all(readers).await
    }
}

#[async_trait]
impl OrderWrites for MysqlOrderStore {
    async fn write(&self, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome> {
        let write = mysql_batch::write(&self.mysql, batch, sales);
        let instance = self.mysql.map.instance_of_part(batch.part);
        self.mysql.change(instance, "write batch", write).await
    }

    async fn take_over(&self, part: Part) -> StoreResult<TakenOver> {
        let instance = self.mysql.map.instance_of_part(part);
        let strays = mysql_grants::apply_strays(&self.mysql, instance);
        self.mysql.change(instance, "apply stray grants", strays).await?;
        let fences = self.mysql.read("read fences", mysql_fences::read(&self.mysql, part)).await?;
        let position = self.mysql.read("read position", mysql_positions::read(&self.mysql, part)).await?;
        Ok(TakenOver { position, fences: Arc::new(fences) })
    }
}

#[async_trait]
impl Orders for MysqlOrderStore {
    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(None);
        }
        self.mysql.read("read order", self.read_order(order)).await
    }

    async fn is_dead_letter(&self, order: OrderId) -> StoreResult<bool> {
        self.mysql.read("look for dead letter", self.look_for_dead_letter(order)).await
    }

    async fn holds_month(&self, month: Month) -> StoreResult<bool> {
        self.mysql.read("look for monthly tables", self.look_for_month(month)).await
    }

    async fn orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        self.mysql
            .read("read orders of a buyer", async {
                match self.read_orders_of(user, months, below, limit).await {
                    Err(error) if is_missing_table(&error) => {}
                    read => return rows_read(read),
                }
                // A month without a table has no orders.
                let months = months_of_shard(&self.mysql, self.mysql.map.shard_of(user), months).await?;
                rows_read(self.read_orders_of(user, &months, below, limit).await)
            })
            .await
    }
}

fn rows_read(rows: sqlx::Result<Vec<MySqlRow>>) -> StoreResult<Vec<Order>> {
    let rows = rows.map_err(|error| failed("read orders of a buyer", error))?;
    Ok(rows.iter().filter_map(|row| readable("orders", read(row))).collect())
}

/// Lists those of `months` for which a shard has an orders table.
///
/// # Errors
/// When the instance cannot be read.
pub async fn months_of_shard(mysql: &Mysql, shard: Shard, months: &[Month]) -> StoreResult<Vec<Month>> {
    let text = format!(
        "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = ? AND table_name IN {}",
        placeholders(1, months.len())
    );
    let name = |month: &Month| format!("orders_{}", month.yyyymm());
    let query = sqlx::query_scalar(AssertSqlSafe(text)).bind(mysql.shard(shard));
    let query = months.iter().fold(query, |query, month| query.bind(name(month)));
    let names: Vec<String> = query
        .fetch_all(mysql.readers(mysql.map.instance_of(shard)))
        .await
        .map_err(|error| failed("look for monthly tables", error))?;
    Ok(months.iter().filter(|month| names.contains(&name(month))).copied().collect())
}

/// Tells whether a failure says that a table is missing. An id or cursor may name any month, and a month without a
/// table has no orders.
pub fn is_missing_table(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("42S02"))
}

/// The columns that [`read`] reads.
pub const COLUMNS: &str = "order_id, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason, \
                       accepted_ms, expires_ms, reference";

/// Reads an order from its row.
///
/// # Errors
/// When the row is damaged or not ours.
pub fn read(row: &MySqlRow) -> StoreResult<Order> {
    let context = "read order";
    let optional = |name: &str| -> StoreResult<Option<Vec<u8>>> {
        row.try_get(name).map_err(|error| failed(context, error))
    };
    let bytes = |name: &str| optional(name)?.ok_or_else(|| StoreError::broken(context, format!("no {name}")));
    let number =
        |name: &str| -> StoreResult<i64> { row.try_get(name).map_err(|error| failed(context, error)) };
    let utf8 = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|error| StoreError::broken(context, error.to_string()))
    };
    let text = |name: &str| utf8(bytes(name)?);
    let damaged = |detail: String| StoreError::broken(context, detail);
    let quantity: i32 = row.try_get("quantity").map_err(|error| failed(context, error))?;
    let currency: String = row.try_get("currency").map_err(|error| failed(context, error))?;
    let state: String = row.try_get("state").map_err(|error| failed(context, error))?;
    let reason: Option<String> = row.try_get("reason").map_err(|error| failed(context, error))?;
    let quantity = u32::try_from(quantity).map_err(|error| damaged(error.to_string()))?;
    let reference = optional("reference")?.map(utf8).transpose()?;
    let reference = reference.map(|text| Reference::parse(&text)).transpose();
    Ok(Order {
        id: OrderId::from_bytes(&bytes("order_id")?).map_err(|error| damaged(error.to_string()))?,
        sale: SaleId::parse(&text("sale_id")?).map_err(|error| damaged(error.to_string()))?,
        sku: SkuId::parse(&text("sku_id")?).map_err(|error| damaged(error.to_string()))?,
        user: UserId::parse(&text("user_id")?).map_err(|error| damaged(error.to_string()))?,
        quantity: Quantity::new(quantity).map_err(|error| damaged(error.to_string()))?,
        unit_price: Money::new(number("unit_price")?, &currency)
            .map_err(|error| damaged(error.to_string()))?,
        reference: reference.map_err(|error| damaged(error.to_string()))?,
        state: OrderState::parse(&state).ok_or_else(|| damaged(state))?,
        reason: reason.and_then(|reason| RejectReason::parse(&reason)),
        accepted_ms: number("accepted_ms")?,
        expires_ms: Some(number("expires_ms")?),
        is_delayed: false,
    })
}
