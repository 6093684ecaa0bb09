//! The endpoint that a refusal is measured against. It has the same listener, reads the same bytes and sends an answer
//! as long, and it does nothing between the two.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, PayloadConfig};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::Context as _;
use seckill::config::Config;
use seckill::http::extract::SHOPPER_BODY_BYTES_MAX;

use crate::slices;

/// The length of a sold-out answer.
const ANSWER: &str = concat!(
    r#"{"code":"sold_out","may_return":false,"request_id":"6f0c9a1be2d34857","retryable":false,"status":409,"#,
    r#""title":"Nothing is left.","type":"/problems/sold_out"}"#,
);

/// Serves until it is ended. The settings are those of `shopper_server` in src/app/servers.rs.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let http = &config.http;
    let build = || {
        App::new()
            .app_data(PayloadConfig::new(SHOPPER_BODY_BYTES_MAX))
            .route("/api/v1/sales/{sale}/orders", web::post().to(answer))
    };
    let mut server = HttpServer::new(build)
        .disable_signals()
        .backlog(8192)
        .max_connections(http.connections_max)
        .client_request_timeout(Duration::from_millis(http.request_head_timeout_ms))
        .keep_alive(Duration::from_millis(http.keep_alive_ms))
        .shutdown_timeout(1);
    if http.workers > 0 {
        server = server.workers(http.workers);
    }
    let server = server.bind(http.bind).with_context(|| format!("cannot listen on {}", http.bind))?;
    slices::say(&serde_json::json!({ "ready": true }))?;
    Ok(slices::runtime()?.block_on(server.run())?)
}

async fn answer(body: web::Bytes) -> HttpResponse {
    drop(body);
    HttpResponse::build(StatusCode::CONFLICT).content_type("application/json").body(ANSWER)
}
