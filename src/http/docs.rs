//! The contract as pages on which every operation can be tried. They are part of the binary and load nothing from
//! elsewhere.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::{Config, serve};

use super::operation::{Operation, Verb, operation};
use super::problem::{Code, Problem};

/// What the pages may load: nothing but ours, and the icons that their style sheet has in it.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; object-src 'none'; \
                      frame-ancestors 'none'; form-action 'self'";

/// The pages show the contract of their own listener. They ask no other server whether it is valid, and they do not
/// keep a token when they are left.
static PAGES: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/openapi.json").validator_url("none");
    Arc::new(config.display_request_duration(true).filter(true).try_it_out_enabled(true))
});

/// Lists the operations of this file, which both listeners have.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/docs", front, |it| {
            it.names("contract", "open_pages", "The pages on which every operation can be tried.")
                .answers_nothing(307, "They begin at `/docs/index.html`.");
        }),
        operation(Verb::Get, "/docs/{file}", file, |it| {
            it.names("contract", "read_page", "One file of the pages.")
                .refuses(&[Code::NotFound])
                .answers_text(200, "The file.", "*/*");
        }),
    ]
}

/// Answers `GET /docs`.
pub async fn front() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((LOCATION, "/docs/index.html")).finish()
}

/// Answers `GET /docs/{file}`: a file of the pages.
///
/// # Errors
/// `not_found` for a file that there is not.
pub async fn file(path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let found = serve(&path, PAGES.clone()).map_err(|_| Problem::new(Code::Internal))?;
    let found = found.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "public, max-age=3600"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "same-origin"))
        .content_type(found.content_type)
        .body(match found.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        }))
}
