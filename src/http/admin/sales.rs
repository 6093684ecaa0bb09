//! Sales as operators see and change them.

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Scope, change as audit, operator};
use crate::domain::sale::SaleAction;
use crate::domain::{Item, Money, Object, Sale, SaleId, SaleState, SkuId};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::{parse_rfc3339, rfc3339};
use crate::http::{Context, extract};
use crate::purchase::operate::{Changed, Patch, StockView};

/// Longest reason of a change, in characters.
const REASON_MAX: usize = 200;
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
    payment_window_ms: Option<i64>,
    buckets: Option<u16>,
    items: Vec<Object<ItemBody>>,
    reason: Option<String>,
}

/// The body of a change: what is missing stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    name: Option<String>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    buyer_limit: Option<u32>,
    payment_window_ms: Option<i64>,
    buckets: Option<u16>,
    items: Option<Vec<Object<ItemBody>>>,
    reason: String,
}

/// The body of a step in a sale's life.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    reason: String,
}

impl CreateBody {
    /// The sale as a draft, and the reason.
    ///
    /// # Errors
    /// `validation_failed` for a time that is none, or no reason.
    pub fn sale(self) -> Result<(Sale, String), Problem> {
        let sale = Sale {
            id: self.id,
            name: self.name,
            state: SaleState::Draft,
            starts_ms: parse_rfc3339("/starts_at", &self.starts_at)?,
            ends_ms: parse_rfc3339("/ends_at", &self.ends_at)?,
            buyer_limit: self.buyer_limit,
            payment_window_ms: self.payment_window_ms.unwrap_or(PAYMENT_WINDOW_DEFAULT_MS),
            buckets: self.buckets.unwrap_or(1),
            epoch: 1,
            version: 1,
            items: items(self.items),
        };
        Ok((sale, checked_reason(self.reason.as_deref().unwrap_or("created"))?))
    }
}

impl PatchBody {
    /// What changes, and the reason.
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
            payment_window_ms: self.payment_window_ms,
            buckets: self.buckets,
            items: self.items.map(items),
        };
        Ok((patch, checked_reason(&self.reason)?))
    }
}

impl ReasonBody {
    /// # Errors
    /// `validation_failed` for no reason, or one that is too long.
    pub fn reason(self) -> Result<String, Problem> {
        checked_reason(&self.reason)
    }
}

fn items(bodies: Vec<Object<ItemBody>>) -> Vec<Item> {
    let item = |Object(body)| {
        let ItemBody { sku_id, name, stock, price } = body;
        Item { sku_id, name, stock, price }
    };
    bodies.into_iter().map(item).collect()
}

fn checked_reason(reason: &str) -> Result<String, Problem> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Problem::invalid("/reason", format!("must have 1 to {REASON_MAX} characters")));
    }
    Ok(reason.to_owned())
}

/// The version that `If-Match` asks for; `None` for any.
///
/// # Errors
/// `etag_mismatch` for one that this API did not give.
pub fn if_version(request: &HttpRequest) -> Result<Option<u64>, Problem> {
    match request.headers().get(IF_MATCH).map(|value| value.to_str()) {
        None | Some(Ok("*")) => Ok(None),
        Some(Ok(text)) => {
            let version = extract::digits(text.trim_matches('"'));
            Ok(Some(version.ok_or_else(|| Problem::new(Code::EtagMismatch))?))
        }
        Some(Err(_)) => Err(Problem::new(Code::EtagMismatch)),
    }
}

fn sale_id(path: &str) -> Result<SaleId, Problem> {
    SaleId::parse(path).map_err(|_| Problem::new(Code::SaleNotFound))
}

/// # Errors
/// `unauthenticated`, `forbidden`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let sales: Vec<Value> = context.shop.sales().await?.iter().map(view).collect();
    Ok(HttpResponse::Ok().json(json!({ "sales": sales })))
}

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

/// # Errors
/// `validation_failed`, `sale_exists`.
pub async fn create(
    request: HttpRequest,
    body: web::Bytes,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (sale, reason) = extract::json::<CreateBody>(&request, &body)?.sale()?;
    let change = audit(&request, &operator, "create", &reason);
    let sale = done(context.shop.create_sale(sale, &change).await?)?;
    Ok(respond(StatusCode::CREATED, &sale))
}

/// # Errors
/// `etag_mismatch` when `If-Match` names another version, `state_conflict` once the sale is preheated.
pub async fn change(
    request: HttpRequest,
    path: web::Path<String>,
    body: web::Bytes,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (patch, reason) = extract::json::<PatchBody>(&request, &body)?.patch()?;
    let if_version = if_version(&request)?;
    let change = audit(&request, &operator, "patch", &reason);
    let sale = done(context.shop.patch_sale(&sale_id(&path)?, patch, if_version, &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// `POST /sales/{sale}/{action}` with a reason.
///
/// # Errors
/// `state_conflict` with what is allowed instead.
pub async fn advance(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    body: web::Bytes,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let (sale, action) = path.into_inner();
    let action = SaleAction::parse(&action).ok_or_else(|| Problem::new(Code::NotFound))?;
    let reason = extract::json::<ReasonBody>(&request, &body)?.reason()?;
    let change = audit(&request, &operator, action.as_str(), &reason);
    let sale = done(context.shop.advance_sale(&sale_id(&sale)?, action, &change).await?)?;
    Ok(respond(StatusCode::OK, &sale))
}

/// Units of every SKU, as Redis and the ledgers have them.
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
    let items: Vec<Value> = items.iter().map(stock_view).collect();
    Ok(HttpResponse::Ok().json(json!({ "sale_id": id, "items": items })))
}

fn stock_view(item: &StockView) -> Value {
    let in_place = item.available.iter().flatten();
    let available: Option<i64> = item.available.iter().any(Option::is_some).then(|| in_place.sum());
    let holdings = &item.holdings;
    json!({
        "sku_id": item.sku,
        "configured": item.configured,
        "available": available,
        "held": holdings.held,
        "sold": holdings.sold,
        "granted": holdings.granted,
        "allotted": holdings.allotted,
        "buckets": item.available,
    })
}

fn done(changed: Changed) -> Result<Sale, Problem> {
    match changed {
        Changed::Done(sale) => Ok(sale),
        Changed::Unknown => Err(Problem::new(Code::SaleNotFound)),
        Changed::Invalid(invalid) => Err(Problem::invalid(&invalid.pointer, invalid.detail)),
        Changed::Taken => Err(Problem::new(Code::SaleExists)),
        Changed::VersionMoved => Err(Problem::new(Code::EtagMismatch)),
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
        .json(view(sale))
}

fn view(sale: &Sale) -> Value {
    let items: Vec<Value> = sale
        .items
        .iter()
        .map(|item| {
            json!({
                "sku_id": item.sku_id,
                "name": item.name,
                "stock": item.stock,
                "price": { "amount": item.price.amount(), "currency": item.price.currency() },
            })
        })
        .collect();
    let allowed: Vec<&str> = sale.state.allowed().into_iter().map(SaleAction::as_str).collect();
    json!({
        "id": sale.id,
        "name": sale.name,
        "state": sale.state,
        "allowed": allowed,
        "starts_at": rfc3339(sale.starts_ms),
        "ends_at": rfc3339(sale.ends_ms),
        "buyer_limit": sale.buyer_limit,
        "payment_window_ms": sale.payment_window_ms,
        "buckets": sale.buckets,
        "epoch": sale.epoch,
        "version": sale.version,
        "items": items,
    })
}
