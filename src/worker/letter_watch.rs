//! Counts the dead letters that wait for an operator, so that their alarm stands until somebody has decided them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::metrics::DEAD_LETTERS_OPEN;
use crate::ports::{DeadLetters, StoreResult};

/// The task that counts dead letters.
pub struct LetterWatch {
    /// The dead letters.
    pub letters: Arc<dyn DeadLetters>,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for LetterWatch {
    fn name(&self) -> &'static str {
        "letter_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Counts the open ones of all instances. When one does not answer, the last count stays.
    async fn run_once(&self) -> StoreResult<Progress> {
        let open = self.letters.open().await?;
        gauge!(DEAD_LETTERS_OPEN).set(f64::from(u32::try_from(open).unwrap_or(u32::MAX)));
        Ok(Progress::of(1))
    }
}
