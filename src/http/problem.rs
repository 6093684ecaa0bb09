//! Problems: every answer that is not a success. Their form is that of RFC 9457.
//!
//! One table says the status, the title and the retryability of each code. It is exhaustive and has no default arm.
//! docs/api.md has the same rows, and a test compares them.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use super::rate_limit::write_limit;
use crate::memory::rulebook::Policy;
use crate::shop::Failure;
use crate::shop::ladder::Step;

/// Names what is left out, so that others go on.
pub const DEGRADED: HeaderName = HeaderName::from_static("degraded");

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $retryable:literal $title:literal;)*) => {
        /// A stable word for what went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($variant,)* }

        impl Code {
            /// All codes, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the code's word, as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Returns the HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// Returns whether the same call may succeed later.
            pub fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// Returns the sentence that says what the code means.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 false "The body is not JSON.";
    ValidationFailed "validation_failed" 400 false "A field has a value that is not allowed.";
    IdempotencyKeyMissing "idempotency_key_missing" 400 false "The Idempotency-Key header is missing.";
    IdempotencyKeyInvalid "idempotency_key_invalid" 400 false
        "The Idempotency-Key header is not one text of 1 to 255 visible ASCII characters.";
    Unauthenticated "unauthenticated" 401 false "A valid credential is required.";
    Forbidden "forbidden" 403 false "This credential does not allow that.";
    Blocked "blocked" 403 false "You are blocked.";
    PurchaseTokenRequired "purchase_token_required" 403 false
        "This sale sells only with a purchase token.";
    PurchaseTokenInvalid "purchase_token_invalid" 403 false "The purchase token does not serve.";
    ProofRequired "proof_required" 403 false "This sale asks for a proof of work: solve the challenge.";
    ProofInvalid "proof_invalid" 403 false "The proof of work does not serve: solve this challenge.";
    NotFound "not_found" 404 false "There is nothing at this address.";
    SaleNotFound "sale_not_found" 404 false "There is no such sale.";
    SkuNotFound "sku_not_found" 404 false "The sale has no such SKU.";
    OrderNotFound "order_not_found" 404 false "You have no such order.";
    MethodNotAllowed "method_not_allowed" 405 false "This address does not know that method.";
    BodyTooSlow "body_too_slow" 408 true "The body did not come in time.";
    BodyTooLarge "body_too_large" 413 false "The body is too large.";
    UnsupportedMediaType "unsupported_media_type" 415 false "The body must be application/json.";
    SaleNotStarted "sale_not_started" 409 false "The sale has not opened yet.";
    SaleDelayed "sale_delayed" 409 true "The sale is late; it opens as soon as it can.";
    SalePaused "sale_paused" 409 false "The sale is paused.";
    SaleEnded "sale_ended" 409 false "The sale is over.";
    SoldOut "sold_out" 409 false "Nothing is left.";
    FewerLeft "fewer_left" 409 false "Fewer are left than you asked for.";
    LimitReached "limit_reached" 409 false "That is more than one buyer may hold.";
    TooManyUnpaid "too_many_unpaid" 409 false "You have left too many orders of this sale unpaid.";
    OrderNotDecided "order_not_decided" 409 true "The order is not decided yet; ask again.";
    OrderNotPayable "order_not_payable" 409 false "The order does not wait for a payment.";
    RefundNotFound "refund_not_found" 404 false "No refund of this id has failed.";
    NodeNotFound "node_not_found" 404 false "No such process is there.";
    KeyNotFound "key_not_found" 404 false "There is no such API key.";
    KeyExists "key_exists" 409 false "A key of this name can be used.";
    KeyEnded "key_ended" 409 false "The key has an end already.";
    TooManyKeys "too_many_keys" 409 false "There are as many keys as there may be.";
    WebhookNotFound "webhook_not_found" 404 false "There is no such webhook.";
    RuleNotFound "rule_not_found" 404 false "There is no such rule.";
    TooManyRules "too_many_rules" 409 false "There are as many rules as there may be.";
    TooManyWebhooks "too_many_webhooks" 409 false "There are as many webhooks as there may be.";
    DeadLetterNotFound "dead_letter_not_found" 404 false "There is no such dead letter.";
    DeadLetterConflict "dead_letter_conflict" 409 false "The dead letter cannot be treated like that.";
    OrderNotRefundable "order_not_refundable" 409 false "The order was not paid.";
    OrderNotCancellable "order_not_cancellable" 409 false "The order cannot be cancelled any more.";
    SaleExists "sale_exists" 409 false "A sale with this id exists.";
    StateConflict "state_conflict" 409 false "The sale's state does not allow that.";
    StockConflict "stock_conflict" 409 false "The stock is another one, or orders have its units; nothing was changed.";
    EtagMismatch "etag_mismatch" 412 false "It was changed since you read it.";
    MisdirectedRequest "misdirected_request" 421 false "This listener does not answer for that host.";
    IdempotencyKeyReused "idempotency_key_reused" 422 false "This key was used for another purchase.";
    HeadersTooLarge "headers_too_large" 431 false "The request's headers are too large.";
    RateLimited "rate_limited" 429 true "You are too fast.";
    TooManyStreams "too_many_streams" 429 true "This address has too many streams open.";
    Internal "internal" 500 true "Something broke on our side.";
    SwitchedOff "switched_off" 503 true "This is switched off for now; nothing was changed.";
    Overloaded "overloaded" 503 true "Too many requests at once; nothing was changed.";
    DependencyUnavailable "dependency_unavailable" 503 true "A part of the service is down; nothing was changed.";
    Draining "draining" 503 true "This server is going away; nothing was changed.";
    AppliedPartly "applied_partly" 502 true "Some of it stands, and some is left to do; repeating the call finishes it.";
    OutcomeUnknown "outcome_unknown" 504 true "No answer came in time; repeat the call with the same key.";
}

/// The members that problems have of themselves.
const MEMBERS: [&str; 9] =
    ["type", "title", "status", "code", "retryable", "request_id", "trace_id", "detail", "retry_after_ms"];

/// A problem on its way to a client. It holds nothing internal.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The code, which decides status, title and retryability.
    pub code: Code,
    detail: Option<String>,
    members: Vec<(&'static str, Value)>,
    retry_after_ms: Option<u64>,
    allow: Option<Arc<str>>,
    /// The limit that refuses, which the body names as `policy`.
    limit: Option<Arc<Policy>>,
    /// What is left out, so that this is not done.
    degraded: Option<Step>,
}

impl Problem {
    /// Makes a problem without detail. A retryable one may be repeated after a second.
    pub fn new(code: Code) -> Self {
        let retry_after_ms = code.is_retryable().then_some(1000);
        Self {
            code,
            detail: None,
            members: Vec::new(),
            retry_after_ms,
            allow: None,
            limit: None,
            degraded: None,
        }
    }

    /// Makes the problem of an address that does not know the request's method, but `methods`: `GET, HEAD`.
    pub fn method_not_allowed(methods: &str) -> Self {
        Self { allow: Some(methods.into()), ..Self::new(Code::MethodNotAllowed) }
    }

    /// Sets the sentence that says what is wrong with this request.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds an extension member. Each name may be added once, and none that all problems have.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(!MEMBERS.contains(&name), "every problem has {name}");
        self.members.push((name, value.into()));
        self
    }

    /// Sets the limit that refuses.
    pub fn limit(mut self, policy: Arc<Policy>) -> Self {
        self.limit = Some(policy);
        self
    }

    /// Sets what is left out, so that this is not done.
    pub fn degraded(mut self, step: Step) -> Self {
        self.degraded = Some(step);
        self
    }

    /// Sets how long the client should wait before it repeats the call.
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// Makes a `validation_failed` with one entry in `errors`.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let errors = json!([{ "pointer": pointer, "detail": detail }]);
        Self::new(Code::ValidationFailed).detail(format!("{pointer}: {detail}")).with("errors", errors)
    }

    /// Makes the problem for a status that the framework answered.
    pub fn of_status(status: StatusCode) -> Self {
        Self::new(match status.as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::Forbidden,
            404 => Code::NotFound,
            405 => Code::MethodNotAllowed,
            408 => Code::BodyTooSlow,
            413 => Code::BodyTooLarge,
            415 => Code::UnsupportedMediaType,
            431 => Code::HeadersTooLarge,
            400..500 => Code::MalformedJson,
            _ => Code::Internal,
        })
    }

    /// Writes the answer's body. Its ids let support find the request. The body is written piece by piece, because most
    /// answers of a sale are refusals, and a tree of values would cost each of them ten times as much.
    pub fn body(&self, request_id: &str, trace_id: Option<&str>) -> Vec<u8> {
        let code = self.code;
        let retryable = if code.is_retryable() { "true" } else { "false" };
        let mut body = Vec::with_capacity(320);
        // Codes, titles and request ids hold nothing that JSON escapes.
        for piece in [
            r#"{"type":"/problems/"#,
            code.as_str(),
            r#"","title":""#,
            code.title(),
            r#"","status":"#,
            self.status_code().as_str(),
            r#","code":""#,
            code.as_str(),
            r#"","retryable":"#,
            retryable,
            r#","request_id":""#,
            request_id,
            "\"",
        ] {
            body.extend_from_slice(piece.as_bytes());
        }
        if let Some(policy) = &self.limit {
            // Names of rules hold nothing that JSON escapes, either.
            for piece in [",\"policy\":\"", policy.rule.as_str(), "\""] {
                body.extend_from_slice(piece.as_bytes());
            }
        }
        let mut member = |name: &str, value: &Value| {
            for piece in [",\"", name, "\":"] {
                body.extend_from_slice(piece.as_bytes());
            }
            serde_json::to_writer(&mut body, value).expect("a value has a text, and memory takes it");
        };
        if let Some(detail) = &self.detail {
            member("detail", &Value::from(detail.as_str()));
        }
        if let Some(trace_id) = trace_id {
            member("trace_id", &Value::from(trace_id));
        }
        if let Some(ms) = self.retry_after_ms {
            member("retry_after_ms", &Value::from(ms));
        }
        for (name, value) in &self.members {
            member(name, value);
        }
        body.push(b'}');
        body
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

    /// Makes a response without a body. The response carries the problem to the middleware as its error. The middleware
    /// knows the request's id and writes the body.
    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status_code());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // Some statuses may be cached without being told so, a 404 for one. Source: RFC 9110 §15.1.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.code {
            Code::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Code::UnsupportedMediaType => {
                headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            _ => {}
        }
        if let Some(methods) = self.allow.as_deref().and_then(|methods| HeaderValue::from_str(methods).ok()) {
            headers.insert(ALLOW, methods);
        }
        if let Some(ms) = self.retry_after_ms
            && let Ok(seconds) = HeaderValue::from_str(itoa::Buffer::new().format(ms.div_ceil(1000)))
        {
            headers.insert(RETRY_AFTER, seconds);
        }
        if let Some(step) = self.degraded {
            headers.insert(DEGRADED, HeaderValue::from_static(step.as_str()));
        }
        if let Some(policy) = &self.limit {
            write_limit(headers, policy, 0, Duration::from_millis(self.retry_after_ms.unwrap_or_default()));
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable => Self::new(Code::DependencyUnavailable),
            Failure::AppliedPartly { detail } => Self::new(Code::AppliedPartly).detail(detail),
            Failure::OutcomeUnknown => Self::new(Code::OutcomeUnknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_json_and_says_what_the_table_says() {
        for code in Code::ALL {
            let detail = "a \"quoted\" line\n";
            let problem = Problem::new(*code).detail(detail).with("held", 2).with("may_return", false);
            let body = problem.body("6f0c9a1be2d34857", Some("4bf92f3577b34da6a3ce929d0e0e4736"));
            let mut says = json!({
                "type": format!("/problems/{}", code.as_str()), "title": code.title(), "status": code.status(),
                "code": code.as_str(), "retryable": code.is_retryable(), "request_id": "6f0c9a1be2d34857",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "detail": detail, "held": 2, "may_return": false,
            });
            if code.is_retryable() {
                says["retry_after_ms"] = 1000.into();
            }
            assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON"), says, "{code:?}");
        }
    }
}
