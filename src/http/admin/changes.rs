//! What every change by an operator has: its body, its reason, and the version that it is about.

use actix_web::http::header::IF_MATCH;
use actix_web::{HttpRequest, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::extract::ADMIN_BODY_BYTES_MAX;
use crate::http::headers::entries;
use crate::http::problem::{Code, Problem};
use crate::http::shopper::parse_rfc3339;
use crate::http::{Context, extract};
use utoipa::{IntoParams, ToSchema};

/// Longest reason of a change, in characters.
const REASON_MAX: usize = 200;

/// The body of an action that takes a sale through its life.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Reason)]
pub struct ReasonBody {
    /// Why: it stands in the audit log.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

impl ReasonBody {
    /// Returns the reason for the audit log.
    ///
    /// # Errors
    /// `validation_failed` when the reason is empty or too long.
    pub fn reason(self) -> Result<String, Problem> {
        checked_reason(&self.reason)
    }
}

/// Checks the reason of a change.
///
/// # Errors
/// `validation_failed` when it is empty or too long.
pub fn checked_reason(reason: &str) -> Result<String, Problem> {
    let length = reason.chars().count();
    let reason = reason.trim();
    if reason.is_empty() || length > REASON_MAX {
        return Err(Problem::invalid("/reason", format!("must have 1 to {REASON_MAX} characters")));
    }
    Ok(reason.to_owned())
}

/// The query string of a removal.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReasonQuery {
    /// Why: it stands in the audit log.
    #[param(required, nullable = false, min_length = 1, max_length = 200)]
    reason: Option<String>,
}

impl ReasonQuery {
    /// Answers the checked reason.
    ///
    /// # Errors
    /// As [`checked_reason`].
    pub fn checked(&self) -> Result<String, Problem> {
        checked_reason(self.reason.as_deref().unwrap_or_default())
    }
}

/// Reads when something ends.
///
/// # Errors
/// `validation_failed` for what is no time.
pub fn until_ms(until: Option<&str>) -> Result<Option<i64>, Problem> {
    until.map(|text| parse_rfc3339("/until", text)).transpose()
}

/// Reads the versions of which the header `If-Match` asks for one. `None` means that any version will do. All lines are
/// one list. Source: RFC 9110 §13.1.1.
///
/// # Errors
/// `etag_mismatch` when no entry can match, because all of them are weak.
pub fn if_versions(request: &HttpRequest) -> Result<Option<Vec<u64>>, Problem> {
    if !request.headers().contains_key(IF_MATCH) {
        return Ok(None);
    }
    let tags = entries(request, &IF_MATCH);
    if tags.contains(&"*") {
        return Ok(None);
    }
    let is_weak = |tag: &&str| tag.starts_with("W/");
    if !tags.is_empty() && tags.iter().all(is_weak) {
        return Err(Problem::new(Code::EtagMismatch).detail(
            "If-Match never matches a weak tag (W/\"…\"): send the ETag as this server wrote it, without W/. A proxy \
             that compresses answers may have made it weak.",
        ));
    }
    Ok(Some(tags.into_iter().filter_map(|tag| extract::digits(tag.trim_matches('"'))).collect()))
}

/// Reads the JSON body of a request of operators.
///
/// # Errors
/// As [`extract::body`] and [`extract::json`].
pub async fn read_body<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    context: &Context,
) -> Result<T, Problem> {
    extract::json(request, &extract::body(request, payload, ADMIN_BODY_BYTES_MAX, context).await?)
}
