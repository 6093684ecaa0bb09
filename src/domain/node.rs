//! Nodes: the processes of a shop, as they tell of themselves.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// The id of a process, which no other one ever has: 16 random bytes, as text 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId([u8; 16]);

/// The first four bytes of a process's id, as text 8 hexadecimal digits. Records and rows have it, because a whole id
/// would cost each of them more than it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeMark([u8; 4]);

impl NodeId {
    /// Makes the id of random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Answers its bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// Answers what records and rows have of it.
    pub fn mark(self) -> NodeMark {
        let [a, b, c, d, ..] = self.0;
        NodeMark([a, b, c, d])
    }
}

impl NodeMark {
    /// Reads its bytes; `None` for zeros, which stand for a process that is not known, and for other than four bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().filter(|bytes| *bytes != [0; 4]).map(Self)
    }

    /// Answers its bytes.
    pub const fn bytes(self) -> [u8; 4] {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for NodeMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl Serialize for NodeMark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeMark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let number = (text.len() == 8).then(|| u32::from_str_radix(&text, 16).ok()).flatten();
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or_else(|| serde::de::Error::custom("a process is named by 8 hexadecimal digits"))
    }
}

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
    /// What it does. A process of an older version tells nothing of it.
    #[serde(default)]
    pub load: NodeLoad,
}

/// What a process did in its last second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLoad {
    /// Purchases that it answered.
    pub attempts: u32,
    /// Those of them that it accepted.
    pub accepted: u32,
    /// Orders that it wrote.
    pub written: u32,
    /// How long 99 of 100 purchases took at most, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purchase_p99_ms: Option<u32>,
    /// The background tasks whose last run has failed.
    pub failing: Vec<String>,
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
