//! Keeps the sales and their items in the directory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_audit_log::audit;
use crate::backend::readable::readable;
use crate::domain::operator::Subject;
use crate::domain::{Access, Change, Item, Money, Sale, SaleId, SaleState, SkuId};
use crate::ports::{SaleStore, StoreError, StoreResult};

/// Serves sales from the directory database.
pub struct MysqlSaleStore {
    mysql: Arc<Mysql>,
}

const SALES: &str = "SELECT s.sale_id, s.name, s.state, s.starts_ms, s.ends_ms, s.buyer_limit, \
     s.unpaid_max, s.purchase_token, s.proof_of_work, s.payment_window_ms, s.buckets, s.version, e.epoch, e.in_place \
     FROM {directory}.sales s JOIN {directory}.epochs e ON e.sale_id = s.sale_id";
const ITEMS: &str = "SELECT sale_id, sku_id, name, stock, unit_price, currency FROM {directory}.items";

/// Which sales are read.
#[derive(Clone, Copy)]
enum Which<'a> {
    All,
    Unsettled,
    One(&'a SaleId),
}

impl MysqlSaleStore {
    /// Makes the store. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn read(&self, which: Which<'_>) -> StoreResult<Vec<Sale>> {
        let context = "read sales";
        let id = if let Which::One(id) = which { Some(id) } else { None };
        let filter = |table: &str| match which {
            Which::One(_) => format!(" WHERE {table}sale_id = ?"),
            Which::Unsettled if table.is_empty() => format!(
                " WHERE sale_id IN (SELECT sale_id FROM {{directory}}.sales WHERE state <> '{}')",
                SaleState::Settled.as_str()
            ),
            Which::Unsettled => format!(" WHERE s.state <> '{}'", SaleState::Settled.as_str()),
            Which::All => String::new(),
        };
        let sales = format!("{SALES}{} ORDER BY s.starts_ms, s.sale_id", filter("s."));
        let items = format!("{ITEMS}{} ORDER BY sale_id, sku_id", filter(""));
        let mut rows = Vec::with_capacity(2);
        for text in [&sales, &items] {
            let mut query = sqlx::query(self.mysql.directory_sql(text));
            if let Some(id) = id {
                query = query.bind(id.as_str().as_bytes());
            }
            let answer = query.fetch_all(self.mysql.directory_pool()).await;
            rows.push(answer.map_err(|error| failed(context, error))?);
        }
        let mut items_of: HashMap<SaleId, Vec<Item>> = HashMap::new();
        // A sale without one of its items would be another one.
        let mut damaged: HashSet<String> = HashSet::new();
        for row in &rows[1] {
            let item = read_item(row).ok_or_else(|| StoreError::broken(context, "an item that is not ours"));
            match readable("items", item) {
                Some((sale, item)) => items_of.entry(sale).or_default().push(item),
                None => damaged.extend(text(row, "sale_id")),
            }
        }
        let mut sales = Vec::with_capacity(rows[0].len());
        for row in &rows[0] {
            let sale = read_sale(row).filter(|sale| !damaged.contains(sale.id.as_str()));
            let sale = sale.ok_or_else(|| StoreError::broken(context, "a sale that is not ours"));
            // Whoever asks for one sale must not hear that there is none.
            let sale = if id.is_some() { Some(sale?) } else { readable("sales", sale) };
            let Some(mut sale) = sale else { continue };
            sale.items = items_of.remove(&sale.id).unwrap_or_default();
            // It was settled, or made, between the two readings: every sale has items.
            if sale.items.is_empty() && id.is_none() {
                continue;
            }
            sales.push(sale);
        }
        Ok(sales)
    }

    async fn insert_items(&self, sale: &Sale, tx: &mut Transaction<'_, MySql>) -> StoreResult<()> {
        let text = "INSERT INTO {directory}.items (sale_id, sku_id, name, stock, unit_price, currency) \
                    VALUES (?, ?, ?, ?, ?, ?)";
        for item in &sale.items {
            sqlx::query(self.mysql.directory_sql(text))
                .bind(sale.id.as_str().as_bytes())
                .bind(item.sku_id.as_str().as_bytes())
                .bind(&item.name)
                .bind(item.stock)
                .bind(item.price.amount())
                .bind(item.price.currency())
                .execute(&mut **tx)
                .await
                .map_err(|error| failed("insert items", error))?;
        }
        Ok(())
    }

    async fn insert(&self, sale: &Sale, change: &Change) -> StoreResult<bool> {
        let context = "create sale";
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, context).await?;
        let text = "INSERT INTO {directory}.sales (sale_id, name, state, starts_ms, ends_ms, buyer_limit, \
                    unpaid_max, purchase_token, proof_of_work, payment_window_ms, buckets, version) \
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let inserted = sqlx::query(self.mysql.directory_sql(text))
            .bind(sale.id.as_str().as_bytes())
            .bind(&sale.name)
            .bind(sale.state.as_str())
            .bind(sale.starts_ms)
            .bind(sale.ends_ms)
            .bind(sale.buyer_limit)
            .bind(sale.unpaid_max)
            .bind(sale.access.purchase_token)
            .bind(i32::from(sale.access.proof_of_work))
            .bind(sale.payment_window_ms)
            .bind(sale.buckets)
            .bind(sale.version)
            .execute(&mut *tx)
            .await;
        match inserted {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(false),
            Err(error) => return Err(failed(context, error)),
        }
        let epoch = "INSERT INTO {directory}.epochs (sale_id, epoch, in_place) VALUES (?, ?, ?)";
        sqlx::query(self.mysql.directory_sql(epoch))
            .bind(sale.id.as_str().as_bytes())
            .bind(sale.epoch)
            .bind(sale.in_place)
            .execute(&mut *tx)
            .await
            .map_err(|error| failed(context, error))?;
        self.insert_items(sale, &mut tx).await?;
        audit(&self.mysql, change, &Subject::Sale(Box::new(sale.clone())), &mut tx).await?;
        tx.commit().await.map_err(|error| failed(context, error))?;
        Ok(true)
    }

    async fn update(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool> {
        let context = "change sale";
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, context).await?;
        let text = "UPDATE {directory}.sales SET name = ?, state = ?, starts_ms = ?, ends_ms = ?, \
                    buyer_limit = ?, unpaid_max = ?, purchase_token = ?, proof_of_work = ?, payment_window_ms = ?, buckets = ?, version = ? \
                    WHERE sale_id = ? AND version = ?";
        let changed = sqlx::query(self.mysql.directory_sql(text))
            .bind(&sale.name)
            .bind(sale.state.as_str())
            .bind(sale.starts_ms)
            .bind(sale.ends_ms)
            .bind(sale.buyer_limit)
            .bind(sale.unpaid_max)
            .bind(sale.access.purchase_token)
            .bind(i32::from(sale.access.proof_of_work))
            .bind(sale.payment_window_ms)
            .bind(sale.buckets)
            .bind(sale.version)
            .bind(sale.id.as_str().as_bytes())
            .bind(expected)
            .execute(&mut *tx)
            .await
            .map_err(|error| failed(context, error))?;
        if changed.rows_affected() != 1 {
            return Ok(false);
        }
        if sale.state.is_editable() {
            sqlx::query(self.mysql.directory_sql("DELETE FROM {directory}.items WHERE sale_id = ?"))
                .bind(sale.id.as_str().as_bytes())
                .execute(&mut *tx)
                .await
                .map_err(|error| failed(context, error))?;
            self.insert_items(sale, &mut tx).await?;
        }
        audit(&self.mysql, change, &Subject::Sale(Box::new(sale.clone())), &mut tx).await?;
        tx.commit().await.map_err(|error| failed(context, error))?;
        Ok(true)
    }

    async fn update_in_place(&self, sale: &Sale) -> StoreResult<bool> {
        let text = "UPDATE {directory}.epochs SET in_place = TRUE \
                    WHERE sale_id = ? AND epoch = ? AND in_place = FALSE";
        let done = sqlx::query(self.mysql.directory_sql(text))
            .bind(sale.id.as_str().as_bytes())
            .bind(sale.epoch)
            .execute(self.mysql.directory_pool())
            .await;
        done.map(|done| done.rows_affected() == 1).map_err(|error| failed("mark in place", error))
    }
}

#[async_trait]
impl SaleStore for MysqlSaleStore {
    async fn sales(&self) -> StoreResult<Vec<Sale>> {
        self.mysql.read("read sales", self.read(Which::All)).await
    }

    async fn unsettled(&self) -> StoreResult<Vec<Sale>> {
        self.mysql.read("read sales", self.read(Which::Unsettled)).await
    }

    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>> {
        Ok(self.mysql.read("read sale", self.read(Which::One(id))).await?.pop())
    }

    async fn create(&self, sale: &Sale, change: &Change) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, "create sale", self.insert(sale, change)).await
    }

    async fn mark_in_place(&self, sale: &Sale) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, "mark in place", self.update_in_place(sale)).await
    }

    async fn replace(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, "change sale", self.update(sale, expected, change)).await
    }
}

fn text(row: &MySqlRow, column: &str) -> Option<String> {
    String::from_utf8(row.try_get(column).ok()?).ok()
}

fn count(row: &MySqlRow, column: &str) -> Option<u32> {
    let number: i32 = row.try_get(column).ok()?;
    u32::try_from(number).ok()
}

fn read_sale(row: &MySqlRow) -> Option<Sale> {
    let version: i64 = row.try_get("version").ok()?;
    Some(Sale {
        id: SaleId::parse(&text(row, "sale_id")?).ok()?,
        name: row.try_get("name").ok()?,
        state: SaleState::parse(&row.try_get::<String, _>("state").ok()?)?,
        starts_ms: row.try_get("starts_ms").ok()?,
        ends_ms: row.try_get("ends_ms").ok()?,
        buyer_limit: count(row, "buyer_limit")?,
        unpaid_max: count(row, "unpaid_max")?,
        access: Access {
            purchase_token: row.try_get("purchase_token").ok()?,
            proof_of_work: u8::try_from(count(row, "proof_of_work")?).ok()?,
        },
        payment_window_ms: row.try_get("payment_window_ms").ok()?,
        buckets: u16::try_from(count(row, "buckets")?).ok()?,
        epoch: count(row, "epoch")?,
        in_place: row.try_get("in_place").ok()?,
        version: u64::try_from(version).ok()?,
        items: Vec::new(),
    })
}

fn read_item(row: &MySqlRow) -> Option<(SaleId, Item)> {
    let currency: String = row.try_get("currency").ok()?;
    let item = Item {
        sku_id: SkuId::parse(&text(row, "sku_id")?).ok()?,
        name: row.try_get("name").ok()?,
        stock: count(row, "stock")?,
        price: Money::new(row.try_get("unit_price").ok()?, &currency).ok()?,
    };
    Some((SaleId::parse(&text(row, "sale_id")?).ok()?, item))
}
