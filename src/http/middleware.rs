//! The middleware around every request. It gives the request an id, measures its time, logs it, and writes the body of
//! every problem.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix_cors::CorsError;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::ConnectionType;
use actix_web::http::Method;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, VARY,
};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::ready;
use futures::stream;
use metrics::{Histogram, counter, histogram};

use super::connections::Connection;
use super::cors::Origins;
use super::extract::{announced, collected};
use super::problem::{Code, Problem};
use super::rules::Told;
use super::shopper::payments::WEBHOOK;
use super::shopper::tokens;
use super::straight::{PLACE, is_place};
use super::{Context, Finish};
use crate::chance::Chance;
use crate::domain::{Parent, TraceContext};
use crate::metrics::{HTTP_DURATION, PANICS};
use crate::trace::{self, Kind, Purpose, Span};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id of a request: 16 hexadecimal digits. It stands in the request's answer, its problem and its lines of the log.
#[derive(Debug, Clone, Copy)]
pub struct RequestId([u8; 16]);

impl RequestId {
    fn new() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(Chance::System.number().to_be_bytes()) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Self(text)
    }

    /// Returns the id of the request that is being handled.
    pub fn current() -> Self {
        trace::purpose().request.map_or_else(Self::new, Self)
    }

    /// Returns the 16 digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits")
    }
}

/// The longest body that a listener reads.
#[derive(Debug, Clone, Copy)]
pub struct BodyMax(pub usize);

/// Wraps the whole application.
///
/// # Errors
/// What is not an answer of a handler. The answers of handlers are responses here, and so are their refusals.
pub async fn around(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let began = Instant::now();
    let in_hand = request.conn_data::<Rc<Connection>>().cloned().map(Connection::take);
    let id = RequestId::new();
    let caller = if trace::is_on() { parent(request.headers()) } else { None };
    let span = Span::of_request(caller);
    let purpose = Purpose { request: Some(id.0), trace: span.context() };
    let finish = of_change(&request);
    let (mut response, unread) = match unread_body(&mut request, finish.is_some()).await {
        None => {
            let method = method_label(request.method());
            let answer = match finish {
                Some(_) if is_draining(&request) => Ok(refused(request, Problem::new(Code::Draining))),
                Some(finish) if !finish.has_room() => Ok(refused(request, Problem::new(Code::Overloaded))),
                Some(finish) => {
                    finished(&finish, began, purpose, trace::within(purpose, answered(request, next))).await
                }
                None => trace::within(purpose, answered(request, next)).await,
            };
            match answer {
                Ok(answer) => (answer, None),
                Err(error) => {
                    observe(method, "-", 500, began.elapsed());
                    describe((span, caller), (id, method, "-", 500), began.elapsed());
                    return Err(error);
                }
            }
        }
        Some((problem, unread)) => (refused(request, problem), Some(unread)),
    };
    let told = response.request().extensions_mut().remove::<Told>();
    if let Some(told) = told {
        told.write(response.headers_mut());
    }
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        response = with_problem(response, &id, purpose.trace);
    }
    if response.request().app_data::<Data<Context>>().is_some_and(|context| context.shop.is_leaving()) {
        // The client's next request would meet a closed listener, so it makes its next connection now.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    if let Ok(value) = HeaderValue::from_bytes(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    record(&response, purpose, (span, caller), began.elapsed());
    if response.request().method() == Method::HEAD && response.response().body().size() == BodySize::Stream {
        // The framework would take a body to its end that nobody is sent, and the connection would wait for it.
        response = response.map_body(|_, _| BoxBody::new(()));
    }
    if let Some(in_hand) = in_hand
        && response.response().body().size() == BodySize::Stream
    {
        // It is in hand until the last of it was sent.
        response = response.map_body(|_, body| BoxBody::new(Held { body, _held: in_hand }));
    }
    if let Some(unread) = unread {
        response = response.map_body(|_, body| BoxBody::new(Held { body, _held: unread }));
    }
    Ok(response)
}

/// Answers a request with a problem before it has reached a handler. What the framework offers for that would forget
/// the problem, and leave its status.
pub fn refused(request: ServiceRequest, problem: Problem) -> ServiceResponse<BoxBody> {
    let (request, mut response) = (request.into_parts().0, HttpResponse::from_error(problem));
    if let Some(origins) = request.app_data::<Origins>() {
        origins.let_read(request.headers(), response.headers_mut());
    }
    ServiceResponse::new(request, response)
}

/// Waits for an answer. A panic is one answer 500, and the process lives.
///
/// # Errors
/// As the answer; after a panic an answer, because the request has gone with it.
async fn unbroken<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    if let Ok(answer) = AssertUnwindSafe(answer).catch_unwind().await {
        return answer;
    }
    counter!(PANICS, "in" => "http").increment(1);
    let (id, problem) = (RequestId::current(), Problem::new(Code::Internal));
    let mut response = problem.error_response().set_body(problem.body(id.as_str(), None));
    if let Ok(value) = HeaderValue::from_bytes(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    tracing::error!("a request has panicked; it was answered 500");
    Err(InternalError::from_response(problem, response.map_into_boxed_body()).into())
}

async fn answered(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let answer = unbroken(async move { next.call(request).await }).await;
    Ok(answer?.map_into_boxed_body())
}

/// Answers what a request needs that may change something. Purchases see to their own end.
fn of_change(request: &ServiceRequest) -> Option<Data<dyn Finish>> {
    let is_change = !request.method().is_safe() && !is_place(request.path());
    if is_change { request.app_data::<Data<dyn Finish>>().cloned() } else { None }
}

/// Answers whether this process begins no changes any more: it would not wait for them.
fn is_draining(request: &ServiceRequest) -> bool {
    request.app_data::<Data<Context>>().is_some_and(|context| context.shop.is_draining())
}

/// Waits for an answer that is made to its end although its client goes away, so that nothing is left between a commit
/// and what others are told of it. One for which nobody waits is noted here.
///
/// # Errors
/// As the answer; `outcome_unknown` when the thread ends.
async fn finished(
    finish: &Data<dyn Finish>,
    began: Instant,
    purpose: Purpose,
    answer: impl Future<Output = Result<ServiceResponse<BoxBody>, Error>> + 'static,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let (tell, told) = oneshot::channel();
    let change = async move {
        if let Err(Ok(unheard)) = tell.send(answer.await) {
            // The span of the request has ended with the client.
            let span = Span::follow(purpose.trace, "unheard", Kind::Server);
            record(&unheard, purpose, (span, None), began.elapsed());
        }
    };
    finish.make(Box::pin(change));
    told.await.unwrap_or_else(|_| Err(Problem::new(Code::OutcomeUnknown).into()))
}

/// Reads the body of a change, and the chunks of one whose length is not announced, so that handlers find it whole: who
/// sends slowly has no change under way. Answers why it cannot be read, and the rest of it, which is unread.
async fn unread_body(request: &mut ServiceRequest, is_change: bool) -> Option<(Problem, Payload)> {
    let has_chunks = request.headers().contains_key(TRANSFER_ENCODING);
    if !has_chunks && !is_change {
        return None;
    }
    let context = request.app_data::<Data<Context>>()?.clone();
    let BodyMax(bytes_max) = *request.app_data::<BodyMax>()?;
    // No route was found yet.
    let bytes_max = match request.path() {
        WEBHOOK => context.webhook_body_bytes_max,
        path if path.ends_with("/token") => bytes_max.max(tokens::BODY_BYTES_MAX),
        _ => bytes_max,
    };
    // What is too long is refused by its handler before any of it is read.
    if !has_chunks && !announced(request.headers()).is_some_and(|bytes| (1..=bytes_max).contains(&bytes)) {
        return None;
    }
    let mut payload = request.take_payload();
    match collected(&mut payload, bytes_max, &context).await {
        Ok(body) => {
            let payload = Box::pin(stream::once(ready(Ok(body))));
            request.set_payload(Payload::Stream { payload });
            None
        }
        Err(problem) => Some((problem, payload)),
    }
}

/// The body of an answer that holds something until it is sent. Of a request whose own body is unread it is the rest of
/// that: the framework reads on for ever when nobody holds it any more, and closes the connection while somebody does.
struct Held<T> {
    body: BoxBody,
    _held: T,
}

impl<T: Unpin> MessageBody for Held<T> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// Writes the body of a problem, whether a handler or the framework found it.
fn with_problem(
    response: ServiceResponse<BoxBody>,
    id: &RequestId,
    trace: Option<TraceContext>,
) -> ServiceResponse<BoxBody> {
    let named = || parent(response.request().headers()).map(|parent| parent.context);
    let trace_id = trace.or_else(named).map(|context| context.trace_id());
    if let Some(problem) = response.response().error().and_then(|error| error.as_error::<Problem>()) {
        let body = problem.body(id.as_str(), trace_id.as_deref());
        return response.map_body(|_, _| BoxBody::new(body));
    }
    if response.headers().get(CONTENT_TYPE).is_some_and(|t| t == "application/json") {
        let mut response = response;
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return response;
    }
    // A page that may not call, or not in this way.
    let refused = response.response().error().and_then(|error| error.as_error::<CorsError>());
    let problem = match refused {
        Some(refused) => Problem::new(Code::Forbidden).detail(refused.to_string()),
        None => Problem::of_status(response.status()),
    };
    let body = problem.body(id.as_str(), trace_id.as_deref());
    let mut answer = problem.error_response().set_body(BoxBody::new(body));
    // What is said to browsers stays.
    let is_said = |name: &HeaderName| *name == VARY || name.as_str().starts_with("access-control-");
    let said = response.headers().iter().filter(|(name, _)| is_said(name));
    said.for_each(|(name, value)| answer.headers_mut().append(name.clone(), value.clone()));
    ServiceResponse::new(response.into_parts().0, answer)
}

/// Takes note of an answer: in the metrics, in the log, and in its trace.
fn record(
    response: &ServiceResponse<BoxBody>,
    mut purpose: Purpose,
    (span, caller): (Span, Option<Parent>),
    elapsed: Duration,
) {
    let request = response.request();
    let status = response.status().as_u16();
    // The label is the pattern, because paths hold ids and would make series without end.
    let (route, is_of_operators) = if is_place(request.path()) {
        (Cow::Borrowed(PLACE), false)
    } else {
        let route = request.match_pattern().map_or(Cow::Borrowed("-"), Cow::Owned);
        let is_of_operators = route.starts_with("/api/v1/admin") || route.starts_with("/debug/");
        (route, is_of_operators)
    };
    let (route, method) = (&*route, method_label(request.method()));
    observe(method, route, status, elapsed);
    if trace::is_on() {
        let id = purpose.request.map_or_else(RequestId::new, RequestId);
        // Who has asked to be kept waiting is not slow.
        let elapsed_alone = if is_kept_waiting(request) { Duration::ZERO } else { elapsed };
        purpose.trace = describe((span, caller), (id, method, route, status), elapsed_alone);
    }
    // A crowd's refusals are normal answers. They are counted above, and logged only when the filter asks for them.
    if is_of_operators || status >= 500 || tracing::enabled!(tracing::Level::DEBUG) {
        trace::within_now(purpose, || log(request.method(), (route, is_of_operators), status, elapsed));
    }
}

/// Answers whether a request asks to be answered later: `?wait=` or `Prefer: wait`.
fn is_kept_waiting(request: &HttpRequest) -> bool {
    let prefers = request.headers().get_all(PREFER).filter_map(|value| value.to_str().ok());
    request.query_string().contains("wait=") || prefers.into_iter().any(|value| value.contains("wait"))
}

/// Says in the span of a request what came of it, and answers where it stands. One that was not recorded is when it has
/// failed or was slow.
fn describe(
    (mut span, caller): (Span, Option<Parent>),
    (id, method, route, status): (RequestId, &'static str, &str, u16),
    elapsed: Duration,
) -> Option<TraceContext> {
    if !span.is_recorded() {
        span = Span::of_late_request(caller, status >= 500, elapsed);
    }
    if span.is_recorded() {
        span.rename(format!("{method} {route}"));
        span.set("http.request.method", || method);
        span.set("http.route", || route);
        span.set("http.response.status_code", || i64::from(status));
        span.set("seckill.request_id", || id.as_str());
        if status >= 500 {
            span.fail(status);
        }
    }
    span.context()
}

fn log(method: &Method, (route, is_of_operators): (&str, bool), status: u16, elapsed: Duration) {
    let elapsed_ms = elapsed.as_millis();
    // Each of these places has a quota of its own: a crowd's failures hide no operator's.
    match (is_of_operators, status >= 500) {
        (true, true) => {
            tracing::warn!(%method, route, status, elapsed_ms, "operator request failed");
        }
        (true, false) => {
            tracing::info!(%method, route, status, elapsed_ms, "operator request");
        }
        (false, true) => {
            tracing::warn!(%method, route, status, elapsed_ms, "request failed");
        }
        (false, false) => tracing::debug!(%method, route, status, elapsed_ms, "request"),
    }
}

/// Returns a method's label. HTTP allows any text as a method, and a label must not be any text.
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
    /// The series that this thread has recorded into, by route. To look one up by its labels costs more than
    /// everything else here. There are at most as many as routes, methods and statuses together make.
    static SERIES: RefCell<BTreeMap<String, OfRoute>> = RefCell::default();
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

/// Reads the header `traceparent`.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    Parent::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, init_service, try_call_service};
    use actix_web::{App, web};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_panic_is_one_answer_and_the_next_request_is_served() {
        actix_web::rt::System::new().block_on(panics_once());
    }

    async fn panics_once() {
        async fn broken() -> HttpResponse {
            assert!(std::hint::black_box(false), "deliberate");
            HttpResponse::Ok().finish()
        }
        let app = App::new()
            .wrap(from_fn(around))
            .route("/broken", web::get().to(broken))
            .route("/sound", web::get().to(|| async { "sound" }));
        let app = init_service(app).await;
        let error = try_call_service(&app, TestRequest::get().uri("/broken").to_request()).await;
        let answer = HttpResponse::from_error(error.expect_err("nothing to answer"));
        assert_eq!(answer.status(), 500);
        let header = |name: HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header(CONTENT_TYPE), Some("application/problem+json"));
        let id = header(REQUEST_ID).expect("an id").to_owned();
        let body = to_bytes(answer.into_body()).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&body["code"], &body["request_id"]), (&"internal".into(), &id.into()));
        let answer = try_call_service(&app, TestRequest::get().uri("/sound").to_request()).await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
}
