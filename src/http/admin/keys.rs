//! The admin routes of API keys: who may do what. The paths below stand under `/api/v1/admin`.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::changes::{ReasonBody, checked_reason, read_body};
use super::{Scope, change, operator};
use crate::domain::ApiKey;
use crate::domain::api_key::{KEYS_MAX, KeyId, StoredKey, check_name};
use crate::domain::scope::Role;
use crate::http::Context;
use crate::http::auth::{api_key_hash, new_api_key};
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::shopper::rfc3339;
use crate::shop::keys::{Added, KeyChanged};

/// How long a key that is rotated goes on, in ms: by default, and at most.
const OVERLAP_MS: i64 = 86_400_000;
const OVERLAP_MS_MAX: i64 = 30 * 86_400_000;

/// The body that makes a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateKey)]
struct CreateBody {
    /// Who will use it; the actor of the audit log.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// What its user does in the shop: `viewer`, `promoter`, `operator` or `admin`.
    #[serde(default)]
    #[schema(pattern = "^(viewer|promoter|operator|admin)$")]
    role: Option<String>,
    /// Single scopes, such as `sales:read`, in place of a role.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 12)]
    scopes: Option<Vec<String>>,
    /// Why.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
}

/// The body that rotates a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RotateKey)]
struct RotateBody {
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// How long the old key goes on, in ms (a day).
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2592000000_i64)]
    overlap_ms: Option<i64>,
}

/// A key as operators see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct View<'a> {
    /// Names it.
    id: KeyId,
    /// Who uses it.
    name: &'a str,
    /// The role that it has; null for a key of single scopes.
    role: Option<Role>,
    /// All that it may do.
    scopes: Vec<Scope>,
    /// `active`, `ending` or `ended`.
    status: &'static str,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: String,
    /// From when on it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    ends_at: Option<String>,
    /// When it was used last, to the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    last_used_at: Option<String>,
}

/// All keys.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
struct ListView<'a> {
    /// First those without an end, of both those that were made last first.
    keys: Vec<View<'a>>,
}

/// A new key. Its text is shown once.
#[derive(Serialize, ToSchema)]
#[schema(as = NewKey)]
struct NewView<'a> {
    /// Names it.
    id: KeyId,
    /// Who uses it.
    name: &'a str,
    /// The role that it has; null for a key of single scopes.
    role: Option<Role>,
    /// All that it may do.
    scopes: Vec<Scope>,
    /// Its text, which nobody can read again.
    key: &'a str,
    /// The key in whose place it is, with its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<View<'a>>,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/admin/keys", list, |it| {
            it.names(
                "access",
                "list_keys",
                "All API keys, and when each was used last. Their texts are shown to nobody.",
            )
            .is_for(For::Operator(Scope::KeysRead))
            .answers::<ListView<'_>>(200, "All of them.");
        }),
        operation(Verb::Post, "/api/v1/admin/keys", create, |it| {
            it.names("access", "create_key", "Make an API key. Its text is shown once.")
                .about("A key can make only keys that may do what it may itself.")
                .is_for(For::Operator(Scope::KeysWrite))
                .changes()
                .body::<CreateBody>(
                    json!({ "name": "bob", "role": "promoter", "reason": "bob runs the autumn sales" }),
                )
                .refuses(&[Code::KeyExists, Code::TooManyKeys])
                .answers::<NewView<'_>>(201, "The key.");
        }),
        operation(Verb::Post, "/api/v1/admin/keys/{key}/rotate", rotate, |it| {
            it.names(
                "access",
                "rotate_key",
                "Make a key in the place of another one, which goes on for a while.",
            )
            .is_for(For::Operator(Scope::KeysWrite))
            .changes()
            .body::<RotateBody>(json!({ "reason": "every quarter", "overlap_ms": 3_600_000 }))
            .refuses(&[Code::KeyNotFound, Code::KeyEnded])
            .answers::<NewView<'_>>(201, "The new key.");
        }),
        operation(Verb::Post, "/api/v1/admin/keys/{key}/revoke", revoke, |it| {
            it.names("access", "revoke_key", "End a key, and all sessions that were begun with it, at once.")
                .is_for(For::Operator(Scope::KeysWrite))
                .changes()
                .body::<ReasonBody>(json!({ "reason": "the laptop was lost" }))
                .refuses(&[Code::KeyNotFound])
                .answers::<View<'_>>(200, "The key, ended now or before.");
        }),
    ]
}

fn id_of(path: &str) -> Result<KeyId, Problem> {
    KeyId::parse(path).ok_or_else(|| Problem::new(Code::KeyNotFound))
}

fn view(stored: &StoredKey, now_ms: i64) -> View<'_> {
    View {
        id: stored.id,
        name: &stored.key.name,
        role: stored.key.role(),
        scopes: stored.key.all_scopes(),
        status: match stored.ends_ms {
            None => "active",
            Some(ends_ms) if now_ms < ends_ms => "ending",
            Some(_) => "ended",
        },
        created_at: rfc3339(stored.created_ms),
        ends_at: stored.ends_ms.map(rfc3339),
        last_used_at: stored.used_ms.map(rfc3339),
    }
}

/// Reads scopes, each once.
fn known_scopes(words: &[String]) -> Result<Vec<String>, Problem> {
    let known = Scope::ALL.map(Scope::as_str);
    if let Some(index) = words.iter().position(|word| !known.contains(&word.as_str())) {
        let detail = format!("must be one of {}", known.join(", "));
        return Err(Problem::invalid(&format!("/scopes/{index}"), detail));
    }
    Ok(known.into_iter().filter(|scope| words.iter().any(|word| word == scope)).map(str::to_owned).collect())
}

impl CreateBody {
    /// Checks the wish of a key that may do what `maker` may.
    fn key(self, maker: &ApiKey) -> Result<(ApiKey, String), Problem> {
        let name = self.name.trim();
        check_name(name).map_err(|why| Problem::invalid("/name", why))?;
        let words = match (self.role, self.scopes) {
            (Some(role), None) if Role::parse(&role).is_some() => vec![role],
            (Some(_), None) => {
                let known = Role::ALL.map(Role::as_str).join(", ");
                return Err(Problem::invalid("/role", format!("must be one of {known}")));
            }
            (None, Some(scopes)) if !scopes.is_empty() => known_scopes(&scopes)?,
            _ => return Err(Problem::invalid("", "needs a role, or scopes")),
        };
        let reason = self.reason.as_deref().map_or_else(|| Ok("created".to_owned()), checked_reason)?;
        let key = ApiKey { name: name.to_owned(), scopes: words };
        match key.all_scopes().into_iter().find(|scope| !maker.allows(*scope)) {
            None => Ok((key, reason)),
            Some(scope) => Err(Problem::new(Code::Forbidden)
                .with("scope", scope.as_str())
                .detail("A key can make only keys that may do what it may itself.")),
        }
    }
}

/// Answers `GET /keys`.
///
/// # Errors
/// `dependency_unavailable`.
pub async fn list(request: HttpRequest, context: web::Data<Context>) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::KeysRead).await?;
    let (all, now_ms) = (context.shop.api_keys().await?, context.shop.now_ms());
    Ok(HttpResponse::Ok().json(ListView { keys: all.iter().map(|stored| view(stored, now_ms)).collect() }))
}

/// Answers `POST /keys`: makes a key.
///
/// # Errors
/// `validation_failed`; `forbidden` for a key that may more than its maker; `key_exists`, `too_many_keys`.
pub async fn create(
    request: HttpRequest,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let maker = operator(&request, &context, Scope::KeysWrite).await?;
    let (key, reason) = read_body::<CreateBody>(&request, payload, &context).await?.key(&maker)?;
    let text = new_api_key();
    let change = change(&maker, "key_create", &reason);
    match context.shop.add_api_key(api_key_hash(&text), &key, &change).await? {
        Added::Done => Ok(shown(&text, &key, None)),
        Added::Taken(id) => Err(Problem::new(Code::KeyExists).with("key_id", id.to_string()).detail(
            "A key of this name can be used. If its text was lost, rotate it; if it is another person's, choose another name.",
        )),
        Added::TooMany => Err(Problem::new(Code::TooManyKeys).with("keys_max", KEYS_MAX)),
    }
}

/// Answers `POST /keys/{key}/rotate`: makes a key in the place of another one.
///
/// # Errors
/// `key_not_found`; `key_ended` for one that has an end already, and was perhaps rotated before.
pub async fn rotate(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let maker = operator(&request, &context, Scope::KeysWrite).await?;
    let body: RotateBody = read_body(&request, payload, &context).await?;
    let reason = checked_reason(&body.reason)?;
    let overlap_ms = body.overlap_ms.unwrap_or(OVERLAP_MS);
    if !(0..=OVERLAP_MS_MAX).contains(&overlap_ms) {
        return Err(Problem::invalid("/overlap_ms", format!("must be from 0 to {OVERLAP_MS_MAX}")));
    }
    let id = id_of(&path)?;
    refuse_greater(&context, id, &maker).await?;
    let text = new_api_key();
    let change = change(&maker, "key_rotate", &reason);
    match context.shop.rotate_api_key(id, api_key_hash(&text), overlap_ms, &change).await? {
        KeyChanged::Done(old) => Ok(shown(&text, &old.key, Some(view(&old, context.shop.now_ms())))),
        KeyChanged::Unknown => Err(Problem::new(Code::KeyNotFound)),
        KeyChanged::Ended(old) => Err(Problem::new(Code::KeyEnded)
            .with("ends_at", old.ends_ms.map(rfc3339))
            .detail("Nothing was changed. It was rotated or revoked before: make a key of another name, or rotate the one in its place.")),
    }
}

/// Refuses to rotate a key that may more than who asks: the answer has the text of the new one.
async fn refuse_greater(context: &Context, id: KeyId, maker: &ApiKey) -> Result<(), Problem> {
    let all = context.shop.api_keys().await?;
    let scopes =
        all.iter().find(|found| found.id == id).map_or_else(Vec::new, |found| found.key.all_scopes());
    match scopes.into_iter().find(|scope| !maker.allows(*scope)) {
        None => Ok(()),
        Some(scope) => Err(Problem::new(Code::Forbidden).with("scope", scope.as_str())),
    }
}

/// Answers `POST /keys/{key}/revoke`: ends a key at once. Idempotent.
///
/// # Errors
/// `key_not_found`.
pub async fn revoke(
    request: HttpRequest,
    path: web::Path<String>,
    payload: web::Payload,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &context, Scope::KeysWrite).await?;
    let reason = read_body::<ReasonBody>(&request, payload, &context).await?.reason()?;
    let change = change(&operator, "key_revoke", &reason);
    match context.shop.revoke_api_key(id_of(&path)?, &change).await? {
        KeyChanged::Done(stored) | KeyChanged::Ended(stored) => {
            Ok(HttpResponse::Ok().json(view(&stored, context.shop.now_ms())))
        }
        KeyChanged::Unknown => Err(Problem::new(Code::KeyNotFound)),
    }
}

fn shown(text: &str, key: &ApiKey, replaces: Option<View<'_>>) -> HttpResponse {
    let id = KeyId::of(&api_key_hash(text));
    let ApiKey { name, .. } = key;
    HttpResponseBuilder::new(StatusCode::CREATED)
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((LOCATION, "/api/v1/admin/keys"))
        .json(NewView { id, name, role: key.role(), scopes: key.all_scopes(), key: text, replaces })
}
