//! The headers by which clients learn of limits. Source: draft-ietf-httpapi-ratelimit-headers-10.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::memory::rulebook::Policy;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Writes a limit, how much is left of it, and after what time there is more.
pub fn write_limit(headers: &mut HeaderMap, policy: &Policy, remaining: u64, reset: Duration) {
    let reset_s = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
    // A crowd's refusals have these headers: pieces cost less than formatting.
    let mut standing = String::with_capacity(96);
    let (mut left, mut in_s) = (itoa::Buffer::new(), itoa::Buffer::new());
    for piece in ["\"", policy.rule.as_str(), "\";r=", left.format(remaining), ";t=", in_s.format(reset_s)] {
        standing.push_str(piece);
    }
    for (name, value) in [(RATE_LIMIT_POLICY, &*policy.text), (RATE_LIMIT, &standing)] {
        // Names of rules are slugs, so both are header values.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}
