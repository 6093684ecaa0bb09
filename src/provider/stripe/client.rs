//! Sends requests to Stripe's API, and says what a failed one means.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use crate::clock::Clock;
use crate::config::Secret;
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};
use crate::trace;

/// The version of the API whose shapes are sent and read.
pub const API_VERSION: &str = "2024-06-20";
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An answer of the API.
pub enum Reply {
    /// The object that was asked for.
    Object(Value),
    /// The request was understood and refused: nothing was changed.
    Refused {
        /// The HTTP status, 400 to 499.
        status: u16,
        /// Stripe's code of the error, or an empty text.
        code: String,
        /// Stripe's words.
        message: String,
    },
    /// The API has failed, with an HTTP status of 500 or more. It keeps such an answer, and gives it again under the
    /// same idempotency key.
    Faulted(StoreError),
}

impl Reply {
    /// Answers the object.
    ///
    /// # Errors
    /// When the request was refused, or the API has failed.
    pub fn object(self, context: &'static str) -> StoreResult<Value> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Refused { status, code, message } => {
                let error = StoreError::broken(context, format!("{status} {code}: {message}"));
                Err(StoreError { effect: Effect::NotApplied, ..error })
            }
            Self::Faulted(error) => Err(error),
        }
    }
}

/// An HTTP client of one account.
pub struct Client {
    http: reqwest::Client,
    url: String,
    api_key: Secret,
    clock: Clock,
}

impl Client {
    /// Makes the client. It calls nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(url: &str, api_key: &Secret, timeout_ms: u64, clock: Clock) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder();
        // What is sent in plain text stays on this machine, and goes through no proxy.
        let http = if url.starts_with("http://") { http.no_proxy() } else { http };
        let http = http
            .timeout(Duration::from_millis(timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("seckill/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), api_key: api_key.clone(), clock })
    }

    /// Sends a change, under an idempotency key unless a repetition changes nothing.
    ///
    /// # Errors
    /// When there is no answer, or it says that the API cannot do its part now.
    pub async fn post(&self, path: &str, form: &[(String, String)], key: Option<&str>) -> StoreResult<Reply> {
        let mut request = self.http.post(format!("{}{path}", self.url)).form(form);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send("change at the payment provider", request).await
    }

    /// Reads an object or a page of a list.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> StoreResult<Reply> {
        let request = self.http.get(format!("{}{path}", self.url)).query(query);
        self.send("read from the payment provider", request).await
    }

    async fn send(&self, context: &'static str, request: reqwest::RequestBuilder) -> StoreResult<Reply> {
        let failed = |error: reqwest::Error| {
            let effect =
                if error.is_connect() || error.is_builder() { Effect::NotApplied } else { Effect::Unknown };
            // The address may hold ids, and the log has them already.
            let source = Box::new(error.without_url());
            StoreError { kind: ErrorKind::Unavailable, effect, context, source }
        };
        let request = request.bearer_auth(self.api_key.expose()).header("Stripe-Version", API_VERSION);
        let sent = async |parent| traced(request, parent).send().await.map_err(failed);
        let mut answer = trace::ask(("provider", &self.clock), sent).await?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(StoreError::broken(
                    context,
                    format!("an answer of more than {ANSWER_BYTES_MAX} bytes"),
                ));
            }
            body.extend_from_slice(&piece);
        }
        let object: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() && object.is_object() {
            return Ok(Reply::Object(object));
        }
        let word = |member: &str| object["error"][member].as_str().unwrap_or_default().to_owned();
        let (code, message) = (word("code"), word("message"));
        let error = |kind, effect| {
            let source = format!("{status} {code}: {message}").into();
            StoreError { kind, effect, context, source }
        };
        match status {
            // Another request is at work under the same key.
            StatusCode::CONFLICT => Err(error(ErrorKind::Conflict, Effect::NotApplied)),
            StatusCode::TOO_MANY_REQUESTS => Err(error(ErrorKind::Unavailable, Effect::NotApplied)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(error(ErrorKind::Broken, Effect::NotApplied))
            }
            status if status.is_client_error() => {
                Ok(Reply::Refused { status: status.as_u16(), code, message })
            }
            status if status.is_server_error() => {
                Ok(Reply::Faulted(error(ErrorKind::Unavailable, Effect::Unknown)))
            }
            _ => Err(error(ErrorKind::Unavailable, Effect::Unknown)),
        }
    }
}

/// Says in a request of which trace it is.
fn traced(request: reqwest::RequestBuilder, parent: Option<String>) -> reqwest::RequestBuilder {
    match parent {
        Some(parent) => request.header("traceparent", parent),
        None => request,
    }
}
