//! The routes of streams, under `/api/v1`: clients are told of a sale, its stock and their own orders as things happen.
//!
//! A stream begins with how everything stands that its client has not seen (`Last-Event-ID`), and tells every change
//! after that. So nothing is lost by a connection that breaks. Source: the HTML standard, "Server-sent events".

pub mod bye;
pub mod event_source;
pub mod tickets;
pub mod web_socket;

use actix_web::http::header::{CACHE_CONTROL, HeaderName, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::IntoParams;

use self::bye::RETRY_MS;
use self::event_source::EventSource;
use super::order_view::order_text;
use super::sales::{topics, visible};
use crate::chance::Chance;
use crate::domain::SaleId;
use crate::domain::rule::Way;
use crate::domain::stream::Seen;
use crate::http::Context;
use crate::http::contract::For;
use crate::http::cookies::is_of_own_page;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::rules::pass;
use crate::memory::streams::{Full, Listener, Stream};
use crate::shop::ladder::Step;
use crate::shop::streams::NoStream;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps nginx from holding events back. Source: ngx_http_proxy_module, proxy_buffering.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The query string of a stream.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct StreamQuery {
    /// The sale to hear of, and of its stock.
    sale: Option<String>,
    /// The ticket of `POST /stream-tickets`: one's own orders are told, too.
    ticket: Option<String>,
    /// The id of the last event that was seen, where the header `Last-Event-ID` cannot be sent.
    last_event_id: Option<String>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    let mut all = tickets::operations();
    all.push(operation(Verb::Get, "/api/v1/stream", stream, |it| {
        it.names("streams", "read_stream", "What happens, as it happens.")
            .about("Server-sent events `sale`, `stock`, `order` and `bye`. It begins with what the client has not seen.")
            .is_for(For::Anyone)
            .is_limited()
            .query::<StreamQuery>()
            .refuses(REFUSES)
            .answers_events(200, "Events, until `bye`.", &["sale", "stock", "order", "bye"]);
    }));
    all.push(operation(Verb::Get, "/api/v1/ws", socket, |it| {
        it.names("streams", "open_socket", "The same over WebSocket.")
            .about("Each message is `{\"event\":…,\"id\":…,\"data\":…}`. A page of an origin that is not known is refused.")
            .is_for(For::Anyone)
            .is_limited()
            .query::<StreamQuery>()
            .refuses(REFUSES)
            .refuses(&[Code::Forbidden])
            .answers_nothing(101, "The connection is a WebSocket now.");
    }));
    all
}

const REFUSES: &[Code] = &[
    Code::Unauthenticated,
    Code::SaleNotFound,
    Code::TooManyStreams,
    Code::Overloaded,
    Code::Draining,
    Code::DependencyUnavailable,
];

/// Answers `GET /stream`: server-sent events.
///
/// # Errors
/// `validation_failed` for a request that names nothing to hear of, `sale_not_found`, `unauthenticated` for a ticket
/// that does not serve, `too_many_streams` of an address and `overloaded` of this process, `draining`, and
/// `dependency_unavailable` while this process does not hear of the orders that others change.
pub async fn stream(
    request: HttpRequest,
    query: web::Query<StreamQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream");
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((X_ACCEL_BUFFERING, "no"));
    let stream = opened(&request, query.into_inner(), &context).await?;
    Ok(response.body(EventSource::new(stream)))
}

/// Answers `GET /ws`: the same events over WebSocket.
///
/// # Errors
/// As [`stream`]; `forbidden` for a page of an origin that is neither ours nor one of `http.cors_origins`;
/// `validation_failed` for a request that is no handshake.
pub async fn socket(
    request: HttpRequest,
    payload: web::Payload,
    query: web::Query<StreamQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    if !is_known_origin(&request, &context) {
        return Err(
            Problem::new(Code::Forbidden).detail("Pages of this origin may not open a WebSocket here.")
        );
    }
    // A handshake that fails takes no ticket.
    let (response, session, messages) = actix_ws::handle(&request, payload)
        .map_err(|error| Problem::invalid("", format!("this is no handshake of a WebSocket: {error}")))?;
    let stream = opened(&request, query.into_inner(), &context).await?;
    web_socket::serve(stream, session, messages);
    Ok(response)
}

/// Answers whether a request is from no page, from one of ours, or from one that may call.
fn is_known_origin(request: &HttpRequest, context: &Context) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    let is_listed = |known: &String| known == "*" || known.as_bytes() == origin.as_bytes();
    is_of_own_page(request) || context.origins.iter().any(is_listed)
}

/// Opens the stream that a request asks for.
///
/// # Errors
/// As [`stream`].
async fn opened(request: &HttpRequest, query: StreamQuery, context: &Context) -> Result<Stream, Problem> {
    if context.shop.is_leaving() {
        return Err(Problem::new(Code::Draining).retry_after_ms(Chance::System.with_jitter(RETRY_MS)));
    }
    let sale = query.sale.map(|sale| SaleId::parse(&sale).map_err(|_| Problem::new(Code::SaleNotFound)));
    let sale = sale.transpose()?;
    if sale.is_none() && query.ticket.is_none() {
        return Err(Problem::invalid("/sale", "name a sale, or give a ticket: there is nothing to hear of"));
    }
    pass(request, context, Way::Stream, (None, sale.as_ref())).await?;
    let holder = match &query.ticket {
        Some(ticket) => Some(tickets::take(ticket, context).await?),
        None => None,
    };
    let who = holder.as_ref().map(|holder| (&holder.user, holder.device.as_ref()));
    if let Some(sale) = &sale {
        visible(sale, who, context)?;
    }
    let header = request.headers().get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let seen = Seen::parse(header.or(query.last_event_id.as_deref()).unwrap_or_default());
    let now_ms = context.shop.now_ms();
    let listener = Listener {
        sale: sale.clone(),
        address: context.addresses.of(request, now_ms),
        until_ms: holder.as_ref().map(|holder| holder.until_ms),
        device: holder.as_ref().and_then(|holder| holder.device.clone()),
        user: holder.map(|holder| holder.user),
        seen,
    };
    let user = listener.user.clone();
    let stream = context.shop.open_stream(listener).map_err(refusal)?;
    if let Some(topics) = sale.and_then(|sale| topics(&context.shop.catalog(), &sale, now_ms)) {
        stream.begin(&topics);
    }
    if let Some(user) = user {
        if context.shop.is_degraded(Step::Lists) {
            let problem = Problem::new(Code::Overloaded).degraded(Step::Lists);
            return Err(problem.retry_after_ms(Chance::System.with_jitter(5 * RETRY_MS)));
        }
        // It hears already of what changes while this is read.
        stream.offer_orders(&context.shop.recent_orders(&user).await?, order_text);
    }
    Ok(stream)
}

fn refusal(none: NoStream) -> Problem {
    match none {
        NoStream::Deaf => Problem::new(Code::DependencyUnavailable),
        NoStream::Full(Full::Process) => Problem::new(Code::Overloaded),
        NoStream::Full(Full::Address) => Problem::new(Code::TooManyStreams),
    }
    .retry_after_ms(Chance::System.with_jitter(5 * RETRY_MS))
}
