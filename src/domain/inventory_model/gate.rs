//! The gate of a bucket.

/// The gate of a bucket: whether it sells, and on which terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The epoch in which the bucket was put in place or rebuilt last.
    pub epoch: u32,
    /// Whether the bucket sells.
    pub state: GateState,
    /// Version of the sale that set the state last; `None` when none has set it since the preheat.
    pub version: Option<u64>,
    /// The terms; `None` when one of them cannot be read. Such a gate is shut.
    pub terms: Option<Terms>,
    /// Whether an order was ever held. From then on all keys have to be there.
    pub sold: bool,
    /// Whether an order was ever left unpaid. From then on buyers are looked up.
    pub given_up: bool,
    /// Whether keys were found missing. The bucket sells nothing any more.
    pub lost: bool,
    /// Whether the server is still on the run on which the bucket was put in place. A file that is written by one
    /// process at a time always is.
    pub is_on_its_run: bool,
}

/// The state of a gate, as the script `gate.lua` sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// The bucket sells nothing yet, because other buckets of its sale may not be in place.
    Placing,
    /// The bucket sells, within the gate's terms.
    Open,
    /// The bucket refuses new orders until the sale is resumed.
    Paused,
    /// The bucket refuses new orders for good.
    Ended,
    /// Anything else: damaged, or written by a newer version. Such a gate is shut.
    Unknown,
}

/// The terms of a gate. Times are in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// When the bucket begins to sell.
    pub opens_ms: i64,
    /// When the bucket stops selling (exclusive).
    pub closes_ms: i64,
    /// Most live units of one buyer.
    pub buyer_limit: u32,
    /// Most orders that one buyer may leave unpaid; 0 for no limit.
    pub unpaid_max: u32,
    /// When the lease is over and the gate is shut; 0 means that no guard renews a lease for the gate.
    pub lease_ms: i64,
}
