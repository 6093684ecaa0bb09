//! Buying, and what became of it.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::rfc3339;
use crate::chance::Chance;
use crate::domain::order::RejectReason;
use crate::domain::{Money, Month, Order, OrderCursor, OrderId, OrderState, Quantity, SaleId, SkuId, UserId};
use crate::http::problem::{Code, Problem};
use crate::http::router::SHOPPER_BODY_BYTES_MAX;
use crate::http::{Context, extract};
use crate::purchase::admission::TooFast;
use crate::purchase::submit::{Purchase, Submitted};

/// Orders of one page, by default and at most.
const PAGE_DEFAULT: u32 = 20;
const PAGE_MAX: u32 = 100;

/// The body of a purchase.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceBody {
    pub sku_id: SkuId,
    pub quantity: Quantity,
}

#[derive(Deserialize)]
pub struct ReadQuery {
    pub wait: Option<u64>,
}

#[derive(Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

impl ListQuery {
    /// Where the page starts, and how many orders it may hold.
    ///
    /// # Errors
    /// `validation_failed` for a cursor that this API did not give, or a limit out of range.
    pub fn page(&self) -> Result<(Option<OrderCursor>, u32), Problem> {
        let limit = self.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::invalid("/limit", format!("must be from 1 to {PAGE_MAX}")));
        }
        let Some(text) = &self.cursor else {
            return Ok((None, limit));
        };
        let cursor = parse_cursor(text);
        Ok((Some(cursor.ok_or_else(|| Problem::invalid("/cursor", "is not a cursor of this API"))?), limit))
    }
}

/// `POST /sales/{sale}/orders`. The body is read before anything is refused: a connection with an unread body must
/// be closed, which costs more than reading it.
///
/// # Errors
/// Every refusal of the shop.
pub async fn place(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(&request, payload, SHOPPER_BODY_BYTES_MAX).await?;
    let purchase = purchase(&request, &body, &context)?;
    match context.shop.submit(&purchase).await {
        // In a box: it is large, and every refusal would carry room for it.
        Submitted::Accepted { order, replayed } => {
            Ok(Box::pin(accepted(&request, &context, &purchase.user, (order, replayed))).await)
        }
        refused => Err(problem(refused)),
    }
}

fn purchase(request: &HttpRequest, body: &[u8], context: &Context) -> Result<Purchase, Problem> {
    let user = extract::shopper(request, context)?;
    let key = extract::idempotency_key(request)?;
    let PlaceBody { sku_id, quantity } = extract::json(request, body)?;
    let sale = request.match_info().get("sale").and_then(|sale| SaleId::parse(sale).ok());
    let sale = sale.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let address = extract::address(request, &context.trusted_proxies);
    Ok(Purchase { user, address, sale, sku: sku_id, quantity, key })
}

async fn accepted(
    request: &HttpRequest,
    context: &Context,
    user: &UserId,
    (mut order, replayed): (Order, bool),
) -> HttpResponse {
    let wait_s = extract::prefer_wait_s(request);
    if let Some(wait_s) = wait_s.filter(|_| order.state.is_pending()) {
        // The order stands whatever reading it again fails with.
        if let Ok(Some(decided)) = context.shop.order_when_decided(user, order.id, wait_s).await {
            order = decided;
        }
    }
    let status = match (order.state.is_pending(), replayed || order.state.is_released()) {
        (true, _) => StatusCode::ACCEPTED,
        (false, true) => StatusCode::OK,
        (false, false) => StatusCode::CREATED,
    };
    let mut response = HttpResponseBuilder::new(status);
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((LOCATION, link(&order)));
    if replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    if let Some(wait_s) = wait_s {
        let applied = wait_s.min(context.shop.settings.wait_s_max);
        response.insert_header(("Preference-Applied", format!("wait={applied}")));
    }
    response.json(view(&order, context))
}

/// `GET /orders/{order}`.
///
/// # Errors
/// `order_not_found`, also for another buyer's order.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<ReadQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let user = extract::shopper(&request, &context)?;
    let not_found = || Problem::new(Code::OrderNotFound);
    let id = OrderId::parse(&path.into_inner()).map_err(|_| not_found())?;
    let order = match query.wait {
        Some(wait_s) => context.shop.order_when_decided(&user, id, wait_s).await?,
        None => context.shop.order(&user, id).await?,
    };
    let order = order.ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(view(&order, &context)))
}

/// `GET /orders`: the buyer's own, newest first.
///
/// # Errors
/// `validation_failed` for a cursor that this API did not give, or a limit out of range.
pub async fn list(
    request: HttpRequest,
    query: web::Query<ListQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let user = extract::shopper(&request, &context)?;
    let (after, limit) = query.page()?;
    let page = context.shop.orders(&user, after, limit).await?;
    let orders = page.orders.iter().map(|order| view(order, &context)).collect();
    let page = PageView { orders, next_cursor: page.next.map(|next| cursor_text(&next)) };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(page))
}

/// The next page starts below the order it names: its time and its id, opaque to clients.
pub fn cursor_text(cursor: &OrderCursor) -> String {
    let mut bytes = cursor.accepted_ms.to_be_bytes().to_vec();
    bytes.extend_from_slice(cursor.order.bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parse_cursor(text: &str) -> Option<OrderCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (time, id) = bytes.split_at_checked(8)?;
    let order = OrderId::from_bytes(id).ok()?;
    let month: Month = order.month();
    Some(OrderCursor { month, accepted_ms: i64::from_be_bytes(time.try_into().ok()?), order })
}

fn link(order: &Order) -> String {
    format!("/api/v1/orders/{}", order.id)
}

/// An order as its buyer sees it.
#[derive(Serialize)]
struct View<'a> {
    id: OrderId,
    sale_id: &'a SaleId,
    sku_id: &'a SkuId,
    quantity: Quantity,
    status: OrderState,
    r#final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    price: &'a Money,
    accepted_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poll_after_ms: Option<u64>,
    links: Links,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    order: String,
    sale: String,
}

/// A page of orders; without a cursor it is the last.
#[derive(Serialize)]
struct PageView<'a> {
    orders: Vec<View<'a>>,
    next_cursor: Option<String>,
}

fn view<'a>(order: &'a Order, context: &Context) -> View<'a> {
    let poll_after_ms = || {
        let part = context.shop.map.part_of(order.id.shard());
        with_jitter(context.shop.pace.poll_after_ms(part))
    };
    let expires_ms = order.expires_ms.filter(|_| !order.state.is_final());
    View {
        id: order.id,
        sale_id: &order.sale,
        sku_id: &order.sku,
        quantity: order.quantity,
        status: order.state,
        r#final: order.state.is_final(),
        reason: order.reason.map(RejectReason::as_str),
        price: &order.unit_price,
        accepted_at: rfc3339(order.accepted_ms),
        expires_at: expires_ms.map(rfc3339),
        poll_after_ms: order.state.is_pending().then(poll_after_ms),
        links: Links { order: link(order), sale: format!("/api/v1/sales/{}", order.sale) },
    }
}

fn with_jitter(ms: u64) -> u64 {
    Chance::System.with_jitter(ms)
}

fn problem(refused: Submitted) -> Problem {
    match refused {
        Submitted::UnknownSale => Problem::new(Code::SaleNotFound),
        Submitted::UnknownSku => Problem::new(Code::SkuNotFound),
        Submitted::NotStarted { starts_ms } => {
            Problem::new(Code::SaleNotStarted).with("starts_at", rfc3339(starts_ms))
        }
        Submitted::Paused => Problem::new(Code::SalePaused),
        Submitted::Ended => Problem::new(Code::SaleEnded),
        Submitted::SoldOut => Problem::new(Code::SoldOut).with("may_return", false),
        Submitted::LimitReached { held, limit } => Problem::new(Code::LimitReached)
            .with("held", held)
            .with("buyer_limit", limit)
            .with("links", json!({ "orders": "/api/v1/orders" })),
        Submitted::KeyReused => Problem::new(Code::IdempotencyKeyReused),
        Submitted::TooFast(TooFast { policy, retry_after }) => {
            let wait = retry_after.max(Duration::from_millis(1));
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2);
            Problem::new(Code::RateLimited).with("policy", policy).retry_after_ms(with_jitter(ms.max(100)))
        }
        Submitted::Overloaded => Problem::new(Code::Overloaded).retry_after_ms(with_jitter(1000)),
        Submitted::Unavailable => Problem::new(Code::DependencyUnavailable).retry_after_ms(with_jitter(1000)),
        Submitted::Draining => Problem::new(Code::Draining).retry_after_ms(with_jitter(1000)),
        Submitted::OutcomeUnknown => Problem::new(Code::OutcomeUnknown).retry_after_ms(with_jitter(500)),
        Submitted::Accepted { .. } => Problem::new(Code::Internal),
    }
}
