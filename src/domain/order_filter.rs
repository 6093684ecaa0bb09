//! Which orders an operator looks for.

use super::ids::{Reference, SaleId, SkuId, UserId};
use super::order_life::OrderState;

/// Which orders of a sale are wanted. `None` leaves a condition out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderFilter {
    /// Of this sale.
    pub sale: SaleId,
    /// Of this SKU.
    pub sku: Option<SkuId>,
    /// Of this buyer.
    pub user: Option<UserId>,
    /// In this state.
    pub state: Option<OrderState>,
    /// With this name of the shop's own.
    pub reference: Option<Reference>,
    /// Accepted not before this time, ms since 1970.
    pub since_ms: Option<i64>,
    /// Accepted before this time, ms since 1970.
    pub until_ms: Option<i64>,
}

impl OrderFilter {
    /// Looks for all orders of a sale.
    pub fn of(sale: SaleId) -> Self {
        Self { sale, sku: None, user: None, state: None, reference: None, since_ms: None, until_ms: None }
    }
}
