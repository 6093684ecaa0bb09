//! The routes of liveness, readiness and metrics.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::http::Context;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use crate::memory::health::Ability;
use crate::metrics::measure_process;
use crate::shop::health::{Duty, Status};
use utoipa::{IntoParams, ToSchema};

/// The query string of `/readyz`.
#[derive(Deserialize, IntoParams)]
pub struct ReadyQuery {
    /// When this is there, with any value, the answer lists the components.
    verbose: Option<String>,
    /// The duty whose ability decides the status of the answer, instead of the whole process.
    #[param(pattern = "^(buy|read|write)$")]
    duty: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Live)]
struct LiveView {
    /// live.
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Ready)]
struct ReadyView {
    /// ready, degraded, not_ready or draining.
    status: &'static str,
    /// "yes", "in part: …" or "no: …" by the duty's word.
    #[schema(value_type = BTreeMap<String, String>)]
    duties: BTreeMap<&'static str, String>,
    /// "up" or "down: …" by the component's name; `None` when the request did not ask for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    components: Option<BTreeMap<String, String>>,
    /// What is left out now, by word; `None` as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    degraded: Option<Vec<&'static str>>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/livez", live, |it| {
            it.names("health", "read_liveness", "Whether the process answers.")
                .answers::<LiveView>(200, "It does.");
        }),
        operation(Verb::Get, "/readyz", ready, |it| {
            it.names("health", "read_readiness", "Whether the process should get traffic.")
                .query::<ReadyQuery>()
                .answers::<ReadyView>(200, "It should.")
                .answers::<ReadyView>(503, "It should not, or the duty cannot be done.");
        }),
        operation(Verb::Get, "/metrics", metrics, |it| {
            it.names("health", "read_metrics", "The metrics of the process.").answers_text(
                200,
                "In the text format of Prometheus.",
                "text/plain",
            );
        }),
    ]
}

/// Answers `/livez`. The answer says only that the process answers; no component is asked.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(LiveView { status: "live" })
}

/// Answers `/readyz`: 200 when this process should get traffic, otherwise 503. What all processes share leaves it 200,
/// because traffic would fare no better elsewhere: then the duties say what cannot be done. With `duty`, the answer is
/// 503 while that duty cannot be done.
///
/// # Errors
/// `validation_failed` for a duty that there is not.
pub async fn ready(
    query: web::Query<ReadyQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let readiness = context.shop.readiness();
    let is_ready = match &query.duty {
        None => matches!(readiness.status, Status::Ready | Status::Degraded),
        Some(duty) => {
            let known = Duty::parse(duty);
            let known = known.ok_or_else(|| Problem::invalid("/duty", "must be buy, read or write"))?;
            !matches!(readiness.duties.get(&known), Some(Ability::No(_)) | None)
        }
    };
    let words = |able: &Ability| match able {
        Ability::Yes => "yes".to_owned(),
        Ability::InPart(words) => format!("in part: {words}"),
        Ability::No(words) => format!("no: {words}"),
    };
    let state = |down: Option<String>| down.map_or("up".to_owned(), |words| format!("down: {words}"));
    let components = readiness.components.into_iter().map(|(name, down)| (name, state(down)));
    let body = ReadyView {
        status: match readiness.status {
            Status::Ready => "ready",
            Status::Degraded => "degraded",
            Status::NotReady => "not_ready",
            Status::Draining => "draining",
        },
        duties: readiness.duties.iter().map(|(duty, able)| (duty.as_str(), words(able))).collect(),
        components: query.verbose.as_ref().map(|_| components.collect()),
        degraded: query
            .verbose
            .as_ref()
            .map(|_| readiness.degraded.iter().map(|step| step.as_str()).collect()),
    };
    Ok(if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) })
}

/// Answers `/metrics` in the Prometheus text format.
pub async fn metrics(context: web::Data<Context>) -> HttpResponse {
    measure_process();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(context.metrics.render())
}
