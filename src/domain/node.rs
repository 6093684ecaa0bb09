//! Nodes: the processes of a shop, as they tell of themselves.

use serde::{Deserialize, Serialize};

/// What a process tells of itself twice a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBeat {
    /// The process: 32 hexadecimal digits, which no other one ever has.
    pub id: String,
    /// What it runs: `all`, `api` or `worker`.
    pub role: String,
    /// Where it serves operators, `host:port`.
    pub admin: String,
    /// Where it serves shoppers; `None` for a worker.
    pub shopper: Option<String>,
    /// Its version.
    pub version: String,
    /// When it began, ms since 1970.
    pub started_ms: i64,
    /// The version of the rules of traffic that it follows.
    pub rules_version: u64,
    /// Whether it goes away.
    pub draining: bool,
}

/// A process, and how long ago it told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it told last.
    pub beat: NodeBeat,
    /// How long ago that was, in ms.
    pub age_ms: i64,
}

impl Node {
    /// A process that has told nothing for so long is lost, in ms: it tells of itself three times in it.
    pub const LOST_AFTER_MS: i64 = 1500;
    /// A process that was lost for so long is forgotten, in ms.
    pub const FORGOTTEN_AFTER_MS: i64 = 600_000;

    /// Answers whether it should have told something long ago.
    pub fn is_lost(&self) -> bool {
        self.age_ms > Self::LOST_AFTER_MS
    }
}
