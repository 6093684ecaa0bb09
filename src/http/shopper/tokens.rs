//! The route of purchase tokens, under `/api/v1`.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::domain::SaleId;
use crate::domain::rule::Way;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::rules::pass;
use crate::http::{Context, extract};
use crate::shop::tokens::{NoToken, TokenWish};
use serde_json::json;
use utoipa::ToSchema;

/// The longest body: a solved challenge has some 600 bytes, and a user id in it at most 255 more.
pub const BODY_BYTES_MAX: usize = 4096;

/// The body of a request for a token. It may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenWish)]
struct TokenBody {
    /// The solved challenge, as ALTCHA's widget gives it: base64 of JSON.
    #[serde(default)]
    proof: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = PurchaseToken)]
struct TokenView {
    /// The token, which a purchase sends.
    purchase_token: String,
    /// From when on it serves.
    #[schema(value_type = String, format = DateTime)]
    not_before: String,
    /// Until when it serves.
    #[schema(value_type = String, format = DateTime)]
    expires_at: String,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Post, "/api/v1/sales/{sale}/token", issue, |it| {
        it.names("sales", "issue_purchase_token", "Get a purchase token.")
            .about("It belongs to the buyer, the sale and the device. `proof_required` has a `challenge` to solve first.")
            .is_for(For::Shopper)
            .is_limited()
            .maybe_body::<TokenBody>(json!({}))
            .refuses(&[Code::SaleNotFound, Code::SaleEnded, Code::ProofRequired, Code::ProofInvalid])
            .answers::<TokenView>(200, "The token.");
    })]
}

/// Answers `POST /sales/{sale}/token`: gives a purchase token to the buyer. Idempotent but for its times.
///
/// # Errors
/// `sale_not_found`, `sale_ended`; `proof_required` and `proof_invalid` with a `challenge`; `dependency_unavailable`
/// when this process has no key; what a rule says.
pub async fn issue(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let body = extract::body(&request, payload, BODY_BYTES_MAX, &context).await?;
    let shopper = extract::shopper(&request, &context).await?;
    let TokenBody { proof } =
        if body.is_empty() { TokenBody::default() } else { extract::json(&request, &body)? };
    let sale = SaleId::parse(&path).map_err(|_| Problem::new(Code::SaleNotFound))?;
    pass(&request, &context, Way::Token, (Some(&shopper), Some(&sale))).await?;
    let wish =
        TokenWish { user: &shopper.user, device: shopper.device.as_ref(), seen_by: shopper.proven_device() };
    let issued = context.shop.issue_token(wish, &sale, proof.as_deref()).map_err(refusal)?;
    let view = TokenView {
        purchase_token: issued.token,
        not_before: rfc3339(issued.not_before_ms),
        expires_at: rfc3339(issued.expires_ms),
    };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(view))
}

fn refusal(none: NoToken) -> Problem {
    match none {
        NoToken::UnknownSale => Problem::new(Code::SaleNotFound),
        NoToken::Ended => Problem::new(Code::SaleEnded),
        NoToken::Unavailable => Problem::new(Code::DependencyUnavailable),
        NoToken::ProofWanted { challenge, was_given } => {
            let code = if was_given { Code::ProofInvalid } else { Code::ProofRequired };
            Problem::new(code).with("challenge", challenge)
        }
    }
}
