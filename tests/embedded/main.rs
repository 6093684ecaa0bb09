//! Tests of the embedded mode as a process of its own: killed at any moment, with torn files, on a full or failing
//! disk, on folders that it must not touch, and restored from its backups. They need no server.

mod audit;
mod backups;
mod binary;
#[path = "../it/client.rs"]
mod client;
mod command_lines;
#[path = "../it/contract.rs"]
mod contract;
mod disk;
mod doctor;
mod folders;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod harness;
mod kills;
mod load;
mod reload;
mod wal;
