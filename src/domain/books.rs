//! Compares what the inventory has of a sale with what the databases have of it (step 18).
//!
//! Invariant: a look names only what no step of an order that is under way explains. Reads of both sides are not made
//! at one moment, so where a step may have come between, the side that explains more is taken.

use std::collections::BTreeMap;

use super::ids::{SaleId, SkuId};
use super::sale::Sale;
use super::shard::{Instance, Shard, ShardMap};

/// A way in which the books of a shop may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriftKind {
    /// A bucket is closed until it is rebuilt, and nobody knows what it has.
    BucketClosed,
    /// The inventory has more units than there are: they would be sold twice.
    UnitsExtra,
    /// The inventory has fewer units than there are: nobody can buy them.
    UnitsMissing,
    /// Orders hold units in the inventory that have none in the databases, or the other way round.
    HoldsDiffer,
    /// Accepted orders are on no way to the order log.
    OrderUnsent,
    /// The number of orders in the outbox is not what is counted in it.
    OutboxCount,
    /// A bucket sells in an epoch that is over.
    EpochOld,
    /// Buyers hold units by claims without a live order: they may buy less than they should.
    ClaimStray,
    /// Live orders have no claims: their buyers may buy more than they should.
    ClaimMissing,
    /// A ledger has other units than were granted to it, or than others say that they granted to it: some can be sold
    /// twice, or never.
    AllotmentDiffers,
    /// A ledger counts other units as held or sold than its orders have.
    LedgerDiffers,
    /// Units were granted to an instance that has not taken them.
    GrantStray,
    /// A payment is for an order that there is not.
    PaymentStray,
    /// Orders wait for a payment, and are kept, long after their time.
    OrderOverdue,
}

/// What ends a drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// The bucket, or all buckets of the sale, are closed and rebuilt of what the databases have.
    Rebuild,
    /// What belongs together is brought together again where it stands.
    Repair,
    /// Somebody has to find out what is true.
    Person,
}

impl DriftKind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::BucketClosed,
        Self::UnitsExtra,
        Self::UnitsMissing,
        Self::HoldsDiffer,
        Self::OrderUnsent,
        Self::OutboxCount,
        Self::EpochOld,
        Self::ClaimStray,
        Self::ClaimMissing,
        Self::AllotmentDiffers,
        Self::LedgerDiffers,
        Self::GrantStray,
        Self::PaymentStray,
        Self::OrderOverdue,
    ];

    /// The word in metrics, JSON and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BucketClosed => "bucket_closed",
            Self::UnitsExtra => "units_extra",
            Self::UnitsMissing => "units_missing",
            Self::HoldsDiffer => "holds_differ",
            Self::OrderUnsent => "order_unsent",
            Self::OutboxCount => "outbox_count",
            Self::EpochOld => "epoch_old",
            Self::ClaimStray => "claim_stray",
            Self::ClaimMissing => "claim_missing",
            Self::AllotmentDiffers => "allotment_differs",
            Self::LedgerDiffers => "ledger_differs",
            Self::GrantStray => "grant_stray",
            Self::PaymentStray => "payment_stray",
            Self::OrderOverdue => "order_overdue",
        }
    }

    /// What ends it.
    pub fn mend(self) -> Mend {
        match self {
            Self::BucketClosed
            | Self::UnitsExtra
            | Self::UnitsMissing
            | Self::HoldsDiffer
            | Self::EpochOld => Mend::Rebuild,
            Self::OrderUnsent | Self::OutboxCount | Self::ClaimStray | Self::GrantStray => Mend::Repair,
            Self::ClaimMissing
            | Self::AllotmentDiffers
            | Self::LedgerDiffers
            | Self::PaymentStray
            | Self::OrderOverdue => Mend::Person,
        }
    }

    /// Answers whether it only costs sales, so that its remedy may wait for a quiet moment and for a second look a
    /// minute later.
    pub fn can_wait(self) -> bool {
        matches!(self, Self::UnitsMissing | Self::HoldsDiffer)
    }
}

/// Where a drift is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A SKU, over all buckets of its sale.
    Sku(SkuId),
    /// A bucket of a sale.
    Bucket(u16),
    /// A database of orders.
    Shard(Shard),
    /// A SKU in an instance's ledger.
    Ledger(Instance, SkuId),
    /// An instance.
    Instance(Instance),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sku(sku) => write!(f, "{sku}"),
            Self::Bucket(bucket) => write!(f, "bucket {bucket}"),
            Self::Shard(shard) => write!(f, "shard {}", shard.number()),
            Self::Ledger(instance, sku) => write!(f, "{sku} on instance {}", instance.number()),
            Self::Instance(instance) => write!(f, "instance {}", instance.number()),
        }
    }
}

/// One thing that is wrong in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What is wrong.
    pub kind: DriftKind,
    /// The sale; `None` when no sale can be named.
    pub sale: Option<SaleId>,
    /// Where it is wrong.
    pub place: Place,
    /// By how much: what the first side of the comparison has more than the other, in units, orders or rows; 1 for as
    /// many units of other orders. Never 0.
    pub amount: i64,
}

impl Drift {
    /// Answers whether two looks have found the same thing wrong, and in the same direction.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.sale == other.sale
            && self.place == other.place
            && self.amount.signum() == other.amount.signum()
    }
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sale = self.sale.as_ref().map_or("-", SaleId::as_str);
        write!(f, "{} of {sale} at {}: {:+}", self.kind.as_str(), self.place, self.amount)
    }
}

/// What the inventory has in one bucket, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketBooks {
    /// The bucket's epoch.
    pub epoch: u32,
    /// How many notes it has of what other buckets gave it. While that stays, no units have come from them.
    pub received: u64,
    /// The units of each SKU: for sale, under way to other buckets, and in holds whose units have not gone back.
    pub units: BTreeMap<SkuId, i64>,
    /// The units in those holds.
    pub held: i64,
    /// Orders that should have been sent to the order log a while ago. Those in the outbox are among them.
    pub unsent: i64,
    /// Orders that the entries of the outbox name.
    pub named: i64,
    /// Orders in the outbox, as the bucket counts them.
    pub outbox_orders: i64,
}

/// What the databases have of a sale, of each instance at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaleBooks {
    /// Units of refunded orders that nobody may buy.
    pub withheld: BTreeMap<SkuId, i64>,
    /// Of those, the units that may still be in a hold.
    pub unreturned: BTreeMap<SkuId, i64>,
    /// Orders of which the inventory is not known to have heard the end, and open dead letters.
    pub pending: i64,
    /// What each database of orders has.
    pub shards: BTreeMap<Shard, ShardBooks>,
    /// What the ledgers have.
    pub ledgers: Vec<LedgerBooks>,
    /// The units, of all SKUs, that the ledgers of an instance count as held or sold.
    pub counted: BTreeMap<Instance, i64>,
    /// The epochs of buckets that were rebuilt. Those that are being rebuilt now are not among them.
    pub epochs: BTreeMap<u16, u32>,
}

/// What a database of orders has of a sale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardBooks {
    /// Units of live orders.
    pub live: i64,
    /// Units that buyers claim.
    pub claimed: i64,
}

/// The units of some orders, and whose they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OrderSum {
    /// The units.
    pub units: i64,
    /// The sum, over the units, of a number that is made of the id of each one's order. Two sides that have as many
    /// units of other orders have other sums, but for one case in 16 million, in a folder in 32,768.
    pub checksum: i64,
}

/// What an instance's ledger has of a SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerBooks {
    /// The instance.
    pub at: Instance,
    /// The SKU.
    pub sku: SkuId,
    /// Units that it may sell.
    pub allotted: i64,
    /// Units that were granted to it, without those that it gave away again.
    pub granted: i64,
    /// Units that it has of other instances which have not given them, or, below 0, that they gave, know to be taken,
    /// and it has not.
    pub ungiven: i64,
}

/// Compares both sides of a sale. `buckets` are all buckets, ascending, `None` for one that is closed for a rebuild.
/// `is_drained` says that the order writers had written all that the order log had when the inventory was read.
pub fn compare(
    sale: &Sale,
    map: &ShardMap,
    buckets: &[Option<BucketBooks>],
    books: &SaleBooks,
    is_drained: bool,
) -> Vec<Drift> {
    let mut drifts = Vec::new();
    let mut note = |kind, place, amount| {
        if amount != 0 {
            drifts.push(Drift { kind, sale: Some(sale.id.clone()), place, amount });
        }
    };
    for (shard, of) in &books.shards {
        note(DriftKind::ClaimStray, Place::Shard(*shard), (of.claimed - of.live).max(0));
        note(DriftKind::ClaimMissing, Place::Shard(*shard), (of.live - of.claimed).max(0));
    }
    for ledger in &books.ledgers {
        let place = || Place::Ledger(ledger.at, ledger.sku.clone());
        note(DriftKind::AllotmentDiffers, place(), ledger.allotted - ledger.granted);
        note(DriftKind::AllotmentDiffers, place(), ledger.ungiven);
    }
    for (at, counted) in &books.counted {
        let of_instance = books.shards.iter().filter(|(shard, _)| map.instance_of(**shard) == *at);
        let live: i64 = of_instance.map(|(_, of)| of.live).sum();
        note(DriftKind::LedgerDiffers, Place::Instance(*at), counted - live);
    }
    for (number, bucket) in (0u16..).zip(buckets) {
        let place = || Place::Bucket(number);
        let Some(bucket) = bucket else {
            note(DriftKind::BucketClosed, place(), 1);
            continue;
        };
        note(DriftKind::OrderUnsent, place(), (bucket.unsent - bucket.named).max(0));
        note(DriftKind::OutboxCount, place(), bucket.outbox_orders - bucket.named);
        let newest = books.epochs.get(&number).copied().unwrap_or(0);
        note(DriftKind::EpochOld, place(), (i64::from(newest) - i64::from(bucket.epoch)).max(0));
        // Between the hold and the row an order is on one side only.
        let is_quiet = is_drained && bucket.named == 0 && books.pending == 0;
        let of_bucket =
            books.shards.iter().filter(|(shard, _)| map.bucket_of(**shard, sale.buckets) == number);
        let live: i64 = of_bucket.map(|(_, of)| of.live).sum();
        if is_quiet {
            note(DriftKind::HoldsDiffer, place(), bucket.held - live);
        }
    }
    let whole: Option<Vec<&BucketBooks>> = buckets.iter().map(Option::as_ref).collect();
    for item in &sale.items {
        let Some(whole) = &whole else { break };
        let of = |units: &BTreeMap<SkuId, i64>| units.get(&item.sku_id).copied().unwrap_or(0);
        let units: i64 = whole.iter().map(|bucket| of(&bucket.units)).sum();
        let most = i64::from(item.stock) - of(&books.withheld) + of(&books.unreturned);
        let least = i64::from(item.stock) - of(&books.withheld);
        let place = || Place::Sku(item.sku_id.clone());
        note(DriftKind::UnitsExtra, place(), (units - most).max(0));
        note(DriftKind::UnitsMissing, place(), (units - least).min(0));
    }
    drifts
}

/// Compares whose holds there are with whose live orders. `held` has the sum of every bucket, ascending, and `live`
/// that of every database of orders. A bucket with other units than its orders is [`compare`]'s, and one in which
/// something was changed between the two readings has them for a moment.
pub fn compare_orders(
    sale: &Sale,
    map: &ShardMap,
    held: &[OrderSum],
    live: &BTreeMap<Shard, OrderSum>,
) -> Vec<Drift> {
    let differs = |(number, held): (u16, &OrderSum)| {
        let of_bucket = live.iter().filter(|(shard, _)| map.bucket_of(**shard, sale.buckets) == number);
        let (units, checksum) = of_bucket
            .fold((0, 0), |(units, checksum), (_, sum)| (units + sum.units, checksum + sum.checksum));
        let are_others = held.units == units && held.checksum != checksum;
        let (kind, place) = (DriftKind::HoldsDiffer, Place::Bucket(number));
        are_others.then(|| Drift { kind, sale: Some(sale.id.clone()), place, amount: 1 })
    };
    (0u16..).zip(held).filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Item, Money, SaleState};

    fn sale() -> Sale {
        let price = Money::new(100, "CNY").expect("a price");
        let sku_id = SkuId::parse("phone").expect("a slug");
        Sale {
            id: SaleId::parse("drop").expect("a slug"),
            name: "Drop".to_owned(),
            state: SaleState::Preheated,
            starts_ms: 1,
            ends_ms: 2,
            buyer_limit: 9,
            unpaid_max: 3,
            access: crate::domain::Access::default(),
            payment_window_ms: 1,
            buckets: 2,
            epoch: 1,
            in_place: true,
            version: 1,
            items: vec![Item { sku_id, name: "Phone".to_owned(), stock: 10, price }],
        }
    }

    fn phone(units: i64) -> BTreeMap<SkuId, i64> {
        [(SkuId::parse("phone").expect("a slug"), units)].into()
    }

    /// A sale of ten units in two buckets, of which three are held by orders of shard 0.
    fn right() -> (Vec<Option<BucketBooks>>, SaleBooks) {
        let of = |units, held| BucketBooks { epoch: 1, units: phone(units), held, ..BucketBooks::default() };
        let live = ShardBooks { live: 3, claimed: 3 };
        let books = SaleBooks { shards: [(Shard::new(0), live)].into(), ..SaleBooks::default() };
        (vec![Some(of(5, 3)), Some(of(5, 0))], books)
    }

    fn found(
        change: impl FnOnce(&mut BucketBooks, &mut SaleBooks),
        is_drained: bool,
    ) -> Vec<(DriftKind, i64)> {
        let (mut buckets, mut books) = right();
        change(buckets[0].as_mut().expect("whole"), &mut books);
        let map = ShardMap::new(4, 2, 2).expect("a map");
        let drifts = compare(&sale(), &map, &buckets, &books, is_drained);
        drifts.into_iter().map(|drift| (drift.kind, drift.amount)).collect()
    }

    #[test]
    fn every_drift_is_found_by_its_kind_and_what_is_under_way_is_none() {
        use DriftKind::*;
        assert_eq!(found(|_, _| {}, true), []);
        assert_eq!(found(|bucket, _| bucket.units = phone(6), true), [(UnitsExtra, 1)]);
        assert_eq!(found(|bucket, _| bucket.units = phone(3), true), [(UnitsMissing, -2)]);
        assert_eq!(found(|bucket, _| bucket.held = 4, true), [(HoldsDiffer, 1)]);
        assert_eq!(found(|bucket, _| bucket.held = 4, false), [], "its record may be on the way");
        assert_eq!(found(|bucket, books| (bucket.held, books.pending) = (4, 1), true), []);
        assert_eq!(found(|bucket, _| bucket.unsent = 2, true), [(OrderUnsent, 2)]);
        assert_eq!(
            found(|bucket, _| (bucket.unsent, bucket.named, bucket.outbox_orders) = (2, 2, 2), true),
            []
        );
        assert_eq!(found(|bucket, _| bucket.outbox_orders = 7, true), [(OutboxCount, 7)]);
        assert_eq!(found(|_, books| books.epochs = [(0, 3)].into(), true), [(EpochOld, 2)]);
        let claims = |claimed| {
            move |_: &mut BucketBooks, books: &mut SaleBooks| {
                books.shards.insert(Shard::new(0), ShardBooks { live: 3, claimed });
            }
        };
        assert_eq!(found(claims(4), true), [(ClaimStray, 1)]);
        assert_eq!(found(claims(2), true), [(ClaimMissing, 1)]);
        let ledger = |allotted, granted, ungiven, counted| {
            move |_: &mut BucketBooks, books: &mut SaleBooks| {
                let sku = SkuId::parse("phone").expect("a slug");
                books.ledgers = vec![LedgerBooks { at: Instance::FIRST, sku, allotted, granted, ungiven }];
                books.counted = [(Instance::FIRST, counted)].into();
            }
        };
        assert_eq!(found(ledger(5, 5, 0, 3), true), []);
        assert_eq!(found(ledger(5, 6, 0, 3), true), [(AllotmentDiffers, -1)]);
        assert_eq!(found(ledger(5, 5, 2, 3), true), [(AllotmentDiffers, 2)]);
        assert_eq!(found(ledger(5, 5, 0, 1), true), [(LedgerDiffers, -2)]);
    }

    #[test]
    fn as_many_units_of_other_orders_are_found() {
        let map = ShardMap::new(4, 2, 2).expect("a map");
        let sum = |units, checksum| OrderSum { units, checksum };
        let live: BTreeMap<Shard, OrderSum> =
            [(Shard::new(0), sum(3, 70)), (Shard::new(3), sum(1, 5))].into();
        let places = |held: [OrderSum; 2]| {
            let drifts = compare_orders(&sale(), &map, &held, &live);
            drifts.into_iter().map(|drift| drift.place).collect::<Vec<_>>()
        };
        let (first, last) = (map.bucket_of(Shard::new(0), 2), map.bucket_of(Shard::new(3), 2));
        assert_eq!((first, last), (0, 1));
        assert_eq!(places([sum(3, 70), sum(1, 5)]), []);
        assert_eq!(places([sum(3, 71), sum(1, 5)]), [Place::Bucket(0)]);
        assert_eq!(places([sum(3, 70), sum(1, 6)]), [Place::Bucket(1)]);
        assert_eq!(places([sum(4, 71), sum(1, 5)]), [], "its number of units says that");
    }

    #[test]
    fn withheld_units_may_be_in_a_hold_or_gone() {
        let refunded = |units, unreturned| {
            found(
                |bucket, books| {
                    bucket.units = phone(units);
                    (books.withheld, books.unreturned) = (phone(2), phone(unreturned));
                },
                true,
            )
        };
        assert_eq!(refunded(3, 0), []);
        assert_eq!(refunded(5, 2), [], "both are still in their holds");
        assert_eq!(refunded(5, 1), [(DriftKind::UnitsExtra, 1)]);
        assert_eq!(refunded(2, 2), [(DriftKind::UnitsMissing, -1)]);
    }
}
