//! The admin route that looks at the books. The path below stands under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{checked_reason, read_body};
use super::{Scope, change, operator};
use crate::domain::books::{Drift, Mend};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use crate::shop::reconcile::Looked;
use serde_json::json;
use utoipa::ToSchema;

/// The body of a call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Reconcile)]
struct ReconcileBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether what can be mended is.
    #[serde(default)]
    apply: bool,
}

/// One thing that is wrong, or was.
#[derive(Serialize, ToSchema)]
#[schema(as = Drift)]
struct DriftView {
    /// What is wrong.
    kind: &'static str,
    /// The sale.
    #[serde(skip_serializing_if = "Option::is_none")]
    sale_id: Option<String>,
    /// Where.
    place: String,
    /// By how much.
    amount: i64,
    /// rebuild, repair or person.
    remedy: &'static str,
    /// Whether it was mended.
    mended: bool,
}

/// What a look has found.
#[derive(Serialize, ToSchema)]
#[schema(as = Look)]
struct LookView {
    /// All that is wrong, or was.
    drifts: Vec<DriftView>,
    /// Whether it was to be mended.
    applied: bool,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Post, "/api/v1/admin/reconcile", reconcile, |it| {
        it.names("integrity", "reconcile_books", "Look whether the books are right, and mend them.")
            .is_for(For::Operator(Scope::SalesWrite))
            .changes()
            .body::<ReconcileBody>(json!({ "reason": "a look", "apply": false }))
            .answers::<LookView>(200, "What is wrong, or was.");
    })]
}

/// Answers `POST /reconcile`: what is wrong in the books of all sales that sell. With `apply`, what can be mended is.
///
/// # Errors
/// `validation_failed`; `dependency_unavailable` or `outcome_unknown` when a component failed. What was mended before
/// stands, and repeating it goes on.
pub async fn reconcile(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::SalesWrite).await?;
    let ReconcileBody { reason, apply } = read_body(&request, payload, &context).await?;
    let change = change(&operator, "reconcile", &checked_reason(&reason)?);
    let looked = context.shop.reconcile(apply.then_some(&change)).await?;
    let view = |Looked { drift, is_mended }: Looked| {
        let Drift { kind, sale, place, amount } = drift;
        let remedy = match kind.mend() {
            Mend::Rebuild => "rebuild",
            Mend::Repair => "repair",
            Mend::Person => "person",
        };
        let (sale_id, place) = (sale.map(|sale| sale.to_string()), place.to_string());
        DriftView { kind: kind.as_str(), sale_id, place, amount, remedy, mended: is_mended }
    };
    let drifts = looked.into_iter().map(view).collect();
    Ok(HttpResponse::Ok().json(LookView { drifts, applied: apply }))
}
