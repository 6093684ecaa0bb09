//! Around every request: its id, its time, its line in the log, and the body of every problem.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use metrics::{Histogram, histogram};

use super::problem::Problem;
use crate::metrics::HTTP_DURATION;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id of a request, 16 hexadecimal digits; in its answer, its problem and its log line.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Wraps the whole application.
///
/// # Errors
/// Only what is no answer of a handler: those, refusals included, are responses here.
pub async fn around(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    let id = format!("{:016x}", rand::random::<u64>());
    request.extensions_mut().insert(RequestId(id.clone()));
    let trace_id = trace_id(&request);
    let mut response = next.call(request).await?.map_into_boxed_body();
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let problem = response.response().error().and_then(|error| error.as_error::<Problem>());
        let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|t| t == "application/json");
        if problem.is_some() || !is_ours {
            let answer = match problem {
                Some(problem) => problem.respond(&id, trace_id.as_deref()),
                None => Problem::of_status(status).respond(&id, trace_id.as_deref()),
            };
            response = ServiceResponse::new(response.into_parts().0, answer);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    record(&response, &id, began.elapsed());
    Ok(response)
}

fn record(response: &ServiceResponse<BoxBody>, id: &str, elapsed: Duration) {
    let request = response.request();
    let status = response.status().as_u16();
    // The pattern, not the path: paths hold ids and would make endless series.
    let route = request.match_pattern().unwrap_or_else(|| "-".to_owned());
    observe(method_label(request.method()), &route, status, elapsed);
    let elapsed_ms = elapsed.as_millis();
    let method = request.method();
    if status >= 500 {
        tracing::warn!(request_id = id, %method, route, status, elapsed_ms, "request failed");
    } else if route.starts_with("/api/v1/admin") {
        tracing::info!(request_id = id, %method, route, status, elapsed_ms, "operator request");
    } else {
        // A crowd's refusals are normal answers: counted above, and logged only when somebody looks closely.
        tracing::debug!(request_id = id, %method, route, status, elapsed_ms, "request");
    }
}

/// Methods are free text in HTTP; a label must not be.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

type OfRoute = Vec<(&'static str, u16, Histogram)>;

thread_local! {
    /// The series that this thread has recorded into, by route: to look one up by its labels costs more than
    /// all else that is done here. As many as routes, methods and statuses.
    static SERIES: RefCell<HashMap<String, OfRoute>> = RefCell::default();
}

fn observe(method: &'static str, route: &str, status: u16, elapsed: Duration) {
    SERIES.with_borrow_mut(|series| {
        let known = series.get(route).and_then(|of| of.iter().find(|(m, s, _)| (*m, *s) == (method, status)));
        if let Some((_, _, histogram)) = known {
            return histogram.record(elapsed);
        }
        let labels =
            [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        let histogram = histogram!(HTTP_DURATION, &labels);
        histogram.record(elapsed);
        series.entry(route.to_owned()).or_default().push((method, status, histogram));
    });
}

/// The trace of a W3C `traceparent` header.
fn trace_id(request: &ServiceRequest) -> Option<String> {
    let parent = request.headers().get(TRACEPARENT)?.to_str().ok()?;
    let trace = parent.split('-').nth(1)?;
    let is_trace = trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit());
    is_trace.then(|| trace.to_owned())
}
