//! The admin routes of views and events. The paths below stand under `/api/v1/admin`.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::sales::sale_id;
use super::{Scope, operator};
use crate::domain::view::{InState, Totals};
use crate::domain::{SaleId, SkuId};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use utoipa::ToSchema;

/// What was taken in one currency, in its minor units.
#[derive(Serialize, ToSchema)]
#[schema(as = Revenue)]
struct RevenueView {
    /// The amounts of orders that were paid.
    paid: i64,
    /// The amounts of those that were refunded.
    refunded: i64,
    /// What is left.
    net: i64,
}

/// What there is of a sale or of one of its SKUs.
#[derive(Serialize, ToSchema)]
#[schema(as = Totals)]
struct TotalsView<'a> {
    /// Orders and units by state.
    #[schema(value_type = BTreeMap<String, InState>)]
    states: &'a BTreeMap<String, InState>,
    /// Rejected orders by reason.
    #[schema(value_type = BTreeMap<String, i64>)]
    rejected: &'a BTreeMap<String, i64>,
    /// What was taken, by currency.
    #[schema(value_type = BTreeMap<String, RevenueView>)]
    revenue: BTreeMap<&'a str, RevenueView>,
}

/// The steps of one minute.
#[derive(Serialize, ToSchema)]
#[schema(as = Minute)]
struct MinuteView<'a> {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// Steps of orders, by their word.
    #[schema(value_type = BTreeMap<String, i64>)]
    steps: &'a BTreeMap<String, i64>,
}

/// The view of a sale.
#[derive(Serialize, ToSchema)]
#[schema(as = SaleView)]
struct View<'a> {
    /// The sale.
    sale_id: &'a SaleId,
    /// What happened before this time is in the view.
    #[schema(value_type = String, format = DateTime)]
    as_of: String,
    /// The number of events that it is built of.
    events: i64,
    /// SHA-256 of the view's text: two views of the same events have the same one.
    hash: String,
    #[serde(flatten)]
    totals: TotalsView<'a>,
    /// The same of each SKU.
    #[schema(value_type = BTreeMap<String, TotalsView>)]
    items: BTreeMap<&'a SkuId, TotalsView<'a>>,
    /// Ascending.
    minutes: Vec<MinuteView<'a>>,
}

/// The attempts to buy in a sale.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempts)]
struct AttemptsView<'a> {
    /// The sale.
    sale_id: &'a SaleId,
    /// Since when they are counted; left out before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<String>,
    /// By what was answered, in the words of `seckill_admission_total`.
    #[schema(value_type = BTreeMap<String, u64>)]
    attempts: &'a BTreeMap<String, u64>,
}

impl<'a> TotalsView<'a> {
    fn of(totals: &'a Totals) -> Self {
        let revenue = totals.revenue.iter().map(|(currency, revenue)| {
            let net = revenue.paid - revenue.refunded;
            (currency.as_str(), RevenueView { paid: revenue.paid, refunded: revenue.refunded, net })
        });
        Self { states: &totals.states, rejected: &totals.rejected, revenue: revenue.collect() }
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/sales/{sale}/view", read, |it| {
            it.names("sales", "read_sale_view", "Orders, units and revenue of a sale, built of events.")
                .is_for(For::Operator(Scope::SalesRead))
                .refuses(&[Code::SaleNotFound])
                .answers::<View<'_>>(200, "The view.");
        }),
        operation(Verb::Get, "/api/v1/admin/sales/{sale}/attempts", attempts, |it| {
            it.names(
                "sales",
                "read_sale_attempts",
                "How often purchases were attempted, by what was answered.",
            )
            .about("They are counted every second over all processes, and are no book.")
            .is_for(For::Operator(Scope::SalesRead))
            .refuses(&[Code::SaleNotFound])
            .answers::<AttemptsView<'_>>(200, "The attempts.");
        }),
    ]
}

/// Answers `GET /sales/{sale}/attempts`: the purchases that all processes answered, by outcome.
///
/// # Errors
/// `sale_not_found`.
pub async fn attempts(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let sale = sale_id(&path)?;
    let counted = context.shop.attempts(&sale).await?.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    Ok(HttpResponse::Ok().json(AttemptsView {
        sale_id: &sale,
        since: counted.since_ms.map(rfc3339),
        attempts: &counted.by_outcome,
    }))
}

/// Answers `GET /sales/{sale}/view`: orders, units and revenue by state, and the steps of every minute.
///
/// # Errors
/// `sale_not_found`.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let now = context.shop.view(&sale_id(&path)?).await?;
    let now = now.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let view = &now.view;
    let minute = |minute: i64| rfc3339(minute.saturating_mul(60_000));
    Ok(HttpResponse::Ok().json(View {
        sale_id: &view.sale_id,
        as_of: rfc3339(now.as_of_ms),
        events: view.events,
        hash: view.hash(),
        totals: TotalsView::of(&view.totals),
        items: view.items.iter().map(|(sku, totals)| (sku, TotalsView::of(totals))).collect(),
        minutes: view.minutes.iter().map(|m| MinuteView { at: minute(m.minute), steps: &m.steps }).collect(),
    }))
}
