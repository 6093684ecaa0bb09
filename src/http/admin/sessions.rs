//! The admin routes of sessions: a page gives a key away once, and has a cookie from then on. The paths below stand
//! under `/api/v1/admin`.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{COOKIES, change, csrf_token, key_of, refuse_others, session_text};
use crate::domain::api_key::{SESSION_MAX_MS, Session};
use crate::domain::scope::Role;
use crate::domain::{ApiKey, Scope};
use crate::http::auth::{Cause, api_key_hash, random_text};
use crate::http::contract::For;
use crate::http::cookies::{ended_cookie, is_secure, set_cookie};
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::http::{Context, extract};

/// Whose a session is, and what its page may do.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct SessionView<'a> {
    /// The name of the key.
    operator: &'a str,
    /// The role of the key; null for a key of single scopes.
    role: Option<Role>,
    /// What the page may do.
    scopes: Vec<Scope>,
    /// What the page sends as `X-CSRF-Token` with its changes.
    csrf_token: String,
    /// When it ends if nobody uses it.
    #[schema(value_type = String, format = DateTime)]
    ends_at: String,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/session", read, |it| {
            it.names(
                "access",
                "read_session",
                "Whose session this is, and what its page sends with changes.",
            )
            .is_for(For::Page)
            .answers::<SessionView<'_>>(200, "The session.");
        }),
        operation(Verb::Post, "/api/v1/admin/session", begin, |it| {
            it.names("access", "begin_session", "Exchange a key for a session: the answer sets its cookie.")
                .is_for(For::AnyKey)
                .changes()
                .answers::<SessionView<'_>>(201, "The session.");
        }),
        operation(Verb::Delete, "/api/v1/admin/session", end, |it| {
            it.names("access", "end_session", "End the session.")
                .is_for(For::Page)
                .changes()
                .refuses(&[Code::Forbidden])
                .answers_nothing(204, "It is over.");
        }),
    ]
}

/// Answers `POST /session`: begins a session of the key in the `Authorization` header.
///
/// # Errors
/// `unauthenticated`, `dependency_unavailable`.
pub async fn begin(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    let authorization = extract::authorization(&request)?.ok_or_else(|| Cause::Missing.refuse())?;
    let (key_hash, key) = key_of(authorization, &context).await?;
    let text = random_text();
    let change = change(&key, "session_begin", "signed in");
    let session = context.shop.begin_session(api_key_hash(&text), (key_hash, &key), &change).await?;
    let mut response = HttpResponse::Created();
    response.insert_header((SET_COOKIE, set_cookie(&request, COOKIES, &text, SESSION_MAX_MS / 1000)));
    if is_secure(&request) {
        response.append_header((SET_COOKIE, ended_cookie(COOKIES)));
    }
    Ok(respond(&mut response, &key, &session, &text))
}

/// Answers `GET /session`.
///
/// # Errors
/// `unauthenticated` without a session, `dependency_unavailable`.
pub async fn read(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    let text = session_text(&request)?.ok_or_else(|| Cause::Missing.refuse())?;
    let found = context.shop.session(api_key_hash(text)).await?;
    let (session, key) = found.ok_or_else(|| Cause::Session.refuse())?;
    Ok(respond(&mut HttpResponseBuilder::new(StatusCode::OK), &key, &session, text))
}

/// Answers `DELETE /session`: ends it. One that is over is no error.
///
/// # Errors
/// `unauthenticated` without a cookie, `forbidden` when another page asks, `dependency_unavailable`.
pub async fn end(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    let text = session_text(&request)?.ok_or_else(|| Cause::Missing.refuse())?;
    refuse_others(&request, text)?;
    let signed_out = |key: &ApiKey| change(key, "session_end", "signed out");
    context.shop.end_session(api_key_hash(text), signed_out).await?;
    Ok(HttpResponse::NoContent().insert_header((SET_COOKIE, set_cookie(&request, COOKIES, "", 0))).finish())
}

fn respond(response: &mut HttpResponseBuilder, key: &ApiKey, session: &Session, text: &str) -> HttpResponse {
    response.insert_header((CACHE_CONTROL, "no-store")).json(SessionView {
        operator: &key.name,
        role: key.role(),
        scopes: key.all_scopes(),
        csrf_token: csrf_token(text),
        ends_at: rfc3339(session.ends_ms()),
    })
}
