//! Every answer that is not a success: RFC 9457 problem details, one row per code.
//!
//! The table is exhaustive and has no default arm; docs/api.md carries the same rows and a test compares them.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Map, Value, json};

use crate::purchase::Failure;

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $retryable:literal $title:literal;)*) => {
        /// A stable word for what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($variant,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Whether the same call may succeed later.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 false "The body is not JSON.";
    ValidationFailed "validation_failed" 400 false "A field has a value that is not allowed.";
    IdempotencyKeyMissing "idempotency_key_missing" 400 false
        "The Idempotency-Key header is missing, or is not 1 to 64 characters of A-Z a-z 0-9 - _ . : @";
    Unauthenticated "unauthenticated" 401 false "A valid credential is required.";
    Forbidden "forbidden" 403 false "This credential does not allow that.";
    NotFound "not_found" 404 false "There is nothing at this address.";
    SaleNotFound "sale_not_found" 404 false "There is no such sale.";
    SkuNotFound "sku_not_found" 404 false "The sale has no such SKU.";
    OrderNotFound "order_not_found" 404 false "You have no such order.";
    MethodNotAllowed "method_not_allowed" 405 false "This address does not know that method.";
    BodyTooLarge "body_too_large" 413 false "The body is too large.";
    UnsupportedMediaType "unsupported_media_type" 415 false "The body must be application/json.";
    SaleNotStarted "sale_not_started" 409 false "The sale has not opened yet.";
    SalePaused "sale_paused" 409 false "The sale is paused.";
    SaleEnded "sale_ended" 409 false "The sale is over.";
    SoldOut "sold_out" 409 false "Nothing is left.";
    LimitReached "limit_reached" 409 false "You hold as many units as one buyer may.";
    SaleExists "sale_exists" 409 false "A sale with this id exists.";
    StateConflict "state_conflict" 409 false "The sale's state does not allow that.";
    EtagMismatch "etag_mismatch" 412 false "The sale was changed since you read it.";
    IdempotencyKeyReused "idempotency_key_reused" 422 false "This key was used for another purchase.";
    HeadersTooLarge "headers_too_large" 431 false "The request's headers are too large.";
    RateLimited "rate_limited" 429 true "You are too fast.";
    Internal "internal" 500 true "Something broke on our side.";
    Overloaded "overloaded" 503 true "Too many requests at once; nothing was changed.";
    DependencyUnavailable "dependency_unavailable" 503 true "A part of the service is down; nothing was changed.";
    Draining "draining" 503 true "This server is going away; nothing was changed.";
    OutcomeUnknown "outcome_unknown" 504 true "No answer came in time; repeat the call with the same key.";
}

/// A problem on its way to a client. Holds nothing internal.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    detail: Option<String>,
    members: Map<String, Value>,
    retry_after_ms: Option<u64>,
}

impl Problem {
    pub fn new(code: Code) -> Self {
        let retry_after_ms = code.is_retryable().then_some(1000);
        Self { code, detail: None, members: Map::new(), retry_after_ms }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds an extension member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// `validation_failed` with one entry in `errors`.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let errors = json!([{ "pointer": pointer, "detail": detail }]);
        Self::new(Code::ValidationFailed).detail(format!("{pointer}: {detail}")).with("errors", errors)
    }

    /// The problem that stands for a status the framework made.
    pub fn of_status(status: StatusCode) -> Self {
        Self::new(match status.as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::Forbidden,
            404 => Code::NotFound,
            405 => Code::MethodNotAllowed,
            413 => Code::BodyTooLarge,
            415 => Code::UnsupportedMediaType,
            431 => Code::HeadersTooLarge,
            400..500 => Code::MalformedJson,
            _ => Code::Internal,
        })
    }

    /// The whole answer, with the ids that let support find the request.
    pub fn respond(&self, request_id: &str, trace_id: Option<&str>) -> HttpResponse {
        let mut body = self.members.clone();
        body.insert("type".to_owned(), format!("/problems/{}", self.code.as_str()).into());
        body.insert("title".to_owned(), self.code.title().into());
        body.insert("status".to_owned(), self.code.status().into());
        body.insert("code".to_owned(), self.code.as_str().into());
        body.insert("retryable".to_owned(), self.code.is_retryable().into());
        body.insert("request_id".to_owned(), request_id.into());
        if let Some(detail) = &self.detail {
            body.insert("detail".to_owned(), detail.as_str().into());
        }
        if let Some(trace_id) = trace_id {
            body.insert("trace_id".to_owned(), trace_id.into());
        }
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        if self.code == Code::Unauthenticated {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(ms) = self.retry_after_ms {
            body.insert("retry_after_ms".to_owned(), ms.into());
            response.insert_header((RETRY_AFTER, ms.div_ceil(1000).to_string()));
        }
        response.body(Value::Object(body).to_string())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code.as_str())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Carries the problem to the middleware, which knows the request's id and writes the body.
    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status_code());
        response.extensions_mut().insert(self.clone());
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::new(match failure {
            Failure::Unavailable => Code::DependencyUnavailable,
            Failure::OutcomeUnknown => Code::OutcomeUnknown,
        })
    }
}
