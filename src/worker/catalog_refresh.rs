//! Reads the directory of sales in every period, so that this process sells what operators say.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::memory::catalog::Catalog;
use crate::ports::{SaleStore, Settling, StoreResult};

/// The task that renews the catalog.
pub struct CatalogRefresh {
    /// The directory of sales.
    pub sales: Arc<dyn SaleStore>,
    /// The settled sales.
    pub settling: Arc<dyn Settling>,
    /// The catalog that is renewed.
    pub catalog: Arc<Catalog>,
    /// Time between two readings.
    pub period: Duration,
}

#[async_trait]
impl Task for CatalogRefresh {
    fn name(&self) -> &'static str {
        "catalog_refresh"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Renews the catalog once. When the directory cannot be read, the last known sales stay in use.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.renew(self.sales.as_ref(), self.settling.as_ref()).await?;
        Ok(Progress::of(snapshot.sales.len()))
    }
}
