//! The admin routes of payments. The paths below stand under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{ReasonBody, checked_reason, read_body};
use super::{Scope, change, operator};
use crate::domain::payment::{REFERENCE_MAX, RefundKey, RefundState};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::shop::payment_rounds::Reconciled;
use serde_json::json;
use utoipa::ToSchema;

/// How many days back the books are compared at most.
const DAYS_MAX: u32 = 365;

/// The body of a comparison.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReconcilePayments)]
struct ReconcileBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// How many days back.
    #[schema(minimum = 1, maximum = 365)]
    days: u32,
}

/// What a comparison has found.
#[derive(Serialize, ToSchema)]
#[schema(as = ReconciledPayments)]
struct ReconciledView {
    /// The provider's captures.
    captures: usize,
    /// Those that we had missed.
    found: usize,
    /// Those that no payment of ours explains.
    unknown: usize,
}

/// A refund, as an operator has left it.
#[derive(Serialize, ToSchema)]
#[schema(as = RefundLeft)]
struct RefundView {
    /// The refund.
    refund: String,
    /// How it stands now.
    status: &'static str,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Post, "/api/v1/admin/refunds/{refund}/retry", retry, |it| {
            it.names("payments", "retry_refund", "Try a refund again that has failed.")
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a complaint" }))
                .refuses(&[Code::RefundNotFound])
                .answers::<RefundView>(200, "How it stands.");
        }),
        operation(Verb::Post, "/api/v1/admin/refunds/{refund}/settle", settle, |it| {
            it.names(
                "payments",
                "settle_refund",
                "End a refund that has failed, because its buyer has the money in another way.",
            )
            .is_for(For::Operator(Scope::OrdersWrite))
            .changes()
            .body::<ReasonBody>(json!({ "reason": "a complaint" }))
            .refuses(&[Code::RefundNotFound])
            .answers::<RefundView>(200, "How it stands.");
        }),
        operation(Verb::Post, "/api/v1/admin/payments/reconcile", reconcile, |it| {
            it.names(
                "payments",
                "reconcile_payments",
                "Compare the provider's captures with ours, and take those that were missed.",
            )
            .is_for(For::Operator(Scope::OrdersWrite))
            .changes()
            .body::<ReconcileBody>(json!({ "reason": "after an outage", "days": 2 }))
            .answers::<ReconciledView>(200, "What was found.");
        }),
    ]
}

/// Answers `POST /refunds/{refund}/retry`: tries a refund again that has failed. `refund` is the id of its payment, or
/// the provider's id of a capture that no payment explains.
///
/// # Errors
/// `refund_not_found`.
pub async fn retry(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    take_on((request, payload, context), &path, "refund_retry", RefundState::Owed).await
}

/// Answers `POST /refunds/{refund}/settle`: ends a refund that has failed, because its buyer has the money in another
/// way. `refund` is as in [`retry`].
///
/// # Errors
/// `refund_not_found`.
pub async fn settle(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    take_on((request, payload, context), &path, "refund_settle", RefundState::Settled).await
}

/// Takes a refund that has failed to another state.
async fn take_on(
    (request, payload, context): (HttpRequest, web::Payload, web::Data<Context>),
    refund: &str,
    action: &'static str,
    to: RefundState,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, action, &reason);
    let key = RefundKey::parse(refund);
    if refund.len() > REFERENCE_MAX || !context.shop.take_refund_on(&key, to, &change).await? {
        return Err(Problem::new(Code::RefundNotFound));
    }
    Ok(HttpResponse::Ok().json(RefundView { refund: key.to_string(), status: to.as_str() }))
}

/// Answers `POST /payments/reconcile`: compares the provider's captures with ours, and takes those that were missed.
///
/// # Errors
/// `validation_failed`; `dependency_unavailable` or `outcome_unknown` when the provider or a component failed. What was
/// taken before stands, and repeating it goes on.
pub async fn reconcile(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let ReconcileBody { reason, days } = read_body(&request, payload, &context).await?;
    let reason = checked_reason(&reason)?;
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Problem::invalid("/days", format!("must be from 1 to {DAYS_MAX}")));
    }
    let change = change(&operator, "payments_reconcile", &reason);
    let done = context.shop.reconcile_as_operator(days, &change).await?;
    let Reconciled { captures, found, unknown } = done;
    Ok(HttpResponse::Ok().json(ReconciledView { captures, found, unknown }))
}
