//! The phases of a breaker.

/// What a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Calls are made.
    Closed,
    /// No call is made.
    Open,
    /// Some are tried.
    HalfOpen,
}

impl Phase {
    /// Answers its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}
