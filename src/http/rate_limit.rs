//! The headers by which clients learn of limits. Source: draft-ietf-httpapi-ratelimit-headers-10.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;

use crate::memory::rulebook::Policy;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Writes a limit, how much is left of it, and after what time there is more.
pub fn write_limit(headers: &mut HeaderMap, policy: &Policy, remaining: u64, reset: Duration) {
    let reset_s = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
    let (left, in_s) = (HeaderValue::from(remaining), HeaderValue::from(reset_s));
    // A crowd's refusals have these headers. Pieces cost a third of what formatting costs.
    let pieces = [b"\"", policy.rule.as_str().as_bytes(), b"\";r=", left.as_bytes(), b";t=", in_s.as_bytes()];
    for (name, value) in [
        (RATE_LIMIT_POLICY, HeaderValue::from_str(&policy.text)),
        (RATE_LIMIT, HeaderValue::from_maybe_shared(Bytes::from(pieces.concat()))),
    ] {
        // Names of rules are slugs, so both are header values.
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
}
