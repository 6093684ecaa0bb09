//! The pages that the `type` of a problem points to, and the answer to an unknown address.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpResponse, web};

use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};

/// Lists the operations of this file, which both listeners have.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/problems/{code}", page, |it| {
        it.names("problems", "read_problem", "What a problem code means.")
            .refuses(&[Code::NotFound])
            .answers_text(200, "A page for people.", "text/html");
    })]
}

/// Answers `GET /problems/{code}`: what the code means, and what the client should do.
///
/// # Errors
/// `not_found` for a word that is no code.
pub async fn page(path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let wanted = path.into_inner();
    let code = Code::ALL.iter().find(|code| code.as_str() == wanted);
    let code = code.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "public, max-age=3600"))
        .insert_header((
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'; form-action 'none'",
        ))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .content_type("text/html; charset=utf-8")
        .body(text(*code)))
}

/// Answers what a client should do about a code.
fn advice(code: Code) -> &'static str {
    match code.status() {
        409 if code.is_retryable() => "The shop says: not yet. Repeat the call after Retry-After.",
        409 => "The shop says no: stop. The same call will not succeed.",
        429 => "You are too fast: wait for Retry-After.",
        503 => "Nothing was changed: back off, then repeat the call with the same Idempotency-Key.",
        504 => {
            "The outcome is open: repeat the call with the same Idempotency-Key, which finds out what became of it."
        }
        _ if code.is_retryable() => "Repeat the call later.",
        _ => "The call has a fault: change it before you repeat it.",
    }
}

/// Writes the page of a code. Codes and titles hold nothing that HTML escapes.
fn text(code: Code) -> String {
    let (word, status, title) = (code.as_str(), code.status(), code.title());
    let advice = advice(code);
    let again = if code.is_retryable() { "yes" } else { "no" };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{word}: {title}</title>\n\
         <link rel=\"stylesheet\" href=\"/assets/style.css\">\n<main class=\"page\">\n<h1><code>{word}</code></h1>\n<p><strong>{title}</strong></p>\n<p>{advice}</p>\n\
         <dl>\n<dt>HTTP status</dt><dd>{status}</dd>\n<dt>May the same call succeed later?</dt><dd>{again}</dd>\n</dl>\n\
         <p>The <code>detail</code> of the answer says what is wrong with this call, and its <code>request_id</code> \
         finds it in our log.</p>\n</main>\n</html>\n"
    )
}

/// Answers every address that has no route.
///
/// # Errors
/// Always `not_found`.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound))
}
