//! The last event of a stream.

use std::sync::Arc;

use crate::chance::Chance;
use crate::domain::stream::End;

/// How long a client waits before it comes again, in ms, and up to a tenth more.
pub const RETRY_MS: u64 = 1000;
/// Clients of a process that goes away come again within so long, in ms, each at another time.
const DRAIN_MS: u64 = 10_000;

/// Clients that were told nothing for long come again within so long, in ms, each at another time: what they were told
/// last, all were told at once.
const IDLE_MS: u64 = 60_000;

/// Who had to give up its place comes again after so long, in ms, and up to twice that.
const EVICTED_MS: u64 = 30_000;

/// Answers when a client comes again after a stream's end, in ms.
fn retry_ms(end: End) -> u64 {
    match end {
        End::Drain | End::Missed | End::SwitchedOff => Chance::System.number() % DRAIN_MS,
        End::Idle => Chance::System.number() % IDLE_MS,
        // Who comes again at once would drive the next one out.
        End::Evicted => EVICTED_MS + Chance::System.number() % EVICTED_MS,
        _ => Chance::System.with_jitter(RETRY_MS),
    }
}

/// Writes the data of `bye`.
pub fn bye(end: End) -> Arc<str> {
    serde_json::json!({ "reason": end.as_str(), "retry_ms": retry_ms(end) }).to_string().into()
}
