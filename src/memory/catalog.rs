//! The sales as every part of a process sees them: one snapshot, which is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use utoipa::ToSchema;

use crate::domain::sale::Phase;
use crate::domain::{Item, Month, Sale, SaleId, Sales, SkuId};
use crate::ports::{BucketState, SaleStore, Settling, StoreResult};

/// What a shopper is told about the stock: a band, never the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, ToSchema)]
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

/// The buckets of each sale that have lost keys, ascending, each with the names of the keys.
pub type Losses = BTreeMap<SaleId, BTreeMap<u16, Vec<String>>>;

/// What was read of the stock of all sales that sell.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// The stock bands.
    pub bands: Bands,
    /// The buckets that have lost keys. They sell nothing.
    pub losses: Losses,
    /// The sales that should sell and are not in place.
    pub delayed: BTreeSet<SaleId>,
    /// Published sales that start within two minutes, or have started, and are not in place.
    pub unplaced: BTreeSet<SaleId>,
    /// Orders in the outbox entries.
    pub outbox_orders: u64,
}

/// The SKUs of each sale of which nobody can buy a unit any more, because all are paid or withheld.
pub type Gone = BTreeMap<SaleId, BTreeSet<SkuId>>;

/// The settled sales are read with one of so many readings of the directory: about every ten minutes.
const LOOKS_OF_SETTLED: u32 = 512;

/// All sales at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows by one with every change of the snapshot; 0 before the first change.
    pub version: u64,
    /// Whether the directory was ever read. Before that, nobody knows which sales there are.
    pub is_read: bool,
    /// Every sale of the directory that is not settled, drafts included.
    pub sales: Arc<Sales>,
    /// Every settled sale, with the month of its orders. The inventory has nothing of them.
    pub settled: Arc<BTreeMap<SaleId, Month>>,
    /// The sales that the directory named when it was read last.
    named: Arc<BTreeSet<SaleId>>,
    /// How often the directory was read.
    looks: u32,
    /// The stock of the sales that sell, as it was read last.
    pub stock: Arc<Stock>,
    /// What was gone for good when the ledgers were read last.
    pub gone: Arc<Gone>,
}

/// The one catalog of a process. The front, the relay and the order writer read the same snapshot.
#[derive(Default)]
pub struct Catalog {
    current: RwLock<Arc<Snapshot>>,
    /// How often the stock was read.
    looks: AtomicU64,
    /// Orders that this process has put into the outbox since the last look.
    late: AtomicU64,
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

    /// Takes a sale that was settled out of the others, so that nobody has work with it any more.
    pub fn settle(&self, sale: &Sale) {
        self.change(|next| next.settle(sale));
    }

    /// Reads the directory, and answers the snapshot that holds what it read. A sale that is known in a newer version
    /// stays, and so does one that the directory does not name, unless it was settled. The settled sales are read once,
    /// when one is missing, and now and then.
    ///
    /// # Errors
    /// When the directory cannot be read; the last snapshot stays.
    pub async fn renew(
        &self,
        directory: &dyn SaleStore,
        settling: &dyn Settling,
    ) -> StoreResult<Arc<Snapshot>> {
        let before = self.snapshot();
        // What is settled in between is read twice, and not left out.
        let read = directory.unsettled().await?;
        let mut sales: Sales = read.into_iter().map(|sale| (sale.id.clone(), sale)).collect();
        let is_missing =
            before.named.iter().any(|id| !sales.contains_key(id) && !before.settled.contains_key(id));
        let is_due = before.looks.is_multiple_of(LOOKS_OF_SETTLED);
        let settled = if is_missing || is_due { settling.settled().await? } else { Vec::new() };
        self.change(|next| {
            next.looks = next.looks.wrapping_add(1);
            if settled.iter().any(|(id, _)| !next.settled.contains_key(id)) {
                let mut all = BTreeMap::clone(&next.settled);
                all.extend(settled);
                next.settled = Arc::new(all);
            }
            next.named = Arc::new(sales.keys().cloned().collect());
            // An operator may have changed a sale, or put it in place, while the directory was being read.
            let age = |sale: &Sale| (sale.version, sale.epoch, sale.in_place);
            for (id, known) in next.sales.iter() {
                if sales.get(id).is_none_or(|read| age(read) < age(known)) {
                    sales.insert(id.clone(), known.clone());
                }
            }
            sales.retain(|id, _| !next.settled.contains_key(id));
            (next.sales, next.is_read) = (Arc::new(sales), true);
        });
        Ok(self.snapshot())
    }

    /// Notes what was read of the stock.
    pub fn set_stock(&self, stock: Stock) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.late.store(0, Ordering::Relaxed);
        self.change(|next| next.stock = Arc::new(stock));
    }

    /// Answers how often the stock was read.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Notes an order that the order log has not taken in time, so that it waits in the outbox. `looks` is what
    /// [`Self::looks`] answered before it was reserved: a later look may have seen it, and it is not counted twice.
    pub fn note_late(&self, looks: u64) {
        if looks == self.looks() {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Answers how many orders this process has seen go into the outbox since the last look.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Notes what is gone for good.
    pub fn set_gone(&self, gone: Gone) {
        self.change(|next| next.gone = Arc::new(gone));
    }
}

impl Snapshot {
    fn settle(&mut self, sale: &Sale) {
        let (mut all, mut settled) = (Sales::clone(&self.sales), BTreeMap::clone(&self.settled));
        all.remove(&sale.id);
        settled.insert(sale.id.clone(), sale.month());
        (self.sales, self.settled) = (Arc::new(all), Arc::new(settled));
    }

    /// Finds a sale that shoppers may see, with what they may do now; `None` for a draft and for an unknown sale.
    pub fn visible(&self, id: &SaleId, now_ms: i64) -> Option<(&Sale, Phase)> {
        let sale = self.sales.get(id)?;
        Some((sale, sale.phase(now_ms)?))
    }

    /// Lists the sales that the inventory may have work with, ascending by id.
    pub fn selling(&self, now_ms: i64) -> impl Iterator<Item = &Sale> {
        self.sales.values().filter(move |sale| sale.is_selling(now_ms))
    }

    /// Answers whether units of a SKU that are not for sale now may come back, because they are not all paid. Before
    /// the ledgers were read they may.
    pub fn may_return(&self, sale: &SaleId, sku: &SkuId) -> bool {
        !self.gone.get(sale).is_some_and(|gone| gone.contains(sku))
    }

    /// Answers the band of an item. One whose stock was not read yet is plenty, because before the preheat all of it is
    /// there.
    pub fn band(&self, sale: &SaleId, sku: &SkuId) -> StockBand {
        self.stock.bands.get(sale).and_then(|of| of.get(sku)).copied().unwrap_or(StockBand::Plenty)
    }
}

/// Answers the bands of a sale's items, with their available units. The answer is `None` while a bucket is not whole,
/// because such a sale is not sold out.
pub fn bands_of(sale: &Sale, buckets: &[BucketState]) -> Option<BTreeMap<SkuId, (StockBand, i64)>> {
    if buckets.iter().any(|bucket| bucket.available().is_none()) {
        return None;
    }
    let band = |item: &Item| {
        let available = buckets.iter().map(|bucket| bucket.units_of(&item.sku_id)).sum();
        (item.sku_id.clone(), (StockBand::of(available, item.stock), available))
    };
    Some(sale.items.iter().map(band).collect())
}

/// How long, in ms, a bucket of a sale that is in place may wait to be opened for the first time. The process that puts
/// the sale in place does that at once.
const OPENED_WITHIN_MS: i64 = 5_000;

/// Answers which buckets of a sale have lost keys, with their names. A sale that is in place has lost a gate that is
/// not there, and one that nobody opens: that was made by a process that was frozen while the sale sold.
pub fn losses_of(sale: &Sale, buckets: &[BucketState], now_ms: i64) -> BTreeMap<u16, Vec<String>> {
    let lost = |(bucket, state): (u16, &BucketState)| match state {
        BucketState::Lost { keys } => Some((bucket, keys.clone())),
        BucketState::Absent if sale.in_place => Some((bucket, vec!["gate".to_owned()])),
        BucketState::Whole { placing_since_ms: Some(since_ms), .. }
            if sale.in_place && now_ms - since_ms >= OPENED_WITHIN_MS =>
        {
            Some((bucket, vec!["placing".to_owned()]))
        }
        BucketState::Absent | BucketState::Whole { .. } => None,
    };
    (0u16..).zip(buckets).filter_map(lost).collect()
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
