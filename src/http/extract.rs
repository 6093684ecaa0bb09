//! What handlers read from a request. Each function answers with its own problem when its part is missing or wrong.

use std::net::IpAddr;

use actix_web::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, ResponseError};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use super::Context;
use super::problem::{Code, Problem};
use crate::domain::{IdempotencyKey, Object, UserId};

/// The longest body of a shopper's request. A purchase's body has some 50 bytes.
pub const SHOPPER_BODY_BYTES_MAX: usize = 1024;
/// The longest body of an operator's request. A sale with a hundred items has some 20 KiB.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

fn header(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}

/// Verifies the token of a request, and returns its user.
///
/// # Errors
/// `unauthenticated`.
pub fn shopper(request: &HttpRequest, context: &Context) -> Result<UserId, Problem> {
    // This does not use `header`, which looks at every byte. A value that is not ASCII is no token of ours anyway.
    let authorization = request.headers().get(AUTHORIZATION);
    context.tokens.shopper(authorization.and_then(|value| std::str::from_utf8(value.as_bytes()).ok()))
}

/// Reads the whole body. It mostly comes in one piece, which is kept as it is. The framework's own extractor would copy
/// it into eight fresh KiB, which costs as much as deciding about a purchase.
///
/// # Errors
/// `body_too_large` when the body or its announced length is, `malformed_json` when the body is broken off.
pub async fn body(request: &HttpRequest, mut payload: Payload, bytes_max: usize) -> Result<Bytes, Problem> {
    let announced = header(request, CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(Problem::new(Code::BodyTooLarge));
    }
    let mut body = Bytes::new();
    while let Some(piece) = payload.try_next().await.map_err(|e| Problem::of_status(e.status_code()))? {
        if body.len() + piece.len() > bytes_max {
            return Err(Problem::new(Code::BodyTooLarge));
        }
        body = if body.is_empty() { piece } else { [body, piece].concat().into() };
    }
    Ok(body)
}

/// Reads a JSON body, which must be an object.
///
/// # Errors
/// `unsupported_media_type`, `malformed_json`, or `validation_failed` with the field's pointer.
pub fn json<T: DeserializeOwned>(request: &HttpRequest, body: &[u8]) -> Result<T, Problem> {
    let media_type = header(request, CONTENT_TYPE).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    if let Ok(Object(value)) = serde_json::from_slice(body) {
        return Ok(value);
    }
    // The body is read once more, and slower, to say which field is at fault.
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        if inner.is_data() {
            Problem::invalid(&pointer, what(&inner))
        } else {
            Problem::new(Code::MalformedJson).detail(what(&inner))
        }
    })?;
    reader.end().map_err(|error| Problem::new(Code::MalformedJson).detail(what(&error)))?;
    Ok(value)
}

/// Turns the path of a field into a pointer: `items[0].stock` → `/items/0/stock`. Source: RFC 6901.
fn pointer(path: &Path) -> String {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => {
            format!("/{}", key.replace('~', "~0").replace('/', "~1"))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(step).collect()
}

/// Returns serde's words without the line and column: the pointer says where the fault is.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Reads the header `Idempotency-Key`.
///
/// # Errors
/// `idempotency_key_missing`, also for a key with characters that are not allowed.
pub fn idempotency_key(request: &HttpRequest) -> Result<IdempotencyKey, Problem> {
    let key = request.headers().get(IDEMPOTENCY_KEY).and_then(|key| std::str::from_utf8(key.as_bytes()).ok());
    key.and_then(|key| IdempotencyKey::parse(key).ok())
        .ok_or_else(|| Problem::new(Code::IdempotencyKeyMissing))
}

/// Reads the seconds of `Prefer: wait=N`. `None` means that the request does not ask to wait.
pub fn prefer_wait_s(request: &HttpRequest) -> Option<u64> {
    let preferences = header(request, PREFER)?.split([',', ';']);
    preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")).find_map(digits)
}

/// Reads a number as HTTP writes it: digits alone. Rust's own parser would also take a sign.
pub fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Finds the client's address. It is the peer, unless the peer is a trusted proxy. Then it is the right-most entry of
/// `X-Forwarded-For` that is not a trusted proxy. When that entry is not an address, or there is none, it is the peer.
pub fn address(request: &HttpRequest, trusted_proxies: &[IpAddr]) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    let peer = request.peer_addr().map_or(unknown, |peer| peer.ip().to_canonical());
    let is_trusted = |address: &IpAddr| trusted_proxies.contains(address);
    if !is_trusted(&peer) {
        return peer;
    }
    let mut hops = request.headers().get_all("X-Forwarded-For").filter_map(|value| value.to_str().ok());
    let forwarded = hops.by_ref().collect::<Vec<_>>().join(",");
    let mut addresses =
        forwarded.rsplit(',').map(|hop| hop.trim().parse::<IpAddr>().map(|hop| hop.to_canonical()));
    addresses.find_map(|hop| hop.map_or(Some(peer), |hop| (!is_trusted(&hop)).then_some(hop))).unwrap_or(peer)
}
