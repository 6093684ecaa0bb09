//! Integration tests against the real local stack (`scripts/stack up`). Each has databases, keys, topic and
//! ports of its own; a missing service is a failed test.

mod admin;
mod broken_clients;
mod client;
mod crowds;
#[cfg(feature = "embedded")]
mod demo;
mod faults;
mod harness;
mod http_errors;
mod lua_model;
mod migrate;
mod own_redis;
mod poison;
mod purchases;
mod writer;
