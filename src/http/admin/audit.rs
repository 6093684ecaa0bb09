//! The admin route of the audit log. The path below stands under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::sales::sale_id;
use super::{Scope, operator};
use crate::domain::audit::{AuditQuery, AuditRow};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::extract::digits;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::{parse_rfc3339, rfc3339};

/// The most rows of a page, and how many it has when the request does not say.
const ROWS_MAX: u32 = 1000;
const ROWS: u32 = 100;

/// Which rows are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Of this operator.
    actor: Option<String>,
    /// Of this action, such as `publish` or `rule_put`.
    action: Option<String>,
    /// Of this sale.
    sale: Option<String>,
    /// Not before this time.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// The most of a page, 1 to 1000 (100).
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// One change.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditRow)]
struct RowView<'a> {
    /// Its number.
    id: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// Who: the name of an API key; `command line`, `import`, or `seckill` itself.
    actor: &'a str,
    /// What was done.
    action: &'a str,
    /// The sale that was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    sale_id: Option<&'a str>,
    /// Why.
    reason: &'a str,
    /// The request that asked for it; `-` when none did.
    request_id: &'a str,
    /// What was changed: a sale as it was then, or what names anything else.
    #[schema(value_type = Object)]
    subject: Box<RawValue>,
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditLog)]
struct PageView<'a> {
    /// What was written last first.
    rows: Vec<RowView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/api/v1/admin/audit", list, |it| {
        it.names("access", "read_audit_log", "Who changed what, when and why.")
            .is_for(For::Operator(Scope::OpsRead))
            .query::<Wanted>()
            .refuses(&[Code::SaleNotFound])
            .answers::<PageView<'_>>(200, "A page, what was written last first.");
    })]
}

impl Wanted {
    fn query(self) -> Result<AuditQuery, Problem> {
        let limit = self.limit.unwrap_or(ROWS);
        if !(1..=ROWS_MAX).contains(&limit) {
            return Err(Problem::invalid("/limit", format!("must be from 1 to {ROWS_MAX}")));
        }
        let number = |text: String| {
            let number = digits(&text).and_then(|number| i64::try_from(number).ok());
            number.ok_or_else(|| Problem::invalid("/cursor", "is not a cursor of this API"))
        };
        let time = |pointer: &'static str, text: Option<String>| {
            text.map(|text| parse_rfc3339(pointer, &text)).transpose()
        };
        Ok(AuditQuery {
            actor: self.actor,
            action: self.action,
            sale: self.sale.as_deref().map(sale_id).transpose()?,
            since_ms: time("/since", self.since)?,
            until_ms: time("/until", self.until)?,
            before: self.cursor.map(number).transpose()?,
            limit,
        })
    }
}

/// Answers `GET /audit`: a page of the audit log.
///
/// # Errors
/// `validation_failed`, `sale_not_found` for a text that can be none.
pub async fn list(
    request: HttpRequest,
    query: web::Query<Wanted>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OpsRead).await?;
    let wanted = query.into_inner().query()?;
    let rows = context.shop.audit_log(&wanted).await?;
    let is_full = rows.len() >= usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let next_cursor = rows.last().filter(|_| is_full).map(|row| row.number.to_string());
    let rows: Result<Vec<_>, Problem> = rows.iter().map(view).collect();
    Ok(HttpResponse::Ok().json(PageView { rows: rows?, next_cursor }))
}

fn view(row: &AuditRow) -> Result<RowView<'_>, Problem> {
    let AuditRow { number, at_ms, actor, action, sale, reason, request_id, subject } = row;
    Ok(RowView {
        id: number.to_string(),
        at: rfc3339(*at_ms),
        actor,
        action,
        sale_id: sale.as_deref(),
        reason,
        request_id,
        subject: RawValue::from_string(subject.clone()).map_err(|_| Problem::new(Code::Internal))?,
    })
}
