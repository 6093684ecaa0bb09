//! The routes of both listeners, all on this page.

use actix_web::guard::{Any, Get, Head};
use actix_web::web::{self, QueryConfig, ServiceConfig, delete, patch, post, put, resource, scope};
use actix_web::{HttpResponse, Resource, Route};

use super::extract::{ADMIN_BODY_BYTES_MAX, SHOPPER_BODY_BYTES_MAX};
use super::middleware::BodyMax;
use super::problem::Problem;
use super::shopper::payments::WEBHOOK;
use super::straight::PLACE;
use super::{admin, shopper};

/// Registers the routes of the public listener.
pub fn shopper_routes(app: &mut ServiceConfig) {
    app.app_data(query_config())
        .app_data(BodyMax(SHOPPER_BODY_BYTES_MAX))
        // Most purchases do not come here: `straight` answers them.
        .service(at(PLACE, "POST", [post().to(shopper::orders::place)]))
        .service(at(WEBHOOK, "POST", [post().to(shopper::payments::webhook)]))
        .service(
            scope("/api/v1")
                .service(at("/time", "GET, HEAD", [read().to(shopper::sales::time)]))
                .service(at("/sales", "GET, HEAD", [read().to(shopper::sales::list)]))
                .service(at("/sales/{sale}", "GET, HEAD", [read().to(shopper::sales::read)]))
                .service(at("/sales/{sale}/token", "POST", [post().to(shopper::tokens::issue)]))
                .service(at("/orders", "GET, HEAD", [read().to(shopper::orders::list)]))
                .service(at("/orders/{order}", "GET, HEAD", [read().to(shopper::orders::read)]))
                .service(at("/orders/{order}/cancel", "POST", [post().to(shopper::orders::cancel)]))
                .service(at("/orders/{order}/pay", "POST", [post().to(shopper::payments::pay)])),
        )
        .service(at("/problems/{code}", "GET, HEAD", [read().to(shopper::problems::page)]))
        .default_service(web::to(shopper::problems::not_found));
}

/// Registers the routes of the operators' listener. Keep this listener off the public network.
pub fn admin_routes(app: &mut ServiceConfig) {
    let sales = [read().to(admin::sales::list), post().to(admin::sales::create)];
    let sale = [read().to(admin::sales::read), patch().to(admin::sales::change)];
    let webhooks = [read().to(admin::webhooks::list), post().to(admin::webhooks::create)];
    let rule = [put().to(admin::rules::put), delete().to(admin::rules::remove)];
    app.app_data(query_config())
        .app_data(BodyMax(ADMIN_BODY_BYTES_MAX))
        .service(
            scope("/api/v1/admin")
                .service(at("/sales", "GET, HEAD, POST", sales))
                .service(at("/sales/{sale}", "GET, HEAD, PATCH", sale))
                .service(at("/sales/{sale}/stock", "GET, HEAD", [read().to(admin::sales::stock)]))
                .service(at("/sales/{sale}/view", "GET, HEAD", [read().to(admin::views::read)]))
                .service(at("/sales/{sale}/report", "GET, HEAD", [read().to(admin::sales::report)]))
                .service(at("/sales/{sale}/settle", "POST", [post().to(admin::sales::settle)]))
                .service(at("/sales/{sale}/{action}", "POST", [post().to(admin::sales::advance)]))
                .service(at("/orders/{order}", "GET, HEAD", [read().to(admin::orders::read)]))
                .service(at("/orders/{order}/cancel", "POST", [post().to(admin::orders::cancel)]))
                .service(at("/orders/{order}/refund", "POST", [post().to(admin::orders::refund)]))
                .service(at("/webhooks", "GET, HEAD, POST", webhooks))
                .service(at("/webhooks/{webhook}", "DELETE", [delete().to(admin::webhooks::remove)]))
                .service(at("/webhooks/{webhook}/pause", "POST", [post().to(admin::webhooks::pause)]))
                .service(at("/webhooks/{webhook}/resume", "POST", [post().to(admin::webhooks::resume)]))
                .service(at("/webhooks/{webhook}/rotate", "POST", [post().to(admin::webhooks::rotate)]))
                .service(at("/webhooks/{webhook}/replay", "POST", [post().to(admin::webhooks::replay)]))
                .service(at("/nodes", "GET, HEAD", [read().to(admin::nodes::list)]))
                .service(at("/config/reload", "POST", [post().to(admin::configuration::reload)]))
                .service(at("/rules", "GET, HEAD", [read().to(admin::rules::list)]))
                .service(at("/rules:try", "POST", [post().to(admin::rules::try_rule)]))
                .service(at("/rules/{rule}", "PUT, DELETE", rule))
                .service(at("/breakers", "GET, HEAD", [read().to(admin::breakers::list)]))
                .service(at("/breakers/{dependency}", "POST", [post().to(admin::breakers::force)]))
                .service(at("/switches", "GET, HEAD", [read().to(admin::switches::list)]))
                .service(at("/switches/{switch}", "PUT", [put().to(admin::switches::put)]))
                .service(at("/events", "GET, HEAD", [read().to(admin::events::list)]))
                .service(at("/dead-letters", "GET, HEAD", [read().to(admin::dead_letters::list)]))
                .service(at("/dead-letters/retry", "POST", [post().to(admin::dead_letters::retry_all)]))
                .service(at(
                    "/dead-letters/give-back",
                    "POST",
                    [post().to(admin::dead_letters::give_back_all)],
                ))
                .service(at("/dead-letters/{letter}", "GET, HEAD", [read().to(admin::dead_letters::read)]))
                .service(at("/dead-letters/{letter}/retry", "POST", [post().to(admin::dead_letters::retry)]))
                .service(at(
                    "/dead-letters/{letter}/give-back",
                    "POST",
                    [post().to(admin::dead_letters::give_back)],
                ))
                .service(at("/reconcile", "POST", [post().to(admin::reconcile::reconcile)]))
                .service(at("/refunds/{refund}/retry", "POST", [post().to(admin::payments::retry)]))
                .service(at("/refunds/{refund}/settle", "POST", [post().to(admin::payments::settle)]))
                .service(at("/payments/reconcile", "POST", [post().to(admin::payments::reconcile)])),
        )
        .service(at("/livez", "GET, HEAD", [read().to(admin::health::live)]))
        .service(at("/readyz", "GET, HEAD", [read().to(admin::health::ready)]))
        .service(at("/metrics", "GET, HEAD", [read().to(admin::health::metrics)]))
        .service(at("/problems/{code}", "GET, HEAD", [read().to(shopper::problems::page)]))
        .default_service(web::to(shopper::problems::not_found));
}

/// Makes the resource of a path. Any other method than those of its routes is answered with the list of them.
fn at<const N: usize>(path: &str, methods: &'static str, routes: [Route; N]) -> Resource {
    let other = move || async move { Err::<HttpResponse, _>(Problem::method_not_allowed(methods)) };
    let resource = routes.into_iter().fold(resource(path), Resource::route);
    resource.default_service(web::to(other))
}

/// Makes a route for GET and HEAD. The framework sends no body in answer to a HEAD.
fn read() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

/// Answers a bad query string like a bad field: with `validation_failed`.
fn query_config() -> QueryConfig {
    QueryConfig::default()
        .error_handler(|error, _| Problem::invalid("", format!("the query string: {error}")).into())
}
