//! Pages of other origins, which may call the API of shoppers when the configuration says so.

use std::sync::Arc;

use actix_cors::Cors;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    VARY,
};

/// How long a browser remembers what a page of another origin may do, in seconds.
const KEPT_S: usize = 600;
/// What such a page may send, beside the header that names the device.
const SENT: [&str; 6] =
    ["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "If-None-Match", "traceparent"];
/// What it may read.
const READ: [&str; 10] = [
    "Location",
    "Retry-After",
    "ETag",
    "Idempotent-Replayed",
    "Degraded",
    "RateLimit",
    "RateLimit-Policy",
    "X-Seckill-Flags",
    "Preference-Applied",
    "X-Request-Id",
];

/// The origins whose pages may call the API, beside our own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Origins {
    named: Arc<[String]>,
    device_header: Option<HeaderName>,
}

impl Origins {
    /// Names them: `https://shop.example`, or `*` alone for all. Their pages may send `device_header`, which names the
    /// shopper's device.
    pub fn new(named: &[String], device_header: Option<&HeaderName>) -> Self {
        Self { named: named.into(), device_header: device_header.cloned() }
    }

    /// Answers whether there are none.
    pub fn are_none(&self) -> bool {
        self.named.is_empty()
    }

    fn are_all(&self) -> bool {
        matches!(&*self.named, [any] if any == "*")
    }

    /// Makes the rules by which their pages may call the API. Tokens are sent by the page itself, so no answer allows a
    /// browser to add cookies. Source: the Fetch standard, "CORS protocol".
    pub fn cors(&self) -> Cors {
        let cors = Cors::default()
            .allowed_methods(["GET", "HEAD", "POST"])
            .allowed_headers(SENT)
            .expose_headers(READ)
            .max_age(KEPT_S);
        let cors = self.device_header.iter().fold(cors, |cors, header| cors.allowed_header(header));
        if self.are_all() {
            return cors.allow_any_origin().send_wildcard();
        }
        self.named.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
    }

    /// Has their pages read an answer that was made before these rules were asked.
    pub fn let_read(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let Some(origin) = asked.get(ORIGIN) else { return };
        let is_named = self.named.iter().any(|named| named.as_bytes() == origin.as_bytes());
        let origin = if self.are_all() { HeaderValue::from_static("*") } else { origin.clone() };
        if is_named || self.are_all() {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if let Ok(read) = HeaderValue::from_str(&READ.join(", ")) {
                answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, read);
            }
        }
        if !self.are_none() {
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}
