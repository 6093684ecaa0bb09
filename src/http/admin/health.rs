//! Liveness, readiness and metrics.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::http::Context;

#[derive(Deserialize)]
pub struct ReadyQuery {
    verbose: Option<String>,
}

/// The process answers; nothing else is looked at.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "live" }))
}

/// Whether this process should get traffic: not draining, and what selling cannot do without answers. Kafka or
/// a MySQL instance that is down delays orders and takes no traffic away.
pub async fn ready(query: web::Query<ReadyQuery>, context: web::Data<Context>) -> HttpResponse {
    let components = context.shop.components().await;
    let is_draining = context.shop.is_draining();
    let is_ready = !is_draining && components.iter().all(|component| component.is_up || !component.is_vital);
    let status = match (is_draining, is_ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not_ready",
    };
    let mut body = json!({ "status": status });
    if query.verbose.is_some() {
        let states = components
            .into_iter()
            .map(|component| (component.name, Value::from(if component.is_up { "up" } else { "down" })));
        body["components"] = Value::Object(states.collect::<Map<_, _>>());
    }
    if is_ready { HttpResponse::Ok().json(body) } else { HttpResponse::ServiceUnavailable().json(body) }
}

/// Prometheus text format.
pub async fn metrics(context: web::Data<Context>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(context.metrics.render())
}
