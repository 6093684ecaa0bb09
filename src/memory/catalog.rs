//! The sales as every part of a process sees them: one snapshot, which is replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use crate::domain::sale::Phase;
use crate::domain::{Item, Sale, SaleId, Sales, SkuId};
use crate::ports::{SaleStore, StoreResult};

/// What a shopper is told about the stock: a band, never the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StockBand {
    /// More than half of the stock.
    Plenty,
    /// More than a tenth of it.
    Some,
    /// More than ten units, and more than a hundredth of it.
    Low,
    /// The last units.
    Last,
    /// None.
    SoldOut,
}

impl StockBand {
    /// Answers the band of the available units of a stock.
    pub fn of(available: i64, stock: u32) -> Self {
        let stock = i64::from(stock);
        match available {
            ..=0 => Self::SoldOut,
            units if units * 2 > stock => Self::Plenty,
            units if units * 10 > stock => Self::Some,
            units if units > 10 && units * 100 > stock => Self::Low,
            _ => Self::Last,
        }
    }
}

/// The bands of the items whose stock is in the inventory, by sale and SKU.
pub type Bands = BTreeMap<SaleId, BTreeMap<SkuId, StockBand>>;

/// All sales at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows by one with every change of the snapshot; 0 before the first change.
    pub version: u64,
    /// Every sale of the directory, drafts included.
    pub sales: Arc<Sales>,
    /// The stock bands as they were read last.
    pub bands: Arc<Bands>,
    /// Orders in the outbox entries of the sales that sell, as they were counted last.
    pub outbox_orders: u64,
}

/// The one catalog of a process. The front, the relay and the order writer read the same snapshot.
#[derive(Default)]
pub struct Catalog {
    current: RwLock<Arc<Snapshot>>,
}

impl Catalog {
    /// Answers the sales as they are known now. Costs no I/O.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().expect("no code panics while holding it").clone()
    }

    /// Replaces the snapshot by a changed copy.
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut current = self.current.write().expect("no code panics while holding it");
        let mut next = Snapshot::clone(&current);
        change(&mut next);
        next.version += 1;
        *current = Arc::new(next);
    }

    /// Puts one changed sale in place at once, so that the operator's own process follows without delay.
    pub fn put(&self, sale: Sale) {
        self.change(|next| {
            let mut sales = Sales::clone(&next.sales);
            sales.insert(sale.id.clone(), sale);
            next.sales = Arc::new(sales);
        });
    }

    /// Reads the directory, and answers the snapshot that holds what it read. A sale that is known in a newer version
    /// stays, and so does one that the directory did not name.
    ///
    /// # Errors
    /// When the directory cannot be read; the last snapshot stays.
    pub async fn renew(&self, directory: &dyn SaleStore) -> StoreResult<Arc<Snapshot>> {
        let read = directory.sales().await?;
        self.change(|next| {
            let mut sales: Sales = read.into_iter().map(|sale| (sale.id.clone(), sale)).collect();
            // An operator may have changed a sale while the directory was being read.
            for (id, known) in next.sales.iter() {
                if sales.get(id).is_none_or(|read| read.version < known.version) {
                    sales.insert(id.clone(), known.clone());
                }
            }
            next.sales = Arc::new(sales);
        });
        Ok(self.snapshot())
    }

    /// Notes the stock bands, and the number of orders in the outboxes.
    pub fn set_stock(&self, bands: Bands, outbox_orders: u64) {
        self.change(|next| {
            next.bands = Arc::new(bands);
            next.outbox_orders = outbox_orders;
        });
    }
}

impl Snapshot {
    /// Finds a sale that shoppers may see, with what they may do now; `None` for a draft and for an unknown sale.
    pub fn visible(&self, id: &SaleId, now_ms: i64) -> Option<(&Sale, Phase)> {
        let sale = self.sales.get(id)?;
        Some((sale, sale.phase(now_ms)?))
    }

    /// Lists the sales that the inventory may have work with, ascending by id.
    pub fn selling(&self, now_ms: i64) -> impl Iterator<Item = &Sale> {
        self.sales.values().filter(move |sale| sale.is_selling(now_ms))
    }

    /// Answers the band of an item. One whose stock was not read yet is plenty, because before the preheat all of it is
    /// there.
    pub fn band(&self, sale: &SaleId, sku: &SkuId) -> StockBand {
        self.bands.get(sale).and_then(|of| of.get(sku)).copied().unwrap_or(StockBand::Plenty)
    }
}

/// Answers the bands of a sale's items, with their available units. `buckets` has the available units of each bucket.
/// The answer is `None` while a bucket is not in place, because such a sale is not sold out.
pub fn bands_of(
    sale: &Sale,
    buckets: &[Option<HashMap<SkuId, i64>>],
) -> Option<BTreeMap<SkuId, (StockBand, i64)>> {
    let buckets: Vec<&HashMap<SkuId, i64>> = buckets.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let band = |item: &Item| {
        let available = buckets.iter().filter_map(|bucket| bucket.get(&item.sku_id)).sum();
        (item.sku_id.clone(), (StockBand::of(available, item.stock), available))
    };
    Some(sale.items.iter().map(band).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_tell_little_and_never_a_wrong_end() {
        assert_eq!(StockBand::of(500, 500), StockBand::Plenty);
        assert_eq!(StockBand::of(250, 500), StockBand::Some);
        assert_eq!(StockBand::of(50, 500), StockBand::Low);
        assert_eq!(StockBand::of(1, 500), StockBand::Last);
        assert_eq!(StockBand::of(0, 500), StockBand::SoldOut);
        assert_eq!(StockBand::of(1, 1), StockBand::Plenty);
    }
}
