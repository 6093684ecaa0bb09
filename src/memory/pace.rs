//! How long an order of each partition waits for its row, as was measured last.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::Part;

/// The shortest estimate, in ms. A record waits for its fetch, for its batch and for the commit, also when nothing is
/// ahead of it.
pub const SHORTEST_MS: u64 = 500;
/// The estimate while records wait and no progress was seen, in ms.
pub const STALLED_MS: u64 = 2_000;
/// After how many ms to ask again for an order that waits for a person.
pub const DELAYED_MS: u64 = 30_000;

/// The current estimate of every partition.
pub struct Pace {
    wait_ms: Vec<AtomicU64>,
}

impl Pace {
    /// Makes the estimates of `parts` partitions, none of which has anything to do.
    pub fn new(parts: u16) -> Self {
        Self { wait_ms: (0..parts).map(|_| AtomicU64::new(SHORTEST_MS)).collect() }
    }

    /// Answers after how many ms to ask again for an order of this partition. An unknown partition counts as stalled.
    pub fn poll_after_ms(&self, part: Part) -> u64 {
        self.wait_ms.get(usize::from(part.number())).map_or(STALLED_MS, |wait| wait.load(Ordering::Relaxed))
    }

    /// Notes a new estimate, in ms. An unknown partition is passed over.
    pub fn set(&self, part: Part, wait_ms: u64) {
        if let Some(wait) = self.wait_ms.get(usize::from(part.number())) {
            wait.store(wait_ms, Ordering::Relaxed);
        }
    }
}
