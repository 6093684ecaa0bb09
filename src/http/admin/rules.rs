//! The admin routes of rules of traffic. The paths below stand under `/api/v1/admin`.

use actix_web::http::header::ETAG;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::changes::{ReasonQuery, checked_reason, if_versions, read_body, until_ms};
use super::{Scope, change, operator};
use crate::domain::RuleId;
use crate::domain::node::Node;
use crate::domain::object::object;
use crate::domain::rule::{
    About, Limit, RULES_MAX, Rule, RuleChange, RuleChanged, RuleMode, RuleTerms, Scope as Counted,
};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::memory::rulebook::Trial;
use utoipa::ToSchema;

/// The body that puts a rule in place.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RuleTerms)]
struct PutBody {
    /// Whose requests share a bucket.
    #[serde(default)]
    scope: Counted,
    /// Which requests it is about.
    #[serde(default, rename = "match", deserialize_with = "object")]
    about: About,
    /// What happens to them: token_bucket, leaky_bucket, block, allow, grey, breaker, concurrency or switch.
    #[schema(pattern = "^(token_bucket|leaky_bucket|block|allow|grey|breaker|concurrency|switch)$")]
    kind: String,
    /// The numbers and names of the kind; of a switch its word.
    value: Value,
    /// Whether it refuses, or only counts.
    #[serde(default)]
    mode: RuleMode,
    /// When it ends.
    #[serde(default)]
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Why it is there. To put it in place needs it, and a trial does not.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
}

/// A rule as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Rule)]
struct View<'a> {
    /// The rule.
    id: &'a RuleId,
    /// `directory`, or `config` for a rule that the configuration has.
    origin: &'static str,
    /// Whose requests share a bucket.
    scope: Counted,
    /// Which requests it is about.
    #[serde(rename = "match")]
    about: &'a About,
    /// What happens to them.
    #[serde(flatten)]
    limit: &'a Limit,
    /// Whether it refuses, or only counts.
    mode: RuleMode,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    until: Option<String>,
    /// Whether its time is over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_over: bool,
    /// Why it is there.
    reason: &'a str,
    /// Its version; not of one of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

/// All rules, and how far the processes follow them.
#[derive(Serialize, ToSchema)]
#[schema(as = Rules)]
struct ListView<'a> {
    /// The version of all rules.
    version: u64,
    /// `None` while the processes cannot be read.
    nodes: Option<NodesView>,
    /// First those of the configuration, then all others ascending by id.
    rules: Vec<View<'a>>,
}

/// What a rule would have done.
#[derive(Serialize, ToSchema)]
#[schema(as = Trial)]
struct TrialView {
    /// The time over which it was tried.
    over_ms: u64,
    /// The requests that it is about.
    requests: u64,
    /// Those of them that it would have refused.
    would_refuse: u64,
    /// How many callers would have been refused something; `None` for a rule that counts no callers.
    #[serde(skip_serializing_if = "Option::is_none")]
    callers: Option<u64>,
}

/// A rule that was removed.
#[derive(Serialize, ToSchema)]
#[schema(as = RuleRemoved)]
struct RemovedView {
    /// The rule.
    id: RuleId,
    /// removed.
    done: &'static str,
    /// The version of all rules without it.
    version: u64,
}

/// How many of the processes that are there follow the version.
#[derive(Serialize, ToSchema)]
#[schema(as = Following)]
struct NodesView {
    /// Those that follow it.
    following: usize,
    /// All that are there.
    of: usize,
}

impl PutBody {
    fn terms(self) -> Result<RuleTerms, Problem> {
        let reason = self.reason.as_deref().ok_or_else(|| Problem::invalid("/reason", "is missing"))?;
        let reason = checked_reason(reason)?;
        let until_ms = until_ms(self.until.as_deref())?;
        // serde would also read the numbers of a kind from a list of them in their order.
        if self.value.is_array() {
            return Err(Problem::invalid("/value", "must be an object, or the word of a switch"));
        }
        let limit: Limit =
            serde_path_to_error::deserialize(json!({ "kind": self.kind, "value": self.value }))
                .map_err(|error| Problem::invalid("/value", error.into_inner().to_string()))?;
        let terms =
            RuleTerms { scope: self.scope, about: self.about, limit, mode: self.mode, until_ms, reason };
        terms.check().map_err(|fault| Problem::invalid(fault.pointer, fault.detail))?;
        Ok(terms)
    }
}

fn view<'a>(rule: &'a Rule, origin: &'static str, now_ms: i64) -> View<'a> {
    let Rule { id, terms, version } = rule;
    View {
        id,
        origin,
        scope: terms.scope,
        about: &terms.about,
        limit: &terms.limit,
        mode: terms.mode,
        until: terms.until_ms.map(rfc3339),
        is_over: !terms.holds_at(now_ms),
        reason: &terms.reason,
        version: (*version > 0).then_some(*version),
    }
}

fn id_of(path: &str) -> Result<RuleId, Problem> {
    RuleId::parse(path).map_err(|error| Problem::invalid("", error.to_string()))
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/rules", list, |it| {
            it.names("traffic", "list_rules", "All rules of traffic, and how many processes follow them.")
                .is_for(For::Operator(Scope::LimitsRead))
                .answers::<ListView<'_>>(200, "All of them.");
        }),
        operation(Verb::Post, "/api/v1/admin/rules:try", try_rule, |it| {
            it.names(
                "traffic",
                "try_rule",
                "What a rule would have done to the requests of this process in the last minute.",
            )
            .is_for(For::Operator(Scope::LimitsRead))
            .body::<PutBody>(
                json!({ "scope": "user", "match": { "route": "purchase" }, "kind": "token_bucket",
                    "value": { "rate": 5, "burst": 10 }, "reason": "bots" }),
            )
            .answers::<TrialView>(200, "What it would have done. Nothing was changed.");
        }),
        operation(Verb::Put, "/api/v1/admin/rules/{rule}", put, |it| {
            it.names("traffic", "put_rule", "Put a rule in place, or another one in its place.")
                .is_for(For::Operator(Scope::LimitsWrite))
                .changes()
                .heeds_if_match()
                .body::<PutBody>(
                    json!({ "scope": "user", "match": { "route": "purchase" }, "kind": "token_bucket",
                    "value": { "rate": 5, "burst": 10 }, "reason": "bots" }),
                )
                .refuses(&[Code::TooManyRules])
                .answers::<View<'_>>(200, "The rule.");
        }),
        operation(Verb::Delete, "/api/v1/admin/rules/{rule}", remove, |it| {
            it.names("traffic", "remove_rule", "Remove a rule.")
                .is_for(For::Operator(Scope::LimitsWrite))
                .changes()
                .heeds_if_match()
                .query::<ReasonQuery>()
                .refuses(&[Code::RuleNotFound])
                .answers::<RemovedView>(200, "It is gone.");
        }),
    ]
}

/// Answers `GET /rules`: all rules, ascending by id, and first those of the configuration that hold.
///
/// # Errors
/// `dependency_unavailable`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let (set, configured) = context.shop.rules().await?;
    let now_ms = context.shop.now_ms();
    let configured = configured.iter().map(|rule| view(rule, "config", now_ms));
    let rules = configured.chain(set.rules.iter().map(|rule| view(rule, "directory", now_ms)));
    // The rules are known, whether it is known who follows them or not.
    let nodes = context.shop.nodes().await.ok().map(|nodes| {
        let there: Vec<&Node> = nodes.iter().filter(|node| !node.is_lost()).collect();
        let following = there.iter().filter(|node| node.beat.rules_version == set.version).count();
        NodesView { following, of: there.len() }
    });
    Ok(HttpResponse::Ok().json(ListView { version: set.version, nodes, rules: rules.collect() }))
}

/// Answers `PUT /rules/{rule}`: puts a rule in place, or another one in its place.
///
/// # Errors
/// `validation_failed`; `etag_mismatch` when `If-Match` names another version of it; `too_many_rules`.
pub async fn put(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::LimitsWrite).await?;
    let terms = read_body::<PutBody>(&request, payload, &context).await?.terms()?;
    let wish = RuleChange { id: id_of(&path)?, terms: Some(terms), seen: if_versions(&request)? };
    let reason = wish.terms.as_ref().map_or("", |terms| &terms.reason);
    let change = change(&operator, "rule_put", reason);
    let version = changed(context.shop.change_rule(&wish, &change).await?)?;
    let RuleChange { id, terms, .. } = wish;
    let Some(terms) = terms else { return Err(Problem::new(Code::Internal)) };
    let rule = Rule { id, terms, version };
    let view = view(&rule, "directory", context.shop.now_ms());
    Ok(HttpResponse::Ok().insert_header((ETAG, format!("\"{version}\""))).json(view))
}

/// Answers `DELETE /rules/{rule}?reason=`.
///
/// # Errors
/// `rule_not_found`; `etag_mismatch` as [`put`].
pub async fn remove(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<ReasonQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::LimitsWrite).await?;
    let reason = query.checked()?;
    let change = change(&operator, "rule_remove", &reason);
    let wish = RuleChange { id: id_of(&path)?, terms: None, seen: if_versions(&request)? };
    let version = changed(context.shop.change_rule(&wish, &change).await?)?;
    Ok(HttpResponse::Ok().json(RemovedView { id: wish.id, done: "removed", version }))
}

/// Answers `POST /rules:try`: what a rule would have done to the requests of this process in the last minute. It
/// changes nothing, and needs no reason.
///
/// # Errors
/// `validation_failed`, also for a rule that refuses no requests.
pub async fn try_rule(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let body = read_body::<PutBody>(&request, payload, &context).await?;
    let reason = body.reason.clone().or_else(|| Some("a trial".to_owned()));
    let terms = PutBody { reason, ..body }.terms()?;
    let fault =
        || Problem::invalid("/kind", "refuses no requests: try token_bucket, leaky_bucket, block or switch");
    let shop = context.shop.clone();
    let tried = web::block(move || shop.try_rule(&terms)).await.map_err(|_| Problem::new(Code::Internal))?;
    let Trial { over, requests, refused, callers } = tried.ok_or_else(fault)?;
    let view = TrialView {
        over_ms: u64::try_from(over.as_millis()).unwrap_or(u64::MAX),
        requests,
        would_refuse: refused,
        callers,
    };
    Ok(HttpResponse::Ok().json(view))
}

/// Answers the version that a change of a rule made.
///
/// # Errors
/// What kept it from being made.
pub fn changed(changed: RuleChanged) -> Result<u64, Problem> {
    match changed {
        RuleChanged::Done(version) => Ok(version),
        RuleChanged::VersionMoved => Err(Problem::new(Code::EtagMismatch)),
        RuleChanged::Unknown => Err(Problem::new(Code::RuleNotFound)),
        RuleChanged::TooMany => Err(Problem::new(Code::TooManyRules).with("rules_max", RULES_MAX)),
    }
}
