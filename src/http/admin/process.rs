//! The admin routes of one process: what it measures, and how its background tasks fare.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Scope, operator};
use crate::domain::TaskStatus;
use crate::domain::figure::FIGURES;
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use crate::http::shopper::rfc3339;
use crate::memory::figures::KEPT_MAX;

/// A background task as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = BackgroundTask)]
struct TaskView {
    /// Its word in logs and metrics.
    name: &'static str,
    /// `ok`, `failing`, or `starting` before its first run has ended.
    status: &'static str,
    /// How much its last run did, in orders, records or sales.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<usize>,
    /// Why its last run failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How many runs have failed since the last one that did not.
    failures: u32,
    /// When its last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<String>,
}

/// The background tasks of this process.
#[derive(Serialize, ToSchema)]
#[schema(as = BackgroundTasks)]
struct TasksView<'a> {
    /// This process, as `GET /nodes` has it.
    process: &'a str,
    /// In the order in which they were started.
    tasks: Vec<TaskView>,
}

/// The query string of `/figures`.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FiguresQuery {
    /// Samples after the one of this number; all without it.
    after: Option<u64>,
}

/// A figure, second by second.
#[derive(Serialize, ToSchema)]
#[schema(as = Figure)]
struct FigureView {
    /// Its name, such as `attempts` or `purchase_p99`.
    name: &'static str,
    /// What it is of: an outcome, or a system that was called.
    #[serde(skip_serializing_if = "String::is_empty")]
    of: String,
    /// `per_second`, `seconds` or `count`.
    unit: &'static str,
    /// A value for each time; null where there was nothing to measure.
    values: Vec<Option<f64>>,
}

/// What this process has measured of late.
#[derive(Serialize, ToSchema)]
#[schema(as = Figures)]
struct FiguresView<'a> {
    /// This process, as `GET /nodes` has it.
    process: &'a str,
    /// How many samples are kept, one for each second.
    kept: usize,
    /// The number of the last sample.
    last: u64,
    /// When the samples were taken, in ms since 1970.
    at_ms: Vec<i64>,
    /// The figures that have a value among those that are kept.
    figures: Vec<FigureView>,
}

fn view(task: TaskStatus) -> TaskView {
    let TaskStatus { name, last, ended_ms, failures } = task;
    let (status, done, error) = match last {
        None => ("starting", None, None),
        Some(Ok(done)) => ("ok", Some(done), None),
        Some(Err(why)) => ("failing", None, Some(why)),
    };
    TaskView { name, status, done, error, failures, ended_at: ended_ms.map(rfc3339) }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/tasks", tasks, |it| {
            it.names("platform", "list_tasks", "How the background tasks of this process fare.")
                .is_for(For::Operator(Scope::LimitsRead))
                .answers::<TasksView<'_>>(200, "All of them.");
        }),
        operation(Verb::Get, "/api/v1/admin/figures", figures, |it| {
            it.names(
                "platform",
                "read_figures",
                "What this process has measured in the last quarter of an hour.",
            )
            .is_for(For::Operator(Scope::LimitsRead))
            .query::<FiguresQuery>()
            .answers::<FiguresView<'_>>(200, "Second by second.");
        }),
    ]
}

/// Answers `GET /tasks`.
///
/// # Errors
/// `forbidden`.
pub async fn tasks(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let tasks = (context.tasks)().into_iter().map(view).collect();
    Ok(HttpResponse::Ok().json(TasksView { process: &context.process, tasks }))
}

/// Answers `GET /figures`: rates, times and levels of each second. Whoever asks again names the last sample it has.
///
/// # Errors
/// `validation_failed`.
pub async fn figures(
    request: HttpRequest,
    query: web::Query<FiguresQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::LimitsRead).await?;
    let sampled = context.figures.after(query.after.unwrap_or(0));
    let figures = sampled.values.into_iter().map(|((place, of), values)| {
        let figure = &FIGURES[place];
        FigureView { name: figure.name, of, unit: figure.unit, values }
    });
    let figures = figures.collect();
    let view = FiguresView {
        process: &context.process,
        kept: KEPT_MAX,
        last: sampled.last,
        at_ms: sampled.at_ms,
        figures,
    };
    Ok(HttpResponse::Ok().json(view))
}
