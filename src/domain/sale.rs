//! A sale, its items and its life: draft → published → preheated ⇄ paused → ended.

use serde::{Deserialize, Serialize};

use super::ids::{SaleId, SkuId};
use super::money::{Money, Quantity};
use super::shard::Month;

/// One SKU of a sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub sku_id: SkuId,
    pub name: String,
    /// Units for sale in all, 1 to [`Sale::STOCK_MAX`].
    pub stock: u32,
    pub price: Money,
}

/// A time-boxed event with scarce goods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    pub id: SaleId,
    pub name: String,
    pub state: SaleState,
    /// Opening, in ms since 1970; purchases before it are refused by Redis TIME.
    pub starts_ms: i64,
    /// Closing (exclusive), in ms since 1970.
    pub ends_ms: i64,
    /// Most live units one buyer may hold in this sale (I5).
    pub buyer_limit: u32,
    /// How long a persisted order waits for its payment.
    pub payment_window_ms: i64,
    /// Redis slots its stock is spread over: a power of two.
    pub buckets: u16,
    /// Grows with every rebuild of the Redis state; records of an older one are stale.
    pub epoch: u32,
    /// Grows with every change; the ETag of the admin API.
    pub version: u64,
    /// 1 to [`Sale::ITEMS_MAX`], ascending by SKU id.
    pub items: Vec<Item>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// Only operators see it.
    Draft,
    /// Shoppers see it; nothing stands in Redis yet.
    Published,
    /// Stock stands in Redis; it sells from `starts_ms` to `ends_ms`.
    Preheated,
    /// Refuses purchases until resumed.
    Paused,
    /// Final.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaleAction {
    Publish,
    Preheat,
    Pause,
    Resume,
    End,
}

/// What a shopper may do with a sale at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Upcoming,
    Live,
    Paused,
    Ended,
}

/// A fault in a sale's definition; `pointer` is the JSON pointer of the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct InvalidSale {
    pub pointer: String,
    pub detail: String,
}

impl SaleState {
    pub const ALL: [Self; 5] = [Self::Draft, Self::Published, Self::Preheated, Self::Paused, Self::Ended];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Preheated => "preheated",
            Self::Paused => "paused",
            Self::Ended => "ended",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The state an action leads to, or `None` where it is not allowed. Repeating the action that led here is
    /// allowed and changes nothing, so that an operator may retry after a lost answer.
    pub fn after(self, action: SaleAction) -> Option<Self> {
        use SaleAction as A;
        match (self, action) {
            (Self::Draft | Self::Published, A::Publish) => Some(Self::Published),
            (Self::Published | Self::Preheated, A::Preheat) => Some(Self::Preheated),
            (Self::Preheated | Self::Paused, A::Pause) => Some(Self::Paused),
            (Self::Preheated | Self::Paused, A::Resume) => Some(Self::Preheated),
            (Self::Published | Self::Preheated | Self::Paused | Self::Ended, A::End) => Some(Self::Ended),
            (Self::Draft, A::Preheat | A::Pause | A::Resume | A::End)
            | (Self::Published, A::Pause | A::Resume)
            | (Self::Preheated, A::Publish)
            | (Self::Paused, A::Publish | A::Preheat)
            | (Self::Ended, A::Publish | A::Preheat | A::Pause | A::Resume) => None,
        }
    }

    pub fn allowed(self) -> Vec<SaleAction> {
        SaleAction::ALL.into_iter().filter(|&action| self.after(action).is_some()).collect()
    }

    /// What the gates of a sale in this state say; `None` while it has none.
    pub fn gate(self) -> Option<&'static str> {
        match self {
            Self::Draft | Self::Published => None,
            Self::Preheated => Some("open"),
            Self::Paused => Some("paused"),
            Self::Ended => Some("ended"),
        }
    }

    /// Whether the definition (times, limits, items) may still be patched: nothing has been handed to Redis
    /// or to the pools yet.
    pub fn is_editable(self) -> bool {
        matches!(self, Self::Draft | Self::Published)
    }
}

impl SaleAction {
    pub const ALL: [Self; 5] = [Self::Publish, Self::Preheat, Self::Pause, Self::Resume, Self::End];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Preheat => "preheat",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::End => "end",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

impl Sale {
    pub const ITEMS_MAX: usize = 100;
    pub const STOCK_MAX: u32 = 100_000_000;
    pub const BUCKETS_MAX: u16 = 64;
    pub const NAME_MAX: usize = 120;
    const PAYMENT_WINDOW_MS: std::ops::RangeInclusive<i64> = 10_000..=86_400_000;

    pub fn item(&self, sku: &SkuId) -> Option<&Item> {
        self.items.iter().find(|item| item.sku_id == *sku)
    }

    /// The month whose orders table holds every order of this sale.
    pub fn month(&self) -> Month {
        Month::of_ms(self.starts_ms)
    }

    /// `None` while the sale is a draft, which shoppers must not see.
    pub fn phase(&self, now_ms: i64) -> Option<Phase> {
        match self.state {
            SaleState::Draft => None,
            SaleState::Ended => Some(Phase::Ended),
            _ if now_ms >= self.ends_ms => Some(Phase::Ended),
            SaleState::Paused => Some(Phase::Paused),
            SaleState::Published => Some(Phase::Upcoming),
            SaleState::Preheated if now_ms < self.starts_ms => Some(Phase::Upcoming),
            SaleState::Preheated => Some(Phase::Live),
        }
    }

    /// Stock of one item in one bucket; what does not divide goes to the first buckets.
    pub fn bucket_stock(&self, item: &Item, bucket: u16) -> u32 {
        let buckets = u32::from(self.buckets);
        item.stock / buckets + u32::from(u32::from(bucket) < item.stock % buckets)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`InvalidSale`] with the first fault found.
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
            payment_window_ms: 60_000,
            buckets: 8,
            epoch: 1,
            version: 1,
            items: vec![item.clone()],
        };
        assert_eq!(sale.validate(8), Ok(()));
        assert_eq!((0..8).map(|b| sale.bucket_stock(&item, b)).sum::<u32>(), 103);
    }

    #[test]
    fn ended_is_final() {
        assert_eq!(SaleState::Ended.allowed(), [SaleAction::End]);
    }

    #[test]
    fn a_draft_can_only_be_published() {
        assert_eq!(SaleState::Draft.allowed(), [SaleAction::Publish]);
    }
}
