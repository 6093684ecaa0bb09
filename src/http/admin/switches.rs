//! The admin routes of switches. A switch that is on is a rule of its kind.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{checked_reason, read_body, until_ms};
use super::rules::changed;
use super::{Scope, change, operator};
use crate::domain::rule::{Limit, Rule, RuleChange, RuleChanged, RuleMode, RuleTerms, Switch};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use serde_json::json;
use utoipa::ToSchema;

/// A switch as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = SwitchStanding)]
struct View {
    /// What is off while it is on.
    switch: Switch,
    /// Whether it is on.
    is_on: bool,
    /// When that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    until: Option<String>,
    /// Why it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// All switches.
#[derive(Serialize, ToSchema)]
#[schema(as = Switches)]
struct ListView {
    /// All of them.
    switches: Vec<View>,
}

/// The body that sets a switch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SwitchSet)]
struct PutBody {
    /// Whether it is on.
    is_on: bool,
    /// When that ends.
    #[serde(default)]
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

fn view(switch: Switch, rules: &[Rule], now_ms: i64) -> View {
    let sets = |rule: &&Rule| {
        let terms = &rule.terms;
        terms.limit == Limit::Switch(switch) && terms.mode == RuleMode::Enforce && terms.holds_at(now_ms)
    };
    let rule = rules.iter().find(sets);
    View {
        switch,
        is_on: rule.is_some(),
        until: rule.and_then(|rule| rule.terms.until_ms).map(rfc3339),
        reason: rule.map(|rule| rule.terms.reason.clone()),
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/switches", list, |it| {
            it.names("traffic", "list_switches", "What can be turned off, and whether it is.")
                .is_for(For::Operator(Scope::LimitsRead))
                .answers::<ListView>(200, "All of them.");
        }),
        operation(Verb::Put, "/api/v1/admin/switches/{switch}", put, |it| {
            it.names("traffic", "put_switch", "Turn something off, or on again.")
                .is_for(For::Operator(Scope::LimitsWrite))
                .changes()
                .body::<PutBody>(
                    json!({ "is_on": true, "until": "2036-11-27T13:00:00.000Z", "reason": "too much" }),
                )
                .refuses(&[Code::NotFound, Code::StateConflict, Code::TooManyRules])
                .answers::<View>(200, "How it stands.");
        }),
    ]
}

/// Answers `GET /switches`: all of them.
///
/// # Errors
/// `dependency_unavailable`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let (set, _) = context.shop.rules().await?;
    let now_ms = context.shop.now_ms();
    let switches = Switch::ALL.map(|switch| view(switch, &set.rules, now_ms)).into();
    Ok(HttpResponse::Ok().json(ListView { switches }))
}

/// Answers `PUT /switches/{switch}`: sets one. Idempotent.
///
/// # Errors
/// `not_found` for a switch that there is not, `validation_failed`, `too_many_rules`.
pub async fn put(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::LimitsWrite).await?;
    let switch = Switch::ALL.into_iter().find(|switch| switch.as_str() == path.as_str());
    let switch = switch.ok_or_else(|| Problem::new(Code::NotFound))?;
    let PutBody { is_on, until, reason } = read_body(&request, payload, &context).await?;
    let reason = checked_reason(&reason)?;
    let until_ms = until_ms(until.as_deref())?;
    let change = change(&operator, if is_on { "switch_on" } else { "switch_off" }, &reason);
    let terms = is_on.then(|| RuleTerms::of_all(Limit::Switch(switch), until_ms, reason));
    let wish = RuleChange { id: switch.rule(), terms, seen: None };
    match context.shop.change_rule(&wish, &change).await? {
        // One that is off already stays off.
        RuleChanged::Unknown => {}
        made => drop(changed(made)?),
    }
    let (set, now_ms) = (context.shop.known_rules(), context.shop.now_ms());
    let others: Vec<Rule> = set.rules.into_iter().filter(|rule| rule.id != wish.id).collect();
    let other = view(switch, &others, now_ms);
    if !is_on && other.is_on {
        let detail = "Another rule holds it on: see seckill rule list.";
        return Err(Problem::new(Code::StateConflict).detail(detail).with("switch", switch.as_str()));
    }
    let own = wish.terms.map(|terms| Rule { id: wish.id, terms, version: set.version });
    Ok(HttpResponse::Ok().json(view(switch, own.as_slice(), now_ms)))
}
