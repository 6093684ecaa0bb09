//! What handlers read from a request. Each function answers with its own problem when its part is missing or wrong.

use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName,
};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpRequest, ResponseError};
use futures::{FutureExt, Stream, TryStreamExt};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use super::auth::{Cause, Shopper, bearer};
use super::headers::{TwoValues, entries, sole, split, unquoted};
use super::problem::{Code, Problem};
use super::{Context, cookies};
use crate::domain::{DeviceId, IdempotencyKey, Object};

/// The longest body of a shopper's request. A purchase's body has some 50 bytes.
pub const SHOPPER_BODY_BYTES_MAX: usize = 1024;
/// The longest body of an operator's request. A sale with a hundred items has some 20 KiB.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Verifies the token of a request, or of its session, and returns whom it speaks of. When it names no device, the
/// header that the configuration names may.
///
/// # Errors
/// `unauthenticated`, also for a request with two different tokens; `forbidden` for a change that a page of another
/// origin asks for with a session; `dependency_unavailable` while the keys
/// that may have signed the token were never read.
pub async fn shopper(request: &HttpRequest, context: &Context) -> Result<Shopper, Problem> {
    let token = match authorization(request)? {
        Some(authorization) => bearer(authorization),
        None => cookies::shopper_token(request)?,
    };
    let mut shopper = shopper_of(token.ok_or_else(|| Cause::Missing.refuse())?, context).await?;
    if let (None, Some(header)) = (&shopper.device, &context.device_header) {
        let named = request.headers().get(header).and_then(|value| value.to_str().ok());
        shopper.device = named.and_then(|device| DeviceId::parse(device).ok());
    }
    Ok(shopper)
}

/// Verifies a token, and returns whom it speaks of.
///
/// # Errors
/// As [`shopper`].
pub async fn shopper_of(token: &str, context: &Context) -> Result<Shopper, Problem> {
    let mut shopper = context.tokens.holder(token);
    if let (Err(Cause::UnknownKey), Some(learn)) = (&shopper, &context.learn_keys) {
        let are_known = learn().await;
        shopper = context.tokens.holder(token);
        if shopper == Err(Cause::UnknownKey) && !are_known {
            return Err(Problem::new(Code::DependencyUnavailable));
        }
    }
    shopper.map_err(Cause::refuse)
}

/// Finds the `Authorization` header, when it is text.
///
/// # Errors
/// `unauthenticated` when there are two different ones.
pub fn authorization(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let value = sole(request, &AUTHORIZATION).map_err(|TwoValues| Cause::Malformed.refuse())?;
    Ok(value.and_then(|value| std::str::from_utf8(value).ok()))
}

/// Reads the whole body. It mostly comes in one piece, which is kept as it is. The framework's own extractor would copy
/// it into eight fresh KiB, which costs as much as deciding about a purchase.
///
/// # Errors
/// `body_too_large` when the body or its announced length is, `malformed_json` when the body is broken off,
/// `body_too_slow` when it is not there within `http.body_timeout_ms`.
pub async fn body(
    request: &HttpRequest,
    payload: Payload,
    bytes_max: usize,
    context: &Context,
) -> Result<Bytes, Problem> {
    if announced(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(Problem::new(Code::BodyTooLarge));
    }
    collected(payload, bytes_max, context).await
}

/// Answers the length of a body, in bytes, that its head announces.
pub fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads what a payload has, as [`body`] does.
///
/// # Errors
/// As [`body`].
pub async fn collected<P>(payload: P, bytes_max: usize, context: &Context) -> Result<Bytes, Problem>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    // Most bodies came in one piece with their head, and need no timer.
    let mut reading = Box::pin(pieces(payload, bytes_max));
    if let Some(body) = (&mut reading).now_or_never() {
        return body;
    }
    let limit = Duration::from_millis(context.body_timeout_ms);
    let body = context.clock.timeout(limit, reading).await;
    body.unwrap_or_else(|_| Err(Problem::new(Code::BodyTooSlow)))
}

async fn pieces<P>(mut payload: P, bytes_max: usize) -> Result<Bytes, Problem>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let (mut first, mut body) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = payload.try_next().await.map_err(|e| Problem::of_status(e.status_code()))? {
        if first.len() + body.len() + piece.len() > bytes_max {
            return Err(Problem::new(Code::BodyTooLarge));
        }
        if first.is_empty() && body.is_empty() {
            first = piece;
        } else {
            body.extend_from_slice(&std::mem::take(&mut first));
            body.extend_from_slice(&piece);
        }
    }
    Ok(if body.is_empty() { first } else { body.freeze() })
}

/// Reads a JSON body, which must be an object.
///
/// # Errors
/// `unsupported_media_type`, `malformed_json`, or `validation_failed` with the field's pointer.
pub fn json<T: DeserializeOwned>(request: &HttpRequest, body: &[u8]) -> Result<T, Problem> {
    let media_type = sole(request, &CONTENT_TYPE).map_err(|TwoValues| {
        Problem::new(Code::UnsupportedMediaType).detail("There are two different Content-Type headers.")
    })?;
    let text = |value| std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
    let media_type = media_type.and_then(text).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim_ascii();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    if request.headers().contains_key(CONTENT_ENCODING) {
        let mut codings = entries(request, &CONTENT_ENCODING).into_iter();
        if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case("identity")) {
            let detail =
                format!("The body is sent as {coding:?}, and only plain bodies are read (Content-Encoding).");
            return Err(Problem::new(Code::UnsupportedMediaType).detail(detail));
        }
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

/// Reads the header `Idempotency-Key`. A key in quotes is the same key as without them. Source: RFC 8941 §3.3.3, to
/// which the IETF's draft of the header refers.
///
/// # Errors
/// `idempotency_key_missing`; `idempotency_key_invalid` for a key with characters or a length that are not allowed, and
/// for two different keys.
pub fn idempotency_key(request: &HttpRequest) -> Result<IdempotencyKey, Problem> {
    let invalid = || Problem::new(Code::IdempotencyKeyInvalid);
    let two = |TwoValues| invalid().detail("There are two different Idempotency-Key headers.");
    let value = sole(request, &IDEMPOTENCY_KEY).map_err(two)?;
    let value = value.ok_or_else(|| Problem::new(Code::IdempotencyKeyMissing))?;
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let key = if text.starts_with('"') {
        IdempotencyKey::parse(&unquoted(text).ok_or_else(invalid)?)
    } else {
        IdempotencyKey::parse(text)
    };
    key.map_err(|_| invalid())
}

/// Reads the seconds of the preference `wait=N`. `None` means that the request does not ask to wait. Names of
/// preferences have no case, several lines are one list, and of several waits the first one counts. Source: RFC 7240
/// §2.
pub fn prefer_wait_s(request: &HttpRequest) -> Option<u64> {
    if !request.headers().contains_key(&PREFER) {
        return None;
    }
    entries(request, &PREFER).into_iter().find_map(|preference| {
        let (name, value) = split(preference.as_bytes(), b';').first()?.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        if is_wait { digits(&unquoted(value.trim())?) } else { None }
    })
}

/// Reads a number as HTTP writes it: digits alone. Rust's own parser would also take a sign.
pub fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
