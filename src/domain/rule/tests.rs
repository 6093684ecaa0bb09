//! Tests of rules: what is one, and what is kept of it.

use super::*;

fn read(document: serde_json::Value) -> Result<RuleTerms, String> {
    RuleTerms::read(&document.to_string())
}

#[test]
fn a_rule_is_read_as_it_was_written() {
    for document in [
        r#"{"scope":"address","match":{"route":"purchase"},"kind":"token_bucket","value":{"rate":50,"burst":100},"mode":"enforce","reason":"r"}"#,
        r#"{"scope":"user","match":{"route":"purchase","sale":"drop"},"kind":"token_bucket","value":{"rate":5,"burst":0},"mode":"dry_run","until_ms":7,"reason":"r"}"#,
        r#"{"scope":"all","kind":"block","value":{"user":"u1"},"mode":"enforce","reason":"r"}"#,
        r#"{"scope":"all","kind":"block","value":{"address":"203.0.113.0/24"},"mode":"enforce","reason":"r"}"#,
        r#"{"scope":"all","kind":"allow","value":{"user":"u1"},"mode":"enforce","reason":"愿"}"#,
    ] {
        let read = RuleTerms::read(document).expect(document).document();
        let as_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(as_json(&read), as_json(document));
    }
    let network = |text: &str| {
        let document = serde_json::json!({ "kind": "block", "value": { "address": text }, "reason": "r" });
        read(document).map(|terms| terms.document()).unwrap_or_default().contains("\"203.0.113.0/24\"")
    };
    assert!(network("203.0.113.7/24"), "kept by its first address");
    assert!(network("::ffff:203.0.113.7/120"), "an IPv4 network in other words");
    let one = serde_json::json!({ "kind": "block", "value": { "address": "203.0.113.7" }, "reason": "r" });
    assert!(read(one).expect("one address").document().contains("\"203.0.113.7/32\""));
}

#[test]
fn what_is_no_rule_is_refused() {
    let rate = |rate: u32, burst: u32| serde_json::json!({ "kind": "token_bucket", "value": { "rate": rate, "burst": burst }, "reason": "r" });
    assert!(read(rate(1, 0)).is_ok() && read(rate(1_000_000, 1_000_000)).is_ok());
    let block =
        |value: serde_json::Value| serde_json::json!({ "kind": "block", "value": value, "reason": "r" });
    let with = |name: &str, value: serde_json::Value| {
        let mut rule = rate(1, 0);
        rule[name] = value;
        rule
    };
    let counted = |scope: &str, about: serde_json::Value| {
        let mut rule = with("match", about);
        rule["scope"] = scope.into();
        rule
    };
    assert!(read(counted("user", serde_json::json!({ "route": "pay" }))).is_ok());
    for wrong in [
        rate(0, 1),
        rate(1_000_001, 1),
        rate(1, 1_000_001),
        with("kind", "sliding_window".into()),
        with("value", serde_json::json!({ "rate": 1, "brust": 2 })),
        with("scope", "country".into()),
        with("match", serde_json::json!({ "route": "nowhere" })),
        with("match", serde_json::json!({ "path": "/" })),
        with("mode", "maybe".into()),
        with("reason", "".into()),
        with("reason", "x".repeat(201).into()),
        with("more", 1.into()),
        counted("user", serde_json::json!({ "route": "sale_list" })),
        counted("sale", serde_json::json!({ "route": "order_read" })),
        counted("all", serde_json::json!({ "route": "order_list", "sale": "drop" })),
        block(serde_json::json!({ "user": "" })),
        block(serde_json::json!({ "address": "203.0.113.0/33" })),
        block(serde_json::json!({ "address": "everybody" })),
        block(serde_json::json!({ "user": "a", "address": "1.1.1.1" })),
        serde_json::json!({ "scope": "user", "kind": "block", "value": { "user": "u" }, "reason": "r" }),
        serde_json::json!({ "match": { "sale": "s" }, "kind": "allow", "value": { "user": "u" }, "reason": "r" }),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn a_rule_holds_until_its_end() {
    let mut terms = read(serde_json::json!({ "kind": "block", "value": { "user": "u" }, "reason": "r" }))
        .expect("a rule");
    assert!(terms.holds_at(i64::MAX));
    terms.until_ms = Some(10);
    assert!(terms.holds_at(9) && !terms.holds_at(10));
}
