//! The load tool of seckill: a crowd that arrives when it wants to, and an audit of what the crowd left.
//!
//! It has two halves that know nothing of each other. The engine ([`schedule`], [`client`], [`crowd`], [`buyers`],
//! [`listeners`], [`journal`]) sends clicks at their intended times, remembers every answer, and does what buyers do
//! with what they won. The audit ([`evidence`], [`collect`], [`audit`]) reads all stores and says which promise is
//! broken. It judges by a pure function over what was read, so that it can itself be tested on states that no working
//! system produces.
//! [`report`] prints the findings of both.
//!
//! Nothing here uses the server's library, because the audit could not check what it shared with the server.

pub mod audit;
pub mod buyers;
pub mod cli;
pub mod client;
pub mod clock;
pub mod collect;
pub mod command;
pub mod config;
pub mod crowd;
pub mod evidence;
pub mod ids;
pub mod journal;
pub mod listeners;
pub mod opening;
pub mod order_life;
pub mod progress;
pub mod purchase_tokens;
pub mod report;
pub mod schedule;
pub mod token;
