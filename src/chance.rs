//! The only place that makes random numbers. Everything else is handed a [`Chance`], so that a test repeats a run.
//!
//! Secrets come from the operating system ([`bytes`]) and from nowhere else.

use std::sync::{Arc, Mutex};

/// A source of random numbers that are no secrets: ids of requests, the spread of waits. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Chance {
    /// Differs in every process and thread.
    System,
    /// The same numbers in the same order after the same seed.
    Seeded(Arc<Mutex<fastrand::Rng>>),
}

impl Chance {
    /// A source that repeats itself.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// Any number of 64 bits.
    pub fn number(&self) -> u64 {
        match self {
            Self::System => fastrand::u64(..),
            Self::Seeded(source) => source.lock().expect("no code panics while holding it").u64(..),
        }
    }

    /// `ms` and up to a tenth more, so that a crowd told the same does not come back as one.
    pub fn with_jitter(&self, ms: u64) -> u64 {
        ms + self.number() % (ms / 10 + 1)
    }
}

/// Random bytes of the operating system, for what nobody may guess and for what must never come twice.
///
/// # Panics
/// When the operating system has no randomness: nothing secret can be made then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_others() {
        let numbers = |seed| {
            let chance = Chance::seeded(seed);
            [(); 4].map(|()| chance.number())
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        let chance = Chance::seeded(1);
        assert!((0..1000).all(|_| (100..=110).contains(&chance.with_jitter(100))));
        assert_eq!(chance.with_jitter(0), 0);
    }
}
