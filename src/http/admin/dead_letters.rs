//! The admin routes of dead letters. The paths below stand under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::changes::{checked_reason, read_body};
use super::{Scope, change, operator};
use crate::domain::record::Poison;
use crate::domain::{DeadLetter, DeadLetterId, LetterQuery, LetterState, OrderId, OrderRecord, SaleId};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::shop::dead_letters::{LetterAction, LetterDone, LetterOutcome, LetterSelection};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

/// The most dead letters of one page or one call, and how many these are when the request does not say.
const PAGE_MAX: u32 = 100;

/// The query string of a page of dead letters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only those that stand so: open, retried, given_back or dismissed.
    #[param(pattern = "^(open|retried|given_back|dismissed)$")]
    status: Option<String>,
    /// Only those that are there because of this.
    reason: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// The most of a page, 1 to 100 (100).
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// A dead letter as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct View {
    /// The letter.
    id: DeadLetterId,
    /// The partition of its record.
    part: u16,
    /// Where its record stands in it.
    offset: i64,
    /// Why its record could not become an order.
    reason: String,
    /// open, retried, given_back or dismissed.
    status: &'static str,
    /// Its order, as far as the record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    /// Its sale, as far as the record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    sale_id: Option<SaleId>,
    /// When it was put aside.
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    decided_at: Option<String>,
    /// Only of one letter: its bytes as text, with a mark where they are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterPage)]
struct ListView {
    /// Ascending by id.
    dead_letters: Vec<View>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// What came of one letter, or would come of it.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterOutcome)]
struct OutcomeView {
    /// The letter.
    id: DeadLetterId,
    /// retried, given_back, dismissed, decided, not_retryable, order_decided or failed.
    outcome: &'static str,
    /// How its order stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_status: Option<&'static str>,
    /// Why it could not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// What came of several letters, or would come of them.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterOutcomes)]
struct OutcomesView {
    /// What came of each.
    dead_letters: Vec<OutcomeView>,
    /// Whether nothing was changed.
    dry_run: bool,
    /// Where to go on; null at the end.
    next_cursor: Option<String>,
}

/// The body of a decision about one letter.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterDecision)]
struct DecideBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether only to tell what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// The body of a decision about several letters. Without `ids` it is about those that are open.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterDecisions)]
struct DecideAllBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Whether only to tell what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Those; without any all that are open.
    #[serde(default)]
    #[schema(max_items = 100)]
    ids: Vec<String>,
    /// The reason of the letters: only those.
    because: Option<String>,
    /// The `next_cursor` of the call before.
    cursor: Option<String>,
    /// The most of a call, 1 to 100 (100).
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

fn view(letter: DeadLetter, with_payload: bool) -> View {
    let sale_id = OrderRecord::decode(&letter.payload).ok().map(|record| record.sale_id);
    View {
        id: letter.id,
        part: letter.part.number(),
        offset: letter.offset,
        reason: letter.reason,
        status: letter.state.as_str(),
        order_id: letter.order,
        sale_id,
        at: rfc3339(letter.at_ms),
        decided_at: letter.decided_ms.map(rfc3339),
        payload: with_payload.then(|| String::from_utf8_lossy(&letter.payload).into_owned()),
    }
}

fn outcome_view(id: DeadLetterId, outcome: &LetterOutcome) -> OutcomeView {
    let (outcome, order_status, reason) = match outcome {
        LetterOutcome::Retried(state) => ("retried", Some(state.as_str()), None),
        LetterOutcome::GivenBack => ("given_back", None, None),
        LetterOutcome::Dismissed => ("dismissed", None, None),
        LetterOutcome::Decided(state) => ("decided", None, Some(state.as_str())),
        LetterOutcome::NotRetryable(poison) => ("not_retryable", None, Some(poison.as_str())),
        LetterOutcome::OrderDecided(state) => ("order_decided", Some(state.as_str()), None),
    };
    OutcomeView { id, outcome, order_status, reason }
}

fn done_view(done: &LetterDone) -> OutcomeView {
    match &done.outcome {
        Ok(outcome) => outcome_view(done.id, outcome),
        Err(_) => OutcomeView { id: done.id, outcome: "failed", order_status: None, reason: None },
    }
}

fn letter_id(path: &str) -> Result<DeadLetterId, Problem> {
    DeadLetterId::parse(path).ok_or_else(|| Problem::new(Code::DeadLetterNotFound))
}

fn cursor(text: Option<&str>) -> Result<Option<DeadLetterId>, Problem> {
    let parse = |text| {
        DeadLetterId::parse(text).ok_or_else(|| Problem::invalid("/cursor", "is not a cursor of this API"))
    };
    text.map(parse).transpose()
}

fn limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(PAGE_MAX) {
        limit if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid("/limit", format!("must be from 1 to {PAGE_MAX}"))),
    }
}

/// Answers the cursor of the next page; none when the page is not full.
fn next(ids: impl ExactSizeIterator<Item = DeadLetterId>, limit: u32) -> Option<String> {
    let is_full = u32::try_from(ids.len()).is_ok_and(|found| found >= limit);
    ids.last().filter(|_| is_full).map(|id| id.to_string())
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/dead-letters", list, |it| {
            it.names("dead letters", "list_dead_letters", "Records that could not become orders.")
                .is_for(For::Operator(Scope::OrdersRead))
                .query::<ListQuery>()
                .answers::<ListView>(200, "A page, ascending by id.");
        }),
        operation(Verb::Post, "/api/v1/admin/dead-letters/retry", retry_all, |it| {
            it.names("dead letters", "retry_dead_letters", "Have several orders decided again.")
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<DecideAllBody>(json!({ "reason": "the sale is there now", "dry_run": true }))
                .answers::<OutcomesView>(200, "What came of each, or would come of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/dead-letters/give-back", give_back_all, |it| {
            it.names(
                "dead letters",
                "give_back_dead_letters",
                "Reject the orders of several, and give their units back.",
            )
            .is_for(For::Operator(Scope::OrdersWrite))
            .changes()
            .body::<DecideAllBody>(json!({ "reason": "nobody will have them", "dry_run": true }))
            .answers::<OutcomesView>(200, "What came of each, or would come of it.");
        }),
        operation(Verb::Get, "/api/v1/admin/dead-letters/{letter}", read, |it| {
            it.names("dead letters", "read_dead_letter", "One dead letter, with its record.")
                .is_for(For::Operator(Scope::OrdersRead))
                .refuses(&[Code::DeadLetterNotFound])
                .answers::<View>(200, "The letter.");
        }),
        operation(Verb::Post, "/api/v1/admin/dead-letters/{letter}/retry", retry, |it| {
            it.names(
                "dead letters",
                "retry_dead_letter",
                "Have its order decided again, with the sale as it is today.",
            )
            .is_for(For::Operator(Scope::OrdersWrite))
            .changes()
            .body::<DecideBody>(json!({ "reason": "the sale is there now" }))
            .refuses(&[Code::DeadLetterNotFound, Code::DeadLetterConflict])
            .answers::<OutcomeView>(200, "What came of it, or would come of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/dead-letters/{letter}/give-back", give_back, |it| {
            it.names("dead letters", "give_back_dead_letter", "Reject its order, and give its units back.")
                .is_for(For::Operator(Scope::OrdersWrite))
                .changes()
                .body::<DecideBody>(json!({ "reason": "nobody will have it" }))
                .refuses(&[Code::DeadLetterNotFound, Code::DeadLetterConflict])
                .answers::<OutcomeView>(200, "What came of it, or would come of it.");
        }),
    ]
}

/// Answers `GET /dead-letters`: a page, ascending by id.
///
/// # Errors
/// `validation_failed` for a status, a cursor or a limit that there is not.
pub async fn list(
    request: HttpRequest,
    query: web::Query<ListQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let state = |word: &str| {
        let words = LetterState::ALL.map(LetterState::as_str).join(", ");
        LetterState::parse(word).ok_or_else(|| Problem::invalid("/status", format!("must be one of {words}")))
    };
    let query = LetterQuery {
        state: query.status.as_deref().map(state).transpose()?,
        reason: query.reason.clone(),
        after: cursor(query.cursor.as_deref())?,
        limit: limit(query.limit)?,
    };
    let letters = context.shop.dead_letters(&query).await?;
    let next_cursor = next(letters.iter().map(|letter| letter.id), query.limit);
    let dead_letters = letters.into_iter().map(|letter| view(letter, false)).collect();
    Ok(HttpResponse::Ok().json(ListView { dead_letters, next_cursor }))
}

/// Answers `GET /dead-letters/{letter}`, with the record's bytes.
///
/// # Errors
/// `dead_letter_not_found`.
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::OrdersRead).await?;
    let letter = context.shop.dead_letter(letter_id(&path)?).await?;
    let letter = letter.ok_or_else(|| Problem::new(Code::DeadLetterNotFound))?;
    Ok(HttpResponse::Ok().json(view(letter, true)))
}

/// Answers `POST /dead-letters/{letter}/retry`: has its order decided again, with the sale as it is today.
///
/// # Errors
/// `dead_letter_not_found`, `dead_letter_conflict`.
pub async fn retry(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    decide((request, payload, context), &path, LetterAction::Retry).await
}

/// Answers `POST /dead-letters/{letter}/give-back`: its order is rejected, and its units go back.
///
/// # Errors
/// As [`retry`].
pub async fn give_back(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    decide((request, payload, context), &path, LetterAction::GiveBack).await
}

/// Answers `POST /dead-letters/retry`: as [`retry`], for several.
///
/// # Errors
/// `validation_failed`. What came of each letter is told with it.
pub async fn retry_all(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    decide_all(request, payload, context, LetterAction::Retry).await
}

/// Answers `POST /dead-letters/give-back`: as [`give_back`], for several.
///
/// # Errors
/// As [`retry_all`].
pub async fn give_back_all(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    decide_all(request, payload, context, LetterAction::GiveBack).await
}

fn action_word(action: LetterAction) -> &'static str {
    match action {
        LetterAction::Retry => "dead_letter_retry",
        LetterAction::GiveBack => "dead_letter_give_back",
    }
}

async fn decide(
    (request, payload, context): (HttpRequest, web::Payload, web::Data<Context>),
    letter: &str,
    action: LetterAction,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let DecideBody { reason, dry_run } = read_body(&request, payload, &context).await?;
    let change = change(&operator, action_word(action), &checked_reason(&reason)?);
    let id = letter_id(letter)?;
    let outcome = context.shop.decide_letter(id, action, (&change, dry_run)).await?;
    let outcome = outcome.ok_or_else(|| Problem::new(Code::DeadLetterNotFound))?;
    let view = outcome_view(id, &outcome);
    let wanted = match action {
        LetterAction::Retry => LetterState::Retried,
        LetterAction::GiveBack => LetterState::GivenBack,
    };
    let conflict = || Problem::new(Code::DeadLetterConflict).with("outcome", view.outcome);
    match outcome {
        _ if dry_run => Ok(HttpResponse::Ok().json(view)),
        LetterOutcome::Decided(state) if state != wanted => Err(conflict()
            .with("letter_status", state.as_str())
            .detail("It was decided in another way before.")),
        LetterOutcome::NotRetryable(poison) => {
            Err(conflict().with("reason", poison.as_str()).detail(not_retryable(poison)))
        }
        LetterOutcome::OrderDecided(state) => Err(conflict().with("order_status", state.as_str()).detail(
            "Its order was decided in another way; cancel or refund the order. A retry closes the letter.",
        )),
        _ => Ok(HttpResponse::Ok().json(view)),
    }
}

/// Says what can be done about a letter that cannot be retried.
fn not_retryable(poison: Poison) -> &'static str {
    match poison {
        Poison::TooLarge | Poison::Garbage => "Its record cannot be read, and no hold of its order is known.",
        Poison::UnknownVersion => "A newer version has written its record: retry it after the upgrade.",
        Poison::UnknownSale | Poison::UnknownSku => {
            "Its sale or SKU is not there: create it, or give it back."
        }
        Poison::OverLimit => "Its quantity exceeds the sale's limit: raise the limit, or give it back.",
        Poison::WrongPlace => "Its record names a place where its buyer's orders are not.",
    }
}

async fn decide_all(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
    action: LetterAction,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::OrdersWrite).await?;
    let body: DecideAllBody = read_body(&request, payload, &context).await?;
    let change = change(&operator, action_word(action), &checked_reason(&body.reason)?);
    if body.ids.len() > usize::try_from(PAGE_MAX).unwrap_or(usize::MAX) {
        return Err(Problem::invalid("/ids", format!("must be at most {PAGE_MAX}")));
    }
    let not_ours = |index| Problem::invalid(&format!("/ids/{index}"), "is no id of a dead letter");
    let ids = body.ids.iter().enumerate();
    let ids = ids.map(|(index, id)| DeadLetterId::parse(id).ok_or_else(|| not_ours(index)));
    let selection = LetterSelection {
        ids: ids.collect::<Result<_, _>>()?,
        reason: body.because,
        after: cursor(body.cursor.as_deref())?,
        limit: limit(body.limit)?,
    };
    let done = context.shop.decide_letters(&selection, action, (&change, body.dry_run)).await?;
    let next_cursor = match selection.ids.is_empty() {
        true => next(done.iter().map(|done| done.id), selection.limit),
        false => None,
    };
    let dead_letters = done.iter().map(done_view).collect();
    Ok(HttpResponse::Ok().json(OutcomesView { dead_letters, dry_run: body.dry_run, next_cursor }))
}
