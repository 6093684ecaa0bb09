//! The operations of both listeners, and their contracts.

use actix_web::web::{self, Bytes, QueryConfig, ServiceConfig};
use actix_web::{HttpResponse, http::header::CACHE_CONTROL};
use serde_json::Value;
use std::sync::LazyLock;

use super::contract::document;
use super::extract::{ADMIN_BODY_BYTES_MAX, SHOPPER_BODY_BYTES_MAX};
use super::middleware::BodyMax;
use super::operation::{Operation, Verb, operation, register};
use super::problem::Problem;
use super::{admin, docs, pages, shopper};

/// What a contract says of itself.
const ABOUT_SHOPPERS: &str = "Shoppers read about sales, buy, pay, and give orders up.\n\nAn error is a problem (RFC 9457) \
     with a stable `code`. 409: the shop says no, stop. 429: you are too fast. 503: we shed load, back off. 504: the \
     outcome is open, repeat with the same key. Any other 4xx is a fault in the call.";
const ABOUT_OPERATORS: &str = "Operators run sales, orders and the traffic of the shop. Every change has a reason, which stands in the audit log.";

/// Lists the operations of the public listener.
pub fn shopper_operations() -> Vec<Operation> {
    let mut all = shopper::orders::operations();
    all.extend(shopper::payments::operations());
    all.extend(shopper::tokens::operations());
    all.extend(shopper::sales::operations());
    all.extend(shopper::streams::operations());
    all.extend(shopper::sessions::operations());
    all.extend(pages::shopper_operations());
    all.extend(shopper::problems::operations());
    all.extend(docs::operations());
    all.push(operation(Verb::Get, "/openapi.json", shopper_contract, describe_contract));
    all
}

/// Lists the operations of the operators' listener.
pub fn admin_operations() -> Vec<Operation> {
    let mut all = admin::views::operations();
    // Fixed paths stand before the pattern of actions.
    all.extend(admin::preflight::operations());
    all.extend(admin::sale_report::operations());
    all.extend(admin::stock::operations());
    all.extend(admin::sales::operations());
    // Fixed paths of many orders stand before the patterns of one.
    all.extend(admin::order_search::operations());
    all.extend(admin::order_export::operations());
    all.extend(admin::orders::operations());
    all.extend(admin::payments::operations());
    all.extend(admin::dead_letters::operations());
    all.extend(admin::events::operations());
    all.extend(admin::webhooks::operations());
    all.extend(admin::rules::operations());
    all.extend(admin::switches::operations());
    all.extend(admin::breakers::operations());
    all.extend(admin::nodes::operations());
    all.extend(admin::process::operations());
    all.extend(admin::profiles::operations());
    all.extend(admin::configuration::operations());
    all.extend(admin::reconcile::operations());
    all.extend(admin::keys::operations());
    all.extend(admin::sessions::operations());
    all.extend(admin::audit::operations());
    all.extend(admin::health::operations());
    all.extend(pages::admin_operations());
    all.extend(shopper::problems::operations());
    all.extend(docs::operations());
    all.push(operation(Verb::Get, "/openapi.json", admin_contract, describe_contract));
    all
}

fn describe_contract(it: &mut super::contract::Description) {
    it.names("contract", "read_contract", "This document.").answers::<Value>(200, "OpenAPI 3.1.");
}

/// The contract of the public listener, in OpenAPI 3.1.
pub static SHOPPER_CONTRACT: LazyLock<Value> =
    LazyLock::new(|| document("seckill: the shopper API", ABOUT_SHOPPERS, &shopper_operations()));

/// The contract of the operators' listener.
pub static ADMIN_CONTRACT: LazyLock<Value> =
    LazyLock::new(|| document("seckill: the admin API", ABOUT_OPERATORS, &admin_operations()));

/// Their texts, each written once.
static SHOPPER_TEXT: LazyLock<Bytes> = LazyLock::new(|| SHOPPER_CONTRACT.to_string().into());
static ADMIN_TEXT: LazyLock<Bytes> = LazyLock::new(|| ADMIN_CONTRACT.to_string().into());

async fn shopper_contract() -> HttpResponse {
    contract(&SHOPPER_TEXT)
}

async fn admin_contract() -> HttpResponse {
    contract(&ADMIN_TEXT)
}

fn contract(text: &Bytes) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, "public, max-age=60"));
    response.content_type("application/json").body(text.clone())
}

/// Registers the operations of the public listener.
pub fn shopper_routes(app: &mut ServiceConfig) {
    app.app_data(query_config()).app_data(BodyMax(SHOPPER_BODY_BYTES_MAX));
    register(app, shopper_operations());
    app.default_service(web::to(shopper::problems::not_found));
}

/// Registers the operations of the operators' listener. Keep this listener off the public network.
pub fn admin_routes(app: &mut ServiceConfig) {
    app.app_data(query_config()).app_data(BodyMax(ADMIN_BODY_BYTES_MAX));
    register(app, admin_operations());
    app.default_service(web::to(shopper::problems::not_found));
}

/// Answers a bad query string like a bad field: with `validation_failed`.
fn query_config() -> QueryConfig {
    QueryConfig::default()
        .error_handler(|error, _| Problem::invalid("", format!("the query string: {error}")).into())
}
