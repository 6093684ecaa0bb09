//! The admin route of nodes: the processes of the shop.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{Scope, operator};
use crate::domain::node::Node;
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use crate::http::shopper::rfc3339;
use utoipa::ToSchema;

/// A node as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
struct View<'a> {
    /// The process.
    id: &'a str,
    /// all, api or worker.
    role: &'a str,
    /// `serving`, `draining` or `lost`.
    status: &'static str,
    /// Its operators' listener.
    admin: &'a str,
    /// Its shoppers' listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    shopper: Option<&'a str>,
    /// Its version.
    version: &'a str,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    started_at: String,
    /// The rules of traffic that it follows.
    rules_version: u64,
    /// Since when it has told nothing, in ms.
    heard_ms_ago: i64,
}

/// All nodes.
#[derive(Serialize, ToSchema)]
#[schema(as = Nodes)]
struct ListView<'a> {
    /// Also those that have told nothing for a while.
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

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/api/v1/admin/nodes", list, |it| {
        it.names("platform", "list_nodes", "The processes of the shop.")
            .is_for(For::Operator(Scope::LimitsRead))
            .answers::<ListView<'_>>(200, "All of them.");
    })]
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
