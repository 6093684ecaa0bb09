//! The admin routes of a sale's stock: operators read it, and adjust it while the sale is on.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::changes::{checked_reason, if_versions, read_body};
use super::sales::{SaleView, done, respond, sale_id};
use super::{Scope, change as audit, operator};
use crate::domain::{Adjustment, Holdings, SaleId, SkuId};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::shop::stock::{Restocked, StockView, WantedStock};

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/sales/{sale}/stock", read, |it| {
            it.names("sales", "read_stock", "The units of every SKU, as Redis and the ledgers have them.")
                .is_for(For::Operator(Scope::SalesRead))
                .refuses(&[Code::SaleNotFound])
                .answers::<StockBody<'_>>(200, "The units.");
        }),
        operation(Verb::Post, "/api/v1/admin/sales/{sale}/stock/adjust", adjust, |it| {
            it.names("sales", "adjust_stock", "Give a sale that is on more or fewer units of a SKU.")
                .is_for(For::Operator(Scope::StockWrite))
                .changes()
                .heeds_if_match()
                .body::<AdjustBody>(json!({ "sku_id": "phone-x", "expected_stock": 500, "stock": 550,
                    "reason": "a second delivery" }))
                .refuses(&[Code::SaleNotFound, Code::StateConflict, Code::StockConflict])
                .answers::<SaleView<'_>>(200, "The sale.");
        }),
    ]
}

/// Answers `GET /sales/{sale}/stock`: the units of every SKU, as Redis and the ledgers have them.
///
/// # Errors
/// `sale_not_found`.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let id = sale_id(&path)?;
    let items = context.shop.stock(&id).await?.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let under_way = context.shop.adjustment_under_way(&id).await?;
    let items = items.iter().map(SkuView::of).collect();
    Ok(HttpResponse::Ok().json(StockBody { sale_id: &id, items, under_way }))
}

/// The body that adjusts a stock.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StockAdjustment)]
struct AdjustBody {
    /// The SKU.
    sku_id: SkuId,
    /// Units for sale in all, as you know them. When there are others by now, nothing is changed.
    #[schema(minimum = 1, maximum = 100_000_000)]
    expected_stock: u32,
    /// Units for sale in all that there should be: not fewer than are held, sold and withheld.
    #[schema(minimum = 1, maximum = 100_000_000)]
    stock: u32,
    /// How many of the units of refunded orders stay withheld. The others go back on sale.
    #[schema(maximum = 100_000_000)]
    withheld: Option<u32>,
    /// Why: it stands in the audit log.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

/// Answers `POST /sales/{sale}/stock/adjust`: gives a sale that is on more or fewer units of a SKU, or puts withheld
/// units back on sale.
///
/// # Errors
/// `sale_not_found`; `state_conflict` when its stock is not in place, or it is over; `stock_conflict` with
/// `configured` when the stock is another one than `expected_stock`, and with `least`, too, when orders have its
/// units; `etag_mismatch` when `If-Match` names another version.
pub async fn adjust(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::StockWrite).await?;
    let AdjustBody { sku_id, expected_stock, stock, withheld, reason } =
        read_body(&request, payload, &context).await?;
    let change = audit(&operator, Adjustment::ACTION, &checked_reason(&reason)?);
    let wanted = WantedStock { sku: sku_id, expected: expected_stock, stock, withheld };
    let if_versions = if_versions(&request)?;
    let restocked =
        context.shop.adjust_stock(&sale_id(&path)?, &wanted, if_versions.as_deref(), &change).await?;
    let conflict = |configured: u32| Problem::new(Code::StockConflict).with("configured", configured);
    match restocked {
        Restocked::Changed(changed) => Ok(respond(StatusCode::OK, &done(changed)?)),
        Restocked::Moved { configured } => Err(conflict(configured)
            .detail(format!("There are {configured} units for sale in all, and not {expected_stock}."))),
        Restocked::Short { configured, least } => Err(conflict(configured).with("least", least).detail(
            format!("The others are held, bought or withheld: the stock can be {least} now, and not less."),
        )),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Stock)]
struct StockBody<'a> {
    /// The sale.
    sale_id: &'a SaleId,
    /// Each of its SKUs.
    items: Vec<SkuView<'a>>,
    /// What is adjusted of them now.
    #[serde(skip_serializing_if = "Option::is_none")]
    under_way: Option<Adjustment>,
}

/// The units of one SKU.
#[derive(Serialize, ToSchema)]
#[schema(as = SkuStock)]
struct SkuView<'a> {
    /// The SKU.
    sku_id: &'a SkuId,
    /// Units for sale in all.
    configured: u32,
    /// The available units of all buckets that are in place. `None` when no bucket is.
    available: Option<i64>,
    /// Of orders that wait for their payment.
    held: i64,
    /// Of orders that were paid.
    sold: i64,
    /// Kept back.
    withheld: i64,
    /// Taken by order writers.
    granted: i64,
    /// Given to buckets.
    allotted: i64,
    /// The available units of each bucket; null for one that is not in place.
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
