//! The routes of liveness, readiness and metrics.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::http::Context;

/// The query string of `/readyz`.
#[derive(Deserialize)]
pub struct ReadyQuery {
    /// When this is there, with any value, the answer lists the components.
    verbose: Option<String>,
}

#[derive(Serialize)]
struct StatusView {
    status: &'static str,
    /// "up" or "down" by the component's name; `None` when the request did not ask for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    components: Option<BTreeMap<String, &'static str>>,
}

/// Answers `/livez`. The answer says only that the process answers; no component is asked.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(StatusView { status: "live", components: None })
}

/// Answers `/readyz`: 200 when this process should get traffic, otherwise 503. It should when it is not draining and
/// every vital component answers. Kafka and the MySQL instances are not vital: when one of them is down, orders are
/// delayed, and the process still gets traffic.
pub async fn ready(query: web::Query<ReadyQuery>, context: web::Data<Context>) -> HttpResponse {
    let components = context.shop.components().await;
    let is_draining = context.shop.is_draining();
    let is_ready = !is_draining && components.iter().all(|component| component.is_up || !component.is_vital);
    let status = match (is_draining, is_ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not_ready",
    };
    let word = |is_up| if is_up { "up" } else { "down" };
    let components = components.into_iter().map(|component| (component.name, word(component.is_up)));
    let body = StatusView { status, components: query.verbose.as_ref().map(|_| components.collect()) };
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// Answers `/metrics` in the Prometheus text format.
pub async fn metrics(context: web::Data<Context>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(context.metrics.render())
}
