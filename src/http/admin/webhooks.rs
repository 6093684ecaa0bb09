//! The admin routes of subscriptions: where events are sent. The paths below stand under `/api/v1/admin`.

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::changes::{ReasonBody, ReasonQuery, checked_reason, read_body};
use super::events::parse_cursor;
use super::{Scope, change, operator};
use crate::chance;
use crate::domain::order_life::ARROWS;
use crate::domain::subscription::{NewSubscription, Subscription, SubscriptionId};
use crate::domain::{Change, EventNumbers};
use crate::http::Context;
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::shop::subscriptions::{Subscribed, SubscriptionAction};
use serde_json::json;
use utoipa::ToSchema;

/// The body that makes a subscription.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook)]
struct CreateBody {
    /// Where events are sent.
    #[schema(max_length = 500)]
    url: String,
    /// The words of the steps that are sent; all when there are none.
    #[serde(default)]
    kinds: Vec<String>,
    /// `now`, or `oldest` for the oldest event that is kept.
    #[serde(default)]
    #[schema(pattern = "^(now|oldest)$")]
    from: Option<String>,
    /// Why.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
}

/// The body that sends events again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReplayWebhook)]
struct ReplayBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// A cursor of `GET /events`; without one from the oldest event that is kept.
    cursor: Option<String>,
}

/// A subscription as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct View<'a> {
    /// The subscription.
    #[schema(value_type = String)]
    id: &'a SubscriptionId,
    /// Where events are sent.
    url: &'a str,
    /// The steps that are sent; all when there are none.
    kinds: &'a [String],
    /// active, paused or failing.
    status: &'static str,
    /// Why it is so.
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'a str,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: String,
    /// Since when events do not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    failing_since: Option<String>,
    /// Events that it has not had.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<i64>,
    /// The secret, in the one answer that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

/// All subscriptions.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhooks)]
struct ListView<'a> {
    /// All of them.
    webhooks: Vec<View<'a>>,
}

/// What became of a subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDone)]
struct DoneView<'a> {
    /// The subscription.
    #[schema(value_type = String)]
    id: &'a SubscriptionId,
    /// What became of it.
    done: &'static str,
    /// The new secret, in the one answer that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

fn view<'a>(subscription: &'a Subscription, unread: Option<i64>, secret: Option<&'a str>) -> View<'a> {
    View {
        id: &subscription.id,
        url: &subscription.url,
        kinds: &subscription.kinds,
        status: subscription.state.as_str(),
        why: &subscription.why,
        created_at: rfc3339(subscription.created_ms),
        failing_since: subscription.failing_since_ms.map(rfc3339),
        unread,
        secret,
    }
}

/// Makes a secret of 256 random bits.
fn secret() -> String {
    format!("whsec_{}", URL_SAFE_NO_PAD.encode(chance::bytes::<32>()))
}

fn id_of(path: &str) -> Result<SubscriptionId, Problem> {
    SubscriptionId::parse(path).ok_or_else(|| Problem::new(Code::WebhookNotFound))
}

impl CreateBody {
    fn new_subscription(self) -> Result<NewSubscription, Problem> {
        if self.url.len() > Subscription::URL_BYTES_MAX {
            return Err(Problem::invalid(
                "/url",
                format!("must have at most {} bytes", Subscription::URL_BYTES_MAX),
            ));
        }
        let words: Vec<&str> = ARROWS.iter().filter_map(|arrow| arrow.move_word).collect();
        if let Some(index) = self.kinds.iter().position(|kind| !words.contains(&kind.as_str())) {
            return Err(Problem::invalid(
                &format!("/kinds/{index}"),
                format!("must be one of {}", words.join(", ")),
            ));
        }
        let from_oldest = match self.from.as_deref() {
            None | Some("now") => false,
            Some("oldest") => true,
            Some(_) => return Err(Problem::invalid("/from", "must be now or oldest")),
        };
        Ok(NewSubscription { url: self.url, kinds: self.kinds, from_oldest })
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/webhooks", list, |it| {
            it.names("webhooks", "list_webhooks", "Where events are sent.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .answers::<ListView<'_>>(200, "All of them.");
        }),
        operation(Verb::Post, "/api/v1/admin/webhooks", create, |it| {
            it.names("webhooks", "create_webhook", "Have events sent somewhere.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .changes()
                .body::<CreateBody>(json!({ "url": "https://shop.example/events", "kinds": ["paid"] }))
                .refuses(&[Code::TooManyWebhooks])
                .answers::<View<'_>>(201, "The subscription, with its secret, which no later answer shows.");
        }),
        operation(Verb::Delete, "/api/v1/admin/webhooks/{webhook}", remove, |it| {
            it.names("webhooks", "remove_webhook", "Send nothing there any more.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .changes()
                .query::<ReasonQuery>()
                .refuses(&[Code::WebhookNotFound])
                .answers::<DoneView<'_>>(200, "It is gone.");
        }),
        operation(Verb::Post, "/api/v1/admin/webhooks/{webhook}/pause", pause, |it| {
            it.names("webhooks", "pause_webhook", "Send nothing for a while.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a complaint" }))
                .refuses(&[Code::WebhookNotFound])
                .answers::<DoneView<'_>>(200, "What became of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/webhooks/{webhook}/resume", resume, |it| {
            it.names("webhooks", "resume_webhook", "Send again, from where it was.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a complaint" }))
                .refuses(&[Code::WebhookNotFound])
                .answers::<DoneView<'_>>(200, "What became of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/webhooks/{webhook}/rotate", rotate, |it| {
            it.names("webhooks", "rotate_webhook", "Give it a new secret.")
                .is_for(For::Operator(Scope::WebhooksWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "a complaint" }))
                .refuses(&[Code::WebhookNotFound])
                .answers::<DoneView<'_>>(200, "What became of it.");
        }),
        operation(Verb::Post, "/api/v1/admin/webhooks/{webhook}/replay", replay, |it| {
            it.names(
                "webhooks",
                "replay_webhook",
                "Send everything again, from a cursor or the oldest event on.",
            )
            .is_for(For::Operator(Scope::WebhooksWrite))
            .changes()
            .body::<ReplayBody>(json!({ "reason": "lost on our side" }))
            .refuses(&[Code::WebhookNotFound])
            .answers::<DoneView<'_>>(200, "What became of it.");
        }),
    ]
}

/// Answers `GET /webhooks`: all subscriptions, and how many events each has not had.
///
/// # Errors
/// `dependency_unavailable`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::WebhooksWrite).await?;
    let all = context.shop.subscriptions().await?;
    let webhooks = all.iter().map(|now| view(&now.subscription, Some(now.unread), None)).collect();
    Ok(HttpResponse::Ok().json(ListView { webhooks }))
}

/// Answers `POST /webhooks`: makes a subscription. The answer shows its secret, and no later one does.
///
/// # Errors
/// `validation_failed` for an address to which nothing may be sent; `too_many_webhooks`.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let body: CreateBody = read_body(&request, payload, &context).await?;
    let reason = body.reason.as_deref().map_or(Ok("created".to_owned()), checked_reason)?;
    let change = change(&operator, "webhook_create", &reason);
    let made = (SubscriptionId::of_bytes(chance::bytes()), secret());
    match context.shop.subscribe(body.new_subscription()?, made, &change).await? {
        Subscribed::Done(made) => {
            Ok(HttpResponse::Created().json(view(&made, None, Some(made.secret.as_str()))))
        }
        Subscribed::NotAllowed(why) => Err(Problem::invalid("/url", why)),
        Subscribed::TooMany => {
            Err(Problem::new(Code::TooManyWebhooks).with("webhooks_max", Subscription::MAX))
        }
    }
}

/// Answers `DELETE /webhooks/{webhook}?reason=`.
///
/// # Errors
/// `webhook_not_found`.
pub async fn remove(
    request: HttpRequest,
    path: web::Path<String>,
    query: web::Query<ReasonQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let reason = query.checked()?;
    let change = change(&operator, "webhook_remove", &reason);
    act(&context, &path, (SubscriptionAction::Remove, "removed"), &change).await
}

/// Answers `POST /webhooks/{webhook}/pause`.
///
/// # Errors
/// `webhook_not_found`.
pub async fn pause(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, "webhook_pause", &reason);
    act(&context, &path, (SubscriptionAction::Pause, "paused"), &change).await
}

/// Answers `POST /webhooks/{webhook}/resume`: events are sent again, from where it was.
///
/// # Errors
/// `webhook_not_found`.
pub async fn resume(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, "webhook_resume", &reason);
    act(&context, &path, (SubscriptionAction::Resume, "active"), &change).await
}

/// Answers `POST /webhooks/{webhook}/rotate`: it gets a new secret, which the answer shows. What is sent is signed with
/// the one before as well, until the next rotation.
///
/// # Errors
/// `webhook_not_found`.
pub async fn rotate(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, "webhook_rotate", &reason);
    act(&context, &path, (SubscriptionAction::Rotate(secret()), "rotated"), &change).await
}

/// Answers `POST /webhooks/{webhook}/replay`: everything is sent again, from a cursor or from the oldest event on.
///
/// # Errors
/// `webhook_not_found`, `validation_failed` for a cursor that is none.
pub async fn replay(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::WebhooksWrite).await?;
    let body: ReplayBody = read_body(&request, payload, &context).await?;
    let change = change(&operator, "webhook_replay", &checked_reason(&body.reason)?);
    let from = body.cursor.as_deref().map_or(Ok(EventNumbers::new()), parse_cursor)?;
    act(&context, &path, (SubscriptionAction::Replay(from), "replayed"), &change).await
}

async fn act(
    context: &Context,
    path: &str,
    (action, done): (SubscriptionAction, &'static str),
    change: &Change,
) -> Result<HttpResponse, Problem> {
    let id = id_of(path)?;
    if !context.shop.act_on_subscription(&id, &action, change).await? {
        return Err(Problem::new(Code::WebhookNotFound));
    }
    let secret = match &action {
        SubscriptionAction::Rotate(secret) => Some(secret.as_str()),
        _ => None,
    };
    Ok(HttpResponse::Ok().json(DoneView { id: &id, done, secret }))
}
