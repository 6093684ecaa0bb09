//! The routes of both listeners, all on this page.

use actix_web::web::{self, PayloadConfig, QueryConfig, ServiceConfig, get, patch, post, resource, scope};

use super::extract::ADMIN_BODY_BYTES_MAX;
use super::middleware::Pattern;
use super::problem::Problem;
use super::{admin, shopper};

/// The route of purchases, on which the crowd comes.
const PLACE: &str = "/api/v1/sales/{sale}/orders";

/// Registers the routes of the public listener.
pub fn shopper_routes(app: &mut ServiceConfig) {
    app.app_data(query_config())
        // Purchases come first and in no scope, because every pattern that is tried before theirs costs the crowd.
        .service(resource(PLACE).app_data(Pattern(PLACE)).route(post().to(shopper::orders::place)))
        .service(
            scope("/api/v1")
                .service(resource("/time").route(get().to(shopper::sales::time)))
                .service(resource("/sales").route(get().to(shopper::sales::list)))
                .service(resource("/sales/{sale}").route(get().to(shopper::sales::read)))
                .service(resource("/orders").route(get().to(shopper::orders::list)))
                .service(resource("/orders/{order}").route(get().to(shopper::orders::read))),
        )
        .service(resource("/problems/{code}").route(get().to(shopper::problems::page)))
        .default_service(web::to(shopper::problems::not_found));
}

/// Registers the routes of the operators' listener. Keep this listener off the public network.
pub fn admin_routes(app: &mut ServiceConfig) {
    app.app_data(PayloadConfig::new(ADMIN_BODY_BYTES_MAX))
        .app_data(query_config())
        .service(
            scope("/api/v1/admin")
                .service(
                    resource("/sales")
                        .route(get().to(admin::sales::list))
                        .route(post().to(admin::sales::create)),
                )
                .service(
                    resource("/sales/{sale}")
                        .route(get().to(admin::sales::read))
                        .route(patch().to(admin::sales::change)),
                )
                .service(resource("/sales/{sale}/stock").route(get().to(admin::sales::stock)))
                .service(resource("/sales/{sale}/{action}").route(post().to(admin::sales::advance))),
        )
        .service(resource("/livez").route(get().to(admin::health::live)))
        .service(resource("/readyz").route(get().to(admin::health::ready)))
        .service(resource("/metrics").route(get().to(admin::health::metrics)))
        .service(resource("/problems/{code}").route(get().to(shopper::problems::page)))
        .default_service(web::to(shopper::problems::not_found));
}

/// Answers a bad query string like a bad field: with `validation_failed`.
fn query_config() -> QueryConfig {
    QueryConfig::default()
        .error_handler(|error, _| Problem::invalid("", format!("the query string: {error}")).into())
}
