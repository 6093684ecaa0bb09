//! The wall clock, for token lifetimes and the time of the opening. Latency is taken from monotonic time only.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 on a machine whose clock is before it.
#[expect(clippy::disallowed_methods, reason = "the load tool's only reading of the wall clock")]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
