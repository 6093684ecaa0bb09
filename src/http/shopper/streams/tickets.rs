//! The route of the tickets of streams, under `/api/v1`. A page can send no token with a stream, and an address stands
//! in logs: so it sends a ticket, which serves once and for half a minute.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::chance;
use crate::domain::rule::Way;
use crate::domain::stream::TicketHolder;
use crate::http::auth::Cause;
use crate::http::contract::For;
use crate::http::extract::SHOPPER_BODY_BYTES_MAX;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use crate::http::rules::pass;
use crate::http::shopper::orders::NothingBody;
use crate::http::shopper::rfc3339;
use crate::http::{Context, extract};

#[derive(Serialize, ToSchema)]
#[schema(as = StreamTicket)]
struct TicketView {
    /// The ticket, which one stream sends.
    ticket: String,
    /// Until when it serves.
    #[schema(value_type = String, format = DateTime)]
    expires_at: String,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Post, "/api/v1/stream-tickets", give, |it| {
        it.names("streams", "give_stream_ticket", "Get a ticket for a stream of one's own orders.")
            .about("It serves once, within 30 seconds.")
            .is_for(For::Shopper)
            .is_limited()
            .maybe_body::<NothingBody>(json!({}))
            .answers::<TicketView>(201, "The ticket.");
    })]
}

/// Answers `POST /stream-tickets`: gives a ticket that serves once. Each call gives another one.
///
/// # Errors
/// What is wrong with the request, what a rule says, and `dependency_unavailable`.
pub async fn give(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(&request, payload, SHOPPER_BODY_BYTES_MAX, &context).await?;
    let shopper = extract::shopper(&request, &context).await?;
    if !body.is_empty() {
        let NothingBody {} = extract::json(&request, &body)?;
    }
    pass(&request, &context, Way::Stream, (Some(&shopper), None)).await?;
    let ticket = URL_SAFE_NO_PAD.encode(chance::bytes::<32>());
    let device = shopper.proven_device().cloned();
    let holder = TicketHolder { user: shopper.user, device, until_ms: shopper.until_ms };
    context.shop.give_stream_ticket(hash(&ticket), &holder).await?;
    let kept_ms = i64::try_from(TicketHolder::KEPT_MS).unwrap_or(i64::MAX);
    let expires_at = rfc3339(context.shop.now_ms().saturating_add(kept_ms));
    let view = TicketView { ticket, expires_at };
    Ok(HttpResponse::Created().insert_header((CACHE_CONTROL, "no-store")).json(view))
}

/// Takes the ticket that a stream is opened with.
///
/// # Errors
/// `unauthenticated` for one that does not serve, `dependency_unavailable`.
pub async fn take(ticket: &str, context: &Context) -> Result<TicketHolder, Problem> {
    let holder = context.shop.take_stream_ticket(hash(ticket)).await?;
    let holder = holder.filter(|holder| holder.until_ms > context.shop.now_ms());
    holder.ok_or_else(|| Cause::Ticket.refuse())
}

fn hash(ticket: &str) -> [u8; 32] {
    Sha256::digest(ticket.as_bytes()).into()
}
