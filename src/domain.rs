//! The pure core: ids, money, sales, orders and the decisions about them.
//!
//! Nothing here is async, does I/O or knows a client library. Every other module may use this one, and it uses none of
//! them. Invariant: an id, an amount or a quantity that exists is valid, because `new` and `parse` check it. A sale is
//! checked by `Sale::validate`.

pub mod adjustment;
pub mod alarm;
pub mod api_key;
pub mod attempts;
pub mod audit;
pub mod batch_plan;
pub mod books;
pub mod calendar;
pub mod dead_letter;
pub mod decided;
pub mod exported;
pub mod exposition;
pub mod fence;
pub mod figure;
pub mod ids;
pub mod inventory_model;
pub mod journal;
pub mod log_position;
pub mod money;
pub mod mover;
pub mod node;
pub mod object;
pub mod operator;
pub mod order;
pub mod order_filter;
pub mod order_id;
pub mod order_life;
pub mod payment;
pub mod purchase_token;
pub mod rebuild;
pub mod record;
pub mod reservation;
pub mod rule;
pub mod sale;
pub mod scope;
pub mod shard;
pub mod signature;
pub mod stored_event;
pub mod stream;
pub mod subscription;
pub mod task_status;
pub mod told_order;
pub mod view;
pub mod watermark;
pub mod whole_order;

pub use adjustment::Adjustment;
pub use api_key::{ApiKey, KeyId};
pub use dead_letter::{DeadLetter, DeadLetterId, LetterQuery, LetterState};
pub use decided::TakenStep;
pub use exported::{Exported, ExportedPayment};
pub use fence::Fences;
pub use ids::{DependencyId, DeviceId, FlagId, IdempotencyKey, Reference, RuleId, SaleId, SkuId, UserId};
pub use journal::OrderMove;
pub use log_position::{Halt, LogId, Position};
pub use money::{Money, Quantity};
pub use mover::Mover;
pub use node::{NodeId, NodeMark};
pub use object::Object;
pub use operator::{Change, Holdings};
pub use order::{Decision, Order, OrderCursor, RejectReason};
pub use order_filter::OrderFilter;
pub use order_id::OrderId;
pub use order_life::OrderState;
pub use payment::{Capture, Payment, PaymentId, PaymentRequest, PaymentTerms, Refund};
pub use record::OrderRecord;
pub use sale::{Access, Item, Sale, SaleState, Sales};
pub use scope::Scope;
pub use shard::{BucketId, Instance, Month, Part, Shard, ShardMap};
pub use stored_event::{EventNumbers, StoredEvent};
pub use task_status::TaskStatus;
pub use whole_order::WholeOrder;
