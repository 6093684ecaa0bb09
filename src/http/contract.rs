//! The contract of a listener: its OpenAPI 3.1 document, made of its operations. Source: OpenAPI Specification 3.1.1.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::admin::{Scope, access};
use super::cookies;
use super::operation::Operation;
use super::problem::{Code, Problem};
use crate::domain::rule::Switch;
use crate::domain::sale::SaleAction;
use crate::domain::{DeadLetterId, DependencyId, IdempotencyKey, KeyId, OrderId, RuleId, SaleId};

/// The version of OpenAPI that documents have.
const OPENAPI: &str = "3.1.0";

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Anybody.
    Anyone,
    /// Anybody; who has a shopper token may be shown more.
    MaybeShopper,
    /// Who has a shopper token.
    Shopper,
    /// Who signs as the payment provider does.
    Provider,
    /// Who has an operator's key with this scope, or a session of one.
    Operator(Scope),
    /// Who has any operator's key.
    AnyKey,
    /// A page with a session.
    Page,
}

/// Every answer may be one of these.
const ALWAYS: &[Code] = &[Code::Internal];
/// The refusals of a request whose user is asked for.
const OF_SHOPPERS: &[Code] = &[Code::Unauthenticated, Code::Forbidden, Code::DependencyUnavailable];
/// The refusals of a request of an operator.
const OF_OPERATORS: &[Code] = &[Code::Unauthenticated, Code::Forbidden, Code::DependencyUnavailable];
/// The refusals of a body.
const OF_BODIES: &[Code] = &[
    Code::MalformedJson,
    Code::ValidationFailed,
    Code::BodyTooSlow,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
];
/// The refusals of rules of traffic.
const OF_RULES: &[Code] = &[Code::RateLimited, Code::Blocked, Code::SwitchedOff, Code::DependencyUnavailable];
/// The failures of a change.
const OF_CHANGES: &[Code] = &[Code::DependencyUnavailable, Code::AppliedPartly, Code::OutcomeUnknown];

/// What the contract has of one operation.
#[derive(Default)]
pub struct Description {
    id: &'static str,
    summary: &'static str,
    about: &'static str,
    tag: &'static str,
    access: Option<For>,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// By status.
    answers: BTreeMap<u16, Value>,
    codes: Vec<Code>,
    schemas: BTreeMap<String, Value>,
}

impl Description {
    /// Names the operation: the group that it stands in, a word of its own for clients that are generated, and a line
    /// that says what it does.
    pub fn names(&mut self, tag: &'static str, id: &'static str, summary: &'static str) -> &mut Self {
        (self.tag, self.id, self.summary) = (tag, id, summary);
        self
    }

    /// Says more about it, in Markdown.
    pub fn about(&mut self, about: &'static str) -> &mut Self {
        self.about = about;
        self
    }

    /// Says who may call it.
    pub fn is_for(&mut self, access: For) -> &mut Self {
        self.access = Some(access);
        match access {
            For::Shopper | For::MaybeShopper => self.refuses(OF_SHOPPERS),
            For::Provider => self.refuses(&[Code::Unauthenticated]),
            For::Operator(_) => self.refuses(OF_OPERATORS),
            For::AnyKey | For::Page => self.refuses(OF_SHOPPERS),
            For::Anyone => self,
        }
    }

    /// Says that rules of traffic are asked.
    pub fn is_limited(&mut self) -> &mut Self {
        self.refuses(OF_RULES)
    }

    /// Says that it changes something.
    pub fn changes(&mut self) -> &mut Self {
        self.refuses(OF_CHANGES)
    }

    /// Says which codes it may be refused with, beside those that follow from the rest.
    pub fn refuses(&mut self, codes: &[Code]) -> &mut Self {
        self.codes.extend(codes);
        self
    }

    /// Adds what stands in the query string.
    pub fn query<T: IntoParams>(&mut self) -> &mut Self {
        let found = T::into_params(|| Some(ParameterIn::Query));
        self.parameters.extend(found.into_iter().map(|parameter| {
            let mut parameter = written(parameter);
            // A query string has no null, and its numbers no width.
            if let Some(kind) =
                parameter["schema"]["type"].as_array().and_then(|kinds| kinds.first().cloned())
            {
                parameter["schema"]["type"] = kind;
            }
            if let Some(schema) = parameter["schema"].as_object_mut() {
                schema.remove("format");
            }
            parameter
        }));
        self.refuses(&[Code::ValidationFailed])
    }

    /// Adds a header.
    fn header(&mut self, name: &str, is_required: bool, about: &str, schema: Value) {
        self.parameters.push(json!({
            "name": name, "in": "header", "required": is_required, "description": about, "schema": schema,
        }));
    }

    /// Says that it needs an idempotency key.
    pub fn needs_key(&mut self) -> &mut Self {
        let schema = self.schema_of::<IdempotencyKey>();
        let about = "One for each wish, the same for each repetition of it.";
        self.header("Idempotency-Key", true, about, schema);
        self.refuses(&[Code::IdempotencyKeyMissing, Code::IdempotencyKeyInvalid])
    }

    /// Says that it may wait for a decision.
    pub fn may_wait(&mut self) -> &mut Self {
        let about = "`wait=N`: answers when the order is decided, or after N seconds.";
        self.header("Prefer", false, about, json!({ "type": "string", "examples": ["wait=5"] }));
        self
    }

    /// Says that it overwrites what somebody may have changed.
    pub fn heeds_if_match(&mut self) -> &mut Self {
        let about =
            "An `ETag` that was read: nothing is changed when somebody else has changed it meanwhile.";
        self.header("If-Match", false, about, json!({ "type": "string", "examples": ["\"7\""] }));
        self.refuses(&[Code::EtagMismatch])
    }

    /// Says that it need not answer what the client has.
    pub fn heeds_if_none_match(&mut self) -> &mut Self {
        let about = "An `ETag` that was read: the answer is 304 while it still is as that one.";
        self.header("If-None-Match", false, about, json!({ "type": "string" }));
        self
    }

    /// Adds a body that is signed as it is.
    pub fn signed_body(&mut self) -> &mut Self {
        let content = json!({ "application/json": { "schema": { "type": "object" } } });
        self.body = Some(json!({ "required": true, "content": content }));
        self
    }

    /// Adds the body of a request, with an example.
    pub fn body<T: ToSchema>(&mut self, example: Value) -> &mut Self {
        self.takes::<T>(true, example)
    }

    /// Adds a body that may be left out, with an example.
    pub fn maybe_body<T: ToSchema>(&mut self, example: Value) -> &mut Self {
        self.takes::<T>(false, example)
    }

    fn takes<T: ToSchema>(&mut self, is_required: bool, example: Value) -> &mut Self {
        let schema = self.schema_of::<T>();
        let content = json!({ "application/json": { "schema": schema, "example": example } });
        self.body = Some(json!({ "required": is_required, "content": content }));
        self.refuses(OF_BODIES)
    }

    /// Adds an answer in JSON.
    pub fn answers<T: ToSchema>(&mut self, status: u16, about: &str) -> &mut Self {
        let schema = self.schema_of::<T>();
        self.answers_as(status, about, "application/json", schema)
    }

    /// Adds an answer in JSON that is one of two.
    pub fn answers_either<A: ToSchema, B: ToSchema>(&mut self, status: u16, about: &str) -> &mut Self {
        let either = [self.schema_of::<A>(), self.schema_of::<B>()];
        self.answers_as(status, about, "application/json", json!({ "anyOf": either }))
    }

    /// Adds an answer that is a text of some type.
    pub fn answers_text(&mut self, status: u16, about: &str, media_type: &str) -> &mut Self {
        self.answers_as(status, about, media_type, json!({ "type": "string" }))
    }

    /// Adds an answer that is a stream of server-sent events, each of them as described.
    pub fn answers_events(&mut self, status: u16, about: &str, names: &[&str]) -> &mut Self {
        let text = json!({ "type": "string" });
        let schema = json!({
            "type": "object",
            "properties": { "event": words(names.iter().copied()), "id": text, "data": text, "retry": { "type": "integer" } },
        });
        self.answers_as(status, about, "text/event-stream", schema)
    }

    /// Says that an answer may also be a text of another type.
    pub fn answers_also_text(&mut self, status: u16, media_type: &str) -> &mut Self {
        if let Some(answer) = self.answers.get_mut(&status) {
            answer["content"][media_type] = json!({ "schema": { "type": "string" } });
        }
        self
    }

    /// Adds an answer that has no body.
    pub fn answers_nothing(&mut self, status: u16, about: &str) -> &mut Self {
        self.answers.insert(status, json!({ "description": about }));
        self
    }

    fn answers_as(&mut self, status: u16, about: &str, media_type: &str, schema: Value) -> &mut Self {
        let content = json!({ media_type: { "schema": schema } });
        self.answers.insert(status, json!({ "description": about, "content": content }));
        self
    }

    /// Adds a schema and those that it names, and answers a reference to it.
    fn schema_of<T: ToSchema>(&mut self) -> Value {
        let mut found: Vec<(String, RefOr<Schema>)> = Vec::new();
        T::schemas(&mut found);
        found.push((T::name().into_owned(), T::schema()));
        let name = T::name();
        for (name, schema) in found {
            self.schemas.insert(name, written(schema));
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// Adds what the path names.
    fn path(&mut self, path: &str) {
        for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            let schema = match name {
                "sale" => self.schema_of::<SaleId>(),
                "order" => self.schema_of::<OrderId>(),
                "rule" => self.schema_of::<RuleId>(),
                "letter" => self.schema_of::<DeadLetterId>(),
                "code" => words(Code::ALL.iter().map(|code| code.as_str())),
                "switch" => words(Switch::ALL.into_iter().map(Switch::as_str)),
                "action" => words(SaleAction::ALL.into_iter().map(SaleAction::as_str)),
                "dependency" => self.schema_of::<DependencyId>(),
                "key" => self.schema_of::<KeyId>(),
                _ => json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
            };
            let mut parameter = json!({ "name": name, "in": "path", "required": true, "schema": schema });
            if name == "sale" {
                parameter["example"] = "friday-drop".into();
            }
            self.parameters.push(parameter);
        }
    }

    /// Writes the operation.
    fn written(mut self, path: &str) -> (Value, BTreeMap<String, Value>) {
        self.path(path);
        self.refuses(ALWAYS);
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in Code::ALL.iter().filter(|code| self.codes.contains(code)) {
            by_status.entry(code.status()).or_default().push(*code);
        }
        for (status, codes) in by_status {
            self.answers.insert(status, refusal(&codes));
        }
        let answers: Map<String, Value> =
            self.answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        let mut operation = json!({
            "tags": [self.tag], "operationId": self.id, "summary": self.summary, "parameters": self.parameters,
            "responses": answers, "security": security(self.access.unwrap_or(For::Anyone)),
        });
        if !self.about.is_empty() {
            operation["description"] = self.about.into();
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        (operation, self.schemas)
    }
}

fn written(value: impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(value).expect("a schema has a text");
    plain(&mut value);
    value
}

/// Writes links of Rust's documentation as what they name.
fn plain(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`").replace("Self::", "");
                    }
                    member => plain(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Value {
    json!({ "type": "string", "enum": words.collect::<Vec<_>>() })
}

fn security(access: For) -> Value {
    match access {
        For::Anyone => json!([]),
        For::MaybeShopper => json!([{}, { "shopper": [] }, { "shopper_session": [] }]),
        For::Shopper => json!([{ "shopper": [] }, { "shopper_session": [] }]),
        For::Provider => json!([{ "provider": [] }]),
        For::Operator(scope) => json!([{ "operator": [scope.as_str()] }, { "session": [scope.as_str()] }]),
        For::AnyKey => json!([{ "operator": [] }]),
        For::Page => json!([{ "session": [] }]),
    }
}

/// Writes the answer of codes that have one status, each with an example.
fn refusal(codes: &[Code]) -> Value {
    let about: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let example = |code: &Code| {
        (code.as_str().to_owned(), json!({ "$ref": format!("#/components/examples/{}", code.as_str()) }))
    };
    let examples: Map<String, Value> = codes.iter().map(example).collect();
    let these = words(codes.iter().map(|code| code.as_str()));
    let schema = json!({
        "allOf": [{ "$ref": "#/components/schemas/Problem" }, { "properties": { "code": these } }],
    });
    let content = json!({ "application/problem+json": { "schema": schema, "examples": examples } });
    json!({ "description": about.join(", "), "content": content })
}

/// Writes an example of each code.
fn examples() -> Map<String, Value> {
    let example = |code: &Code| {
        let body = Problem::new(*code).body("6f0c9a1be2d34857", None);
        let value: Value = serde_json::from_slice(&body).expect("a problem is JSON");
        (code.as_str().to_owned(), json!({ "value": value }))
    };
    Code::ALL.iter().map(example).collect()
}

/// Writes the schema of problems.
fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457). A code may have members of its own.",
        "required": ["type", "title", "status", "code", "retryable", "request_id"],
        "properties": {
            "type": { "type": "string", "description": "A page that says more." },
            "title": { "type": "string", "description": "What the code means." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": words(Code::ALL.iter().map(|code| code.as_str())),
            "retryable": { "type": "boolean", "description": "Whether the same call may succeed later." },
            "request_id": { "type": "string", "description": "Names the request in our log." },
            "trace_id": { "type": "string", "description": "Of the request's `traceparent`." },
            "detail": { "type": "string", "description": "What is wrong with this request." },
            "retry_after_ms": { "type": "integer", "minimum": 0, "description": "When to repeat it, in ms." },
        },
    })
}

/// Makes the document of a listener.
pub fn document(title: &str, about: &str, operations: &[Operation]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::from([("Problem".to_owned(), problem_schema())]);
    for Operation { verb, path, describe, .. } in operations {
        let mut description = Description::default();
        describe(&mut description);
        let (operation, found) = description.written(path);
        for (name, schema) in found {
            let other = schemas.insert(name.clone(), schema.clone());
            assert!(other.is_none_or(|other| other == schema), "two schemas are named {name}");
        }
        paths.entry(path).or_default().insert(verb.word().to_owned(), operation);
    }
    let asked = Value::from(paths.clone().into_values().collect::<Vec<_>>()).to_string();
    let schemes = schemes().into_iter().filter(|(name, _)| asked.contains(&format!("{{\"{name}\":[")));
    json!({
        "openapi": OPENAPI,
        "info": { "title": title, "version": env!("CARGO_PKG_VERSION"), "description": about,
                  "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "examples": examples(),
            "securitySchemes": schemes.collect::<Map<_, _>>(),
        },
    })
}

/// Writes how callers prove who they are.
fn schemes() -> [(String, Value); 5] {
    let bearer = |about: &str| json!({ "type": "http", "scheme": "bearer", "description": about });
    let session = json!({ "type": "apiKey", "in": "cookie", "name": access::COOKIES[1],
                          "description": "The cookie of a page, see `POST /api/v1/admin/session`. Changes also need \
                                          its `Origin` and its `X-CSRF-Token`." });
    let shopper = json!({ "type": "apiKey", "in": "cookie", "name": cookies::SHOPPER[1],
                          "description": "The cookie of a page, see `POST /api/v1/session`. Changes also need its \
                                          `Origin`." });
    let signature = json!({ "type": "apiKey", "in": "header", "name": "Stripe-Signature",
                            "description": "The payment provider's signature of the body." });
    [
        ("shopper".to_owned(), bearer("A token of the identity provider, a JWT.")),
        ("operator".to_owned(), bearer("An operator's key, `sk_…`: see `seckill key create`.")),
        ("session".to_owned(), session),
        ("shopper_session".to_owned(), shopper),
        ("provider".to_owned(), signature),
    ]
}
