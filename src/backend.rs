//! Backends: what the ports stand on. Only `app` (and the test harness) opens one.

pub mod distributed;

use std::sync::Arc;

use crate::ports::{Gates, Inventory, Ledger, OrderLog, OrderStore, Outbox, Probe, SaleStore};

/// One opened backend. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    pub inventory: Arc<dyn Inventory>,
    pub gates: Arc<dyn Gates>,
    pub outbox: Arc<dyn Outbox>,
    pub order_log: Arc<dyn OrderLog>,
    pub orders: Arc<dyn OrderStore>,
    pub ledger: Arc<dyn Ledger>,
    pub sales: Arc<dyn SaleStore>,
    /// What `/readyz` asks, each under its own name.
    pub probes: Vec<Arc<dyn Probe>>,
}
