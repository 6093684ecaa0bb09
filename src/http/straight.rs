//! The way of the crowd: a purchase goes to its handler without the router, whose patterns cost a fifth of a refusal.
//!
//! Only a path that is written plainly goes this way. Every other spelling of it, and every other method, is the
//! router's, which answers the same.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::{Data, Payload};
use actix_web::{Error, FromRequest as _, HttpResponse};

use super::{Context, shopper};

/// The pattern of the route of purchases.
pub const PLACE: &str = "/api/v1/sales/{sale}/orders";

/// Answers whether a path is that of purchases, however its sale is written.
pub fn is_place(path: &str) -> bool {
    middle_of(path).is_some_and(|sale| !sale.is_empty() && !sale.bytes().any(|byte| byte == b'/'))
}

/// Finds the sale in the path of purchases, as it is written.
fn middle_of(path: &str) -> Option<&str> {
    path.strip_prefix("/api/v1/sales/")?.strip_suffix("/orders")
}

/// Finds the sale in the path of purchases, when it is written plainly.
fn sale_of(path: &str) -> Option<&str> {
    let sale = middle_of(path)?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (!sale.is_empty() && sale.bytes().all(is_plain)).then_some(sale)
}

/// Answers purchases, and leaves everything else to the router.
///
/// # Errors
/// As the router. The refusals of purchases are responses here.
pub async fn straight(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let context = request.app_data::<Data<Context>>().cloned();
    match context {
        Some(context) if request.method() == Method::POST && sale_of(request.path()).is_some() => {
            let (request, mut payload) = request.into_parts();
            let payload = Payload::from_request(&request, &mut payload).await?;
            let answer =
                shopper::orders::place_in(&request, payload, &context, middle_of(request.path())).await;
            Ok(ServiceResponse::new(request, answer.unwrap_or_else(HttpResponse::from_error)))
        }
        _ => Ok(next.call(request).await?.map_into_boxed_body()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_purchases_has_one_sale() {
        assert!(is_place("/api/v1/sales/friday/orders") && is_place("/api/v1/sales/a%2Db/orders"));
        for other in ["/api/v1/sales/orders", "/api/v1/sales//orders", "/api/v1/sales/a/b/orders"] {
            assert!(!is_place(other), "{other}");
        }
    }

    #[test]
    fn a_plain_path_has_one_slug() {
        assert_eq!(sale_of("/api/v1/sales/friday-drop-2/orders"), Some("friday-drop-2"));
        for other in ["/api/v1/sales//orders", "/api/v1/sales/a/b/orders", "/api/v1/sales/a%2Db/orders"] {
            assert_eq!(sale_of(other), None, "{other}");
        }
        for other in ["/api/v1/sales/orders", "/api/v1/sales/A/orders", "/api/v1/sales/a/orders/"] {
            assert_eq!(sale_of(other), None, "{other}");
        }
    }
}
