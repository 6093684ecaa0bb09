//! The error of a use case that could not be carried out.

use crate::ports::{Effect, StoreError};

/// The error of a use case that could not be carried out, as far as a client may know it. The cause is logged here,
/// where it is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A component did not do its part. Nothing was changed.
    Unavailable,
    /// A component did not answer, so the change may stand. The client repeats the call.
    OutcomeUnknown,
}

impl Failure {
    /// Makes the failure of a read: unavailable, because a read changes nothing, whatever it failed with.
    pub(super) fn of_read(error: StoreError) -> Self {
        Self::from(StoreError { effect: Effect::NotApplied, ..error })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "use case failed");
        match error.effect {
            Effect::NotApplied => Self::Unavailable,
            Effect::Unknown => Self::OutcomeUnknown,
        }
    }
}
