//! A sale, its items and its life: draft → published → preheated ⇄ paused → ended → settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ids::{SaleId, SkuId};
use super::money::{Money, Quantity};
use super::shard::{BucketId, Month};

/// One SKU of a sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// The SKU, unique within the sale.
    pub sku_id: SkuId,
    /// The name that shoppers see, 1 to [`Sale::NAME_MAX`] characters.
    #[schema(min_length = 1, max_length = 120)]
    pub name: String,
    /// Units for sale in all, 1 to [`Sale::STOCK_MAX`].
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub stock: u32,
    /// The price of one unit.
    pub price: Money,
}

/// A time-boxed event with scarce goods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// The sale.
    pub id: SaleId,
    /// The name that shoppers see, 1 to [`Sale::NAME_MAX`] characters.
    pub name: String,
    /// Where it is in its life.
    pub state: SaleState,
    /// Opening, ms since 1970. The inventory refuses earlier purchases by its own clock (Redis TIME).
    pub starts_ms: i64,
    /// Closing (exclusive), ms since 1970.
    pub ends_ms: i64,
    /// Most live units that one buyer may hold in this sale (I5), 1 to [`Quantity::MAX`].
    pub buyer_limit: u32,
    /// Most orders that one buyer may let expire or give up before the buyer is refused, 0 (no limit) to
    /// [`Sale::UNPAID_MAX`].
    #[serde(default = "unpaid_max_default")]
    pub unpaid_max: u32,
    /// What a purchase needs beside its buyer.
    #[serde(default)]
    pub access: Access,
    /// How long a persisted order waits for its payment, in ms: ten seconds to a day.
    pub payment_window_ms: i64,
    /// Redis slots that its stock is spread over: a power of two, 1 to [`Sale::BUCKETS_MAX`].
    pub buckets: u16,
    /// The epoch in which its buckets are put in place. A bucket that is rebuilt has a later one of its own (step 17).
    pub epoch: u32,
    /// Whether all buckets of this epoch were put in place. Before that nothing is sold. Afterwards no bucket is put in
    /// place a second time, because units of it may be sold.
    #[serde(default)]
    pub in_place: bool,
    /// Grows with every change; the ETag of the admin API.
    pub version: u64,
    /// 1 to [`Sale::ITEMS_MAX`], ascending by SKU id.
    pub items: Vec<Item>,
}

/// What a purchase needs beside its buyer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// A purchase token.
    #[serde(default)]
    pub purchase_token: bool,
    /// For that a proof of work: hexadecimal zeros that a hash has to begin with, 0 (no proof) to
    /// [`Access::PROOF_MAX`]. Each makes it sixteen times as much work.
    #[serde(default)]
    #[schema(maximum = 6)]
    pub proof_of_work: u8,
}

impl Access {
    /// The hardest proof: some 17 million hashes.
    pub const PROOF_MAX: u8 = 6;
}

/// Where a sale is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// Only operators see it.
    Draft,
    /// Shoppers see it. Redis has nothing of it yet.
    Published,
    /// Redis has its stock. It sells from `starts_ms` to `ends_ms`.
    Preheated,
    /// It refuses purchases until it is resumed.
    Paused,
    /// It refuses purchases for good.
    Ended,
    /// It is over, nothing of it is open, and the inventory has nothing of it any more; no other state follows.
    Settled,
}

/// What an operator does to a sale to change its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaleAction {
    /// Shows the sale to shoppers.
    Publish,
    /// Freezes the definition, opens the pools and puts the stock into Redis.
    Preheat,
    /// Stops selling for a while.
    Pause,
    /// Sells again after a pause.
    Resume,
    /// Stops selling for good.
    End,
    /// Compares its counts, writes its report and clears the inventory of it.
    Settle,
}

/// What a shopper may do with a sale at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The sale sells later.
    Upcoming,
    /// The sale should sell now, and its stock is not in place yet.
    Delayed,
    /// The sale sells now.
    Live,
    /// An operator has paused the sale.
    Paused,
    /// The sale is over.
    Ended,
}

/// A fault in a sale's definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct InvalidSale {
    /// The JSON pointer of the field.
    pub pointer: String,
    /// What the field has to be.
    pub detail: String,
}

impl SaleState {
    /// All states, in the order of a sale's life.
    pub const ALL: [Self; 6] =
        [Self::Draft, Self::Published, Self::Preheated, Self::Paused, Self::Ended, Self::Settled];

    /// Answers the state's word in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Preheated => "preheated",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Settled => "settled",
        }
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Answers the state that an action leads to, or `None` where it is not allowed. To repeat the action that led here
    /// is allowed and changes nothing, so that an operator may retry after a lost answer.
    pub fn after(self, action: SaleAction) -> Option<Self> {
        use SaleAction as A;
        match (self, action) {
            (Self::Draft | Self::Published, A::Publish) => Some(Self::Published),
            (Self::Published | Self::Preheated, A::Preheat) => Some(Self::Preheated),
            (Self::Preheated | Self::Paused, A::Pause) => Some(Self::Paused),
            (Self::Preheated | Self::Paused, A::Resume) => Some(Self::Preheated),
            (Self::Published | Self::Preheated | Self::Paused | Self::Ended, A::End) => Some(Self::Ended),
            (Self::Ended | Self::Settled, A::Settle) => Some(Self::Settled),
            (Self::Draft, A::Preheat | A::Pause | A::Resume | A::End | A::Settle)
            | (Self::Published, A::Pause | A::Resume | A::Settle)
            | (Self::Preheated, A::Publish | A::Settle)
            | (Self::Paused, A::Publish | A::Preheat | A::Settle)
            | (Self::Ended, A::Publish | A::Preheat | A::Pause | A::Resume)
            | (Self::Settled, A::Publish | A::Preheat | A::Pause | A::Resume | A::End) => None,
        }
    }

    /// Lists the actions that are allowed in this state, repetitions included.
    pub fn allowed(self) -> Vec<SaleAction> {
        SaleAction::ALL.into_iter().filter(|&action| self.after(action).is_some()).collect()
    }

    /// Answers the word of the gates of a sale in this state; `None` while it has no gates.
    pub fn gate(self) -> Option<&'static str> {
        match self {
            Self::Draft | Self::Published | Self::Settled => None,
            Self::Preheated => Some("open"),
            Self::Paused => Some("paused"),
            Self::Ended => Some("ended"),
        }
    }

    /// Answers whether the definition (times, limits, items) may still be patched: nothing was handed to Redis or to
    /// the pools yet.
    pub fn is_editable(self) -> bool {
        matches!(self, Self::Draft | Self::Published)
    }
}

impl SaleAction {
    /// All actions.
    pub const ALL: [Self; 6] =
        [Self::Publish, Self::Preheat, Self::Pause, Self::Resume, Self::End, Self::Settle];

    /// Answers the action's word in paths and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Preheat => "preheat",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::End => "end",
            Self::Settle => "settle",
        }
    }

    /// Reads an action's word; `None` for a word that is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

fn unpaid_max_default() -> u32 {
    Sale::UNPAID_MAX_DEFAULT
}

/// Sales by their id.
pub type Sales = BTreeMap<SaleId, Sale>;

impl Sale {
    /// How long after its end a sale may still have work, in ms. Its last records are long written by then.
    const AFTERMATH_MS: i64 = 600_000;
    /// Most items of one sale.
    pub const ITEMS_MAX: usize = 100;
    /// Most units of one item.
    pub const STOCK_MAX: u32 = 100_000_000;
    /// Most buckets of one sale. It has no more buckets than there are shards, either.
    pub const BUCKETS_MAX: u16 = 64;
    /// The greatest bound of orders that a buyer may leave unpaid.
    pub const UNPAID_MAX: u32 = 99;
    /// The bound when an operator says none.
    pub const UNPAID_MAX_DEFAULT: u32 = 3;
    /// Most characters of the name of a sale or an item.
    pub const NAME_MAX: usize = 120;
    const PAYMENT_WINDOW_MS: std::ops::RangeInclusive<i64> = 10_000..=86_400_000;

    /// Finds an item by its SKU; `None` when the sale has no such item.
    pub fn item(&self, sku: &SkuId) -> Option<&Item> {
        self.items.iter().find(|item| item.sku_id == *sku)
    }

    /// Answers the month whose orders table holds every order of this sale.
    pub fn month(&self) -> Month {
        Month::of_ms(self.starts_ms)
    }

    /// Answers what a shopper may do now; `None` while the sale is a draft, which shoppers must not see.
    pub fn phase(&self, now_ms: i64) -> Option<Phase> {
        match self.state {
            SaleState::Draft => None,
            SaleState::Ended | SaleState::Settled => Some(Phase::Ended),
            _ if now_ms >= self.ends_ms => Some(Phase::Ended),
            SaleState::Paused => Some(Phase::Paused),
            SaleState::Published | SaleState::Preheated if now_ms < self.starts_ms => Some(Phase::Upcoming),
            SaleState::Preheated if self.in_place => Some(Phase::Live),
            SaleState::Published | SaleState::Preheated => Some(Phase::Delayed),
        }
    }

    /// Answers whether nothing of the sale can be sold any more.
    pub fn is_over(&self, now_ms: i64) -> bool {
        matches!(self.state, SaleState::Ended | SaleState::Settled) || now_ms >= self.ends_ms
    }

    /// Answers whether the inventory may have work with the sale: when it is preheated, paused or ended, until ten
    /// minutes after `ends_ms`.
    pub fn is_selling(&self, now_ms: i64) -> bool {
        match self.state {
            SaleState::Draft | SaleState::Published | SaleState::Settled => false,
            SaleState::Preheated | SaleState::Paused | SaleState::Ended => {
                now_ms < self.ends_ms.saturating_add(Self::AFTERMATH_MS)
            }
        }
    }

    /// Lists the sale's buckets, ascending.
    pub fn bucket_ids(&self) -> impl Iterator<Item = BucketId> {
        (0..self.buckets).map(|bucket| BucketId { sale: self.id.clone(), bucket })
    }

    /// Answers the stock of one item in one bucket. Units that do not divide evenly go to the first buckets, one each.
    pub fn bucket_stock(&self, item: &Item, bucket: u16) -> u32 {
        self.bucket_share(item.stock, bucket)
    }

    /// Answers the share that one bucket has of some units. The shares of all buckets add up to them.
    pub fn bucket_share(&self, units: u32, bucket: u16) -> u32 {
        let buckets = u32::from(self.buckets);
        units / buckets + u32::from(u32::from(bucket) < units % buckets)
    }

    /// Checks what the types do not check. `shards` bounds the number of buckets.
    ///
    /// # Errors
    /// [`InvalidSale`] with the first fault that was found.
    pub fn validate(&self, shards: u16) -> Result<(), InvalidSale> {
        let fault = |pointer: &str, detail: String| Err(InvalidSale { pointer: pointer.to_owned(), detail });
        if self.name.is_empty() || self.name.chars().count() > Self::NAME_MAX {
            return fault("/name", format!("must have 1 to {} characters", Self::NAME_MAX));
        }
        if self.starts_ms <= 0 || self.ends_ms <= self.starts_ms {
            return fault("/ends_at", "must be later than starts_at".to_owned());
        }
        if !(1..=Quantity::MAX).contains(&self.buyer_limit) {
            return fault("/buyer_limit", format!("must be from 1 to {}", Quantity::MAX));
        }
        if self.unpaid_max > Self::UNPAID_MAX {
            return fault("/unpaid_max", format!("must be from 0 to {}", Self::UNPAID_MAX));
        }
        if self.access.proof_of_work > Access::PROOF_MAX {
            return fault("/access/proof_of_work", format!("must be from 0 to {}", Access::PROOF_MAX));
        }
        if self.access.proof_of_work > 0 && !self.access.purchase_token {
            let detail = "is asked for with a purchase token: set purchase_token to true";
            return fault("/access/proof_of_work", detail.to_owned());
        }
        if !Self::PAYMENT_WINDOW_MS.contains(&self.payment_window_ms) {
            return fault("/payment_window_ms", "must be from 10000 to 86400000".to_owned());
        }
        let buckets_max = Self::BUCKETS_MAX.min(shards);
        if !self.buckets.is_power_of_two() || self.buckets > buckets_max {
            return fault("/buckets", format!("must be a power of two from 1 to {buckets_max}"));
        }
        if self.items.is_empty() || self.items.len() > Self::ITEMS_MAX {
            return fault("/items", format!("must hold 1 to {} items", Self::ITEMS_MAX));
        }
        for (index, item) in self.items.iter().enumerate() {
            if item.name.is_empty() || item.name.chars().count() > Self::NAME_MAX {
                let detail = format!("must have 1 to {} characters", Self::NAME_MAX);
                return fault(&format!("/items/{index}/name"), detail);
            }
            if !(1..=Self::STOCK_MAX).contains(&item.stock) {
                return fault(
                    &format!("/items/{index}/stock"),
                    format!("must be from 1 to {}", Self::STOCK_MAX),
                );
            }
            if self.items[..index].iter().any(|other| other.sku_id == item.sku_id) {
                return fault(&format!("/items/{index}/sku_id"), "is listed twice".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_over_buckets_adds_up() {
        let item = Item {
            sku_id: SkuId::parse("x").expect("slug"),
            name: "X".to_owned(),
            stock: 103,
            price: Money::new(1, "CNY").expect("money"),
        };
        let sale = Sale {
            id: SaleId::parse("s").expect("slug"),
            name: "S".to_owned(),
            state: SaleState::Draft,
            starts_ms: 1,
            ends_ms: 2,
            buyer_limit: 1,
            unpaid_max: 3,
            access: Access::default(),
            payment_window_ms: 60_000,
            buckets: 8,
            epoch: 1,
            in_place: false,
            version: 1,
            items: vec![item.clone()],
        };
        assert_eq!(sale.validate(8), Ok(()));
        assert_eq!((0..8).map(|b| sale.bucket_stock(&item, b)).sum::<u32>(), 103);
    }

    #[test]
    fn settled_is_final() {
        assert_eq!(SaleState::Ended.allowed(), [SaleAction::End, SaleAction::Settle]);
        assert_eq!(SaleState::Settled.allowed(), [SaleAction::Settle]);
    }

    #[test]
    fn a_draft_can_only_be_published() {
        assert_eq!(SaleState::Draft.allowed(), [SaleAction::Publish]);
    }
}
