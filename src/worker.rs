//! Background tasks, one file each. The driver runs them. A task decides what one run does, and it knows neither HTTP
//! nor a backend.

pub mod adjustment_finisher;
pub mod alarm_caller;
pub mod announcement_reader;
pub mod announcer;
pub mod catalog_refresh;
pub mod clock_watch;
pub mod copy_remover;
pub mod driver;
pub mod event_publisher;
pub mod event_reader;
pub mod expiry;
pub mod figure_sampler;
pub mod gate_repair;
pub mod health_watch;
pub mod holdings_watch;
pub mod housekeeping;
pub mod lease_guard;
pub mod letter_watch;
pub mod node_beat;
pub mod order_writer;
pub mod outbox_relay;
pub mod pace;
pub mod position_watch;
pub mod rebuilder;
pub mod release_relay;
pub mod rule_refresh;
pub mod stock_watch;
pub mod view_builder;
pub mod watermark_guard;
pub mod webhook_sender;

#[cfg(test)]
mod stepped;
