//! Tests of what the system does while a server is dead, frozen, slow or cut off, and while its own processes die. Each
//! test has the machine for itself. The tests have a stack of their own to break (`scripts/outage-stack`), which the
//! first test starts. Proxies stand between this stack and the product.

mod binary;
#[path = "../it/client.rs"]
mod client;
mod command_line;
#[path = "../it/contract.rs"]
mod contract;
mod doctor;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod harness;

mod events;
mod kafka;
mod lost_orders;
mod mysql;
mod processes;
#[path = "../it/provider.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod provider;
mod proxy;
mod readiness;
mod redis;
mod set_back;
mod shaving;
mod sick;
mod world;
