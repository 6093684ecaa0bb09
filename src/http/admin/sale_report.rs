//! The admin route of the report of a settled sale: for programs, for spreadsheets, and for people. The path below
//! stands under `/api/v1/admin`.

use std::fmt::Write as _;
use std::sync::LazyLock;

use actix_web::http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::order_export::csv_cell;
use super::sales::sale_id;
use super::{Scope, operator};
use crate::domain::view::Revenue;
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::shop::settle::{Report, UnitsReport};

/// The page's style sheet. The page may be kept as a file, so it is within.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;\
    background:#fff}h1,h2{line-height:1.2}table{border-collapse:collapse;width:100%;margin:0 0 2rem}th,td{padding:.4rem .6rem;\
    border-bottom:1px solid #ccc;text-align:right}th:first-child,td:first-child{text-align:left}.right{color:#0a6b2d}\
    .wrong{color:#b00020}@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}th,td{border-color:#444}\
    .right{color:#6fdc8c}.wrong{color:#ff8389}}";

/// The page loads nothing and runs nothing.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    )
});

/// How the report is wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// `json` (the default), `csv` or `html`.
    format: Option<String>,
}

/// The report of a settled sale.
#[derive(Serialize, ToSchema)]
#[schema(as = SaleReport)]
struct View {
    /// What the accounts say.
    verdict: VerdictView,
    /// When it was settled.
    #[schema(value_type = String, format = DateTime)]
    settled_at: String,
    /// SHA-256 of the view's text.
    hash: String,
    /// The last event of each partition that the view is built of.
    #[schema(value_type = Vec<Vec<i64>>)]
    last_events: Box<RawValue>,
    /// The report.
    #[schema(value_type = Object)]
    report: Box<RawValue>,
}

/// What the accounts of a settled sale say.
#[derive(Serialize, ToSchema)]
#[schema(as = Verdict)]
struct VerdictView {
    /// Whether inventory, ledgers and events fit together.
    is_right: bool,
    /// What does not.
    findings: Vec<String>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/api/v1/admin/sales/{sale}/report", read, |it| {
        it.names("sales", "read_report", "The report of a settled sale, as JSON, CSV or a page.")
            .is_for(For::Operator(Scope::SalesRead))
            .query::<Wanted>()
            .refuses(&[Code::SaleNotFound])
            .answers::<View>(200, "The report.")
            .answers_also_text(200, "text/csv")
            .answers_also_text(200, "text/html");
    })]
}

/// Answers `GET /sales/{sale}/report`: the report of a settled sale.
///
/// # Errors
/// `validation_failed`; `sale_not_found`, also for a sale that is not settled.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<Wanted>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::SalesRead).await?;
    let format = query.format.as_deref().unwrap_or("json");
    if !["json", "csv", "html"].contains(&format) {
        return Err(Problem::invalid("/format", "must be json, csv or html"));
    }
    let seal = context.shop.report_of(&sale_id(&path)?).await?;
    let seal = seal.ok_or_else(|| Problem::new(Code::SaleNotFound).detail("It is not settled."))?;
    let report: Report = serde_json::from_str(&seal.report).map_err(|_| Problem::new(Code::Internal))?;
    let mut answer = HttpResponse::Ok();
    match format {
        "csv" => Ok(answer.content_type("text/csv; charset=utf-8").body(csv(&report))),
        "html" => Ok(answer
            .insert_header((CONTENT_SECURITY_POLICY, POLICY.as_str()))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .content_type("text/html; charset=utf-8")
            .body(page(&report))),
        _ => Ok(answer.json(view((seal.sealed_ms, seal.hash), (seal.numbers, seal.report), &report)?)),
    }
}

fn view(
    (settled_ms, hash): (i64, String),
    (last_events, text): (String, String),
    report: &Report,
) -> Result<View, Problem> {
    let raw = |text: String| RawValue::from_string(text).map_err(|_| Problem::new(Code::Internal));
    let findings = report.findings();
    Ok(View {
        verdict: VerdictView { is_right: findings.is_empty(), findings },
        settled_at: rfc3339(settled_ms),
        hash,
        last_events: raw(last_events)?,
        report: raw(text)?,
    })
}

/// Writes the units of each SKU. Source: RFC 4180.
fn csv(report: &Report) -> String {
    let mut text = "sale_id,sku_id,configured,sold,withheld,available,is_right\r\n".to_owned();
    for of in &report.items {
        let UnitsReport { sku_id, configured, sold, withheld, available } = of;
        let available = available.map_or_else(String::new, |units| units.to_string());
        let (sale, sku) = (csv_cell(report.sale_id.as_str()), csv_cell(sku_id.as_str()));
        let line =
            format!("{sale},{sku},{configured},{sold},{withheld},{available},{}\r\n", report.is_right(of));
        text.push_str(&line);
    }
    text
}

/// Writes a text so that it can stand in a page. Source: the HTML standard, "Serialising HTML fragments".
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(page: &mut String, title: &str, head: &[&str], rows: &[Vec<String>]) {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect::<String>()
    };
    let head = cells("th", &mut head.iter().copied());
    let rows =
        rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str))));
    let rows: String = rows.collect();
    // Writing to a text does not fail.
    let _ = write!(
        page,
        "<h2>{title}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
    );
}

/// Writes the report as a page that needs nothing else.
fn page(report: &Report) -> String {
    let (sale, findings) = (escaped(report.sale_id.as_str()), report.findings());
    let verdict = if findings.is_empty() {
        "<p class=\"right\"><strong>The accounts are right:</strong> inventory, ledgers and events fit together.</p>".to_owned()
    } else {
        let findings: String =
            findings.iter().map(|finding| format!("<li>{}</li>", escaped(finding))).collect();
        format!("<p class=\"wrong\"><strong>The accounts are wrong:</strong></p>\n<ul>{findings}</ul>")
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{sale}: report</title>\n<style>{STYLE}</style>\n<main>\n\
         <h1>{sale}</h1>\n{verdict}\n<p>Settled at {}, of {} events.</p>\n",
        rfc3339(report.settled_ms),
        report.view.events
    );
    let units = report.items.iter().map(|of| {
        let left = of.available.map_or_else(|| "?".to_owned(), |units| units.to_string());
        let numbers = [of.configured.to_string(), of.sold.to_string(), of.withheld.to_string(), left];
        std::iter::once(of.sku_id.to_string()).chain(numbers).collect()
    });
    table(&mut page, "Units", &["SKU", "Configured", "Sold", "Withheld", "Left"], &units.collect::<Vec<_>>());
    let states = report.view.totals.states.iter();
    let states = states.map(|(state, of)| vec![state.clone(), of.orders.to_string(), of.units.to_string()]);
    table(&mut page, "Orders", &["State", "Orders", "Units"], &states.collect::<Vec<_>>());
    let revenue = report.view.totals.revenue.iter().map(|(currency, of)| {
        let Revenue { paid, refunded } = of;
        vec![currency.clone(), paid.to_string(), refunded.to_string(), (paid - refunded).to_string()]
    });
    let head = ["Currency, minor units", "Paid", "Refunded", "Left"];
    table(&mut page, "Revenue", &head, &revenue.collect::<Vec<_>>());
    let minutes = report.view.minutes.iter().map(|minute| {
        let steps: Vec<String> = minute.steps.iter().map(|(step, count)| format!("{step} {count}")).collect();
        vec![rfc3339(minute.minute * 60_000), steps.join(", ")]
    });
    table(&mut page, "Minute by minute", &["Minute", "Steps"], &minutes.collect::<Vec<_>>());
    page.push_str("</main>\n</html>\n");
    page
}
