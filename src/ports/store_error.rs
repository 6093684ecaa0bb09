//! The error of a failed call to a backend.

/// Whether a failed call may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing was changed.
    NotApplied,
    /// The change may stand.
    Unknown,
}

/// What kind of failure it was, and so what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The component could not be reached, or did not answer in time.
    Unavailable,
    /// A concurrent change won (deadlock, lock wait, version). The caller takes the work again.
    Conflict,
    /// The component answered what it never should. That is a fault of ours, or damaged data.
    Broken,
}

/// A failed call to a backend. Its text is for logs and never reaches a client.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source} ({kind:?}, effect {effect:?})")]
pub struct StoreError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// Whether the call may have taken effect.
    pub effect: Effect,
    /// What was being done, as "read sales".
    pub context: &'static str,
    /// What the client library or the component said.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The result of a call to a backend.
pub type StoreResult<T> = Result<T, StoreError>;

impl StoreError {
    /// Makes the error of a component that answered what it never should. Its effect is unknown.
    pub fn broken(context: &'static str, detail: impl Into<String>) -> Self {
        let source: Box<dyn std::error::Error + Send + Sync> = detail.into().into();
        Self { kind: ErrorKind::Broken, effect: Effect::Unknown, context, source }
    }
}
