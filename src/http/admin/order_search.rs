//! The admin routes of many orders: operators look for them, and end them. The paths below stand under
//! `/api/v1/admin`.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::changes::{checked_reason, read_body};
use super::sales::sale_id;
use super::{Scope, change, operator};
use crate::domain::{Month, Order, OrderFilter, OrderId, OrderState, Reference, SkuId, UserId};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::order_view::{self, View as OfBuyer};
use crate::http::shopper::parse_rfc3339;
use crate::shop::search::{BulkAction, BulkOutcome};

/// The most orders of a page and of one call, and how many they have when the request does not say.
const ORDERS_MAX: u32 = 100;

/// What is said of calls about a whole sale.
const BULK: &str = "Of a sale these are the orders that have a row when the call comes. While it sells, others follow: \
                    repeat the call without a cursor until it finds none.";

/// Which orders are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Of this sale.
    #[param(required, nullable = false)]
    sale: Option<String>,
    /// Of this SKU.
    sku: Option<String>,
    /// Of this buyer.
    user: Option<String>,
    /// In this state, such as `paid`.
    status: Option<String>,
    /// With this name of the shop's own.
    reference: Option<String>,
    /// Accepted not before this time.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Accepted before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// The `next_cursor` of the page before: the id of its last order.
    cursor: Option<String>,
    /// The most of a page, 1 to 100 (100).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// An order that was found: as its buyer sees it, and who the buyer is.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundOrder)]
pub(super) struct FoundView<'a> {
    /// The buyer.
    user_id: &'a UserId,
    #[serde(flatten)]
    order: OfBuyer<'a>,
}

/// A page of orders.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundOrders)]
struct PageView<'a> {
    /// Ascending by id.
    orders: Vec<FoundView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// The body that ends many orders. Without `ids` it is about those of a sale that can be ended.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndOrders)]
struct EndBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether only to tell what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Those.
    #[serde(default)]
    #[schema(max_items = 100)]
    ids: Vec<String>,
    /// All of this sale.
    sale_id: Option<String>,
    /// Of the sale, only those of this SKU.
    sku_id: Option<String>,
    /// Only of refunds: whether the units go back on sale. They are withheld otherwise, and when the sale has ended.
    #[serde(default)]
    restock: bool,
    /// The `next_cursor` of the call before.
    cursor: Option<String>,
    /// The most of a call, 1 to 100 (100).
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// What came of one order, or would come of it.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderOutcome)]
struct OutcomeView {
    /// The order.
    id: OrderId,
    /// `done`, `refused`, `not_decided`, `unknown` or `failed`.
    outcome: &'static str,
    /// How the order stands, or would stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<OrderState>,
}

/// What came of many orders, or would come of them.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderOutcomes)]
struct OutcomesView {
    /// What came of each.
    orders: Vec<OutcomeView>,
    /// Whether nothing was changed.
    dry_run: bool,
    /// Where to go on; null at the end.
    next_cursor: Option<String>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/orders", search, |it| {
            it.names("orders", "find_orders", "Orders of a sale, by buyer, state, SKU, time or reference.")
                .about("Orders that have no row yet are not among them: read them by their id.")
                .is_for(For::Operator(Scope::OrdersRead))
                .query::<Wanted>()
                .refuses(&[Code::SaleNotFound])
                .answers::<PageView<'_>>(200, "A page, ascending by id.");
        }),
        operation(Verb::Post, "/api/v1/admin/orders/cancel", cancel_all, |it| {
            it.names("orders", "cancel_orders", "Cancel many orders that were not paid.")
                .about(BULK)
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<EndBody>(
                    json!({ "reason": "a wrong price", "sale_id": "friday-drop", "dry_run": true }),
                )
                .refuses(&[Code::SaleNotFound])
                .answers::<OutcomesView>(200, "What came of each, or would come of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/orders/refund", refund_all, |it| {
            it.names("orders", "refund_orders", "Pay many orders back.")
                .about(BULK)
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<EndBody>(
                    json!({ "reason": "a wrong price", "sale_id": "friday-drop", "dry_run": true }),
                )
                .refuses(&[Code::SaleNotFound])
                .answers::<OutcomesView>(200, "What came of each, or would come of it.");
        }),
    ]
}

pub(super) fn state(text: Option<&str>) -> Result<Option<OrderState>, Problem> {
    let parse =
        |word| OrderState::parse(word).ok_or_else(|| Problem::invalid("/status", "is no state of an order"));
    text.map(parse).transpose()
}

pub(super) fn cursor(text: Option<&str>) -> Result<Option<OrderId>, Problem> {
    let parse =
        |text| OrderId::parse(text).map_err(|_| Problem::invalid("/cursor", "is not a cursor of this API"));
    text.map(parse).transpose()
}

fn limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(ORDERS_MAX) {
        limit if (1..=ORDERS_MAX).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid("/limit", format!("must be from 1 to {ORDERS_MAX}"))),
    }
}

/// Answers the cursor of the next page; none when the page is not full.
fn next(orders: &[OrderId], limit: u32) -> Option<String> {
    let is_full = u32::try_from(orders.len()).is_ok_and(|found| found >= limit);
    orders.last().filter(|_| is_full).map(OrderId::to_string)
}

/// Finds the month of a sale, in which all of its orders are.
pub(super) async fn month_of(sale: &str, context: &Context) -> Result<(OrderFilter, Month), Problem> {
    let found = context.shop.sale(&sale_id(sale)?).await?;
    let sale = found.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    Ok((OrderFilter::of(sale.id.clone()), sale.month()))
}

impl Wanted {
    async fn filter(&self, context: &Context) -> Result<(OrderFilter, Month), Problem> {
        let sale = self.sale.as_deref().ok_or_else(|| Problem::invalid("/sale", "is missing"))?;
        let time = |pointer: &'static str, text: &Option<String>| {
            text.as_deref().map(|text| parse_rfc3339(pointer, text)).transpose()
        };
        let invalid = |pointer: &'static str, error: String| Problem::invalid(pointer, error);
        let sku = self.sku.as_deref().map(SkuId::parse).transpose();
        let user = self.user.as_deref().map(UserId::parse).transpose();
        let reference = self.reference.as_deref().map(Reference::parse).transpose();
        let wanted = OrderFilter {
            sku: sku.map_err(|error| invalid("/sku", error.to_string()))?,
            user: user.map_err(|error| invalid("/user", error.to_string()))?,
            reference: reference.map_err(|error| invalid("/reference", error.to_string()))?,
            state: state(self.status.as_deref())?,
            since_ms: time("/since", &self.since)?,
            until_ms: time("/until", &self.until)?,
            sale: sale_id(sale)?,
        };
        let (of_sale, month) = month_of(sale, context).await?;
        Ok((OrderFilter { sale: of_sale.sale, ..wanted }, month))
    }
}

pub(super) fn view_of<'a>(order: &'a Order, context: &Context) -> FoundView<'a> {
    FoundView { user_id: &order.user, order: order_view::view(order, context) }
}

/// Answers `GET /orders`: a page of orders.
///
/// # Errors
/// `validation_failed`, `sale_not_found`.
pub async fn search(
    request: HttpRequest,
    query: web::Query<Wanted>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let (after, limit) = (cursor(query.cursor.as_deref())?, limit(query.limit)?);
    let (filter, month) = query.filter(&context).await?;
    let orders = context.shop.find_orders(&filter, month, after, limit).await?;
    let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
    let next_cursor = next(&ids, limit);
    let orders = orders.iter().map(|order| view_of(order, &context)).collect();
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(PageView { orders, next_cursor }))
}

/// Answers `POST /orders/cancel`: cancels many orders.
///
/// # Errors
/// `validation_failed`, `sale_not_found`. What came of each order is told with it.
pub async fn cancel_all(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let who = operator(&request, &context, Scope::OrdersWrite).await?;
    let body: EndBody = read_body(&request, payload, &context).await?;
    if body.restock {
        return Err(Problem::invalid(
            "/restock",
            "is of refunds: units that were not paid always go back on sale",
        ));
    }
    let change = change(&who, "order_cancel", &checked_reason(&body.reason)?);
    end_all(&body, BulkAction::Cancel, OrderState::AwaitingPayment, &change, &context).await
}

/// Answers `POST /orders/refund`: pays many orders back.
///
/// # Errors
/// As [`cancel_all`].
pub async fn refund_all(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let who = operator(&request, &context, Scope::OrdersWrite).await?;
    let body: EndBody = read_body(&request, payload, &context).await?;
    let change = change(&who, "order_refund", &checked_reason(&body.reason)?);
    let action = BulkAction::Refund { restock: body.restock };
    end_all(&body, action, OrderState::Paid, &change, &context).await
}

async fn end_all(
    body: &EndBody,
    action: BulkAction,
    state: OrderState,
    change: &crate::domain::Change,
    context: &Context,
) -> Result<HttpResponse, Problem> {
    let limit = limit(body.limit)?;
    let (ids, next_cursor) = match (&body.sale_id, body.ids.is_empty()) {
        (Some(sale), true) => {
            let (filter, month) = month_of(sale, context).await?;
            let sku = body.sku_id.as_deref().map(SkuId::parse).transpose();
            let sku = sku.map_err(|error| Problem::invalid("/sku_id", error.to_string()))?;
            let filter = OrderFilter { sku, state: Some(state), ..filter };
            let after = cursor(body.cursor.as_deref())?;
            let orders = context.shop.find_orders(&filter, month, after, limit).await?;
            let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
            let next_cursor = next(&ids, limit);
            (ids, next_cursor)
        }
        (None, false) if body.sku_id.is_some() || body.cursor.is_some() || body.limit.is_some() => {
            return Err(Problem::invalid(
                "",
                "sku_id, cursor and limit are of a sale: name the orders alone",
            ));
        }
        (None, false) => (named(&body.ids)?, None),
        _ => return Err(Problem::invalid("", "needs ids, or a sale_id, and not both")),
    };
    let ended = context.shop.end_orders(&ids, action, (change, body.dry_run)).await;
    let orders = ended.into_iter().map(|(id, outcome)| outcome_view(id, outcome)).collect();
    Ok(HttpResponse::Ok().json(OutcomesView { orders, dry_run: body.dry_run, next_cursor }))
}

fn named(ids: &[String]) -> Result<Vec<OrderId>, Problem> {
    if ids.len() > usize::try_from(ORDERS_MAX).unwrap_or(usize::MAX) {
        return Err(Problem::invalid("/ids", format!("must be at most {ORDERS_MAX}")));
    }
    let id = |(index, text): (usize, &String)| {
        OrderId::parse(text).map_err(|_| Problem::invalid(&format!("/ids/{index}"), "is no id of an order"))
    };
    ids.iter().enumerate().map(id).collect()
}

fn outcome_view(id: OrderId, outcome: BulkOutcome) -> OutcomeView {
    let (outcome, status) = match outcome {
        BulkOutcome::Done(state) => ("done", Some(state)),
        BulkOutcome::Refused(state) => ("refused", Some(state)),
        BulkOutcome::NotDecided => ("not_decided", None),
        BulkOutcome::Unknown => ("unknown", None),
        BulkOutcome::Failed => ("failed", None),
    };
    OutcomeView { id, outcome, status }
}
