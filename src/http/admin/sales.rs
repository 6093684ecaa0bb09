//! The admin routes of sales: operators read, create and change sales, and take them through their life. The paths
//! below stand under `/api/v1/admin`.

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::{Deserialize, Serialize};

use super::changes::{ReasonBody, checked_reason, if_versions, read_body};
use super::sale_bodies::{CreateBody, PatchBody};
use super::{Scope, change as audit, operator};
use crate::domain::rule::Switch;
use crate::domain::sale::SaleAction;
use crate::domain::{Access, Item, Sale, SaleId, SaleState};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::paging::SalesQuery;
use crate::http::problem::{Code, Problem};
use crate::http::rules::while_on;
use crate::http::shopper::rfc3339;
use crate::shop::operate::Changed;
use crate::shop::settle::Settled;
use serde_json::json;
use utoipa::ToSchema;

/// Reads the id of a sale from a path.
///
/// # Errors
/// `sale_not_found` for a text that can be none.
pub fn sale_id(path: &str) -> Result<SaleId, Problem> {
    SaleId::parse(path).map_err(|_| Problem::new(Code::SaleNotFound))
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    let mut all = vec![
        operation(Verb::Get, "/api/v1/admin/sales", list, |it| {
            it.names("sales", "list_all_sales", "All sales, drafts too.")
                .is_for(For::Operator(Scope::SalesRead))
                .query::<SalesQuery>()
                .answers::<ListView<'_>>(200, "A page, ascending by start.");
        }),
        operation(Verb::Post, "/api/v1/admin/sales", create, |it| {
            it.names("sales", "create_sale", "Create a draft.")
                .is_for(For::Operator(Scope::SalesWrite))
                .changes()
                .body::<CreateBody>(json!({ "id": "friday-drop", "name": "Friday drop", "starts_at": "2036-11-27T12:00:00.000Z",
                    "ends_at": "2036-11-27T13:00:00.000Z", "buyer_limit": 1, "reason": "autumn campaign", "items": [{ "sku_id": "phone-x",
                    "name": "Phone X", "stock": 500, "price": { "amount": 19900, "currency": "CNY" } }] }))
                .refuses(&[Code::SaleExists, Code::SwitchedOff])
                .answers::<SaleView<'_>>(201, "The draft.");
        }),
        operation(Verb::Get, "/api/v1/admin/sales/{sale}", read, |it| {
            it.names("sales", "read_any_sale", "One sale, with what can be done with it.")
                .is_for(For::Operator(Scope::SalesRead))
                .refuses(&[Code::SaleNotFound])
                .answers::<SaleView<'_>>(200, "The sale.");
        }),
        operation(Verb::Patch, "/api/v1/admin/sales/{sale}", change, |it| {
            it.names("sales", "change_sale", "Change what is given of a sale that is not in place yet.")
                .is_for(For::Operator(Scope::SalesWrite))
                .changes()
                .heeds_if_match()
                .body::<PatchBody>(json!({ "buyer_limit": 2, "reason": "a larger stock" }))
                .refuses(&[Code::SaleNotFound, Code::StateConflict])
                .answers::<SaleView<'_>>(200, "The sale.");
        }),
    ];
    all.extend(life());
    all
}

/// Those that take a sale through its life.
fn life() -> Vec<Operation> {
    vec![
        operation(Verb::Post, "/api/v1/admin/sales/{sale}/settle", settle, |it| {
            it.names(
                "sales",
                "settle_sale",
                "Compare the counts of an ended sale, write its report, and clear the inventory of it.",
            )
            .is_for(For::Operator(Scope::SalesWrite))
            .changes()
            .heeds_if_match()
            .body::<SettleBody>(json!({ "reason": "it is over" }))
            .refuses(&[Code::SaleNotFound, Code::StateConflict])
            .answers::<SaleView<'_>>(200, "The sale, settled now or before.");
        }),
        operation(Verb::Post, "/api/v1/admin/sales/{sale}/{action}", advance, |it| {
            it.names(
                "sales",
                "advance_sale",
                "Take a sale through its life: publish, preheat, pause, resume, end.",
            )
            .is_for(For::Operator(Scope::SalesWrite))
            .changes()
            .heeds_if_match()
            .body::<ReasonBody>(json!({ "reason": "all is ready" }))
            .refuses(&[Code::NotFound, Code::SaleNotFound, Code::StateConflict, Code::SwitchedOff])
            .answers::<SaleView<'_>>(200, "The sale.");
        }),
    ]
}

/// Answers `GET /sales`: a page of all sales, ascending by start.
///
/// # Errors `unauthenticated`, `forbidden`, `dependency_unavailable`: every handler of this file has them.
/// `validation_failed` as [`SalesQuery::page`].
pub async fn list(
    request: HttpRequest,
    query: web::Query<SalesQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let sales = context.shop.sales().await?;
    let page = query.page(&sales, |sale| sale)?;
    let sales = page.sales.into_iter().map(SaleView::of).collect();
    Ok(HttpResponse::Ok().json(ListView { sales, next_cursor: page.next }))
}

/// Answers `GET /sales/{sale}`.
///
/// # Errors
/// `sale_not_found`.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let sale = context.shop.sale(&sale_id(&path)?).await?;
    let sale = sale.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    Ok(respond(StatusCode::OK, &sale))
}

/// Answers `POST /sales`: creates a draft.
///
/// # Errors
/// `validation_failed`, `sale_exists`.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (sale, reason) = read_body::<CreateBody>(&request, payload, &context).await?.sale()?;
    while_on(&context, Switch::NoNewSales)?;
    let change = audit(&operator, "create", &reason);
    let sale = done(context.shop.create_sale(sale, &change).await?)?;
    Ok(respond(StatusCode::CREATED, &sale))
}

/// Answers `PATCH /sales/{sale}`.
///
/// # Errors
/// `etag_mismatch` when `If-Match` names another version, `state_conflict` once the sale is preheated.
pub async fn change(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (patch, reason) = read_body::<PatchBody>(&request, payload, &context).await?.patch()?;
    let if_versions = if_versions(&request)?;
    let change = audit(&operator, "patch", &reason);
    let sale =
        done(context.shop.patch_sale(&sale_id(&path)?, patch, if_versions.as_deref(), &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// Answers `POST /sales/{sale}/{action}`: takes a sale through its life.
///
/// # Errors
/// `not_found` for an action that there is not, `state_conflict` with the actions that are allowed instead,
/// `etag_mismatch` when `If-Match` names another version.
pub async fn advance(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (sale, action) = path.into_inner();
    let action = SaleAction::parse(&action).ok_or_else(|| Problem::new(Code::NotFound))?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    if action == SaleAction::Publish {
        while_on(&context, Switch::NoNewSales)?;
    }
    let if_versions = if_versions(&request)?;
    let change = audit(&operator, action.as_str(), &reason);
    let id = sale_id(&sale)?;
    let sale = done(context.shop.advance_sale(&id, action, if_versions.as_deref(), &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// The body that settles a sale.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SettleSale)]
struct SettleBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether differences between inventory and ledgers are passed over. The report keeps them.
    #[serde(default)]
    accept_differences: bool,
}

/// Answers `POST /sales/{sale}/settle`: compares the counts of a sale that was ended, writes its report and clears the
/// inventory of it.
///
/// # Errors
/// `sale_not_found`; `state_conflict` with `open`, what is still open, with `differences`, or with the actions that are
/// allowed instead.
pub async fn settle(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let SettleBody { reason, accept_differences } = read_body(&request, payload, &context).await?;
    let change = audit(&operator, SaleAction::Settle.as_str(), &checked_reason(&reason)?);
    let conflict = || Problem::new(Code::StateConflict);
    let if_versions = if_versions(&request)?;
    match context.shop.settle(&sale_id(&path)?, accept_differences, if_versions.as_deref(), &change).await? {
        Settled::VersionMoved => Err(Problem::new(Code::EtagMismatch)),
        Settled::Done(sale) => Ok(respond(StatusCode::OK, &sale)),
        Settled::Unknown => Err(Problem::new(Code::SaleNotFound)),
        Settled::NotAllowed { state, allowed } => done(Changed::NotAllowed { state, allowed })
            .map_err(|problem| problem.detail("Only a sale that was ended can be settled."))
            .map(|sale| respond(StatusCode::OK, &sale)),
        Settled::Open(open) => {
            Err(conflict().with("open", open).detail("Something of it is open: nothing was changed."))
        }
        Settled::Differs(units) => Err(conflict()
            .with("differences", serde_json::to_value(&units).unwrap_or_default())
            .detail("The inventory does not have the units that the ledgers say: nothing was changed. Look into it, \
                     and settle with accept_differences")),
    }
}

pub(super) fn done(changed: Changed) -> Result<Sale, Problem> {
    match changed {
        Changed::Done(sale) => Ok(sale),
        Changed::Unknown => Err(Problem::new(Code::SaleNotFound)),
        Changed::Invalid(invalid) => Err(Problem::invalid(&invalid.pointer, invalid.detail)),
        Changed::Taken => Err(Problem::new(Code::SaleExists)),
        Changed::VersionMoved => Err(Problem::new(Code::EtagMismatch)),
        Changed::Over { ends_ms } => Err(Problem::new(Code::StateConflict).detail(format!(
            "the sale ended at {}: nobody could buy. Patch starts_at and ends_at first",
            rfc3339(ends_ms)
        ))),
        Changed::MonthMissing { yyyymm } => Err(Problem::new(Code::StateConflict).detail(format!(
            "the orders tables of {yyyymm} are missing: run `seckill migrate`, then repeat"
        ))),
        Changed::NotAllowed { state, allowed } => {
            let allowed: Vec<&str> = allowed.into_iter().map(SaleAction::as_str).collect();
            Err(Problem::new(Code::StateConflict).with("state", state.as_str()).with("allowed", allowed))
        }
    }
}

pub(super) fn respond(status: StatusCode, sale: &Sale) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .insert_header((ETAG, format!("\"{}\"", sale.version)))
        .insert_header((LOCATION, format!("/api/v1/admin/sales/{}", sale.id)))
        .json(SaleView::of(sale))
}

/// A sale as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = SaleOfOperators)]
pub(super) struct SaleView<'a> {
    /// The sale.
    id: &'a SaleId,
    /// What shoppers see.
    name: &'a str,
    /// Where it is in its life.
    state: SaleState,
    /// What can be done with it now.
    allowed: Vec<SaleAction>,
    /// When it opens.
    #[schema(value_type = String, format = DateTime)]
    starts_at: String,
    /// When it is over.
    #[schema(value_type = String, format = DateTime)]
    ends_at: String,
    /// Units that one buyer may hold.
    buyer_limit: u32,
    /// Orders that one buyer may let expire or give up.
    unpaid_max: u32,
    /// What a purchase needs beside its buyer.
    access: Access,
    /// How long an order waits for its payment.
    payment_window_ms: i64,
    /// Into how many buckets the stock of a SKU is divided.
    buckets: u16,
    /// Grows with every rebuild.
    epoch: u32,
    /// Grows with every change; the `ETag`.
    version: u64,
    /// What it sells.
    items: &'a [Item],
}

#[derive(Serialize, ToSchema)]
#[schema(as = SalesOfOperators)]
struct ListView<'a> {
    /// Ascending by start.
    sales: Vec<SaleView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

impl<'a> SaleView<'a> {
    fn of(sale: &'a Sale) -> Self {
        let Sale { buyer_limit, unpaid_max, access, payment_window_ms, buckets, epoch, version, .. } = *sale;
        Self {
            id: &sale.id,
            name: &sale.name,
            state: sale.state,
            allowed: sale.state.allowed(),
            starts_at: rfc3339(sale.starts_ms),
            ends_at: rfc3339(sale.ends_ms),
            buyer_limit,
            unpaid_max,
            access,
            payment_window_ms,
            buckets,
            epoch,
            version,
            items: &sale.items,
        }
    }
}
