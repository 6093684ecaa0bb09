//! The admin routes before a sale: whether anything is missing, and another sale like one. The paths below stand under
//! `/api/v1/admin`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::changes::{checked_reason, read_body};
use super::sales::{SaleView, done, respond, sale_id};
use super::{Scope, change, operator};
use crate::domain::check::{Check, Level};
use crate::domain::rule::Switch;
use crate::domain::{Sale, SaleId, SaleState};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::rules::while_on;
use crate::http::shopper::parse_rfc3339;

/// The body that makes a sale like another one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CloneSale)]
struct CloneBody {
    /// The id of the new sale.
    id: SaleId,
    /// What shoppers see; the name of the other sale if it is left out.
    #[schema(min_length = 1, max_length = 120)]
    name: Option<String>,
    /// When it opens.
    #[schema(format = DateTime)]
    starts_at: String,
    /// When it is over.
    #[schema(format = DateTime)]
    ends_at: String,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
}

/// Whether anything is missing that a sale needs.
#[derive(Serialize, ToSchema)]
#[schema(as = Preflight)]
struct View<'a> {
    /// The sale.
    sale_id: &'a SaleId,
    /// The highest level of the checks: `ok`, `warning` or `error`.
    level: &'static str,
    /// All of them.
    checks: Vec<CheckView<'a>>,
}

/// What came of one check.
#[derive(Serialize, ToSchema)]
#[schema(as = PreflightCheck)]
struct CheckView<'a> {
    /// What was looked at.
    name: &'a str,
    /// `ok`; `warning`: it can open, and somebody should look; `error`: it cannot sell as it is.
    level: &'static str,
    /// What was found.
    detail: &'a str,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

fn view(check: &Check) -> CheckView<'_> {
    CheckView {
        name: &check.name,
        level: check.level.as_str(),
        detail: &check.detail,
        fix: check.fix.as_deref(),
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/sales/{sale}/preflight", check, |it| {
            it.names("sales", "check_sale", "Whether anything is missing that the sale needs to sell.")
                .is_for(For::Operator(Scope::SalesRead))
                .refuses(&[Code::SaleNotFound])
                .answers::<View<'_>>(200, "What was found.");
        }),
        operation(Verb::Post, "/api/v1/admin/sales/{sale}/clone", clone, |it| {
            it.names(
                "sales",
                "clone_sale",
                "Create a draft like this sale, with another id and other times.",
            )
            .is_for(For::Operator(Scope::SalesWrite))
            .changes()
            .body::<CloneBody>(json!({ "id": "friday-drop-2", "starts_at": "2036-12-04T12:00:00.000Z",
                    "ends_at": "2036-12-04T13:00:00.000Z", "reason": "once more" }))
            .refuses(&[Code::SaleNotFound, Code::SaleExists, Code::SwitchedOff])
            .answers::<SaleView<'_>>(201, "The draft.");
        }),
    ]
}

/// Answers `GET /sales/{sale}/preflight`.
///
/// # Errors
/// `sale_not_found`.
pub async fn check(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let id = sale_id(&path)?;
    let checks = context.shop.preflight(&id).await?.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    let checks = checks.iter().map(view).collect();
    Ok(HttpResponse::Ok().json(View { sale_id: &id, level: level.as_str(), checks }))
}

/// Answers `POST /sales/{sale}/clone`: creates a draft like this sale.
///
/// # Errors
/// `sale_not_found`, `validation_failed`, `sale_exists`.
pub async fn clone(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let body: CloneBody = read_body(&request, payload, &context).await?;
    let reason = checked_reason(body.reason.as_deref().unwrap_or("cloned"))?;
    let (starts_ms, ends_ms) =
        (parse_rfc3339("/starts_at", &body.starts_at)?, parse_rfc3339("/ends_at", &body.ends_at)?);
    let like = context.shop.sale(&sale_id(&path)?).await?.ok_or_else(|| Problem::new(Code::SaleNotFound))?;
    while_on(&context, Switch::NoNewSales)?;
    let name = body.name.unwrap_or(like.name);
    let sale =
        Sale { id: body.id, name, starts_ms, ends_ms, state: SaleState::Draft, in_place: false, ..like };
    let change = change(&operator, "clone", &reason);
    let sale = done(context.shop.create_sale(sale, &change).await?)?;
    Ok(respond(StatusCode::CREATED, &sale))
}
