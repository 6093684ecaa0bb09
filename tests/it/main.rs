//! Integration tests against the real local stack (`scripts/stack up`). Each has databases, keys, topic and
//! ports of its own; a missing service is a failed test.

mod client;
mod conformance;
mod faults;
mod harness;
mod lua_model;
mod migrate;
mod own_redis;
mod poison;
mod wishes;
mod writer;
