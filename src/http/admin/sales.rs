//! The admin routes of sales: operators read, create and change sales, and take them through their life. The paths
//! below stand under `/api/v1/admin`.

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::changes::{ReasonBody, checked_reason, if_versions, read_body};
use super::{Scope, change as audit, operator};
use crate::domain::rule::Switch;
use crate::domain::sale::SaleAction;
use crate::domain::{Access, Holdings, Item, Money, Object, Sale, SaleId, SaleState, SkuId};
use crate::http::Context;
use crate::http::paging::SalesQuery;
use crate::http::problem::{Code, Problem};
use crate::http::rules::while_on;
use crate::http::shopper::{parse_rfc3339, rfc3339};
use crate::shop::operate::{Changed, Patch, StockView};
use crate::shop::settle::Settled;

/// How long an order waits for its payment when the body of a new sale does not say.
const PAYMENT_WINDOW_DEFAULT_MS: i64 = 900_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    sku_id: SkuId,
    name: String,
    stock: u32,
    price: Money,
}

/// The body of a new sale.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    id: SaleId,
    name: String,
    starts_at: String,
    ends_at: String,
    buyer_limit: u32,
    unpaid_max: Option<u32>,
    #[serde(default)]
    access: Access,
    payment_window_ms: Option<i64>,
    buckets: Option<u16>,
    items: Vec<Object<ItemBody>>,
    reason: Option<String>,
}

/// The body of a patch. A field that is missing stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    name: Option<String>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    buyer_limit: Option<u32>,
    unpaid_max: Option<u32>,
    access: Option<Access>,
    payment_window_ms: Option<i64>,
    buckets: Option<u16>,
    items: Option<Vec<Object<ItemBody>>>,
    reason: String,
}

impl CreateBody {
    /// Makes the sale, as a draft, and the reason for the audit log.
    ///
    /// # Errors
    /// `validation_failed` when a time is not one, or the reason is empty or too long.
    pub fn sale(self) -> Result<(Sale, String), Problem> {
        let sale = Sale {
            id: self.id,
            name: self.name,
            state: SaleState::Draft,
            starts_ms: parse_rfc3339("/starts_at", &self.starts_at)?,
            ends_ms: parse_rfc3339("/ends_at", &self.ends_at)?,
            buyer_limit: self.buyer_limit,
            unpaid_max: self.unpaid_max.unwrap_or(Sale::UNPAID_MAX_DEFAULT),
            access: self.access,
            payment_window_ms: self.payment_window_ms.unwrap_or(PAYMENT_WINDOW_DEFAULT_MS),
            buckets: self.buckets.unwrap_or(1),
            epoch: 1,
            in_place: false,
            version: 1,
            items: items(self.items),
        };
        Ok((sale, checked_reason(self.reason.as_deref().unwrap_or("created"))?))
    }
}

impl PatchBody {
    /// Makes the patch and the reason for the audit log.
    ///
    /// # Errors
    /// As [`CreateBody::sale`].
    pub fn patch(self) -> Result<(Patch, String), Problem> {
        let time = |pointer: &str, text: Option<String>| text.map(|t| parse_rfc3339(pointer, &t)).transpose();
        let patch = Patch {
            name: self.name,
            starts_ms: time("/starts_at", self.starts_at)?,
            ends_ms: time("/ends_at", self.ends_at)?,
            buyer_limit: self.buyer_limit,
            unpaid_max: self.unpaid_max,
            access: self.access,
            payment_window_ms: self.payment_window_ms,
            buckets: self.buckets,
            items: self.items.map(items),
        };
        Ok((patch, checked_reason(&self.reason)?))
    }
}

fn items(bodies: Vec<Object<ItemBody>>) -> Vec<Item> {
    let item = |Object(body)| {
        let ItemBody { sku_id, name, stock, price } = body;
        Item { sku_id, name, stock, price }
    };
    bodies.into_iter().map(item).collect()
}

/// Reads the id of a sale from a path.
///
/// # Errors
/// `sale_not_found` for a text that can be none.
pub fn sale_id(path: &str) -> Result<SaleId, Problem> {
    SaleId::parse(path).map_err(|_| Problem::new(Code::SaleNotFound))
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
    let change = audit(&request, &operator, "create", &reason);
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
    let change = audit(&request, &operator, "patch", &reason);
    let sale =
        done(context.shop.patch_sale(&sale_id(&path)?, patch, if_versions.as_deref(), &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// Answers `POST /sales/{sale}/{action}`: takes a sale through its life.
///
/// # Errors
/// `not_found` for an action that there is not, `state_conflict` with the actions that are allowed instead.
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
    let change = audit(&request, &operator, action.as_str(), &reason);
    let sale = done(context.shop.advance_sale(&sale_id(&sale)?, action, &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// The body that settles a sale.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody {
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
    let change = audit(&request, &operator, SaleAction::Settle.as_str(), &checked_reason(&reason)?);
    let conflict = || Problem::new(Code::StateConflict);
    match context.shop.settle(&sale_id(&path)?, accept_differences, &change).await? {
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

/// Answers `GET /sales/{sale}/report`: the report of a settled sale.
///
/// # Errors
/// `sale_not_found`, also for a sale that is not settled.
pub async fn report(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let seal = context.shop.report_of(&sale_id(&path)?).await?;
    let seal = seal.ok_or_else(|| Problem::new(Code::SaleNotFound).detail("It is not settled."))?;
    let report = RawValue::from_string(seal.report).map_err(|_| Problem::new(Code::Internal))?;
    let numbers = RawValue::from_string(seal.numbers).map_err(|_| Problem::new(Code::Internal))?;
    Ok(HttpResponse::Ok().json(ReportView {
        settled_at: rfc3339(seal.sealed_ms),
        hash: seal.hash,
        last_events: numbers,
        report,
    }))
}

/// The report of a settled sale.
#[derive(Serialize)]
struct ReportView {
    settled_at: String,
    /// SHA-256 of the view's text.
    hash: String,
    /// The last event of each partition that the view is built of.
    last_events: Box<RawValue>,
    report: Box<RawValue>,
}

/// Answers `GET /sales/{sale}/stock`: the units of every SKU, as Redis and the ledgers have them.
///
/// # Errors
/// `sale_not_found`.
pub async fn stock(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let id = sale_id(&path)?;
    let items = context.shop.stock(&id).await?.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let items = items.iter().map(SkuView::of).collect();
    Ok(HttpResponse::Ok().json(StockBody { sale_id: &id, items }))
}

fn done(changed: Changed) -> Result<Sale, Problem> {
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

fn respond(status: StatusCode, sale: &Sale) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .insert_header((ETAG, format!("\"{}\"", sale.version)))
        .insert_header((LOCATION, format!("/api/v1/admin/sales/{}", sale.id)))
        .json(SaleView::of(sale))
}

/// A sale as operators see it.
#[derive(Serialize)]
struct SaleView<'a> {
    id: &'a SaleId,
    name: &'a str,
    state: SaleState,
    allowed: Vec<SaleAction>,
    starts_at: String,
    ends_at: String,
    buyer_limit: u32,
    unpaid_max: u32,
    access: Access,
    payment_window_ms: i64,
    buckets: u16,
    epoch: u32,
    version: u64,
    items: &'a [Item],
}

#[derive(Serialize)]
struct ListView<'a> {
    sales: Vec<SaleView<'a>>,
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

#[derive(Serialize)]
struct StockBody<'a> {
    sale_id: &'a SaleId,
    items: Vec<SkuView<'a>>,
}

/// The units of one SKU.
#[derive(Serialize)]
struct SkuView<'a> {
    sku_id: &'a SkuId,
    configured: u32,
    /// The available units of all buckets that are in place. `None` when no bucket is.
    available: Option<i64>,
    held: i64,
    sold: i64,
    withheld: i64,
    granted: i64,
    allotted: i64,
    buckets: &'a [Option<i64>],
}

impl<'a> SkuView<'a> {
    fn of(item: &'a StockView) -> Self {
        let in_place = item.available.iter().flatten();
        let Holdings { held, sold, withheld, granted, allotted, .. } = item.holdings;
        Self {
            sku_id: &item.sku,
            configured: item.configured,
            available: item.available.iter().any(Option::is_some).then(|| in_place.sum()),
            held,
            sold,
            withheld,
            granted,
            allotted,
            buckets: &item.available,
        }
    }
}
