//! The error of a use case that could not be carried out.

use crate::ports::{Effect, ErrorKind, StoreError};

/// The error of a use case that could not be carried out, as far as a client may know it. The cause is logged here,
/// where it is consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A component did not do its part. Nothing was changed.
    Unavailable,
    /// One part of the change stands, and another does not. The operator repeats the call, which finishes it.
    AppliedPartly {
        /// What stands, and what is missing, in a sentence.
        detail: String,
    },
    /// A component did not answer, so the change may stand. The client repeats the call.
    OutcomeUnknown,
}

impl Failure {
    /// Makes the failure of a read: unavailable, because a read changes nothing, whatever it failed with.
    pub(super) fn of_read(error: StoreError) -> Self {
        Self::from(StoreError { effect: Effect::NotApplied, ..error })
    }

    /// Makes the failure of a read whose error others have, too.
    pub(super) fn of_shared_read(error: &StoreError) -> Self {
        tracing::warn!(%error, "use case failed");
        Self::Unavailable
    }

    /// Makes the failure of a change whose first part stands and whose second part failed with `error`.
    pub(super) fn applied_partly(stands: &str, missing: &str, error: StoreError) -> Self {
        tracing::warn!(%error, stands, "use case half done");
        // Only operators see this.
        let cause = match error.kind {
            ErrorKind::Broken => error.source.to_string(),
            ErrorKind::Unavailable => "a component does not answer".to_owned(),
            ErrorKind::Conflict => "another change came between".to_owned(),
        };
        Self::AppliedPartly { detail: format!("{stands}; {missing} ({cause})") }
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
