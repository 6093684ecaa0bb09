//! Where a row was found.

use std::sync::Arc;

/// Where a row was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The server's name, as in [`super::Evidence::servers`].
    pub server: Arc<str>,
    /// The number in the database's name.
    pub shard: u16,
}
