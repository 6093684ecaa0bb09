//! The admin routes of circuit breakers: how those of this process stand, and what an operator says that all are.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{checked_reason, read_body, until_ms};
use super::rules::changed;
use super::{Scope, change, operator};
use crate::domain::DependencyId;
use crate::domain::RuleId;
use crate::domain::rule::{BreakerTerms, Forced, Limit, RuleChange, RuleChanged, RuleTerms};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::memory::guards::GuardStanding;
use serde_json::json;
use utoipa::ToSchema;

/// A breaker as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Breaker)]
struct View {
    /// What it guards.
    dependency: DependencyId,
    /// closed, open or half_open.
    state: &'static str,
    /// What an operator says that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<Forced>,
    /// Calls under way.
    in_flight: u32,
    /// The most that may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight_max: Option<u32>,
    /// Calls of its window.
    calls: u32,
    /// Those that failed.
    failed: u32,
    /// Those that were slow.
    slow: u32,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Breakers)]
struct ListView {
    /// Ascending by dependency.
    breakers: Vec<View>,
}

/// The body that forces a breaker, or leaves it to itself again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BreakerForce)]
struct PostBody {
    /// What it shall be; null leaves it to itself.
    forced: Option<Forced>,
    /// When that ends.
    #[serde(default)]
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

fn view(standing: GuardStanding) -> View {
    let GuardStanding { dependency, phase, forced, in_flight, limit, calls: [calls, failed, slow] } =
        standing;
    View { dependency, state: phase.as_str(), forced, in_flight, in_flight_max: limit, calls, failed, slow }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/breakers", list, |it| {
            it.names("traffic", "list_breakers", "The circuit breakers of this process.")
                .is_for(For::Operator(Scope::LimitsRead))
                .answers::<ListView>(200, "All of them.");
        }),
        operation(Verb::Post, "/api/v1/admin/breakers/{dependency}", force, |it| {
            it.names("traffic", "force_breaker", "Force a breaker in every process, or leave it to itself.")
                .is_for(For::Operator(Scope::LimitsWrite))
                .changes()
                .body::<PostBody>(json!({ "forced": "open", "reason": "Redis is being moved" }))
                .refuses(&[Code::NotFound, Code::TooManyRules])
                .answers::<View>(200, "The breaker of this process.");
        }),
    ]
}

/// Answers `GET /breakers`: those of this process, with what their window holds.
///
/// # Errors
/// `forbidden`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let breakers = context.shop.guards().into_iter().map(view).collect();
    Ok(HttpResponse::Ok().json(ListView { breakers }))
}

/// Answers `POST /breakers/{dependency}`: forces one in every process, or with `"forced":null` leaves it to itself
/// again. Idempotent.
///
/// # Errors
/// `not_found` for a dependency that there is not, `validation_failed`, `too_many_rules`.
pub async fn force(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::LimitsWrite).await?;
    let of_path = |guard: &GuardStanding| guard.dependency.as_str() == path.as_str();
    let standing = context.shop.guards().into_iter().find(of_path);
    let dependency = standing.ok_or_else(|| Problem::new(Code::NotFound))?.dependency;
    let PostBody { forced, until, reason } = read_body(&request, payload, &context).await?;
    let reason = checked_reason(&reason)?;
    let until_ms = until_ms(until.as_deref())?;
    // A rule of its own, so that the rules of operators stay as they are.
    let id = RuleId::parse(&format!("forced-{dependency}")).map_err(|_| Problem::new(Code::Internal))?;
    let change = change(&operator, "breaker_force", &reason);
    let terms = forced.map(|forced| {
        let breaker = BreakerTerms { forced: Some(forced), ..BreakerTerms::of(dependency.clone()) };
        RuleTerms::of_all(Limit::Breaker(breaker), until_ms, reason)
    });
    match context.shop.change_rule(&RuleChange { id, terms, seen: None }, &change).await? {
        // One that is left to itself already stays so.
        RuleChanged::Unknown => {}
        made => drop(changed(made)?),
    }
    let standing = context.shop.guards().into_iter().find(of_path);
    let standing = standing.ok_or_else(|| Problem::new(Code::Internal))?;
    // It stands, whether this process could read it again or not. Another rule may force it, too.
    let forced = forced.or(standing.forced);
    Ok(HttpResponse::Ok().json(view(GuardStanding { forced, ..standing })))
}
