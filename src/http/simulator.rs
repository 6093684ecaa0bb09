//! Serves the simulated payment provider: the API that a shop calls, and the page on which a buyer pays.

use actix_web::http::StatusCode;
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType, LOCATION, REFERRER_POLICY,
};
use actix_web::web::{self, FormConfig, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use std::sync::Arc;
use subtle::ConstantTimeEq;

use super::auth;
use crate::domain::Money;
use crate::provider::simulator::{Action, Books, Page};

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// What a payment page may load: its own style, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const STYLE: &str = include_str!("simulator/page.css");

/// What the handlers can reach.
pub struct Simulator {
    /// The books.
    pub books: Arc<Books>,
    /// The key that the shop has to send.
    pub api_key: Vec<u8>,
}

/// Registers the routes.
pub fn routes(app: &mut ServiceConfig) {
    app.app_data(FormConfig::default().limit(BODY_BYTES_MAX))
        .route("/v1/{path:.*}", web::post().to(change))
        .route("/v1/{path:.*}", web::get().to(read))
        .route("/pay.css", web::get().to(style))
        .route("/pay/{token}", web::get().to(page))
        .route("/pay/{token}", web::post().to(act));
}

type Pairs = Vec<(String, String)>;

async fn change(
    request: HttpRequest,
    path: web::Path<String>,
    form: web::Form<Pairs>,
    simulator: web::Data<Simulator>,
) -> HttpResponse {
    if !is_allowed(&request, &simulator) {
        return refused();
    }
    let key = request.headers().get("Idempotency-Key").and_then(|key| key.to_str().ok());
    respond(simulator.books.post(&path, &form, key))
}

async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<Pairs>,
    simulator: web::Data<Simulator>,
) -> HttpResponse {
    if !is_allowed(&request, &simulator) {
        return refused();
    }
    respond(simulator.books.get(&path, &query))
}

fn is_allowed(request: &HttpRequest, simulator: &Simulator) -> bool {
    let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(auth::bearer).unwrap_or_default();
    sent.as_bytes().ct_eq(&simulator.api_key).into()
}

fn refused() -> HttpResponse {
    respond((401, serde_json::json!({ "error": { "message": "Invalid API Key provided." } })))
}

fn respond((status, body): (u16, serde_json::Value)) -> HttpResponse {
    HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)).json(body)
}

async fn style() -> HttpResponse {
    HttpResponse::Ok().content_type("text/css; charset=utf-8").body(STYLE)
}

async fn page(token: web::Path<String>, simulator: web::Data<Simulator>) -> HttpResponse {
    show(simulator.books.page(&token), "")
}

/// What the buyer pressed.
#[derive(Deserialize)]
struct Pressed {
    action: String,
}

async fn act(
    token: web::Path<String>,
    pressed: web::Form<Pressed>,
    simulator: web::Data<Simulator>,
) -> HttpResponse {
    let (action, note) = match pressed.action.as_str() {
        "pay" => (Action::Pay, ""),
        "decline" => (Action::Decline, "The card was declined. Nothing was paid; you can try again."),
        _ => return HttpResponse::BadRequest().finish(),
    };
    match simulator.books.act(&token, action) {
        // A reload of the page must not press the button again.
        Ok(Some(_)) if note.is_empty() => {
            HttpResponse::SeeOther().insert_header((LOCATION, format!("/pay/{token}"))).finish()
        }
        Ok(page) => show(page, note),
        Err(error) => {
            tracing::error!(%error, "the books cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}

fn show(page: Option<Page>, note: &str) -> HttpResponse {
    let mut response = if page.is_some() { HttpResponse::Ok() } else { HttpResponse::NotFound() };
    response
        .content_type(ContentType::html())
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        // The address is a secret.
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .body(page.map_or_else(
            || document("<h1>There is no such payment.</h1>", None),
            |page| document(&content(&page, note), back(&page)),
        ))
}

/// Answers where a buyer goes who has paid, after a moment.
fn back(page: &Page) -> Option<&str> {
    (page.status == "complete").then_some(page.return_url.as_str())
}

fn document(content: &str, back: Option<&str>) -> String {
    let back = back.map_or(String::new(), |url| {
        format!("<meta http-equiv=\"refresh\" content=\"1; url={}\">", escaped(url))
    });
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">{back}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Payment</title>\
         <link rel=\"stylesheet\" href=\"/pay.css\"></head><body>\
         <p class=\"banner\">Play money: this is a simulated payment provider, and nothing is charged.</p>\
         <main>{content}</main></body></html>"
    )
}

fn content(page: &Page, note: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p role=\"alert\">{note}</p>") };
    let buttons = "<form method=\"post\"><button name=\"action\" value=\"pay\">Pay</button>\
                   <button class=\"quiet\" name=\"action\" value=\"decline\">Pay with a card that is declined</button>\
                   </form>";
    let (title, rest) = match page.status.as_str() {
        "open" => ("Pay", buttons),
        "complete" => ("Paid", "<p>Thank you. The shop is told.</p>"),
        _ => ("Closed", "<p>This payment is closed, and nothing was charged.</p>"),
    };
    let amount = Money::new(page.amount, &page.currency.to_ascii_uppercase());
    let amount = amount.map(|money| money.to_string()).unwrap_or_default();
    format!(
        "<h1>{title}</h1><p class=\"what\">{}</p><p class=\"amount\">{amount}</p>{note}{rest}\
         <p><a href=\"{}\">Back to the shop</a></p>",
        escaped(&page.description),
        escaped(&page.return_url)
    )
}

/// Escapes a text for HTML and for attributes in double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bought_cannot_be_markup() {
        let page = Page {
            description: "1 × <script>alert(\"x\")</script> & more".to_owned(),
            amount: 19_900,
            currency: "cny".to_owned(),
            status: "open".to_owned(),
            return_url: "https://shop.example/?a=\"><b>".to_owned(),
        };
        let text = content(&page, "");
        assert!(!text.contains("<script") && !text.contains("\"><b>"), "{text}");
        assert!(text.contains("199.00 CNY"), "{text}");
    }
}
