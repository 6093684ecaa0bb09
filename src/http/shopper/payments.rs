//! The routes of payments: shoppers pay, and the payment provider tells what became of it. The paths below stand under
//! `/api/v1`.

use actix_web::http::header::{CACHE_CONTROL, HeaderName, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::order_view::{View, link, view};
use super::orders::{NothingBody, no_body};
use super::payment_view::{PaymentView, payment_view};
use crate::domain::OrderId;
use crate::domain::rule::Way;
use crate::http::auth::Cause;
use crate::http::contract::For;
use crate::http::headers::{TwoValues, sole};
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::{Context, extract};
use crate::shop::pay::Paying;
use crate::shop::payment_events::Unheard;
use serde_json::json;
use utoipa::ToSchema;

/// The path of the provider's events.
pub const WEBHOOK: &str = "/api/v1/webhooks/payments";

const SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

/// The answer to who wants to pay.
#[derive(Serialize, ToSchema)]
#[schema(as = Paying)]
struct PayView<'a> {
    /// The order.
    order_id: OrderId,
    /// Its payment.
    payment: PaymentView<'a>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Post, WEBHOOK, webhook, |it| {
            it.names("payments", "hear_payment_event", "Hear what the payment provider tells.")
                .is_for(For::Provider)
                .signed_body()
                .changes()
                .refuses(&[Code::NotFound, Code::MalformedJson, Code::BodyTooSlow, Code::BodyTooLarge])
                .answers::<Heard>(200, "All that follows from it is durable.");
        }),
        operation(Verb::Post, "/api/v1/orders/{order}/pay", pay, |it| {
            it.names("payments", "pay_order", "Open a payment of an order, or find the one that is open.")
                .about(
                    "The buyer pays at `redirect_url`. An order that costs nothing is paid with this call.",
                )
                .is_for(For::Shopper)
                .is_limited()
                .changes()
                .needs_key()
                .maybe_body::<NothingBody>(json!({}))
                .refuses(&[Code::OrderNotFound, Code::OrderNotPayable, Code::OrderNotDecided])
                .answers::<PayView<'_>>(201, "A payment that is open now.")
                .answers_either::<PayView<'_>, View<'_>>(
                    200,
                    "The payment that was open, or the order, paid.",
                );
        }),
    ]
}

/// Answers `POST /orders/{order}/pay`: opens a payment, or finds the one that is open. A body is not needed, and may be
/// an empty object. An order that costs nothing is paid with this call.
///
/// # Errors
/// `order_not_found`, also for another buyer's order; `order_not_payable` when it does not wait for a payment, or not
/// any more; `order_not_decided` before it has a row; `dependency_unavailable` when the provider did not answer.
pub async fn pay(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let user = no_body(&request, payload, &context, Way::Pay).await?;
    let id = OrderId::parse(&path.into_inner()).map_err(|_| Problem::new(Code::OrderNotFound))?;
    match context.shop.pay(&user, id).await? {
        Paying::Open { payment, is_new } => {
            let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
            response.insert_header((CACHE_CONTROL, "no-store")).insert_header((LOCATION, link(id)));
            Ok(response.json(PayView { order_id: id, payment: payment_view(&payment) }))
        }
        Paying::Free(order) => {
            let mut response = HttpResponse::Ok();
            Ok(response.insert_header((CACHE_CONTROL, "no-store")).json(view(&order, &context)))
        }
        Paying::NotPayable(order) => {
            Err(Problem::new(Code::OrderNotPayable).with("order_status", order.state.as_str()))
        }
        Paying::NoTill => Err(Problem::new(Code::OrderNotPayable)
            .detail("This shop takes no payments (payment.provider is \"none\").")),
        Paying::NotDecided => Err(Problem::new(Code::OrderNotDecided)),
        Paying::Unknown => Err(Problem::new(Code::OrderNotFound)),
    }
}

/// Answers `POST /webhooks/payments`: hears an event of the payment provider. A success says that all that follows from
/// it is durable.
///
/// # Errors
/// `unauthenticated` for what nobody signed who may, `malformed_json` for what is no event, `not_found` where no money
/// is taken. After any other problem the provider tells it again.
pub async fn webhook(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(&request, payload, context.webhook_body_bytes_max, &context).await?;
    let signature = sole(&request, &SIGNATURE).map_err(|TwoValues| Cause::Signature.refuse())?;
    let signature = signature.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    match context.shop.hear(signature, &body).await? {
        Ok(()) => Ok(HttpResponse::Ok().json(Heard { received: true })),
        Err(Unheard::NotSigned) => Err(Cause::Signature.refuse()),
        Err(Unheard::Malformed) => Err(Problem::new(Code::MalformedJson).detail("This is no event.")),
        Err(Unheard::NoTill) => Err(Problem::new(Code::NotFound)),
    }
}

#[derive(Serialize, ToSchema)]
struct Heard {
    /// All that follows is durable.
    received: bool,
}
