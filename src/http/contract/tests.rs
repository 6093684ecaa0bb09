//! The contracts are those of the repository, and break nobody who relies on those.

use std::path::PathBuf;

use serde_json::Value;

use crate::http::problem::Code;
use crate::http::router::{ADMIN_CONTRACT, SHOPPER_CONTRACT};

fn contracts() -> [(&'static str, &'static Value); 2] {
    [("shopper", &SHOPPER_CONTRACT), ("admin", &ADMIN_CONTRACT)]
}

fn kept(name: &str) -> (PathBuf, Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("docs/openapi/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kept = serde_json::from_str(&text).expect("JSON");
    (path, kept)
}

/// Resolves a reference within its document.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).expect("what it names is there"),
        None => value,
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Nothing is nested deeper, but for what names itself.
const DEPTH_MAX: usize = 12;

/// Two documents that are compared.
struct Compared<'a> {
    old: &'a Value,
    new: &'a Value,
    breaks: Vec<String>,
}

impl Compared<'_> {
    fn operations(&mut self) {
        for (path, verbs) in members(&self.old["paths"]) {
            for (verb, old) in members(verbs) {
                let (what, new) = (format!("{verb} {path}"), &self.new["paths"][path][verb]);
                if new.is_null() {
                    self.breaks.push(format!("{what} is gone"));
                    continue;
                }
                self.parameters(&what, old, new);
                self.answers(&what, old, new);
                let body = |operation: &Value| {
                    operation["requestBody"]["content"]["application/json"]["schema"].clone()
                };
                self.schema(&format!("{what}, body"), false, (&body(old), &body(new)), 0);
                if new["operationId"] != old["operationId"] {
                    self.breaks.push(format!("{what} has another operationId"));
                }
            }
        }
    }

    fn parameters(&mut self, what: &str, old: &Value, new: &Value) {
        let same = |a: &Value, b: &Value| a["name"] == b["name"] && a["in"] == b["in"];
        for parameter in items(&old["parameters"]) {
            if !items(&new["parameters"]).iter().any(|other| same(parameter, other)) {
                self.breaks.push(format!("{what} has no parameter {} any more", parameter["name"]));
            }
        }
        for parameter in items(&new["parameters"]) {
            let known = items(&old["parameters"]).iter().find(|other| same(parameter, other));
            let was_needed = known.is_some_and(|known| known["required"] == true);
            if parameter["required"] == true && !was_needed {
                self.breaks.push(format!("{what} needs the parameter {} now", parameter["name"]));
            }
        }
    }

    fn answers(&mut self, what: &str, old: &Value, new: &Value) {
        for (status, answer) in members(&old["responses"]) {
            let other = &new["responses"][status];
            if other.is_null() {
                if status.starts_with('2') {
                    self.breaks.push(format!("{what} does not answer {status} any more"));
                }
                continue;
            }
            for (media_type, content) in members(&answer["content"]) {
                let pair = (&content["schema"], &other["content"][media_type]["schema"]);
                self.schema(&format!("{what}, answer {status}"), true, pair, 0);
            }
        }
    }

    /// Compares what clients are given, or what is taken of them, all the way down.
    fn schema(&mut self, what: &str, is_given: bool, (old, new): (&Value, &Value), depth: usize) {
        let (old, new) = (resolved(self.old, old).clone(), resolved(self.new, new).clone());
        if old.is_null() || depth > DEPTH_MAX {
            return;
        }
        if new.is_null() || old["type"] != new["type"] {
            self.breaks.push(format!("{what} is {} and was {}", new["type"], old["type"]));
            return;
        }
        let lost = items(&old["enum"]).iter().filter(|word| !items(&new["enum"]).contains(word));
        let lost: Vec<String> = lost.map(Value::to_string).collect();
        if !lost.is_empty() && !new["enum"].is_null() {
            self.breaks.push(format!("{what} knows {} no more", lost.join(", ")));
        }
        for (name, member) in members(&old["properties"]) {
            match &new["properties"][name] {
                Value::Null => self.breaks.push(format!("{what} has no {name} any more")),
                other => self.schema(&format!("{what}, {name}"), is_given, (member, other), depth + 1),
            }
        }
        for part in ["items", "additionalProperties"] {
            if old[part].is_object() {
                self.schema(&format!("{what}, {part}"), is_given, (&old[part], &new[part]), depth + 1);
            }
        }
        for part in ["allOf", "anyOf", "oneOf"] {
            for (index, each) in items(&old[part]).iter().enumerate() {
                self.schema(what, is_given, (each, &new[part][index]), depth + 1);
            }
        }
        let (had, has) = (items(&old["required"]), items(&new["required"]));
        for name in had.iter().filter(|name| is_given && !has.contains(name)) {
            self.breaks.push(format!("{what} may lack {name} now"));
        }
        for name in has.iter().filter(|name| !is_given && !had.contains(name)) {
            self.breaks.push(format!("{what} needs {name} now"));
        }
    }
}

fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut compared = Compared { old, new, breaks: Vec::new() };
    compared.operations();
    compared.breaks
}

/// With `UPDATE_CONTRACT=1` it writes the documents anew, unless they break somebody.
#[test]
fn the_contracts_are_those_of_the_repository_and_break_nobody() {
    for (name, contract) in contracts() {
        let (path, old) = kept(name);
        let breaks = breaks(&old, contract);
        assert!(
            breaks.is_empty(),
            "the {name} contract breaks its clients: {breaks:#?}\nIf that is meant, say so in CHANGELOG.md and remove \
             what is broken from {}",
            path.display()
        );
        if std::env::var_os("UPDATE_CONTRACT").is_some() {
            std::fs::write(&path, format!("{contract:#}\n")).expect("written");
        }
        assert!(
            old == *contract || std::env::var_os("UPDATE_CONTRACT").is_some(),
            "the {name} contract has changed: \
            write it anew with `UPDATE_CONTRACT=1 cargo test --lib http::contract`"
        );
    }
}

#[test]
fn what_breaks_a_client_is_found() {
    let old = &*SHOPPER_CONTRACT;
    let broken = |pointer: &str, change: fn(&mut Value)| {
        let mut new = old.clone();
        change(new.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")));
        breaks(old, &new)
    };
    fn remove(value: &mut Value, name: &str) {
        if let Some(members) = value.as_object_mut() {
            members.remove(name);
        }
    }
    fn list(value: &mut Value) -> &mut Vec<Value> {
        value.as_array_mut().expect("a list")
    }
    assert_eq!(breaks(old, old), [""; 0]);
    assert_eq!(broken("/paths", |paths| remove(paths, "/api/v1/time")), ["get /api/v1/time is gone"]);
    let place = "/paths/~1api~1v1~1sales~1{sale}~1orders/post";
    assert_eq!(broken(&format!("{place}/responses"), |answers| remove(answers, "202")).len(), 1);
    assert_eq!(broken(&format!("{place}/parameters"), |parameters| list(parameters).clear()).len(), 3);
    let needs = broken("/components/schemas/Purchase/required", |all| list(all).push("reference".into()));
    assert_eq!(needs.len(), 1);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 7] = [
        ("/components/schemas/Money/properties", |it| remove(it, "currency")),
        ("/components/schemas/SaleItem/properties", |it| remove(it, "stock")),
        ("/components/schemas/Order/properties", |it| remove(it, "price")),
        ("/components/schemas/Order/required", |it| list(it).clear()),
        ("/components/schemas/Order/properties/final/type", |it| *it = "string".into()),
        ("/components/schemas/OrderState/enum", |it| list(it).clear()),
        ("/components/schemas/Purchase/properties", |it| remove(it, "reference")),
    ];
    for (pointer, change) in changes {
        assert!(!broken(pointer, change).is_empty(), "{pointer}");
    }
}

#[test]
fn every_code_stands_in_a_contract_and_every_operation_says_what_it_is() {
    let answers = |contract: &'static Value| {
        let operations = members(&contract["paths"]).flat_map(|(_, verbs)| members(verbs));
        operations.map(|(_, operation)| operation["responses"].to_string()).collect::<String>()
    };
    let text = contracts().map(|(_, contract)| answers(contract)).concat();
    // These are said before a route is found.
    let early = [Code::MethodNotAllowed, Code::HeadersTooLarge, Code::MisdirectedRequest];
    let missing = Code::ALL.iter().filter(|code| !text.contains(&format!("\"{}\"", code.as_str())));
    let missing: Vec<&Code> = missing.filter(|code| !early.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let mut ids = Vec::new();
    for (_, contract) in contracts() {
        for (path, verb, operation) in members(&contract["paths"])
            .flat_map(|(path, verbs)| members(verbs).map(move |(verb, it)| (path, verb, it)))
        {
            let said = |member: &str| operation[member].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("summary") && said("operationId"), "{verb} {path}");
            assert!(
                members(&operation["responses"]).any(|(status, _)| status.starts_with(['1', '2', '3'])),
                "{verb} {path}"
            );
            ids.push(operation["operationId"].to_string());
        }
    }
    // Both listeners have these.
    let shared = ["read_problem", "read_contract", "open_pages", "read_page", "open_front", "read_asset"];
    ids.retain(|id| !shared.contains(&id.trim_matches('"')));
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "each has a word of its own");
}
