//! Tests of what every change by an operator has: a reason, a row of the audit log, and a repetition that changes
//! nothing. The routes are those of the contract, so one that is added has to be walked, too.

use std::collections::BTreeSet;

use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::{Month, OrderId, Shard};
use seckill::http::router::ADMIN_CONTRACT;
use serde_json::{Value, json};

use super::poison::users_of;
use crate::client::Answer;
use crate::harness::{Books, TestShop, eventually, rfc3339, sale_body};
use crate::provider::paying_shop;

in_both_modes!(every_change_has_a_reason_a_row_of_the_audit_log_and_a_harmless_repetition);

/// Routes of changes that are walked elsewhere, and where.
const ELSEWHERE: &[&str] = &[
    // They change no data of the shop: access.rs.
    "POST /session",
    "DELETE /session",
    // It tries a rule, and puts none: rules.rs.
    "POST /rules:try",
    // A refund that has failed takes a provider that is down: books.rs.
    "POST /refunds/{refund}/retry",
    "POST /refunds/{refund}/settle",
    // What is tried again has to be a record of an order: dead_letters.rs.
    "POST /dead-letters/{letter}/retry",
    "POST /dead-letters/retry",
    // What is right is not mended, and then there is no row: reconcile.rs.
    "POST /reconcile",
    // A process without a file has nothing to read again: tests/outages.
    "POST /config/reload",
];

/// Lists verb and path of every route that changes something.
fn changes() -> BTreeSet<String> {
    let paths = ADMIN_CONTRACT["paths"].as_object().expect("paths");
    let mut found = BTreeSet::new();
    for (path, verbs) in paths {
        for verb in verbs.as_object().expect("verbs").keys().filter(|verb| *verb != "get") {
            let path = path.strip_prefix("/api/v1/admin").expect("an admin path");
            found.insert(format!("{} {path}", verb.to_uppercase()));
        }
    }
    found
}

/// Walks the changes of a shop.
struct Walk {
    shop: TestShop,
    walked: BTreeSet<String>,
    wrong: Vec<String>,
}

/// What a repetition answers.
enum Again {
    /// The same status, and nothing is another thing.
    Same,
    /// A refusal of this status and code, and nothing is another thing.
    Refused(u16, &'static str),
    /// The same status. A new thing or secret is what is asked for.
    New,
}

impl Walk {
    /// Reads what operators see of the shop, without what time alone changes.
    async fn state(&self) -> Value {
        let mut state = Vec::new();
        for path in [
            "/sales?limit=100",
            "/sales/walk/stock",
            "/orders?sale=drop&limit=100",
            "/rules",
            "/switches",
            "/webhooks",
            "/keys",
            "/dead-letters",
            "/breakers",
        ] {
            let mut read = self.shop.operate("GET", path, Value::Null).await.json();
            forget(&mut read);
            state.push(read);
        }
        Value::Array(state)
    }

    /// Makes a change and its repetition. `path` names the thing that the route's pattern leaves open.
    async fn change(&mut self, route: &str, path: &str, body: Value, again: Again) -> Value {
        let verb = route.split(' ').next().expect("a verb").to_owned();
        let reason = format!("walked {}", self.walked.len());
        let send = async |shop: &TestShop, reason: &str| -> Answer {
            let mut body = body.clone();
            let is_removal = verb == "DELETE";
            if !is_removal {
                body["reason"] = reason.into();
            }
            let query =
                if is_removal { format!("?reason={}", reason.replace(' ', "%20")) } else { String::new() };
            shop.operate(&verb, &format!("{path}{query}"), if is_removal { Value::Null } else { body }).await
        };
        let empty = send(&self.shop, "").await;
        if empty.status != 400 {
            self.wrong.push(format!("{route} without a reason: {empty:?}"));
        }
        let first = send(&self.shop, &reason).await;
        if first.status >= 300 {
            self.wrong.push(format!("{route}: {first:?}"));
        }
        let rows = self.shop.operate("GET", "/audit?limit=10", Value::Null).await.json();
        let is_noted = |row: &Value| {
            row["reason"] == reason && row["actor"].as_str().is_some_and(|it| it.contains("tester"))
        };
        if !rows["rows"].as_array().expect("rows").iter().any(is_noted) {
            self.wrong.push(format!("{route} is in no row of the audit log: {rows}"));
        }
        let before = self.state().await;
        let second = send(&self.shop, &reason).await;
        let is_right = match again {
            Again::Same | Again::New => second.status == first.status,
            Again::Refused(status, code) => second.problem() == (status, code.to_owned()),
        };
        if !is_right {
            self.wrong.push(format!("{route} again: {second:?}"));
        }
        let after = self.state().await;
        if !matches!(again, Again::New) {
            let mut changed = Vec::new();
            differing("", &before, &after, &mut changed);
            self.wrong.extend(changed.into_iter().map(|what| format!("{route} again changed {what}")));
        }
        self.walked.insert(route.to_owned());
        if first.text.is_empty() { Value::Null } else { first.json() }
    }
}

/// Lists where two values differ.
fn differing(place: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            one.iter()
                .for_each(|(name, value)| differing(&format!("{place}/{name}"), value, &other[name], found));
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs.for_each(|(nth, (one, other))| differing(&format!("{place}/{nth}"), one, other, found));
        }
        _ if before != after => found.push(format!("{place}: {before} to {after}")),
        _ => {}
    }
}

/// What time alone changes, and the number of a change.
const VOLATILE: [&str; 13] = [
    "failing_since",
    "unread",
    "age_ms",
    "last_used_at",
    "ends_at",
    "until",
    "attempts",
    "next_try_at",
    "calls",
    "opened_at",
    "following",
    "version",
    "request_id",
];

/// Removes what is [`VOLATILE`].
fn forget(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in VOLATILE {
                members.remove(name);
            }
            members.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

async fn paid(shop: &TestShop, provider: &crate::provider::Provider, user: &str) -> String {
    let order = shop.unpaid(user, "k").await;
    let (_, page) = shop.payment(user, &order).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    eventually("it is paid", async || shop.status(user, &order).await == "paid").await;
    order
}

async fn walk_sales(walk: &mut Walk) {
    let mut body = sale_body("walk", 1, &[("phone", 5)]);
    body["reason"] = "walked".into();
    walk.change("POST /sales", "/sales", body, Again::Refused(409, "sale_exists")).await;
    walk.change("PATCH /sales/{sale}", "/sales/walk", json!({ "buyer_limit": 2 }), Again::Same).await;
    let now_ms = Clock::System.now_ms();
    let (starts_at, ends_at) = (rfc3339(now_ms + 86_400_000), rfc3339(now_ms + 90_000_000));
    let copy = json!({ "id": "walk-2", "starts_at": starts_at, "ends_at": ends_at });
    walk.change("POST /sales/{sale}/clone", "/sales/walk/clone", copy, Again::Refused(409, "sale_exists"))
        .await;
    for action in ["publish", "preheat", "pause", "resume"] {
        let path = format!("/sales/walk/{action}");
        walk.change("POST /sales/{sale}/{action}", &path, json!({}), Again::Same).await;
    }
    let stock = json!({ "sku_id": "phone", "expected_stock": 5, "stock": 7 });
    walk.change("POST /sales/{sale}/stock/adjust", "/sales/walk/stock/adjust", stock, Again::Same).await;
    walk.change("POST /sales/{sale}/{action}", "/sales/walk/end", json!({}), Again::Same).await;
    walk.change("POST /sales/{sale}/settle", "/sales/walk/settle", json!({}), Again::Same).await;
}

async fn walk_orders(walk: &mut Walk, provider: &crate::provider::Provider) {
    let unpaid = walk.shop.unpaid("ada", "k").await;
    let bought = paid(&walk.shop, provider, "bea").await;
    let more = [walk.shop.unpaid("cleo", "k").await, paid(&walk.shop, provider, "dora").await];
    for (route, order) in [("cancel", &unpaid), ("refund", &bought)] {
        let path = format!("/orders/{order}/{route}");
        walk.change(&format!("POST /orders/{{order}}/{route}"), &path, json!({}), Again::Same).await;
    }
    for (route, order) in [("cancel", &more[0]), ("refund", &more[1])] {
        let (route, path) = (format!("POST /orders/{route}"), format!("/orders/{route}"));
        walk.change(&route, &path, json!({ "ids": [order] }), Again::Same).await;
    }
}

async fn walk_letters(walk: &mut Walk) {
    let place = OrderId::first_of(Shard::new(0), Month::of_ms(Clock::System.now_ms()));
    walk.shop.stage().append(place, vec![b"garbage".to_vec(), b"more of it".to_vec()]).await;
    // What is appended by hand wakes no writer.
    let user = users_of(&walk.shop, 0).next().expect("endless");
    walk.shop.unpaid(user.as_str(), "k").await;
    let mut letters = Value::Null;
    eventually("there are letters", async || {
        letters = walk.shop.operate("GET", "/dead-letters", Value::Null).await.json()["dead_letters"].clone();
        letters.as_array().is_some_and(|letters| letters.len() == 2)
    })
    .await;
    let id = |nth: usize| letters[nth]["id"].as_str().expect("an id").to_owned();
    let path = format!("/dead-letters/{}/give-back", id(0));
    let decided = Again::Refused(409, "dead_letter_conflict");
    walk.change("POST /dead-letters/{letter}/give-back", &path, json!({}), decided).await;
    let bulk = json!({ "ids": [id(1)] });
    walk.change("POST /dead-letters/give-back", "/dead-letters/give-back", bulk, Again::Same).await;
}

async fn walk_traffic(walk: &mut Walk) {
    let rule = json!({ "kind": "token_bucket", "scope": "user", "match": { "route": "purchase" },
        "value": { "rate": 1000, "burst": 1000 } });
    walk.change("PUT /rules/{rule}", "/rules/walk", rule, Again::Same).await;
    walk.change("DELETE /rules/{rule}", "/rules/walk", Value::Null, Again::Refused(404, "rule_not_found"))
        .await;
    for is_on in [true, false] {
        let wish = json!({ "is_on": is_on });
        walk.change("PUT /switches/{switch}", "/switches/no_lists", wish, Again::Same).await;
    }
    let breakers = walk.shop.operate("GET", "/breakers", Value::Null).await.json();
    let name = breakers["breakers"][0]["dependency"].as_str().expect("a breaker").to_owned();
    for forced in [json!("closed"), Value::Null] {
        let path = format!("/breakers/{name}");
        walk.change("POST /breakers/{dependency}", &path, json!({ "forced": forced }), Again::Same).await;
    }
}

async fn walk_platform(walk: &mut Walk) {
    let key = json!({ "name": "walk", "role": "viewer" });
    let made = walk.change("POST /keys", "/keys", key, Again::Refused(409, "key_exists")).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    let path = format!("/keys/{id}/rotate");
    let rotated = walk
        .change(
            "POST /keys/{key}/rotate",
            &path,
            json!({ "overlap_ms": 60_000 }),
            Again::Refused(409, "key_ended"),
        )
        .await;
    let path = format!("/keys/{}/revoke", rotated["id"].as_str().expect("an id"));
    walk.change("POST /keys/{key}/revoke", &path, json!({}), Again::Same).await;
    let nodes = walk.shop.operate("GET", "/nodes", Value::Null).await.json();
    let node = nodes["nodes"][0]["id"].as_str().expect("a node").to_owned();
    for route in ["drain", "resume"] {
        let path = format!("/nodes/{node}/{route}");
        walk.change(&format!("POST /nodes/{{node}}/{route}"), &path, json!({}), Again::Same).await;
    }
    let hook = json!({ "url": "https://shop.example/events", "kinds": ["paid"] });
    let made = walk.change("POST /webhooks", "/webhooks", hook, Again::New).await;
    let hook = format!("/webhooks/{}", made["id"].as_str().expect("an id"));
    for (route, again) in
        [("pause", Again::Same), ("resume", Again::Same), ("rotate", Again::New), ("replay", Again::Same)]
    {
        let path = format!("{hook}/{route}");
        walk.change(&format!("POST /webhooks/{{webhook}}/{route}"), &path, json!({}), again).await;
    }
    walk.change("DELETE /webhooks/{webhook}", &hook, Value::Null, Again::Refused(404, "webhook_not_found"))
        .await;
    walk.change("POST /payments/reconcile", "/payments/reconcile", json!({ "days": 1 }), Again::Same).await;
}

async fn every_change_has_a_reason_a_row_of_the_audit_log_and_a_harmless_repetition(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let mut walk = Walk { shop, walked: BTreeSet::new(), wrong: Vec::new() };
    Box::pin(walk_letters(&mut walk)).await;
    Box::pin(walk_orders(&mut walk, &provider)).await;
    Box::pin(walk_sales(&mut walk)).await;
    Box::pin(walk_traffic(&mut walk)).await;
    Box::pin(walk_platform(&mut walk)).await;
    let Walk { shop, mut walked, wrong } = walk;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    walked.extend(ELSEWHERE.iter().map(|route| (*route).to_owned()));
    assert_eq!(walked, changes(), "a route of changes is not walked, or there is none");
    shop.finish_with(Books::LeftAlone).await;
}
