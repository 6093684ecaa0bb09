//! The routes of orders: shoppers buy, and they read what became of their purchases. The paths below stand under
//! `/api/v1`.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::order_view::{View, Whole, link, view, with_jitter};
use super::rfc3339;
use crate::domain::purchase_token::TokenFault;
use crate::domain::rule::Way;
use crate::domain::{Month, Order, OrderCursor, OrderId, Quantity, Reference, SaleId, SkuId, UserId};
use crate::http::auth::Shopper;
use crate::http::contract::For;
use crate::http::extract::SHOPPER_BODY_BYTES_MAX;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, DEGRADED, Problem};
use crate::http::rules::{pass, refusal as ruled, tell};
use crate::http::straight::PLACE;
use crate::http::{Context, extract};
use crate::shop::cancel::Cancelled;
use crate::shop::ladder::Step;
use crate::shop::purchase::{Accepted, Purchase, Refusal};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

/// Orders of one page when the request does not say.
const PAGE_DEFAULT: u32 = 20;
/// The most orders of one page.
const PAGE_MAX: u32 = 100;

/// The body of a purchase.
#[derive(Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Purchase)]
pub struct PlaceBody {
    /// The SKU that the shopper buys.
    pub sku_id: SkuId,
    /// How many units of it.
    pub quantity: Quantity,
    /// The shop's own name for the order. It comes back with the order, its events and exports.
    #[serde(default)]
    pub reference: Option<Reference>,
    /// The token of `POST /sales/{sale}/token`.
    #[serde(default)]
    pub purchase_token: Option<String>,
}

/// The body of a call that needs none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Nothing)]
pub struct NothingBody {}

/// The query string of one order.
#[derive(Deserialize, IntoParams)]
pub struct ReadQuery {
    /// Seconds to wait for the decision.
    #[param(minimum = 0)]
    pub wait: Option<u64>,
}

/// The query string of a page of orders.
#[derive(Deserialize, IntoParams)]
pub struct ListQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// The most of a page, 1 to 100 (20).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

impl ListQuery {
    /// Returns the cursor below which the page starts, and how many orders it may hold.
    ///
    /// # Errors
    /// `validation_failed` when the cursor is not one of this API, or the limit is out of range.
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

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        // Most purchases do not come here: `straight` answers them.
        operation(Verb::Post, PLACE, place, |it| {
            it.names("orders", "place_order", "Buy.")
                .about("An accepted purchase is an order that will be decided: ask for it again after `poll_after_ms`.")
                .is_for(For::Shopper)
                .is_limited()
                .changes()
                .needs_key()
                .may_wait()
                .body::<PlaceBody>(json!({ "sku_id": "phone-x", "quantity": 1 }))
                .refuses(&[Code::SaleNotFound, Code::SkuNotFound, Code::SaleNotStarted, Code::SaleDelayed])
                .refuses(&[Code::SalePaused, Code::SaleEnded, Code::SoldOut, Code::FewerLeft, Code::LimitReached])
                .refuses(&[Code::TooManyUnpaid, Code::PurchaseTokenRequired, Code::PurchaseTokenInvalid])
                .refuses(&[Code::IdempotencyKeyReused, Code::Overloaded, Code::Draining])
                .answers::<View<'_>>(202, "Accepted, and not decided yet.")
                .answers::<View<'_>>(201, "With `Prefer: wait`: a new order that waits for its payment.")
                .answers::<View<'_>>(200, "An order that was decided: of a repetition, or rejected while you waited.");
        }),
        operation(Verb::Get, "/api/v1/orders", list, |it| {
            it.names("orders", "list_orders", "One's own orders.")
                .about("Those that are decided. A page may hold fewer than `limit` while there is a `next_cursor`.")
                .is_for(For::Shopper)
                .is_limited()
                .query::<ListQuery>()
                .refuses(&[Code::Overloaded])
                .answers::<PageView<'_>>(200, "A page, newest first.");
        }),
        operation(Verb::Get, "/api/v1/orders/{order}", read, |it| {
            it.names("orders", "read_order", "One of one's own orders.")
                .is_for(For::Shopper)
                .is_limited()
                .query::<ReadQuery>()
                .refuses(&[Code::OrderNotFound])
                .answers::<Whole<'_>>(200, "The order, with its payments.");
        }),
        operation(Verb::Post, "/api/v1/orders/{order}/cancel", cancel, |it| {
            it.names("orders", "cancel_order", "Give an order up that was not paid.")
                .is_for(For::Shopper)
                .is_limited()
                .changes()
                .needs_key()
                .maybe_body::<NothingBody>(json!({}))
                .refuses(&[Code::OrderNotFound, Code::OrderNotCancellable, Code::OrderNotDecided])
                .answers::<View<'_>>(200, "The order, cancelled now or before.");
        }),
    ]
}

/// Answers `POST /sales/{sale}/orders`: submits a purchase. The body is read before anything is refused, because a
/// connection with an unread body must be closed, and that costs more than reading it.
///
/// # Errors
/// What is wrong with the request, and every refusal of the shop.
pub async fn place(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    place_in(&request, payload, &context, request.match_info().get("sale")).await
}

/// Does what [`place`] does, with the sale as it stands in the path.
///
/// # Errors
/// As [`place`].
pub async fn place_in(
    request: &HttpRequest,
    payload: web::Payload,
    context: &web::Data<Context>,
    sale: Option<&str>,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(request, payload, SHOPPER_BODY_BYTES_MAX, context).await?;
    let purchase = purchase(request, &body, context, sale).await?;
    match context.shop.submit(&purchase).await {
        // The future is large. It stands in a box, so that a refusal does not carry room for it.
        Ok(order) => Ok(Box::pin(accepted(request, context, &purchase, order)).await),
        Err(refusal) => {
            let may_return = || context.shop.may_return(&purchase.sale, &purchase.sku);
            Err(problem(refusal, may_return))
        }
    }
}

async fn purchase(
    request: &HttpRequest,
    body: &[u8],
    context: &Context,
    sale: Option<&str>,
) -> Result<Purchase, Problem> {
    let Shopper { user, device, is_device_proven, .. } = extract::shopper(request, context).await?;
    let key = extract::idempotency_key(request)?;
    let PlaceBody { sku_id, quantity, reference, purchase_token } = extract::json(request, body)?;
    let sale =
        sale.and_then(|sale| SaleId::parse(sale).ok()).ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let address = context.addresses.of(request, context.shop.now_ms());
    let waits = extract::prefer_wait_s(request).is_some_and(|seconds| seconds > 0);
    let (sku, token) = (sku_id, purchase_token);
    Ok(Purchase {
        user,
        device,
        is_device_proven,
        address,
        sale,
        sku,
        quantity,
        reference,
        token,
        key,
        waits,
    })
}

async fn accepted(
    request: &HttpRequest,
    context: &Context,
    purchase: &Purchase,
    Accepted { mut order, replayed, standing }: Accepted,
) -> HttpResponse {
    let user = &purchase.user;
    tell(request, context, (user, purchase.proven_device()), standing);
    let wished_s = extract::prefer_wait_s(request);
    let applied_s = wished_s.map(|wished_s| context.shop.wait_s(wished_s));
    let is_cut = applied_s < wished_s && context.shop.is_degraded(Step::Waits);
    if let Some(wait_s) = applied_s.filter(|_| order.state.is_pending()) {
        // When reading the order again fails, the order stands all the same.
        if let Ok(Some(decided)) = context.shop.order_when_decided(user, order.id, wait_s).await {
            order = decided.order.clone();
        }
    }
    let status = match (order.state.is_pending(), replayed || order.state.holds_nothing()) {
        (true, _) => StatusCode::ACCEPTED,
        (false, true) => StatusCode::OK,
        (false, false) => StatusCode::CREATED,
    };
    let mut response = HttpResponseBuilder::new(status);
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((LOCATION, link(order.id)));
    if replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    if let Some(applied_s) = applied_s {
        response.insert_header(("Preference-Applied", format!("wait={applied_s}")));
    }
    if is_cut {
        response.insert_header((DEGRADED, Step::Waits.as_str()));
    }
    response.json(view(&order, context))
}

/// What the buyer of an order may do that nobody knows any more (docs/protocol/promises.md, "Not promised").
const LOST: &str = "An order that was only reserved may have been lost with the inventory's data: buy again with the same \
                    Idempotency-Key";

/// Answers `GET /orders/{order}`.
///
/// # Errors
/// `order_not_found`, also for another buyer's order.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<ReadQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let shopper = extract::shopper(&request, &context).await?;
    pass(&request, &context, Way::OrderRead, (Some(&shopper), None)).await?;
    let user = shopper.user;
    let not_found = || Problem::new(Code::OrderNotFound).detail(LOST);
    let id = OrderId::parse(&path.into_inner()).map_err(|_| not_found())?;
    let is_cut = query.wait.is_some_and(|wait_s| wait_s > 0) && context.shop.is_degraded(Step::Waits);
    let whole = match query.wait {
        Some(wait_s) => context.shop.order_when_decided(&user, id, wait_s).await?,
        None => context.shop.order(&user, id).await?,
    };
    let whole = whole.ok_or_else(not_found)?;
    let mut response = HttpResponse::Ok();
    if is_cut && whole.order.state.is_pending() {
        response.insert_header((DEGRADED, Step::Waits.as_str()));
    }
    let whole = Whole::of(&whole.order, &whole.payments, &context);
    Ok(response.insert_header((CACHE_CONTROL, "no-store")).json(whole))
}

/// Answers `POST /orders/{order}/cancel`: gives an order up. A body is not needed, and may be an empty object.
///
/// # Errors
/// `order_not_found`, also for another buyer's order; `order_not_cancellable` when it came to another end;
/// `order_not_decided` while nobody knows what it holds.
pub async fn cancel(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let user = no_body(&request, payload, &context, Way::Cancel).await?;
    let id = OrderId::parse(&path.into_inner()).map_err(|_| Problem::new(Code::OrderNotFound))?;
    let order = cancelled(context.shop.cancel(&user, id).await?)?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(view(&order, &context)))
}

/// Reads a change that needs no body, and answers who asks for it. A body may be an empty object.
///
/// # Errors
/// What is wrong with the request, and the refusal of a rule.
pub async fn no_body(
    request: &HttpRequest,
    payload: web::Payload,
    context: &Context,
    way: Way,
) -> Result<UserId, Problem> {
    let body = extract::body(request, payload, SHOPPER_BODY_BYTES_MAX, context).await?;
    let shopper = extract::shopper(request, context).await?;
    extract::idempotency_key(request)?;
    if !body.is_empty() {
        let NothingBody {} = extract::json(request, &body)?;
    }
    pass(request, context, way, (Some(&shopper), None)).await?;
    Ok(shopper.user)
}

/// Translates the answer to who gives an order up.
///
/// # Errors
/// As [`cancel`].
pub fn cancelled(cancelled: Cancelled) -> Result<Box<Order>, Problem> {
    match cancelled {
        Cancelled::Done(order) => Ok(order),
        Cancelled::NotCancellable(order) => {
            Err(Problem::new(Code::OrderNotCancellable).with("order_status", order.state.as_str()))
        }
        Cancelled::NotDecided => Err(Problem::new(Code::OrderNotDecided).retry_after_ms(with_jitter(1000))),
        Cancelled::Unknown => Err(Problem::new(Code::OrderNotFound)),
    }
}

/// Answers `GET /orders`: a page of the buyer's own orders, newest first.
///
/// # Errors
/// `validation_failed` when the cursor is not one of this API, or the limit is out of range.
pub async fn list(
    request: HttpRequest,
    query: web::Query<ListQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let shopper = extract::shopper(&request, &context).await?;
    pass(&request, &context, Way::OrderList, (Some(&shopper), None)).await?;
    let (after, limit) = query.page()?;
    if context.shop.is_degraded(Step::Lists) {
        let problem = Problem::new(Code::Overloaded).degraded(Step::Lists);
        return Err(problem.retry_after_ms(with_jitter(5000)));
    }
    let page = context.shop.orders(&shopper.user, after, limit).await?;
    let orders = page.orders.iter().map(|order| view(order, &context)).collect();
    let page = PageView { orders, next_cursor: page.next.map(|next| cursor_text(&next)) };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(page))
}

/// Writes a cursor as text. It is the time and the id of an order, and the next page starts below that order. Clients
/// must not look into it.
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

/// A page of orders. A page without a cursor is the last one.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderPage)]
struct PageView<'a> {
    /// Newest first.
    orders: Vec<View<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn problem(refusal: Refusal, may_return: impl Fn() -> bool) -> Problem {
    match refusal {
        Refusal::UnknownSale => Problem::new(Code::SaleNotFound),
        Refusal::UnknownSku => Problem::new(Code::SkuNotFound),
        Refusal::NotStarted { starts_ms } => {
            Problem::new(Code::SaleNotStarted).with("starts_at", rfc3339(starts_ms))
        }
        Refusal::Delayed => Problem::new(Code::SaleDelayed).retry_after_ms(with_jitter(5000)),
        Refusal::Paused => Problem::new(Code::SalePaused),
        Refusal::Ended => Problem::new(Code::SaleEnded),
        Refusal::TokenRequired => Problem::new(Code::PurchaseTokenRequired),
        Refusal::TokenInvalid(fault) => Problem::new(Code::PurchaseTokenInvalid).detail(match fault {
            TokenFault::Expired => "It has expired: ask for another one.",
            TokenFault::Early => "It is valid later: ask for another one.",
            TokenFault::Foreign => "It is not of this buyer, sale and device.",
        }),
        Refusal::SoldOut => Problem::new(Code::SoldOut).with("may_return", may_return()),
        Refusal::FewerLeft { left } => Problem::new(Code::FewerLeft).with("left", left),
        Refusal::LimitReached { held, limit } => Problem::new(Code::LimitReached)
            .detail(format!("You hold {held} of at most {limit} units."))
            .with("held", held)
            .with("buyer_limit", limit)
            .with("links", json!({ "orders": "/api/v1/orders" })),
        Refusal::TooManyUnpaid { unpaid } => Problem::new(Code::TooManyUnpaid)
            .detail(format!("You have let {unpaid} orders of this sale expire, or have given them up."))
            .with("unpaid", unpaid),
        Refusal::KeyReused => Problem::new(Code::IdempotencyKeyReused),
        Refusal::Ruled(refused) => ruled(refused),
        Refusal::Overloaded => {
            Problem::new(Code::Overloaded).degraded(Step::Purchases).retry_after_ms(with_jitter(1000))
        }
        Refusal::Unavailable => Problem::new(Code::DependencyUnavailable).retry_after_ms(with_jitter(1000)),
        Refusal::Draining => Problem::new(Code::Draining).retry_after_ms(with_jitter(1000)),
        Refusal::OutcomeUnknown => Problem::new(Code::OutcomeUnknown).retry_after_ms(with_jitter(500)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_refusal_carries_no_room_for_what_it_does_not_need() {
        // The future is allocated for every request, and the allocator is slow above 1,032 bytes.
        assert!(bytes(place) <= 1_000, "{} bytes", bytes(place));
    }
}
