//! Brings a MySQL instance that was set back up to what the shop has seen of it, for `seckill recover mysql`.

mod directory;
mod grants;
mod orders;
mod stores;

pub use orders::LostOrders;
pub use stores::{Found, Recoverer};
