//! The cookies of pages with sessions, and whether a request is from a page of ours.
//!
//! Each cookie has two names: behind TLS one that no other host can set (RFC 6265bis §4.1.3.2), and one without it.

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{COOKIE, HOST, HeaderName, ORIGIN};

use super::auth::Cause;
use super::headers::{TwoValues, sole};
use super::problem::{Code, Problem};

/// The names of the cookie that holds the token of a shopper's session: behind TLS, and without it.
pub const SHOPPER: [&str; 2] = ["__Host-seckill_shopper", "seckill_shopper"];

fn text(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    sole(request, &name).ok().flatten().and_then(|value| std::str::from_utf8(value).ok())
}

/// Answers whether a request says that it is from a page of the host and port that it asks. A browser says so with
/// every change, and no page can say it of another one. Source: the Fetch standard, "Origin header".
pub fn is_of_own_page(request: &HttpRequest) -> bool {
    let Some((_, origin)) = text(request, ORIGIN).and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    text(request, HOST).is_some_and(|host| host.eq_ignore_ascii_case(origin))
}

/// Answers whether the page of a request is behind TLS.
pub fn is_secure(request: &HttpRequest) -> bool {
    text(request, ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}

/// Finds the value of a cookie in a request. That of a page behind TLS goes first, because no other host can have set
/// it.
///
/// # Errors
/// When there are two different ones of one name.
pub fn cookie_of<'a>(request: &'a HttpRequest, names: [&str; 2]) -> Result<Option<&'a str>, TwoValues> {
    for wanted in names {
        let lines = request.headers().get_all(COOKIE).filter_map(|line| line.to_str().ok());
        let cookies =
            lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        let mut values = cookies.filter(|(name, _)| *name == wanted).map(|(_, value)| value);
        let Some(first) = values.next() else { continue };
        if values.any(|other| other != first) {
            return Err(TwoValues);
        }
        return Ok(Some(first));
    }
    Ok(None)
}

/// Makes a cookie that no script reads and no other site's page has sent. Behind TLS no connection without it has it.
pub fn set_cookie(request: &HttpRequest, names: [&str; 2], value: &str, seconds: i64) -> String {
    let (name, secure) = if is_secure(request) { (names[0], "; Secure") } else { (names[1], "") };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

/// Ends a session that was begun before its page was behind TLS.
pub fn ended_cookie(names: [&str; 2]) -> String {
    format!("{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0", names[1])
}

/// Finds the token of a request's session. What would change something needs more than the cookie, which a browser
/// sends for pages of other origins, too: it has to come from a page of ours.
///
/// # Errors
/// `unauthenticated` when there are two different ones of one name, `forbidden` for a change of another page.
pub fn shopper_token(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let token = cookie_of(request, SHOPPER).map_err(|TwoValues| Cause::Malformed.refuse())?;
    if token.is_some() && ![Method::GET, Method::HEAD].contains(request.method()) {
        refuse_others(request)?;
    }
    Ok(token)
}

/// Refuses what a page of another origin asks for, and what says not from where it comes.
///
/// # Errors
/// `forbidden`.
pub fn refuse_others(request: &HttpRequest) -> Result<(), Problem> {
    if is_of_own_page(request) {
        return Ok(());
    }
    Err(Problem::new(Code::Forbidden).detail("A session changes something only for a page of this origin."))
}
