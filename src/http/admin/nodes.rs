//! The admin routes of nodes: the processes of the shop.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use super::changes::{ReasonBody, read_body};
use super::{Scope, change, operator};
use crate::domain::node::{Node, NodeLoad};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
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
    /// What it did in its last second.
    load: &'a NodeLoad,
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
        load: &beat.load,
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/nodes", list, |it| {
            it.names("platform", "list_nodes", "The processes of the shop.")
                .is_for(For::Operator(Scope::LimitsRead))
                .answers::<ListView<'_>>(200, "All of them.");
        }),
        operation(Verb::Post, "/api/v1/admin/nodes/{node}/drain", drain, |it| {
            it.names("platform", "drain_node", "Take a process out of service: balancers turn away from it.")
                .about("It serves who still comes. A worker goes on until it is stopped.")
                .is_for(For::Operator(Scope::OpsWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a new machine" }))
                .refuses(&[Code::NodeNotFound])
                .answers::<View<'_>>(200, "The process. It follows within half a second.");
        }),
        operation(Verb::Post, "/api/v1/admin/nodes/{node}/resume", resume, |it| {
            it.names("platform", "resume_node", "Take a process back into service.")
                .is_for(For::Operator(Scope::OpsWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "all is well" }))
                .refuses(&[Code::NodeNotFound])
                .answers::<View<'_>>(200, "The process. It follows within half a second.");
        }),
    ]
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

/// Answers `POST /nodes/{node}/drain`.
///
/// # Errors
/// `node_not_found`.
pub async fn drain(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    take_out((request, payload, context), &path, true).await
}

/// Answers `POST /nodes/{node}/resume`.
///
/// # Errors
/// As [`drain`].
pub async fn resume(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    take_out((request, payload, context), &path, false).await
}

async fn take_out(
    (request, payload, context): (HttpRequest, web::Payload, web::Data<Context>),
    id: &str,
    is_out: bool,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OpsWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let action = if is_out { "node_drain" } else { "node_resume" };
    let change = change(&operator, action, &reason);
    let node = context.shop.take_node_out(id, is_out, &change).await?;
    let node = node.ok_or_else(|| Problem::new(Code::NodeNotFound))?;
    Ok(HttpResponse::Ok().json(view(&node)))
}
