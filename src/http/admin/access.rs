//! Who may call an admin route: whoever has an API key with the route's scope, or a page with a session of such a key.

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::HeaderName;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{ApiKey, Change, Scope};
use crate::http::auth::{Cause, api_key_hash, bearer};
use crate::http::cookies::{cookie_of, is_of_own_page};
use crate::http::headers::{TwoValues, sole};
use crate::http::middleware::RequestId;
use crate::http::problem::{Code, Problem};
use crate::http::{Context, extract};

/// The header by which a page says that a change is its own wish. No page of another origin can send it.
pub const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// The names of the cookie that holds a session's text: behind TLS, and without it.
pub const COOKIES: [&str; 2] = ["__Host-seckill_session", "seckill_session"];

/// Looks up who makes a request, and checks the scope.
///
/// # Errors
/// `unauthenticated` when the request has no credential, an unknown one or two, `forbidden` when it lacks the scope or
/// is a change of a page that is not ours, `dependency_unavailable` when the directory could not be read.
pub async fn operator(request: &HttpRequest, context: &Context, scope: Scope) -> Result<ApiKey, Problem> {
    let found = match extract::authorization(request)? {
        Some(authorization) => key_of(authorization, context).await?.1,
        None => page(request, context).await?,
    };
    if found.allows(scope) {
        Ok(found)
    } else {
        Err(Problem::new(Code::Forbidden).with("scope", scope.as_str()))
    }
}

/// Looks up the API key of an `Authorization` header. Answers its hash, too.
///
/// # Errors
/// As [`operator`].
pub async fn key_of(authorization: &str, context: &Context) -> Result<([u8; 32], ApiKey), Problem> {
    let key = bearer(authorization).ok_or_else(|| Cause::Missing.refuse())?;
    if !key.starts_with("sk_") {
        return Err(Cause::Malformed.refuse());
    }
    let hash = api_key_hash(key);
    let found = context.shop.api_key(hash).await?.ok_or_else(|| Cause::ApiKey.refuse())?;
    Ok((hash, found))
}

/// Looks up the session of a page. A change needs more than the cookie.
async fn page(request: &HttpRequest, context: &Context) -> Result<ApiKey, Problem> {
    let text = session_text(request)?.ok_or_else(|| Cause::Missing.refuse())?;
    let found = context.shop.session(api_key_hash(text)).await?;
    let (_, key) = found.ok_or_else(|| Cause::Session.refuse())?;
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        refuse_others(request, text)?;
    }
    Ok(key)
}

/// Refuses a change that another page than ours asks for: a browser sends the cookie with it all the same.
///
/// # Errors
/// `forbidden`.
pub fn refuse_others(request: &HttpRequest, session: &str) -> Result<(), Problem> {
    let token = csrf_token(session);
    let sent = sole(request, &CSRF).ok().flatten();
    let is_meant = sent.is_some_and(|sent| bool::from(sent.ct_eq(token.as_bytes())));
    if is_of_own_page(request) && is_meant {
        return Ok(());
    }
    Err(Problem::new(Code::Forbidden).detail(
        "A change that a page asks for needs the Origin of the page itself and the X-CSRF-Token of its session.",
    ))
}

/// Answers what the page of a session sends with its changes, 64 hexadecimal digits.
pub fn csrf_token(session: &str) -> String {
    const_hex::encode(Sha256::new().chain_update("csrf ").chain_update(session).finalize())
}

/// Finds the text of the session in a request's cookies.
///
/// # Errors
/// `unauthenticated` when there are two different ones of one name.
pub fn session_text(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    cookie_of(request, COOKIES).map_err(|TwoValues| Cause::Malformed.refuse())
}

/// Makes the row of the audit log for the change that the request of this task is about to make.
pub fn change(operator: &ApiKey, action: &'static str, reason: &str) -> Change {
    let request_id = RequestId::current().as_str().to_owned();
    Change { actor: operator.name.clone(), action, reason: reason.to_owned(), request_id }
}
