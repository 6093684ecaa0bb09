//! The admin routes of orders: operators read and cancel anybody's order. The paths below stand under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::sales::{ReasonBody, read_body};
use super::{Scope, change, operator};
use crate::domain::{Order, OrderId, UserId};
use crate::http::Context;
use crate::http::problem::{Code, Problem};
use crate::http::shopper::orders::{View as ShopperView, cancelled, view};

/// An order as operators see it: as its buyer does, and who the buyer is.
#[derive(Serialize)]
struct View<'a> {
    user_id: &'a UserId,
    #[serde(flatten)]
    order: ShopperView<'a>,
}

fn respond(order: &Order, context: &Context) -> HttpResponse {
    HttpResponse::Ok().json(View { user_id: &order.user, order: view(order, context) })
}

fn order_id(path: &str) -> Result<OrderId, Problem> {
    OrderId::parse(path).map_err(|_| Problem::new(Code::OrderNotFound))
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
    let order = context.shop.any_order(order_id(&path)?).await?;
    Ok(respond(&order.ok_or_else(|| Problem::new(Code::OrderNotFound))?, &context))
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
    let change = change(&request, &operator, "order_cancel", &reason);
    let order = cancelled(context.shop.cancel_as_operator(order_id(&path)?, &change).await?)?;
    Ok(respond(&order, &context))
}
