//! Gathers units of other buckets in a buyer's bucket, when that one has too few. So the last unit of a sale can be
//! bought by anybody, and `sold_out` is said only when nothing is left anywhere.
//!
//! A buyer belongs to one bucket, where the orders and live units of that buyer are. So units move, and buyers do not.
//! Purchases that wait at the same time share one look at the buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Shop;
use super::bucket_queues::{Answer, Answered, BucketQueue, Left};
use super::needed_units::NeededUnits;
use crate::domain::reservation::{Denial, ReserveRequest};
use crate::domain::{BucketId, Sale, SkuId};
use crate::ports::{BucketState, Effect, ErrorKind, StoreError, StoreResult};

/// How often a purchase has units of other buckets gathered, before it is told to come again. Each time but the last,
/// somebody else was sold the units.
const GATHERS_MAX: usize = 16;

impl Shop {
    /// Tries again with units of the other buckets, when this one had too few. What is said to be left is left of the
    /// whole sale.
    pub(super) async fn with_other_buckets(
        self: &Arc<Self>,
        queue: &BucketQueue,
        bucket: &BucketId,
        request: ReserveRequest,
        (mut answer, mut attempts): (Answer, u32),
    ) -> (Answer, u32) {
        if !matches!(&answer, Ok(Answered::Denied { denial: Denial::SoldOut { .. }, .. })) {
            return (answer, attempts);
        }
        let (sku, units) = (&request.record.sku_id, request.record.quantity.units());
        let _need = queue.needed.add(sku, units);
        for _ in 0..GATHERS_MAX {
            let Ok(Answered::Denied { denial: Denial::SoldOut { available, orders_seen }, asked }) =
                &mut answer
            else {
                return (answer, attempts);
            };
            match self.gather(queue, bucket, sku).await {
                Ok(left) if left < units => {
                    let denial = Denial::SoldOut { available: left, orders_seen: *orders_seen };
                    return (Ok(Answered::Denied { denial, asked: *asked }), attempts);
                }
                Ok(left) => *available = left,
                Err(error) => {
                    // No unit was reserved, whatever was moved.
                    tracing::warn!(%error, sale = %bucket.sale, "units not gathered");
                    let source = "units of other buckets could not be had".into();
                    let (kind, effect) = (error.kind, Effect::NotApplied);
                    let error = StoreError { kind, effect, context: "gather units", source };
                    return (Err(Arc::new(error)), attempts);
                }
            }
            (answer, attempts) = self.reserve(queue, bucket, request.clone()).await;
        }
        if let Ok(Answered::Denied { denial: Denial::SoldOut { .. }, .. }) = answer {
            // There are units, and others were quicker every time.
            let source = "others took the units that were gathered".into();
            let (kind, effect) = (ErrorKind::Conflict, Effect::NotApplied);
            answer = Err(Arc::new(StoreError { kind, effect, context: "gather units", source }));
        }
        (answer, attempts)
    }

    /// Moves units into a bucket until it has as many of a SKU as are needed, if there are so many. Answers how many
    /// the sale has left, over all buckets and on their way. Nothing is reserved: others may be quicker.
    ///
    /// # Errors
    /// When a bucket could not be asked, or units could not be moved. Nothing was sold.
    pub(super) async fn gather(
        self: &Arc<Self>,
        queue: &BucketQueue,
        bucket: &BucketId,
        sku: &SkuId,
    ) -> Left {
        let (shop, bucket, needed) = (self.clone(), bucket.clone(), queue.needed.clone());
        let receiver = queue.gather.ask(&self.tasks, sku.clone(), move |asked: Vec<SkuId>| {
            let (shop, bucket, needed) = (shop.clone(), bucket.clone(), needed.clone());
            async move {
                match shop.gather_all(&bucket, &asked, &needed).await {
                    Ok(left) => asked.iter().map(|sku| Ok(left.get(sku).copied().unwrap_or(0))).collect(),
                    Err(error) => {
                        let error = Arc::new(error);
                        vec![Err(error); asked.len()]
                    }
                }
            }
        });
        receiver.await.unwrap_or_else(|_| {
            let (kind, effect) = (ErrorKind::Broken, Effect::NotApplied);
            let source = "the look ended without an answer".into();
            Err(Arc::new(StoreError { kind, effect, context: "gather units", source }))
        })
    }

    /// Moves what is needed of each SKU, and answers how many units of each the sale has left. Units that a look before
    /// this one gathered may not be reserved yet. They are needed still, or they would be counted for two purchases.
    async fn gather_all(
        &self,
        home: &BucketId,
        asked: &[SkuId],
        needed: &NeededUnits,
    ) -> StoreResult<BTreeMap<SkuId, u32>> {
        let catalog = self.catalog();
        let sale = catalog.sales.get(&home.sale);
        let sale = sale.ok_or_else(|| StoreError::broken("gather units", "the sale is gone"))?;
        let buckets = self.ports.gates.buckets(sale).await?;
        let mut left = BTreeMap::new();
        for sku in asked.iter().collect::<BTreeSet<_>>() {
            let units: i64 = buckets.iter().map(|bucket| bucket.units_of(sku)).sum();
            left.insert(sku.clone(), u32::try_from(units.max(0)).unwrap_or(u32::MAX));
            self.move_home(sale, home.bucket, sku, needed.of(sku), &buckets).await?;
        }
        Ok(left)
    }

    /// Moves units of a SKU into the bucket `home` until it has `wanted`, from those that have most.
    async fn move_home(
        &self,
        sale: &Sale,
        home: u16,
        sku: &SkuId,
        wanted: i64,
        buckets: &[BucketState],
    ) -> StoreResult<()> {
        let available =
            |bucket: &BucketState| bucket.available().and_then(|units| units.get(sku)).copied().unwrap_or(0);
        let mut missing = wanted - buckets.get(usize::from(home)).map_or(0, available);
        let mut givers: Vec<(u16, i64)> = (0u16..).zip(buckets.iter().map(available)).collect();
        givers.retain(|(bucket, units)| *bucket != home && *units > 0);
        givers.sort_unstable_by_key(|(_, units)| -units);
        for (giver, units) in givers {
            if missing <= 0 {
                break;
            }
            let units = u32::try_from(units.min(missing)).unwrap_or(u32::MAX);
            missing -= i64::from(self.ports.gates.move_units(sale, giver, home, sku, units).await?);
        }
        Ok(())
    }
}
