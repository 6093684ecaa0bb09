//! The admin route of the configuration: a process reads it again.

use actix_web::{HttpRequest, HttpResponse, web};

use super::changes::{ReasonBody, read_body};
use super::{Scope, change, operator};
use crate::domain::operator::Subject;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::{Context, Reloaded};
use serde_json::json;

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Post, "/api/v1/admin/config/reload", reload, |it| {
        it.names("platform", "reload_configuration", "Read the configuration again, in this process.")
            .is_for(For::Operator(Scope::LimitsWrite))
            .changes()
            .body::<ReasonBody>(json!({ "reason": "a complaint" }))
            .refuses(&[Code::StateConflict])
            .answers::<Reloaded>(200, "What it follows now, and what after a restart.");
    })]
}

/// Answers `POST /config/reload`: this process reads its configuration again, and follows what it says of limits.
///
/// # Errors
/// `validation_failed` when the configuration is not valid, and `state_conflict` when the process was started without
/// one that can be read again: nothing was changed.
pub async fn reload(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::LimitsWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let Some(reload) = context.reload.get() else {
        let detail = "This process was started without a configuration that can be read again.";
        return Err(Problem::new(Code::StateConflict).detail(detail));
    };
    let change = change(&operator, "config_reload", &reason);
    context.shop.note(&change, &Subject::Configuration { process: context.process.clone() }).await?;
    let reload = reload.clone();
    // It reads files.
    let reloaded = web::block(move || reload()).await.map_err(|_| Problem::new(Code::Internal))?;
    let reloaded = reloaded.map_err(|why| Problem::invalid("", why))?;
    Ok(HttpResponse::Ok().json(reloaded))
}
