//! The admin route of nodes: the processes of the shop.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{Scope, operator};
use crate::domain::node::Node;
use crate::http::Context;
use crate::http::problem::Problem;
use crate::http::shopper::rfc3339;

/// A node as operators see it.
#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    role: &'a str,
    /// `serving`, `draining` or `lost`.
    status: &'static str,
    admin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shopper: Option<&'a str>,
    version: &'a str,
    started_at: String,
    rules_version: u64,
    heard_ms_ago: i64,
}

/// All nodes.
#[derive(Serialize)]
struct ListView<'a> {
    nodes: Vec<View<'a>>,
}

fn view(node: &Node) -> View<'_> {
    let beat = &node.beat;
    View {
        id: &beat.id,
        role: &beat.role,
        status: match (node.is_lost(), beat.draining) {
            (true, _) => "lost",
            (false, true) => "draining",
            (false, false) => "serving",
        },
        admin: &beat.admin,
        shopper: beat.shopper.as_deref(),
        version: &beat.version,
        started_at: rfc3339(beat.started_ms),
        rules_version: beat.rules_version,
        heard_ms_ago: node.age_ms,
    }
}

/// Answers `GET /nodes`: the processes, those too that have told nothing for a while.
///
/// # Errors
/// `dependency_unavailable`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let nodes = context.shop.nodes().await?;
    Ok(HttpResponse::Ok().json(ListView { nodes: nodes.iter().map(view).collect() }))
}
