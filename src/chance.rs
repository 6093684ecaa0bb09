//! Random numbers, made nowhere else. Other modules take them from a [`Chance`]; with a seeded one a test repeats a
//! run.
//!
//! Secrets come from the operating system ([`bytes()`]) and from nowhere else.

use std::sync::{Arc, Mutex};

/// A source of random numbers that are no secrets: ids of requests, the spread of waits. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Chance {
    /// Its numbers differ in every process and thread.
    System,
    /// It gives the same numbers in the same order after the same seed.
    Seeded(Arc<Mutex<fastrand::Rng>>),
}

impl Chance {
    /// Makes a source that gives the same numbers whenever it is made of the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// Answers any number of 64 bits.
    pub fn number(&self) -> u64 {
        match self {
            Self::System => fastrand::u64(..),
            Self::Seeded(source) => source.lock().expect("no code panics while holding it").u64(..),
        }
    }

    /// Answers `ms` and up to a tenth more, so that clients that were told the same do not all come back at once.
    pub fn with_jitter(&self, ms: u64) -> u64 {
        ms + self.number() % (ms / 10 + 1)
    }
}

/// Answers random bytes of the operating system, for values that nobody may guess or that must never come twice.
///
/// # Panics
/// When the operating system has no randomness, because nothing secret can be made then.
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
