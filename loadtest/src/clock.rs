//! The wall clock, for token lifetimes and the time of the opening. Latency is measured by monotonic time only.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns milliseconds since 1970. It is 0 on a machine whose clock stands before 1970.
#[expect(clippy::disallowed_methods, reason = "the load tool's only reading of the wall clock")]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
