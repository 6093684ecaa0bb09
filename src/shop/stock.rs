//! The stock of a sale: what stands of it, and how an operator adjusts it while the sale is on.

use super::operate::Changed;
use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::sale::InvalidSale;
use crate::domain::{Adjustment, Change, Holdings, Item, Sale, SaleId, SaleState, SkuId};
use crate::ports::Adjusted;

/// How often an adjustment is tried when others change the sale at the same time.
const ATTEMPTS_MAX: usize = 4;

/// The units of one SKU, as the definition, the ledgers and the inventory have them.
#[derive(Debug)]
pub struct StockView {
    /// The SKU.
    pub sku: SkuId,
    /// The stock of the sale's definition.
    pub configured: u32,
    /// The units of the pools and ledgers; all 0 before they were opened.
    pub holdings: Holdings,
    /// Available units per bucket, ascending; `None` where the bucket is not in place or has lost keys.
    pub available: Vec<Option<i64>>,
}

/// What an operator wants the stock of a SKU to be.
#[derive(Debug, Clone)]
pub struct WantedStock {
    /// The SKU.
    pub sku: SkuId,
    /// The units for sale in all, as the operator knows them.
    pub expected: u32,
    /// The units for sale in all that are wanted.
    pub stock: u32,
    /// So many of the withheld units stay withheld, and the others go back on sale; `None` leaves all as they are.
    pub withheld: Option<u32>,
}

/// The answer to who adjusts the stock.
#[derive(Debug)]
pub enum Restocked {
    /// As every change of a sale is answered.
    Changed(Changed),
    /// The stock is another one than the operator knows: nothing was changed.
    Moved {
        /// The units for sale in all.
        configured: u32,
    },
    /// Fewer units are free than should go: nothing was changed.
    Short {
        /// The units for sale in all.
        configured: u32,
        /// The least that they can be now.
        least: u32,
    },
}

impl Shop {
    /// Reads the units of every SKU of a sale, as Redis and the ledgers have them; `None` for an unknown sale.
    ///
    /// # Errors
    /// When a component could not be read.
    pub async fn stock(&self, id: &SaleId) -> Result<Option<Vec<StockView>>, Failure> {
        let Some(sale) = self.sale(id).await? else {
            return Ok(None);
        };
        let holdings = self.ports.ledger.holdings(&sale).await.map_err(Failure::of_read)?;
        let buckets = self.ports.gates.buckets(&sale).await.map_err(Failure::of_read)?;
        let view = |item: &Item| StockView {
            sku: item.sku_id.clone(),
            configured: item.stock,
            holdings: holdings.get(&item.sku_id).copied().unwrap_or_default(),
            available: buckets
                .iter()
                .map(|bucket| Some(bucket.available()?.get(&item.sku_id).copied().unwrap_or(0)))
                .collect(),
        };
        Ok(Some(sale.items.iter().map(view).collect()))
    }

    /// Reads the adjustment of a sale that is under way; `None` when none is.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn adjustment_under_way(&self, id: &SaleId) -> Result<Option<Adjustment>, Failure> {
        self.ports.adjustments.under_way(id).await.map_err(Failure::of_read)
    }

    /// Gives a sale that is in place more or fewer units of a SKU, or puts withheld ones back on sale. To repeat it is
    /// harmless: a stock that is as wanted stays. `if_versions` are as for [`Self::patch_sale`].
    ///
    /// # Errors
    /// When a component failed. An adjustment that was begun is brought to its end by the workers.
    pub async fn adjust_stock(
        &self,
        id: &SaleId,
        wanted: &WantedStock,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Restocked, Failure> {
        // When two operators do the same, the slower one finds it done when it looks again.
        for _ in 0..ATTEMPTS_MAX {
            match self.try_adjust(id, wanted, if_versions, change).await? {
                Restocked::Changed(Changed::VersionMoved) => {}
                answer => return Ok(answer),
            }
        }
        Ok(Restocked::Changed(Changed::VersionMoved))
    }

    async fn try_adjust(
        &self,
        id: &SaleId,
        wanted: &WantedStock,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Restocked, Failure> {
        let answer = |changed| Ok(Restocked::Changed(changed));
        let Some(sale) = self.sale(id).await? else { return answer(Changed::Unknown) };
        if let Some(refused) = self.refuses_adjustment(&sale, wanted) {
            return answer(refused);
        }
        let Some(item) = sale.item(&wanted.sku) else {
            return answer(invalid("/sku_id", "is no SKU of the sale".to_owned()));
        };
        let before = item.stock;
        let returned = match wanted.withheld {
            Some(stays) => self.withheld(&sale, &wanted.sku).await?.saturating_sub(stays),
            None => 0,
        };
        if before == wanted.stock && returned == 0 {
            if self.adjustment_under_way(id).await?.is_none() {
                self.ports.audit_log.note(change, &Subject::Sale(Box::new(sale.clone()))).await?;
                return answer(Changed::Done(sale));
            }
        } else if if_versions.is_some_and(|versions| !versions.contains(&sale.version)) {
            return answer(Changed::VersionMoved);
        } else if before != wanted.expected {
            return Ok(Restocked::Moved { configured: before });
        }
        let adjustment = Adjustment { sku_id: wanted.sku.clone(), before, after: wanted.stock, returned };
        match self.ports.adjustments.adjust(&sale, &adjustment, change).await? {
            Adjusted::VersionMoved => answer(Changed::VersionMoved),
            Adjusted::Short { free } => {
                Ok(Restocked::Short { configured: before, least: before.saturating_sub(free) })
            }
            Adjusted::UnderWay(error) => {
                // A smaller stock may still be refused.
                let stands = format!("the adjustment of {} is noted, and workers go on with it", wanted.sku);
                let missing = "it is not at its end, and a smaller stock may still be refused";
                Err(Failure::applied_partly(&stands, missing, error))
            }
            Adjusted::Done => {
                let Some(sale) = self.sale(id).await? else { return answer(Changed::Unknown) };
                self.memory.catalog.put(sale.clone());
                // Here it sells again at once. Other processes ask again within `admission.sold_out_recheck_ms`.
                self.queues.sold_out.retain(|bucket| bucket.sale != *id);
                answer(Changed::Done(sale))
            }
        }
    }

    /// Answers why the stock of a sale cannot be adjusted; `None` when it can.
    fn refuses_adjustment(&self, sale: &Sale, wanted: &WantedStock) -> Option<Changed> {
        let is_on = matches!(sale.state, SaleState::Preheated | SaleState::Paused)
            && sale.in_place
            && !sale.is_over(self.now_ms());
        if !is_on {
            return Some(Changed::NotAllowed { state: sale.state, allowed: sale.state.allowed() });
        }
        if !(1..=Sale::STOCK_MAX).contains(&wanted.stock) {
            return Some(invalid("/stock", format!("must be from 1 to {}", Sale::STOCK_MAX)));
        }
        (wanted.withheld.is_some() && wanted.stock < wanted.expected).then(|| {
            let what = "cannot come with a smaller stock: adjust one after the other";
            invalid("/withheld", what.to_owned())
        })
    }

    async fn withheld(&self, sale: &Sale, sku: &SkuId) -> Result<u32, Failure> {
        let holdings = self.ports.ledger.holdings(sale).await.map_err(Failure::of_read)?;
        Ok(holdings.get(sku).map_or(0, |of| u32::try_from(of.withheld).unwrap_or(0)))
    }
}

fn invalid(pointer: &str, detail: String) -> Changed {
    Changed::Invalid(InvalidSale { pointer: pointer.to_owned(), detail })
}
