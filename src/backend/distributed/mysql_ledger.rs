//! Opens a pool with its share of the stock and an empty ledger on every instance, and reads what they hold.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;

use super::mysql::{Mysql, failed};
use crate::domain::{Holdings, Instance, Sale, SaleId, SkuId};
use crate::ports::{Ledger, StoreError, StoreResult};

/// Serves the ledger from the instances' control databases.
pub struct MysqlLedger {
    mysql: Arc<Mysql>,
}

impl MysqlLedger {
    /// Makes the ledger. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    /// Inserts a row that is not there yet. It uses no `INSERT IGNORE`, because that would also swallow truncation.
    async fn insert_absent(
        &self,
        at: Instance,
        text: &str,
        (sale, sku): (&SaleId, &SkuId),
        units: u32,
    ) -> StoreResult<()> {
        let (sale, sku) = (sale.as_str().as_bytes(), sku.as_str().as_bytes());
        sqlx::query(self.mysql.control_sql(at, text))
            .bind(sale)
            .bind(sku)
            .bind(units)
            .bind(sale)
            .bind(sku)
            .execute(self.mysql.pool(at))
            .await
            .map(drop)
            .map_err(|error| failed("open pools", error))
    }

    async fn insert_pools(&self, sale: &Sale) -> StoreResult<()> {
        const POOL: &str = "INSERT INTO {control}.pool (sale_id, sku_id, stock, granted) \
             SELECT ?, ?, ?, 0 FROM dual WHERE NOT EXISTS \
             (SELECT 1 FROM {control}.pool WHERE sale_id = ? AND sku_id = ?)";
        const LEDGER: &str = "INSERT INTO {control}.ledger (sale_id, sku_id, allotted, held, sold) \
             SELECT ?, ?, 0 * ?, 0, 0 FROM dual WHERE NOT EXISTS \
             (SELECT 1 FROM {control}.ledger WHERE sale_id = ? AND sku_id = ?)";
        for item in &sale.items {
            for (instance, share) in self.mysql.map.shares_of(&item.sku_id, item.stock) {
                for text in [LEDGER, POOL] {
                    let insert = self.insert_absent(instance, text, (&sale.id, &item.sku_id), share);
                    self.mysql.change(instance, "open pools", insert).await?;
                }
            }
        }
        Ok(())
    }

    async fn read_holdings(&self, sale: &Sale) -> StoreResult<HashMap<SkuId, Holdings>> {
        let context = "read holdings";
        let mut holdings: HashMap<SkuId, Holdings> = HashMap::new();
        let text = "SELECT sku_id, allotted, held, sold, withheld, 0, 0 FROM {control}.ledger \
                    WHERE sale_id = ? UNION ALL \
                    SELECT sku_id, 0, 0, 0, 0, stock, granted FROM {control}.pool WHERE sale_id = ?";
        for instance in self.mysql.map.all_instances() {
            let rows = sqlx::query(self.mysql.control_sql(instance, text))
                .bind(sale.id.as_str().as_bytes())
                .bind(sale.id.as_str().as_bytes())
                .fetch_all(self.mysql.pool(instance))
                .await
                .map_err(|error| failed(context, error))?;
            for row in rows {
                let number = |index: usize| -> StoreResult<i64> {
                    row.try_get(index).map_err(|error| failed(context, error))
                };
                let sku: Vec<u8> = row.try_get(0).map_err(|error| failed(context, error))?;
                let sku = std::str::from_utf8(&sku).ok().and_then(|sku| SkuId::parse(sku).ok());
                let sku = sku.ok_or_else(|| StoreError::broken(context, "a SKU id that is not ours"))?;
                let sum = holdings.entry(sku).or_default();
                sum.allotted += number(1)?;
                sum.held += number(2)?;
                sum.sold += number(3)?;
                sum.withheld += number(4)?;
                sum.stock += number(5)?;
                sum.granted += number(6)?;
            }
        }
        Ok(holdings)
    }
}

#[async_trait]
impl Ledger for MysqlLedger {
    async fn open_pools(&self, sale: &Sale) -> StoreResult<()> {
        self.insert_pools(sale).await
    }

    async fn holdings(&self, sale: &Sale) -> StoreResult<HashMap<SkuId, Holdings>> {
        self.mysql.read("read holdings", self.read_holdings(sale)).await
    }
}
