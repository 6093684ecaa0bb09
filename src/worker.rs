//! Background work: each a public `run_once` with a loop round it. A worker takes no input but its ports, is
//! idempotent, and any number of it may run anywhere.

pub mod order_writer;
pub mod outbox_relay;
