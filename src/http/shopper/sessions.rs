//! The routes of shoppers' sessions, under `/api/v1`: a page gives a token away once, and has a cookie from then on
//! that no script can read.

use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::rfc3339;
use crate::chance::Chance;
use crate::domain::UserId;
use crate::http::auth::{Cause, Shopper, bearer};
use crate::http::contract::For;
use crate::http::cookies::{SHOPPER, ended_cookie, is_secure, refuse_others, set_cookie};
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::{Context, extract};

/// The longest token that browsers keep in a cookie.
const TOKEN_BYTES_MAX: usize = 3800;

/// Whose a session is.
#[derive(Serialize, ToSchema)]
#[schema(as = ShopperSession)]
struct SessionView<'a> {
    /// The buyer.
    user_id: &'a UserId,
    /// When it ends: with its token.
    #[schema(value_type = String, format = DateTime)]
    ends_at: String,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/session", read, |it| {
            it.names("sessions", "read_shopper_session", "Whose session this is.")
                .is_for(For::Shopper)
                .answers::<SessionView<'_>>(200, "The session.");
        }),
        operation(Verb::Post, "/api/v1/session", begin, |it| {
            it.names("sessions", "begin_shopper_session", "Exchange a token for a session: the answer sets its cookie.")
                .about("The cookie is for pages of this origin alone. In a demo a call without a token makes a buyer.")
                .is_for(For::Shopper)
                .refuses(&[Code::ValidationFailed, Code::Forbidden])
                .answers::<SessionView<'_>>(201, "The session.");
        }),
        operation(Verb::Delete, "/api/v1/session", end, |it| {
            it.names("sessions", "end_shopper_session", "End the session.")
                .is_for(For::Anyone)
                .refuses(&[Code::Forbidden])
                .answers_nothing(204, "It is over, if there was one.");
        }),
    ]
}

/// Answers `GET /session`.
///
/// # Errors
/// `unauthenticated` without a session or a token; in a demo it has `demo`, because anybody can be a buyer there.
pub async fn read(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    let shopper = extract::shopper(&request, &context)
        .await
        .map_err(|problem| if context.demo.get().is_some() { problem.with("demo", true) } else { problem })?;
    Ok(respond(&mut HttpResponse::Ok(), &shopper))
}

/// Answers `POST /session`: begins a session of the token in the `Authorization` header.
///
/// # Errors
/// `unauthenticated`, `validation_failed` for a token that no browser keeps, `forbidden` for a page of another origin.
pub async fn begin(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    let token = match (extract::authorization(&request)?, context.demo.get()) {
        (Some(authorization), _) => bearer(authorization).ok_or_else(|| Cause::Missing.refuse())?.to_owned(),
        (None, Some(mint)) => {
            refuse_others(&request)?;
            let guest = format!("guest-{:012x}", Chance::System.number() >> 16);
            mint(&UserId::parse(&guest).expect("a user id"))
        }
        (None, None) => return Err(Cause::Missing.refuse()),
    };
    let shopper = extract::shopper_of(&token, &context).await?;
    if token.len() > TOKEN_BYTES_MAX {
        let detail = format!("a browser keeps tokens of at most {TOKEN_BYTES_MAX} bytes");
        return Err(Problem::invalid("/token", detail));
    }
    let seconds = shopper.until_ms.saturating_sub(context.shop.now_ms()).max(0) / 1000;
    let mut response = HttpResponse::Created();
    response.insert_header((SET_COOKIE, set_cookie(&request, SHOPPER, &token, seconds)));
    if is_secure(&request) {
        response.append_header((SET_COOKIE, ended_cookie(SHOPPER)));
    }
    Ok(respond(&mut response, &shopper))
}

/// Answers `DELETE /session`: ends it. Idempotent.
///
/// # Errors
/// `forbidden` when another page asks.
pub async fn end(request: HttpRequest) -> Result<HttpResponse, Problem> {
    refuse_others(&request)?;
    let mut response = HttpResponse::NoContent();
    response.insert_header((SET_COOKIE, set_cookie(&request, SHOPPER, "", 0)));
    if is_secure(&request) {
        response.append_header((SET_COOKIE, ended_cookie(SHOPPER)));
    }
    Ok(response.finish())
}

fn respond(response: &mut HttpResponseBuilder, shopper: &Shopper) -> HttpResponse {
    let view = SessionView { user_id: &shopper.user, ends_at: rfc3339(shopper.until_ms) };
    response.insert_header((CACHE_CONTROL, "no-store")).json(view)
}
