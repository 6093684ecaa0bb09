//! Remembers what was noted a moment ago, so that what happens with every request is written once in a while.

use std::collections::HashMap;
use std::sync::Mutex;

/// Above so many entries the old ones are forgotten.
const ENTRIES_MAX: usize = 1024;

/// When something was noted of whom. Entries are hashes of keys and sessions that are known, so there are few.
#[derive(Debug, Default)]
pub struct Notes(Mutex<HashMap<[u8; 32], i64>>);

impl Notes {
    /// Answers whether something is to be noted of `hash` now, because that was not done for `every_ms`. From then on
    /// it is taken as noted.
    pub fn is_due(&self, hash: [u8; 32], now_ms: i64, every_ms: i64) -> bool {
        let mut noted = self.0.lock().expect("no code panics while holding it");
        if noted.get(&hash).is_some_and(|at_ms| now_ms - at_ms < every_ms) {
            return false;
        }
        if noted.len() >= ENTRIES_MAX {
            noted.retain(|_, at_ms| now_ms - *at_ms < every_ms);
        }
        noted.insert(hash, now_ms);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_noted_once_in_a_while_and_what_is_old_is_forgotten() {
        let notes = Notes::default();
        assert!(notes.is_due([1; 32], 0, 60) && notes.is_due([2; 32], 0, 60));
        assert!(!notes.is_due([1; 32], 59, 60));
        assert!(notes.is_due([1; 32], 60, 60));
        let hash = |n: i64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            hash
        };
        assert!((0..3_000).all(|n| notes.is_due(hash(n), 1_000 + n * 60, 60)));
        assert!(notes.0.lock().expect("not poisoned").len() <= ENTRIES_MAX);
    }
}
