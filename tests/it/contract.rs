//! Holds every answer that a test gets against the contract: its status, its code, and the members of its body.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use seckill::http::router::{ADMIN_CONTRACT, SHOPPER_CONTRACT};
use serde_json::{Value, json};

use crate::client::Answer;

/// An operation, as a contract has it.
struct Promise {
    verb: String,
    path: String,
    operation: &'static Value,
    document: &'static Value,
}

static PROMISES: LazyLock<Vec<Promise>> = LazyLock::new(|| {
    let promises = [&*SHOPPER_CONTRACT, &*ADMIN_CONTRACT].into_iter().flat_map(|document: &'static Value| {
        let paths = document["paths"].as_object().expect("paths");
        paths.iter().flat_map(move |(path, verbs)| {
            verbs.as_object().expect("verbs").iter().map(move |(verb, operation)| {
                let (verb, path) = (verb.to_uppercase(), path.clone());
                Promise { verb, path, operation, document }
            })
        })
    });
    promises.collect()
});

/// By operation and status, each made once.
type Validators = HashMap<(String, u16), Arc<Validator>>;

static VALIDATORS: LazyLock<Mutex<Validators>> = LazyLock::new(Mutex::default);

impl Promise {
    fn is_about(&self, verb: &str, path: &str) -> bool {
        let (pattern, path): (Vec<&str>, Vec<&str>) =
            (self.path.split('/').collect(), path.split('/').collect());
        let fits = |(pattern, part): (&&str, &&str)| {
            pattern == part || (pattern.starts_with('{') && !part.is_empty())
        };
        self.verb == verb && pattern.len() == path.len() && pattern.iter().zip(&path).all(fits)
    }

    fn validator(&self, status: u16, schema: &Value) -> Arc<Validator> {
        let key = (format!("{} {}", self.verb, self.path), status);
        let mut known = VALIDATORS.lock().expect("no test panics while holding it");
        let make = || {
            let mut whole = json!({ "components": self.document["components"], "allOf": [schema] });
            if status < 400 {
                // A problem may have members of its code.
                whole["unevaluatedProperties"] = false.into();
            }
            Arc::new(jsonschema::validator_for(&whole).expect("a schema"))
        };
        known.entry(key).or_insert_with(make).clone()
    }
}

/// Holds an answer against the contract.
///
/// # Panics
/// When the contract does not promise it.
pub fn hold(method: &str, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap_or_default();
    let verb = if method == "HEAD" { "GET" } else { method };
    // A fixed path stands before a pattern that also fits.
    let mut found: Vec<&Promise> = PROMISES.iter().filter(|promise| promise.is_about(verb, path)).collect();
    found.sort_by_key(|promise| promise.path.matches('{').count());
    let Answer { status, text, .. } = answer;
    // Both listeners may have the path, and nobody says here which of them was asked.
    let knows = |promise: &&&Promise| promise.operation["responses"][status.to_string()].is_object();
    let of_path = found.iter().filter(|promise| promise.path == found[0].path);
    let Some(promise) = of_path.clone().find(knows).or(found.first()) else { return };
    let code = answer.code();
    // These are said before a route is found, or by the other listener.
    let told = &promise.operation["responses"][status.to_string()];
    let is_of_another = code == "not_found" && !told.to_string().contains("\"not_found\"");
    if [421, 431].contains(status) || code == "method_not_allowed" || is_of_another {
        return;
    }
    assert!(told.is_object(), "the contract does not know {status} of {method} {path}: {answer:?}");
    let media_type = answer.header("Content-Type").split(';').next().unwrap_or_default().trim();
    if method == "HEAD" || text.is_empty() {
        return;
    }
    let content = &told["content"];
    let schema = &content.get(media_type).unwrap_or(&content["*/*"])["schema"];
    assert!(schema.is_object(), "the contract does not know {media_type} of {method} {path}: {answer:?}");
    let Ok(body) = serde_json::from_str::<Value>(text) else {
        let is_json = media_type.ends_with("json") && media_type != "application/x-ndjson";
        assert!(!is_json, "no JSON of {method} {path}: {answer:?}");
        return;
    };
    let validator = promise.validator(*status, schema);
    let faults: Vec<String> =
        validator.iter_errors(&body).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(
        faults.is_empty(),
        "{method} {path} answered {status}, not as the contract has it: {faults:#?} {body:#}"
    );
}
