//! The bounds that the use cases are configured with.

use std::time::Duration;

use crate::domain::purchase_token::TokenKeys;
use crate::ports::Grace;

/// Bounds of the use cases. Units are in the names.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most purchases between reservation and answer.
    pub in_flight_max: usize,
    /// Most purchases merged into one call of the inventory.
    pub reserve_batch_max: usize,
    /// How long a sold-out flag refuses before purchases ask the inventory again. Units that come back are for sale to
    /// everybody after at most as long.
    pub sold_out_recheck: Duration,
    /// How long before the opening purchases are let through to the inventory, whose clock decides.
    pub opening_skew_ms: i64,
    /// How long an answer waits for the acknowledgement of its record by the order log.
    pub append_wait_ms: u64,
    /// Number of orders in all outboxes from which on purchases are refused.
    pub outbox_orders_max: u64,
    /// The longest wait for an order that a client may ask for, in seconds.
    pub wait_s_max: u64,
    /// Most requests that wait for their order at the same time.
    pub waiters_max: usize,
    /// The keys of purchase tokens; `None` where none is configured.
    pub token_keys: Option<TokenKeys>,
    /// After how long without one good probe a component is down.
    pub down_after_ms: u64,
    /// Of a million accepted orders, how many get a line in the log.
    pub logged_per_million: u32,
    /// How long unpaid orders are kept; `None` when they do not expire.
    pub overdue: Option<Grace>,
}
