//! A change of the units that a sale has of a SKU while it is on.
//!
//! Invariant: units that come are in the pools before a bucket sells them, and units that go have left the buckets
//! before the pools have fewer. So no order is accepted that no ledger could hold.

use serde::Serialize;
use utoipa::ToSchema;

use super::ids::SkuId;
use super::sale::Sale;

/// More or fewer units of a SKU, or units on sale again that were withheld.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Adjustment {
    /// The SKU.
    pub sku_id: SkuId,
    /// Units for sale in all before it, 1 to [`Sale::STOCK_MAX`].
    pub before: u32,
    /// Units for sale in all after it, 1 to [`Sale::STOCK_MAX`].
    pub after: u32,
    /// Withheld units that go back on sale, 0 when there are fewer units after it.
    pub returned: u32,
}

impl Adjustment {
    /// The word in the audit log.
    pub const ACTION: &str = "adjust_stock";

    /// Counts the units that the buckets get.
    pub fn added(&self) -> u32 {
        self.after.saturating_sub(self.before).saturating_add(self.returned)
    }

    /// Counts the units that leave the buckets.
    pub fn taken(&self) -> u32 {
        self.before.saturating_sub(self.after)
    }

    /// Counts the units that a rebuild may count on while the adjustment is under way: those that are there before it
    /// and after it.
    pub fn certain(&self) -> u32 {
        self.before.min(self.after).saturating_sub(self.returned)
    }

    /// Answers the sale as it is after the adjustment.
    pub fn applied_to(&self, sale: &Sale) -> Sale {
        let mut sale = Sale { version: sale.version + 1, ..sale.clone() };
        for item in sale.items.iter_mut().filter(|item| item.sku_id == self.sku_id) {
            item.stock = self.after;
        }
        sale
    }
}
