//! Integration tests: one suite over both modes (`conformance`), and tests of what only one mode has. The distributed
//! mode is tested on the real local stack (`scripts/stack up`), and a missing service fails a test. Each test has
//! databases, keys, topic, folder and ports of its own.

mod client;
mod contract;
#[macro_use]
mod conformance;
mod clocks;
mod ending;
mod harness;
mod provider;
mod receiver;
mod stream_client;
mod stripe;
mod wishes;

#[cfg(feature = "distributed")]
mod alerts;
#[cfg(feature = "distributed")]
mod by_hand;
#[cfg(feature = "distributed")]
mod cluster_limits;
#[cfg(feature = "distributed")]
mod dead_letters;
#[cfg(feature = "embedded")]
mod demo;
#[cfg(feature = "distributed")]
mod doctor;
#[cfg(feature = "distributed")]
mod events;
#[cfg(feature = "distributed")]
mod grants;
#[cfg(all(feature = "distributed", feature = "tls"))]
mod links;
#[cfg(feature = "distributed")]
mod logs;
#[cfg(feature = "distributed")]
mod losses;
#[cfg(feature = "distributed")]
mod lost_keys;
#[cfg(feature = "distributed")]
mod lua_model;
#[cfg(feature = "distributed")]
mod migrate;
#[cfg(all(feature = "distributed", feature = "embedded"))]
mod notifications;
#[cfg(feature = "distributed")]
mod order_changes;
#[cfg(feature = "distributed")]
mod order_copies;
#[cfg(feature = "distributed")]
mod order_log;
#[cfg(feature = "distributed")]
mod own_redis;
#[cfg(feature = "distributed")]
mod positions;
#[cfg(all(feature = "distributed", feature = "profiles"))]
mod profiles;
#[cfg(feature = "distributed")]
mod proxies;
#[cfg(feature = "distributed")]
#[path = "../outages/proxy.rs"]
#[expect(dead_code, reason = "only tests/outages loses answers with it")]
mod proxy;
#[cfg(feature = "distributed")]
mod reconcile;
#[cfg(feature = "distributed")]
mod recovery;
#[cfg(feature = "distributed")]
mod relay;
#[cfg(feature = "distributed")]
mod releases;
#[cfg(feature = "distributed")]
mod set_back;
#[cfg(feature = "distributed")]
mod several_servers;
#[cfg(feature = "distributed")]
mod sick_redis;
#[cfg(feature = "embedded")]
mod sqlite_model;
#[cfg(feature = "distributed")]
mod streams;
#[cfg(all(feature = "distributed", feature = "traces"))]
mod traces;
#[cfg(all(feature = "distributed", feature = "embedded"))]
mod transfer;
#[cfg(feature = "distributed")]
mod unfinished_adjustments;
#[cfg(all(feature = "distributed", feature = "embedded"))]
mod upgrades;
