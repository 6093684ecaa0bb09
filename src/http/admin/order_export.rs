//! The admin route that exports the orders of a sale. The path below stands under `/api/v1/admin`.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use utoipa::IntoParams;

use super::order_search::{cursor, month_of, state, view_of};
use super::{Scope, operator};
use crate::domain::{Month, Order, OrderFilter, OrderId, Reference};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::shop::Failure;

/// How many orders an export reads at once.
const EXPORT_PAGE: u32 = 500;
/// The first line of an export in CSV.
const CSV_HEAD: &str =
    "id,sale_id,sku_id,user_id,quantity,unit_price,currency,status,reason,reference,accepted_at\r\n";

/// Which orders are exported, and how.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Of this sale.
    #[param(required, nullable = false)]
    sale: Option<String>,
    /// In this state, such as `paid`.
    status: Option<String>,
    /// `ndjson` (the default) or `csv`.
    format: Option<String>,
    /// The id of the last order that came whole: the export goes on after it.
    cursor: Option<String>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/api/v1/admin/exports/orders", export, |it| {
        it.names("orders", "export_orders", "All orders of a sale, as a stream.")
                .about(
                    "Each line of `ndjson` is an order, ascending by id. A stream that breaks off is taken up again \
                     with the last id as `cursor`. In `csv`, cells that a spreadsheet would calculate begin with `'`.",
                )
                .is_for(For::Operator(Scope::OrdersRead))
                .query::<Export>()
                .refuses(&[Code::SaleNotFound])
                .answers_text(200, "The orders.", "application/x-ndjson")
                .answers_also_text(200, "text/csv");
    })]
}

/// How an export is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ndjson,
    Csv,
}

/// Where an export is.
struct Exporting {
    context: web::Data<Context>,
    filter: OrderFilter,
    month: Month,
    form: Form,
    after: Option<OrderId>,
    is_over: bool,
}

impl Exporting {
    /// Reads and writes the next page; `None` at the end.
    async fn page(mut self) -> Result<Option<(Bytes, Self)>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let found = self.context.shop.find_orders(&self.filter, self.month, self.after, EXPORT_PAGE);
        let orders = found.await?;
        self.is_over = u32::try_from(orders.len()).is_ok_and(|found| found < EXPORT_PAGE);
        self.after = orders.last().map(|order| order.id).or(self.after);
        let mut text = String::new();
        for order in &orders {
            match self.form {
                Form::Ndjson => {
                    let line = serde_json::to_string(&view_of(order, &self.context)).expect("a view is JSON");
                    text.push_str(&line);
                    text.push('\n');
                }
                Form::Csv => csv_line(order, &mut text),
            }
        }
        Ok(Some((text.into(), self)))
    }
}

/// Writes an order as a line of CSV. Source: RFC 4180.
fn csv_line(order: &Order, text: &mut String) {
    let (quantity, price) = (order.quantity.units().to_string(), order.unit_price.amount().to_string());
    let (id, accepted_at) = (order.id.to_string(), rfc3339(order.accepted_ms));
    let cells: [&str; 11] = [
        &id,
        order.sale.as_str(),
        order.sku.as_str(),
        order.user.as_str(),
        &quantity,
        &price,
        order.unit_price.currency(),
        order.state.as_str(),
        order.reason.map_or("", |reason| reason.as_str()),
        order.reference.as_ref().map_or("", Reference::as_str),
        &accepted_at,
    ];
    text.push_str(&cells.map(csv_cell).join(","));
    text.push_str("\r\n");
}

/// Writes a cell. A spreadsheet would calculate what begins like a formula. Source: OWASP, "CSV injection".
pub fn csv_cell(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    match cell.contains(['"', ',', '\r', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}

/// Answers `GET /exports/orders`: all orders of a sale, as a stream. It breaks off when a database fails.
///
/// # Errors
/// `validation_failed`, `sale_not_found`.
pub async fn export(
    request: HttpRequest,
    query: web::Query<Export>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let (form, media_type) = match query.format.as_deref() {
        None | Some("ndjson") => (Form::Ndjson, "application/x-ndjson"),
        Some("csv") => (Form::Csv, "text/csv; charset=utf-8"),
        Some(_) => return Err(Problem::invalid("/format", "must be ndjson or csv")),
    };
    let sale = query.sale.as_deref().ok_or_else(|| Problem::invalid("/sale", "is missing"))?;
    let (state, after) = (state(query.status.as_deref())?, cursor(query.cursor.as_deref())?);
    let (filter, month) = month_of(sale, &context).await?;
    let file = format!(
        "attachment; filename=\"{}-orders.{}\"",
        filter.sale,
        if form == Form::Csv { "csv" } else { "ndjson" }
    );
    let filter = OrderFilter { state, ..filter };
    let begun = Exporting { context, filter, month, form, after, is_over: false };
    // What fails before the first line is an answer, and not a broken stream.
    let first = begun.page().await?;
    let head = (form == Form::Csv && query.cursor.is_none()).then(|| Bytes::from_static(CSV_HEAD.as_bytes()));
    let (page, rest) = first.map_or((Bytes::new(), None), |(page, rest)| (page, Some(rest)));
    let begin = head.into_iter().chain([page]).filter(|page| !page.is_empty()).map(Ok);
    let rest = stream::try_unfold(rest, async |rest| match rest {
        Some(exporting) => {
            Exporting::page(exporting).await.map(|next| next.map(|(page, rest)| (page, Some(rest))))
        }
        None => Ok(None),
    });
    let body = stream::iter(begin).chain(rest.map_err(Broken));
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_DISPOSITION, file))
        .content_type(media_type)
        .streaming(Box::pin(body)))
}

/// A store failed in the middle of an export, which breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the export broke off")]
struct Broken(Failure);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_every_cell_is_one() {
        for (cell, written) in [
            ("plain", "plain"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("=\"x\",y", "\"'=\"\"x\"\",y\""),
        ] {
            assert_eq!(csv_cell(cell), written);
        }
    }
}
