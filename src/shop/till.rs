//! How the shop takes money.

use std::sync::Arc;

use crate::domain::PaymentTerms;
use crate::ports::PaymentProvider;

/// What a shop needs to take money. It holds secrets, and so it is never printed.
pub struct Till {
    /// Takes the money.
    pub provider: Arc<dyn PaymentProvider>,
    /// What payments are asked for beyond their orders.
    pub terms: PaymentTerms,
    /// The secrets of which one signs the provider's events, all of them valid.
    pub secrets: Vec<Vec<u8>>,
    /// Whether the provider moves real money. Events of the other kind change nothing.
    pub is_live: bool,
    /// How long a capture that no payment explains is tried again before it is paid back, in ms.
    pub orphan_ms: i64,
}
