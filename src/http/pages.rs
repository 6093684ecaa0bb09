//! The pages of the binary. They load nothing from elsewhere, and nothing in them belongs to one person: what a page
//! shows it asks the API for.

use std::sync::LazyLock;

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use sha2::{Digest, Sha256};

use super::contract::Description;
use super::headers::knows;
use super::operation::{Operation, Verb, operation};
use super::problem::{Code, Problem};

/// What the pages may load and where they may stand.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'";

/// A file of the pages.
struct File {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
    etag: String,
}

macro_rules! files {
    ($($name:literal $media_type:literal;)*) => {
        /// All files, ascending by name.
        static FILES: LazyLock<Vec<File>> = LazyLock::new(|| vec![
            $(File::new($name, $media_type, include_str!(concat!("pages/", $name))),)*
        ]);
    };
}

files! {
    "admin-words.js" "text/javascript; charset=utf-8";
    "admin.js" "text/javascript; charset=utf-8";
    "chart.js" "text/javascript; charset=utf-8";
    "console.html" "text/html; charset=utf-8";
    "console.js" "text/javascript; charset=utf-8";
    "icon.svg" "image/svg+xml";
    "ops.html" "text/html; charset=utf-8";
    "ops.js" "text/javascript; charset=utf-8";
    "seckill.js" "text/javascript; charset=utf-8";
    "shop.html" "text/html; charset=utf-8";
    "shop.js" "text/javascript; charset=utf-8";
    "style.css" "text/css; charset=utf-8";
    "ui.js" "text/javascript; charset=utf-8";
    "words.js" "text/javascript; charset=utf-8";
}

impl File {
    fn new(name: &'static str, media_type: &'static str, text: &'static str) -> Self {
        let etag = format!("\"{}\"", const_hex::encode(&Sha256::digest(text.as_bytes())[..16]));
        Self { name, media_type, text, etag }
    }

    /// Answers the file, or that the client has it. It is asked for each time, so a new version is seen at once.
    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_known = knows(request, &self.etag);
        let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        response
            .insert_header((CACHE_CONTROL, "no-cache"))
            .insert_header((ETAG, self.etag.as_str()))
            .insert_header((CONTENT_SECURITY_POLICY, POLICY))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((REFERRER_POLICY, "same-origin"));
        if is_known {
            return response.finish();
        }
        response.content_type(self.media_type).body(Bytes::from_static(self.text.as_bytes()))
    }
}

fn find(name: &str) -> Result<&'static File, Problem> {
    FILES.iter().find(|file| file.name == name).ok_or_else(|| Problem::new(Code::NotFound))
}

/// Lists the operations of shoppers' pages.
pub fn shopper_operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/", shop, |it| page(it, "open_front", "The shop.")),
        operation(Verb::Get, "/shop", shop, |it| page(it, "open_shop", "The shop.")),
        operation(Verb::Get, "/assets/{file}", asset, assets),
    ]
}

/// Lists the operations of operators' pages.
pub fn admin_operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/", front, |it| {
            it.names("pages", "open_front", "The pages begin at `/console`.")
                .answers_nothing(307, "They begin at `/console`.");
        }),
        operation(Verb::Get, "/console", console, |it| page(it, "open_console", "The promoter's console.")),
        operation(Verb::Get, "/ops", ops, |it| page(it, "open_ops", "The engineer's page.")),
        operation(Verb::Get, "/assets/{file}", asset, assets),
    ]
}

fn page(it: &mut Description, id: &'static str, summary: &'static str) {
    it.names("pages", id, summary)
        .heeds_if_none_match()
        .answers_nothing(304, "It is as `If-None-Match` has it.")
        .answers_text(200, "The page.", "text/html");
}

fn assets(it: &mut Description) {
    it.names("pages", "read_asset", "A file that the pages load.")
        .refuses(&[Code::NotFound])
        .heeds_if_none_match()
        .answers_nothing(304, "It is as `If-None-Match` has it.")
        .answers_text(200, "The file.", "*/*");
}

/// Answers `GET /shop`.
///
/// # Errors
/// None.
pub async fn shop(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Ok(find("shop.html")?.answer(&request))
}

/// Answers `GET /` of the operators' listener.
pub async fn front() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((LOCATION, "/console")).finish()
}

/// Answers `GET /console`.
///
/// # Errors
/// None.
pub async fn console(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Ok(find("console.html")?.answer(&request))
}

/// Answers `GET /ops`.
///
/// # Errors
/// None.
pub async fn ops(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Ok(find("ops.html")?.answer(&request))
}

/// Answers `GET /assets/{file}`.
///
/// # Errors
/// `not_found` for a file that there is not, and for a page, which has an address of its own.
pub async fn asset(request: HttpRequest, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let file = find(&path)?;
    if file.media_type.starts_with("text/html") {
        return Err(Problem::new(Code::NotFound));
    }
    Ok(file.answer(&request))
}
