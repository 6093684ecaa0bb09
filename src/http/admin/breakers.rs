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
use crate::http::problem::{Code, Problem};
use crate::memory::guards::GuardStanding;

/// A breaker as operators see it.
#[derive(Serialize)]
struct View {
    dependency: DependencyId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<Forced>,
    in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight_max: Option<u32>,
    calls: u32,
    failed: u32,
    slow: u32,
}

#[derive(Serialize)]
struct ListView {
    breakers: Vec<View>,
}

/// The body that forces a breaker, or leaves it to itself again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostBody {
    forced: Option<Forced>,
    #[serde(default)]
    until: Option<String>,
    reason: String,
}

fn view(standing: GuardStanding) -> View {
    let GuardStanding { dependency, phase, forced, in_flight, limit, calls: [calls, failed, slow] } =
        standing;
    View { dependency, state: phase.as_str(), forced, in_flight, in_flight_max: limit, calls, failed, slow }
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
    let change = change(&request, &operator, "breaker_force", &reason);
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
