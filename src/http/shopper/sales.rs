//! What shoppers read about sales. Answers come from the in-memory catalog and may be cached for a second.

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::rfc3339;
use crate::domain::sale::Phase;
use crate::domain::{Sale, SaleId};
use crate::http::Context;
use crate::http::problem::{Code, Problem};
use crate::purchase::catalog::Snapshot;

/// The server's clock, for countdowns.
pub async fn time(context: web::Data<Context>) -> HttpResponse {
    let now_ms = context.shop.clock.now_ms();
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(json!({ "now": rfc3339(now_ms), "now_ms": now_ms }))
}

/// All sales that shoppers may see, ascending by start.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> HttpResponse {
    let snapshot = context.shop.catalog.snapshot();
    let now_ms = context.shop.clock.now_ms();
    let mut visible: Vec<(&Sale, Phase)> =
        snapshot.sales.values().filter_map(|sale| Some((sale, sale.phase(now_ms)?))).collect();
    visible.sort_unstable_by(|(a, _), (b, _)| (a.starts_ms, &a.id).cmp(&(b.starts_ms, &b.id)));
    let sales: Vec<Value> = visible.iter().map(|(sale, phase)| view(sale, *phase, &snapshot)).collect();
    cacheable(&request, &json!({ "sales": sales }))
}

/// # Errors
/// `sale_not_found`, also for a draft.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let not_found = || Problem::new(Code::SaleNotFound);
    let id = SaleId::parse(&path.into_inner()).map_err(|_| not_found())?;
    let snapshot = context.shop.catalog.snapshot();
    let (sale, phase) = snapshot.visible(&id, context.shop.clock.now_ms()).ok_or_else(not_found)?;
    Ok(cacheable(&request, &view(sale, phase, &snapshot)))
}

fn view(sale: &Sale, phase: Phase, snapshot: &Snapshot) -> Value {
    let items: Vec<Value> = sale
        .items
        .iter()
        .map(|item| {
            json!({
                "sku_id": item.sku_id,
                "name": item.name,
                "price": { "amount": item.price.amount(), "currency": item.price.currency() },
                "stock": snapshot.band(&sale.id, &item.sku_id),
            })
        })
        .collect();
    json!({
        "id": sale.id,
        "name": sale.name,
        "status": phase,
        "starts_at": rfc3339(sale.starts_ms),
        "ends_at": rfc3339(sale.ends_ms),
        "policy": { "buyer_limit": sale.buyer_limit, "payment_window_ms": sale.payment_window_ms },
        "items": items,
        "links": {
            "self": format!("/api/v1/sales/{}", sale.id),
            "orders": format!("/api/v1/sales/{}/orders", sale.id),
        },
    })
}

fn cacheable(request: &HttpRequest, body: &Value) -> HttpResponse {
    let text = body.to_string();
    let digest = Sha256::digest(text.as_bytes());
    let word = digest.iter().take(8).fold(0u64, |word, byte| (word << 8) | u64::from(*byte));
    let etag = format!("\"{word:016x}\"");
    let mut known = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let is_known = known.any(|value| value == "*" || value.contains(&etag));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((CACHE_CONTROL, "public, max-age=1")).insert_header((ETAG, etag));
    if is_known { response.finish() } else { response.content_type("application/json").body(text) }
}
