//! Operating a sale: create, patch, and its life from publication to the end. Every change is a row of the
//! audit log in the change's own transaction.

use std::collections::HashMap;

use super::{Failure, Shop};
use crate::domain::sale::{InvalidSale, SaleAction};
use crate::domain::{ApiKey, Change, Holdings, Sale, SaleId, SaleState, SkuId};

/// The answer to a change.
#[derive(Debug)]
pub enum Changed {
    Done(Sale),
    Unknown,
    Invalid(InvalidSale),
    /// A sale of this id exists.
    Taken,
    /// The sale was changed since the caller read it.
    VersionMoved,
    /// Not from this state; these actions are.
    NotAllowed {
        state: SaleState,
        allowed: Vec<SaleAction>,
    },
    /// The databases have no orders table for the month the sale starts in.
    MonthMissing {
        yyyymm: u32,
    },
}

/// New values for some fields of a sale; `None` keeps one.
#[derive(Debug, Default)]
pub struct Patch {
    pub name: Option<String>,
    pub starts_ms: Option<i64>,
    pub ends_ms: Option<i64>,
    pub buyer_limit: Option<u32>,
    pub payment_window_ms: Option<i64>,
    pub buckets: Option<u16>,
    pub items: Option<Vec<crate::domain::Item>>,
}

/// Everything known of one SKU's units.
#[derive(Debug)]
pub struct StockView {
    pub sku: SkuId,
    /// The stock of the sale's definition.
    pub configured: u32,
    pub holdings: Holdings,
    /// Available units per bucket, ascending; `None` where the bucket is not in place.
    pub available: Vec<Option<i64>>,
}

impl Shop {
    /// # Errors
    /// When the directory could not be read.
    pub async fn sale(&self, id: &SaleId) -> Result<Option<Sale>, Failure> {
        self.ports.sales.sale(id).await.map_err(Failure::of_read)
    }

    /// All sales, ascending by start.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn sales(&self) -> Result<Vec<Sale>, Failure> {
        self.ports.sales.sales().await.map_err(Failure::of_read)
    }

    /// # Errors
    /// When the directory failed; an `Unknown` effect may have created the sale.
    pub async fn create_sale(&self, mut sale: Sale, change: &Change) -> Result<Changed, Failure> {
        sale.state = SaleState::Draft;
        (sale.version, sale.epoch) = (1, 1);
        sale.items.sort_unstable_by(|a, b| a.sku_id.cmp(&b.sku_id));
        if let Err(invalid) = sale.validate(self.map.shards()) {
            return Ok(Changed::Invalid(invalid));
        }
        if !self.ports.sales.create(&sale, change).await? {
            return Ok(Changed::Taken);
        }
        self.catalog.put(sale.clone());
        Ok(Changed::Done(sale))
    }

    /// Patches a sale that is not in Redis yet. `if_version` is what the caller read, when it says.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn patch_sale(
        &self,
        id: &SaleId,
        patch: Patch,
        if_version: Option<u64>,
        change: &Change,
    ) -> Result<Changed, Failure> {
        let Some(old) = self.ports.sales.sale(id).await? else {
            return Ok(Changed::Unknown);
        };
        if if_version.is_some_and(|version| version != old.version) {
            return Ok(Changed::VersionMoved);
        }
        if !old.state.is_editable() {
            return Ok(Changed::NotAllowed { state: old.state, allowed: old.state.allowed() });
        }
        let mut sale = Sale {
            name: patch.name.unwrap_or(old.name),
            starts_ms: patch.starts_ms.unwrap_or(old.starts_ms),
            ends_ms: patch.ends_ms.unwrap_or(old.ends_ms),
            buyer_limit: patch.buyer_limit.unwrap_or(old.buyer_limit),
            payment_window_ms: patch.payment_window_ms.unwrap_or(old.payment_window_ms),
            buckets: patch.buckets.unwrap_or(old.buckets),
            items: patch.items.unwrap_or(old.items),
            version: old.version + 1,
            ..old
        };
        sale.items.sort_unstable_by(|a, b| a.sku_id.cmp(&b.sku_id));
        if let Err(invalid) = sale.validate(self.map.shards()) {
            return Ok(Changed::Invalid(invalid));
        }
        self.replace(sale, old.version, change).await
    }

    /// Takes a sale through its life. Repeating an action is harmless: it brings Redis and the pools to the
    /// state the sale already has, which is how a half-done one is finished.
    ///
    /// # Errors
    /// When a component failed; repeat the action.
    pub async fn advance_sale(
        &self,
        id: &SaleId,
        action: SaleAction,
        change: &Change,
    ) -> Result<Changed, Failure> {
        // Of two operators with the same idea the slower one finds it done when it looks again.
        match self.try_advance(id, action, change).await? {
            Changed::VersionMoved => self.try_advance(id, action, change).await,
            changed => Ok(changed),
        }
    }

    async fn try_advance(
        &self,
        id: &SaleId,
        action: SaleAction,
        change: &Change,
    ) -> Result<Changed, Failure> {
        let Some(old) = self.ports.sales.sale(id).await? else {
            return Ok(Changed::Unknown);
        };
        let Some(state) = old.state.after(action) else {
            return Ok(Changed::NotAllowed { state: old.state, allowed: old.state.allowed() });
        };
        let preheating = action == SaleAction::Preheat;
        if preheating && !self.ports.orders.holds_month(old.month()).await? {
            return Ok(Changed::MonthMissing { yyyymm: old.month().yyyymm() });
        }
        // The directory first: from here on the definition is frozen, so what is put in place is what it says.
        // Until all of it stands, the missing gate refuses purchases, and repeating the action goes on.
        let changed = if state == old.state {
            Changed::Done(old)
        } else {
            let version = old.version;
            self.replace(Sale { state, version: version + 1, ..old }, version, change).await?
        };
        if let Changed::Done(sale) = &changed {
            if preheating {
                self.put_in_place(sale).await?;
            }
            self.ports.gates.set_gates(sale).await?;
        }
        Ok(changed)
    }

    /// Pools, then Redis. Once units have left a pool the sale has been selling: its stock is not put into an
    /// empty Redis a second time.
    async fn put_in_place(&self, sale: &Sale) -> Result<(), Failure> {
        self.ports.ledger.open_pools(sale).await?;
        let holdings = self.ports.ledger.holdings(sale).await?;
        if holdings.values().all(|of| of.granted == 0) {
            self.ports.gates.preheat(sale).await?;
        }
        Ok(())
    }

    async fn replace(&self, sale: Sale, expected: u64, change: &Change) -> Result<Changed, Failure> {
        if !self.ports.sales.replace(&sale, expected, change).await? {
            return Ok(Changed::VersionMoved);
        }
        self.catalog.put(sale.clone());
        Ok(Changed::Done(sale))
    }

    /// Units of every SKU of a sale, as Redis and the ledgers have them; `None` for an unknown sale.
    ///
    /// # Errors
    /// When a component could not be read.
    pub async fn stock(&self, id: &SaleId) -> Result<Option<Vec<StockView>>, Failure> {
        let Some(sale) = self.ports.sales.sale(id).await? else {
            return Ok(None);
        };
        let holdings: HashMap<SkuId, Holdings> = self.ports.ledger.holdings(&sale).await?;
        let buckets = self.ports.gates.available(&sale).await?;
        let view = |item: &crate::domain::Item| StockView {
            sku: item.sku_id.clone(),
            configured: item.stock,
            holdings: holdings.get(&item.sku_id).copied().unwrap_or_default(),
            available: buckets
                .iter()
                .map(|bucket| bucket.as_ref().map(|units| units.get(&item.sku_id).copied().unwrap_or(0)))
                .collect(),
        };
        Ok(Some(sale.items.iter().map(view).collect()))
    }

    /// Who an API key is, by the SHA-256 of its text.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn api_key(&self, key_hash: [u8; 32]) -> Result<Option<ApiKey>, Failure> {
        self.ports.sales.api_key(key_hash).await.map_err(Failure::of_read)
    }
}
