//! The pages that the `type` of a problem points to, and the answer to an unknown address.

use actix_web::{HttpResponse, web};

use crate::http::problem::{Code, Problem};

/// Answers `GET /problems/{code}`: what the code means, and what the client should do.
///
/// # Errors
/// `not_found` for a word that is no code.
pub async fn page(path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let wanted = path.into_inner();
    let code = Code::ALL.iter().find(|code| code.as_str() == wanted);
    let code = code.ok_or_else(|| Problem::new(Code::NotFound))?;
    let advice = match code.status() {
        409 => "The shop says no: stop.",
        429 => "You are too fast: wait for Retry-After.",
        503 => "The service sheds load: back off, then repeat with the same key.",
        504 => "The outcome is unknown: repeat with the same key.",
        _ if code.is_retryable() => "Repeat later.",
        _ => "The call has a fault: change it before you repeat it.",
    };
    let text = format!("{}\nstatus {}\n\n{}\n{advice}\n", code.as_str(), code.status(), code.title());
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text))
}

/// Answers every address that has no route.
///
/// # Errors
/// Always `not_found`.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound))
}
