//! Looks whether the books of all sales are right, and mends what is wrong: step 18 of docs/protocol/steps.md.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Shop;
use crate::domain::books::{BucketBooks, Drift, DriftKind, Mend, Place, compare, compare_orders};
use crate::domain::log_position::first_unwritten;
use crate::domain::operator::Subject;
use crate::domain::{BucketId, Change, Month, Part, Sale, SaleId};
use crate::ports::{Grace, Overdue, StoreError, StoreResult};
use crate::shop::Failure;

/// The time between two looks. What both have found is no step that was under way: a move between buckets whose process
/// died is finished after two seconds.
const LOOKS_APART: Duration = Duration::from_secs(4);
/// How long after its end an order may wait for what lets it expire, in ms.
const OVERDUE_MS: u64 = 60_000;
/// Most overdue orders of an instance that are counted.
const OVERDUE_MAX: usize = 1000;

/// Which payments are looked at: those of databases with an even number, with an odd one, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payments {
    /// Those of databases with an even number.
    Even,
    /// Those of databases with an odd number.
    Odd,
    /// All.
    All,
}

/// How far a look goes beside what it always counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The payments that are looked at.
    pub payments: Payments,
    /// Whether it is compared whose holds and orders there are, and not only how many.
    pub orders: bool,
}

impl Reach {
    /// Looks at everything.
    pub const ALL: Self = Self { payments: Payments::All, orders: true };
}

/// What is wrong in the books of all sales that sell.
#[derive(Debug, Default)]
pub struct Look {
    /// What is wrong.
    pub drifts: Vec<Drift>,
    /// The sales of which no order was on its way, among those in which something differs or ids were to be compared.
    pub quiet: BTreeSet<SaleId>,
    /// The sales whose holds and orders were not compared: some came or went, or nothing asked for it.
    pub uncompared: BTreeSet<SaleId>,
    /// The sales that could not be looked at, and why.
    pub unseen: BTreeMap<SaleId, StoreError>,
    /// How long the reading took.
    pub took: Duration,
    /// The epochs of buckets that are whole.
    epochs: BTreeMap<BucketId, u32>,
}

/// A drift, and whether it was mended. A bucket that is closed for that is rebuilt by a worker within seconds.
#[derive(Debug)]
pub struct Looked {
    /// What is wrong, or was.
    pub drift: Drift,
    /// Whether it was mended.
    pub is_mended: bool,
}

impl Shop {
    /// Takes the turn of looking by itself, or keeps it. Answers `false` while another process has it.
    ///
    /// # Errors
    /// When the database could not be reached.
    pub async fn has_turn(&self, holder: [u8; 16], lease: Duration) -> StoreResult<bool> {
        self.ports.books.databases.turn(holder, lease).await
    }

    /// Looks at the books of all sales that sell, and looks again when something is wrong, so that nothing is named
    /// that a step under way explains.
    ///
    /// # Errors
    /// When a component could not be read.
    pub async fn look_at_books(&self, reach: Reach) -> StoreResult<Look> {
        let first = self.look_once(reach).await?;
        if first.drifts.is_empty() {
            return Ok(first);
        }
        self.clock.sleep(LOOKS_APART).await;
        let mut second = self.look_once(reach).await?;
        second.took += first.took;
        second.drifts.retain(|drift| first.drifts.iter().any(|before| drift.is_same_as(before)));
        Ok(second)
    }

    async fn look_once(&self, Reach { payments, orders }: Reach) -> StoreResult<Look> {
        let (catalog, began) = (self.catalog(), self.clock.monotonic());
        let mut look = Look::default();
        for sale in catalog.selling(self.now_ms()).filter(|sale| sale.in_place) {
            // One sale that cannot be read hides nothing of the others.
            if let Err(error) = self.look_at_sale(sale, orders, &mut look).await {
                look.unseen.insert(sale.id.clone(), error);
            }
        }
        let months: BTreeSet<Month> = catalog.selling(self.now_ms()).map(Sale::month).collect();
        let months: Vec<Month> = months.into_iter().collect();
        let even = match payments {
            Payments::Even => Some(true),
            Payments::Odd => Some(false),
            Payments::All => None,
        };
        look.drifts.extend(self.ports.books.databases.strays(&months, even).await?);
        look.drifts.extend(self.overdue(&months).await?);
        look.took = self.clock.monotonic().since(began);
        Ok(look)
    }

    async fn look_at_sale(&self, sale: &Sale, orders: bool, look: &mut Look) -> StoreResult<()> {
        let before = self.ports.books.databases.of_sale(sale).await?;
        let buckets = self.ports.books.inventory.count(sale).await?;
        let mut drifts = compare(sale, &self.map, &buckets, &before, true);
        // Where nothing is wrong, nobody needs to know what is still on its way. It is much to ask of the order log.
        let is_drained = (orders || !drifts.is_empty()) && self.is_drained(sale).await?;
        if !is_drained {
            drifts = compare(sale, &self.map, &buckets, &before, false);
        }
        let is_of_two_reads = |kind| matches!(kind, DriftKind::HoldsDiffer | DriftKind::AllotmentDiffers);
        let mut orders_came = false;
        if drifts.iter().any(|drift| is_of_two_reads(drift.kind)) {
            // An order that came between the two reads is on one side only, and so is a grant.
            let after = self.ports.books.databases.of_sale(sale).await?;
            orders_came = after.shards != before.shards || after.pending != 0;
            let again = compare(sale, &self.map, &buckets, &after, is_drained);
            drifts.retain(|drift| match drift.kind {
                DriftKind::HoldsDiffer => !orders_came,
                DriftKind::AllotmentDiffers => again.contains(drift),
                _ => true,
            });
        }
        look.drifts.extend(drifts);
        let is_sent = |books: &Option<BucketBooks>| books.as_ref().is_some_and(|books| books.named == 0);
        let is_quiet = is_drained && buckets.iter().all(is_sent);
        if is_quiet {
            look.quiet.insert(sale.id.clone());
        }
        let whole = sale.bucket_ids().zip(buckets).filter_map(|(bucket, books)| Some((bucket, books?.epoch)));
        look.epochs.extend(whole);
        let are_counted = is_quiet && before.pending == 0 && !orders_came;
        if !are_counted || orders && !self.look_at_orders(sale, look).await {
            look.uncompared.insert(sale.id.clone());
        }
        Ok(())
    }

    /// Compares whose holds and orders there are. Answers `false` when they could not be compared.
    async fn look_at_orders(&self, sale: &Sale, look: &mut Look) -> bool {
        match self.differing_orders(sale).await {
            Ok(Some(drifts)) => look.drifts.extend(drifts),
            Ok(None) => return false,
            Err(error) => {
                // What was counted stands all the same.
                tracing::warn!(%error, sale = %sale.id, "it is not compared whose holds there are");
                return false;
            }
        }
        true
    }

    /// Compares whose holds and orders there are; `None` when an order came or went meanwhile.
    async fn differing_orders(&self, sale: &Sale) -> StoreResult<Option<Vec<Drift>>> {
        let books = &self.ports.books;
        let (live, held) = (books.databases.sums(sale).await?, books.inventory.sums(sale).await?);
        let drifts = compare_orders(sale, &self.map, &held, &live);
        let is_quiet = drifts.is_empty() || live == books.databases.sums(sale).await?;
        Ok(is_quiet.then_some(drifts))
    }

    /// Answers whether the order writers have written what the order log had of a sale a moment ago.
    async fn is_drained(&self, sale: &Sale) -> StoreResult<bool> {
        let parts_of = |bucket| self.map.parts_of_bucket(bucket, sale.buckets);
        let parts: BTreeSet<Part> = (0..sale.buckets).flat_map(parts_of).collect();
        let parts: Vec<Part> = parts.into_iter().collect();
        let offsets = self.ports.order_log.offsets(&parts).await?;
        let positions = self.ports.positions.positions().await;
        Ok(first_unwritten(&parts, &offsets, &positions).is_none())
    }

    /// Counts the orders that should have expired long ago.
    async fn overdue(&self, months: &[Month]) -> StoreResult<Vec<Drift>> {
        let Some(Grace { ms, closing_ms }) = self.settings.overdue else { return Ok(Vec::new()) };
        let grace = Grace { ms: ms + OVERDUE_MS, closing_ms: closing_ms + OVERDUE_MS };
        let mut drifts = Vec::new();
        for at in self.ports.order_changes.instances() {
            let found = self.ports.order_changes.overdue(Overdue { at, months, grace }, OVERDUE_MAX).await?;
            if let Some(amount) = i64::try_from(found.len()).ok().filter(|amount| *amount > 0) {
                let (kind, place) = (DriftKind::OrderOverdue, Place::Instance(at));
                drifts.push(Drift { kind, sale: None, place, amount });
            }
        }
        Ok(drifts)
    }

    /// Mends a drift that was found by a look. Answers `false` when only a person can. Idempotent.
    ///
    /// # Errors
    /// When a component failed. It is repeated by the next look.
    pub async fn mend(&self, look: &Look, drift: &Drift) -> StoreResult<bool> {
        match drift.kind.mend() {
            Mend::Person => Ok(false),
            Mend::Rebuild => self.refill(look, drift).await,
            Mend::Repair => self.repair(drift).await,
        }
    }

    async fn refill(&self, look: &Look, drift: &Drift) -> StoreResult<bool> {
        let mut is_mended = false;
        for (bucket, epoch) in &look.epochs {
            let is_meant = drift.sale.as_ref() == Some(&bucket.sale)
                && match drift.place {
                    Place::Bucket(number) => number == bucket.bucket,
                    _ => true,
                };
            if is_meant {
                is_mended |= self.ports.books.inventory.refill(bucket, *epoch, drift.kind).await?;
            }
        }
        Ok(is_mended)
    }

    async fn repair(&self, drift: &Drift) -> StoreResult<bool> {
        let books = &self.ports.books;
        match (&drift.place, &drift.sale) {
            (Place::Bucket(bucket), Some(sale)) => {
                let named =
                    books.inventory.mend_outbox(&BucketId { sale: sale.clone(), bucket: *bucket }).await?;
                // What was set aside waits for a person.
                return Ok(named > 0 || drift.kind == DriftKind::OutboxCount);
            }
            (Place::Shard(shard), Some(id)) => {
                let Some(sale) = self.ports.sales.sale(id).await? else { return Ok(false) };
                books.databases.mend_claims(&sale, *shard).await?;
            }
            _ => books.databases.mend_grants().await?,
        }
        Ok(true)
    }

    /// Looks at the books for an operator, and mends what can be mended when `change` is given, which the audit log
    /// keeps.
    ///
    /// # Errors
    /// When a component failed. What was mended before stands, and a repetition goes on.
    pub async fn reconcile(&self, change: Option<&Change>) -> Result<Vec<Looked>, Failure> {
        let mut look = self.look_at_books(Reach::ALL).await.map_err(Failure::of_read)?;
        if let Some((_, error)) = std::mem::take(&mut look.unseen).pop_first() {
            return Err(Failure::of_read(error));
        }
        let drifts = std::mem::take(&mut look.drifts);
        if let Some(change) = change.filter(|_| !drifts.is_empty()) {
            let found = drifts.iter().take(100).map(ToString::to_string).collect();
            self.ports.audit_log.note(change, &Subject::Drifts { found }).await?;
        }
        let mut looked = Vec::new();
        for drift in drifts {
            let is_mended = change.is_some() && self.mend(&look, &drift).await?;
            looked.push(Looked { drift, is_mended });
        }
        Ok(looked)
    }
}
