//! One suite for both modes. It tests what a shop does, whatever it stands on. A rule that one mode cannot have stands
//! in docs/operations.md, under "Where the modes differ".

/// Makes each rule of a module a test of both modes, `distributed::<rule>` and `embedded::<rule>`.
macro_rules! in_both_modes {
    ($($rule:ident),* $(,)?) => {
        #[cfg(feature = "distributed")]
        mod distributed {
            $(#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
            async fn $rule() {
                Box::pin(super::$rule(seckill::config::Mode::Distributed)).await;
            })*
        }
        #[cfg(feature = "embedded")]
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
            async fn $rule() {
                Box::pin(super::$rule(seckill::config::Mode::Embedded)).await;
            })*
        }
    };
}

mod access;
mod adjustments;
mod admin;
mod books;
mod breakers;
mod broken_clients;
mod changes;
mod connections;
mod contract;
mod crowds;
mod dead_letters;
mod doors;
pub mod ends;
mod faults;
mod greys;
pub mod http_errors;
mod inside;
mod journal;
mod operations;
mod order_reads;
mod pages;
mod payment_events;
mod payments;
pub mod poison;
mod purchases;
mod refunds;
mod refused;
mod retention;
mod rules;
mod settling;
mod slow_clients;
mod streams;
mod tokens;
pub mod web;
mod webhooks;
pub mod writer;
