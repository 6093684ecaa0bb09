//! The admin routes of orders: operators read and cancel anybody's order. The paths below stand under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{ReasonBody, checked_reason, read_body};
use super::{Scope, change, operator};
use crate::domain::{Order, OrderId, UserId};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::order_view::Whole;
use crate::http::shopper::orders::cancelled;
use crate::http::shopper::rfc3339;
use crate::shop::pay::Refunding;
use crate::shop::search::Hop;
use serde_json::json;
use utoipa::ToSchema;

/// An order as operators see it: as its buyer does, and who the buyer is.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderOfBuyer)]
struct View<'a> {
    /// The buyer.
    user_id: &'a UserId,
    #[serde(flatten)]
    order: Whole<'a>,
}

/// An order as operators read it: with its buyer, and what happened to it.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderWithTimeline)]
struct ReadView<'a> {
    /// The buyer.
    user_id: &'a UserId,
    #[serde(flatten)]
    order: Whole<'a>,
    /// What happened to it, ascending by time; null when that cannot be told now.
    timeline: Option<Vec<HopView<'a>>>,
}

/// One thing that happened to an order.
#[derive(Serialize, ToSchema)]
#[schema(as = Hop)]
struct HopView<'a> {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// What: `accepted`, the word of a step, or what a payment or a refund did.
    what: &'a str,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    /// The first eight digits of the id of the process that did it, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

fn hop_view(hop: &Hop) -> HopView<'_> {
    let Hop { at_ms, what, by, why, node } = hop;
    let node = node.map(|node| node.to_string());
    HopView { at: rfc3339(*at_ms), what, by: by.as_deref(), why: why.as_deref(), node }
}

/// Answers with an order that was changed just now.
async fn respond(order: &Order, context: &Context) -> Result<HttpResponse, Problem> {
    let payments = context.shop.payments(order).await?;
    let view = View { user_id: &order.user, order: Whole::of(order, &payments, context) };
    Ok(HttpResponse::Ok().json(view))
}

fn order_id(path: &str) -> Result<OrderId, Problem> {
    OrderId::parse(path).map_err(|_| Problem::new(Code::OrderNotFound))
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/orders/{order}", read, |it| {
            it.names("orders", "read_any_order", "Anybody's order, and what happened to it.")
                .is_for(For::Operator(Scope::OrdersRead))
                .refuses(&[Code::OrderNotFound])
                .answers::<ReadView<'_>>(200, "The order, with its payments, its buyer and its timeline.");
        }),
        operation(Verb::Post, "/api/v1/admin/orders/{order}/cancel", cancel, |it| {
            it.names("orders", "cancel_any_order", "Cancel anybody's order that was not paid.")
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a complaint" }))
                .refuses(&[Code::OrderNotFound, Code::OrderNotCancellable, Code::OrderNotDecided])
                .answers::<View<'_>>(200, "The order, cancelled now or before.");
        }),
        operation(Verb::Post, "/api/v1/admin/orders/{order}/refund", refund, |it| {
            it.names("orders", "refund_order", "Pay a paid order back.")
                .about("Repeating it tries a refund again that has failed.")
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<RefundBody>(json!({ "reason": "a complaint", "restock": false }))
                .refuses(&[Code::OrderNotFound, Code::OrderNotRefundable])
                .answers::<View<'_>>(200, "The order, refunded now or before.");
        }),
    ]
}

/// Answers `GET /orders/{order}`.
///
/// # Errors
/// `order_not_found`.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let whole = context.shop.any_order(order_id(&path)?).await?;
    let whole = whole.ok_or_else(|| Problem::new(Code::OrderNotFound))?;
    // The order is told, whether its steps can be read or not.
    let timeline = context.shop.timeline(&whole.order).await.ok();
    Ok(HttpResponse::Ok().json(ReadView {
        user_id: &whole.order.user,
        order: Whole::of(&whole.order, &whole.payments, &context),
        timeline: timeline.as_ref().map(|hops| hops.iter().map(hop_view).collect()),
    }))
}

/// Answers `POST /orders/{order}/cancel`.
///
/// # Errors
/// `order_not_found`, `order_not_cancellable`, `order_not_decided`.
pub async fn cancel(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, "order_cancel", &reason);
    let order = cancelled(context.shop.cancel_as_operator(order_id(&path)?, &change).await?)?;
    respond(&order, &context).await
}

/// The body of a refund.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RefundOrder)]
struct RefundBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether the units go back on sale. They are withheld otherwise, and when the sale has ended.
    #[serde(default)]
    restock: bool,
}

/// Answers `POST /orders/{order}/refund`. Repeating it tries a refund again that has failed.
///
/// # Errors
/// `order_not_found`, `order_not_refundable`.
pub async fn refund(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let RefundBody { reason, restock } = read_body(&request, payload, &context).await?;
    let reason = checked_reason(&reason)?;
    let change = change(&operator, "order_refund", &reason);
    match context.shop.refund_as_operator(order_id(&path)?, restock, &change).await? {
        Refunding::Done(order) => respond(&order, &context).await,
        Refunding::NotRefundable(order) => {
            Err(Problem::new(Code::OrderNotRefundable).with("order_status", order.state.as_str()))
        }
        Refunding::Unknown => Err(Problem::new(Code::OrderNotFound)),
    }
}
