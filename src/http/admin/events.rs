//! The admin route of events. The path below stands under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Scope, operator};
use crate::domain::{EventNumbers, Part};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::Problem;
use utoipa::{IntoParams, ToSchema};

/// The most events of one page, and how many it has when the request does not say.
const PAGE_MAX: usize = 1000;

/// The query string of a page of events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// The most of a page, 1 to 1000 (1000).
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventPage)]
struct EventsView {
    /// CloudEvents, those of one order in their order.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Box<RawValue>>,
    /// Where the next page begins. It is there on the last page, too: later events follow it.
    next_cursor: String,
    /// Whether there are more events just now.
    has_more: bool,
    /// How many events after the cursor are not kept any more.
    gone: i64,
}

/// Writes a cursor: the numbers of the next events. Clients must not look into it.
fn text(numbers: &EventNumbers) -> String {
    let each: Vec<String> = numbers.iter().map(|(part, next)| format!("{}:{next}", part.number())).collect();
    URL_SAFE_NO_PAD.encode(each.join(","))
}

/// Reads a cursor.
///
/// # Errors
/// `validation_failed` for a text that is none.
pub fn parse_cursor(text: &str) -> Result<EventNumbers, Problem> {
    parse(text).ok_or_else(|| Problem::invalid("/cursor", "is not a cursor of this API"))
}

fn parse(text: &str) -> Option<EventNumbers> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let number = |each: &str| {
        let (part, next) = each.split_once(':')?;
        Some((Part::new(part.parse().ok()?), next.parse().ok().filter(|next| *next > 0)?))
    };
    std::str::from_utf8(&bytes).ok()?.split(',').filter(|each| !each.is_empty()).map(number).collect()
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/api/v1/admin/events", list, |it| {
        it.names("events", "list_events", "What happened to orders, as CloudEvents.")
            .is_for(For::Operator(Scope::OrdersRead))
            .query::<EventsQuery>()
            .answers::<EventsView>(200, "A page, from the cursor on or from the oldest event that is kept.");
    })]
}

/// Answers `GET /events`: what happened to orders, as CloudEvents, from the cursor on or from the oldest that is kept.
///
/// # Errors
/// `validation_failed` for a cursor or a limit that there is not.
pub async fn list(
    request: HttpRequest,
    query: web::Query<EventsQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let limit = query.limit.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("/limit", format!("must be from 1 to {PAGE_MAX}")));
    }
    let from = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let page = context.shop.events(&from.unwrap_or_default(), limit).await?;
    let event = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("JSON is text");
        RawValue::from_string(text).expect("an event is JSON")
    };
    Ok(HttpResponse::Ok().json(EventsView {
        events: page.events.iter().map(|stored| event(stored.encode())).collect(),
        next_cursor: text(&page.next),
        has_more: page.has_more,
        gone: page.gone,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let numbers = EventNumbers::from([(Part::new(0), 7), (Part::new(12), 1)]);
        assert_eq!(parse(&text(&numbers)), Some(numbers));
        assert_eq!(parse(""), Some(EventNumbers::new()));
        for broken in ["0", "0:", "0:0", "0:-1", "70000:1", "a:1", "0:1,x"] {
            assert_eq!(parse(&URL_SAFE_NO_PAD.encode(broken)), None, "{broken}");
        }
        assert_eq!(parse("%"), None);
    }
}
