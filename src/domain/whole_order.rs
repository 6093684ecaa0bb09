//! An order with its payments, as its buyer reads it.

use serde::{Deserialize, Serialize};

use super::order::Order;
use super::payment::Payment;

/// An order with its payments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeOrder {
    /// The order.
    pub order: Order,
    /// Its payments, ascending by attempt. There are none before it has a row, and where the shop takes no money.
    pub payments: Vec<Payment>,
}

impl From<Order> for WholeOrder {
    fn from(order: Order) -> Self {
        Self { order, payments: Vec::new() }
    }
}
