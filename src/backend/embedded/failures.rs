//! Makes the failures that SQLite does not report. They come before a transaction's COMMIT, when nothing stands yet, so
//! their effect is `NotApplied`.

use crate::ports::{Effect, ErrorKind, StoreError};

/// Makes a failure that is no outage: something is what it never should be.
pub fn broken(context: &'static str, detail: impl Into<String>) -> StoreError {
    failure(ErrorKind::Broken, context, detail.into())
}

/// Makes the failure of a folder that cannot be used now.
pub fn unavailable(context: &'static str, detail: impl Into<String>) -> StoreError {
    failure(ErrorKind::Unavailable, context, detail.into())
}

fn failure(kind: ErrorKind, context: &'static str, detail: String) -> StoreError {
    StoreError { kind, effect: Effect::NotApplied, context, source: detail.into() }
}
