//! The sales as every request sees them: an in-memory snapshot, renewed once a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use metrics::{counter, gauge};

use crate::domain::sale::Phase;
use crate::domain::{BucketId, Sale, SaleId, SkuId};
use crate::metrics::{ADMISSION, ADMISSION_OUTCOMES, OUTBOX_ORDERS, STOCK_UNITS};
use crate::ports::{Ledger, Ports};

/// What a shopper is told about the stock: a band, never the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StockBand {
    /// More than half.
    Plenty,
    /// More than a tenth.
    Some,
    /// More than ten units or a hundredth.
    Low,
    /// The last units.
    Last,
    SoldOut,
}

impl StockBand {
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

/// All sales at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub sales: Arc<BTreeMap<SaleId, Sale>>,
    /// Bands of sales whose stock stands in the inventory.
    pub bands: HashMap<(SaleId, SkuId), StockBand>,
    /// Orders in the outbox entries of all buckets.
    pub outbox_orders: u64,
}

#[derive(Default)]
pub struct Catalog {
    current: RwLock<Arc<Snapshot>>,
}

impl Catalog {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().expect("no code panics while holding it").clone()
    }

    /// Puts one changed sale in place at once, so that the operator's own node follows without delay.
    pub fn put(&self, sale: Sale) {
        let mut current = self.current.write().expect("no code panics while holding it");
        let mut sales = BTreeMap::clone(&current.sales);
        sales.insert(sale.id.clone(), sale);
        *current = Arc::new(Snapshot {
            sales: Arc::new(sales),
            bands: current.bands.clone(),
            outbox_orders: current.outbox_orders,
        });
    }

    pub(super) async fn renew(&self, sales: Vec<Sale>, ports: &Ports, now_ms: i64) {
        // What cannot be read now keeps its last band.
        let mut bands = self.snapshot().bands.clone();
        bands.retain(|(id, _), _| sales.iter().any(|sale| sale.id == *id));
        let mut outbox_orders = 0;
        for sale in sales.iter().filter(|sale| is_selling(sale, now_ms)) {
            for outcome in ADMISSION_OUTCOMES {
                counter!(ADMISSION, "sale" => sale.id.to_string(), "outcome" => *outcome).increment(0);
            }
            match ports.gates.available(sale).await {
                Ok(buckets) => bands_of(sale, &buckets, &mut bands),
                Err(error) => tracing::debug!(%error, sale = %sale.id, "stock bands not renewed"),
            }
            // Finishes what an operator's call could not: the directory says paused, Redis did not hear it.
            if let Err(error) = ports.gates.set_gates(sale).await {
                tracing::debug!(%error, sale = %sale.id, "gates not set");
            }
            for bucket in 0..sale.buckets {
                let bucket = BucketId { sale: sale.id.clone(), bucket };
                match ports.outbox.len(&bucket).await {
                    Ok(orders) => outbox_orders += orders,
                    Err(error) => tracing::debug!(%error, sale = %sale.id, "outbox length not read"),
                }
            }
        }
        gauge!(OUTBOX_ORDERS).set(f64::from(u32::try_from(outbox_orders).unwrap_or(u32::MAX)));
        let mut sales: BTreeMap<SaleId, Sale> =
            sales.into_iter().map(|sale| (sale.id.clone(), sale)).collect();
        let mut current = self.current.write().expect("no code panics while holding it");
        // An operator may have changed a sale while this round was reading.
        for (id, known) in current.sales.iter() {
            if sales.get(id).is_none_or(|read| read.version < known.version) {
                sales.insert(id.clone(), known.clone());
            }
        }
        *current = Arc::new(Snapshot { sales: Arc::new(sales), bands, outbox_orders });
    }
}

/// Whether the inventory has work with a sale: from its preheat until ten minutes after its end, when its
/// last records are long written.
pub fn is_selling(sale: &Sale, now_ms: i64) -> bool {
    use crate::domain::SaleState as S;
    const AFTERMATH_MS: i64 = 600_000;
    match sale.state {
        S::Draft | S::Published => false,
        S::Preheated | S::Paused | S::Ended => now_ms < sale.ends_ms.saturating_add(AFTERMATH_MS),
    }
}

fn bands_of(
    sale: &Sale,
    buckets: &[Option<HashMap<SkuId, i64>>],
    bands: &mut HashMap<(SaleId, SkuId), StockBand>,
) {
    // A sale that is not in place yet is not sold out.
    if buckets.iter().any(Option::is_none) {
        return;
    }
    for item in &sale.items {
        let units = |bucket: &HashMap<SkuId, i64>| bucket.get(&item.sku_id).copied().unwrap_or(0);
        let available: i64 = buckets.iter().flatten().map(units).sum();
        bands.insert((sale.id.clone(), item.sku_id.clone()), StockBand::of(available, item.stock));
        gauge_units(&sale.id, &item.sku_id, "available", available);
    }
}

fn gauge_units(sale: &SaleId, sku: &SkuId, state: &'static str, units: i64) {
    gauge!(STOCK_UNITS, "sale" => sale.to_string(), "sku" => sku.to_string(), "state" => state)
        .set(f64::from(i32::try_from(units).unwrap_or(i32::MAX)));
}

/// Shows what the ledgers hold of every running sale. Apart from the catalog's renewal, because an instance
/// that is down must not make the catalog old.
pub async fn gauge_holdings(snapshot: &Snapshot, ledger: &dyn Ledger, now_ms: i64) {
    for sale in snapshot.sales.values().filter(|sale| is_selling(sale, now_ms)) {
        match ledger.holdings(sale).await {
            Ok(holdings) => {
                for (sku, of) in holdings {
                    gauge_units(&sale.id, &sku, "held", of.held);
                    gauge_units(&sale.id, &sku, "sold", of.sold);
                }
            }
            Err(error) => tracing::debug!(%error, sale = %sale.id, "holdings not read"),
        }
    }
}

impl Snapshot {
    /// A sale that shoppers may see, with what they may do now.
    pub fn visible(&self, id: &SaleId, now_ms: i64) -> Option<(&Sale, Phase)> {
        let sale = self.sales.get(id)?;
        Some((sale, sale.phase(now_ms)?))
    }

    /// The band of an item; before the preheat all of it is there.
    pub fn band(&self, sale: &SaleId, sku: &SkuId) -> StockBand {
        self.bands.get(&(sale.clone(), sku.clone())).copied().unwrap_or(StockBand::Plenty)
    }
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
