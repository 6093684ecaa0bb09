//! The pure heart: ids, money, sales, orders and the decisions about them.
//!
//! Nothing here is async, does I/O or knows a client library; every other module may use this one and it
//! uses none of them. Its invariant: a value that exists is valid (`new`/`parse` are the only ways in).

pub mod batch_plan;
pub mod ids;
pub mod inventory_model;
pub mod money;
pub mod object;
pub mod operator;
pub mod order;
pub mod record;
pub mod reservation;
pub mod sale;
pub mod shard;

pub use ids::{IdempotencyKey, OrderId, SaleId, SkuId, UserId};
pub use money::{Money, Quantity};
pub use object::Object;
pub use operator::{ApiKey, Change, Holdings};
pub use order::{Order, OrderCursor, OrderState, RejectReason};
pub use record::{Decided, OrderRecord};
pub use sale::{Item, Sale, SaleState};
pub use shard::{BucketId, Instance, Month, Part, Shard, ShardMap};
