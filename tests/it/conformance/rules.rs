//! Tests of rules of traffic: what operators say holds in every process within a second, and nothing else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::Change;
use seckill::domain::rule::{RuleChange, RuleChanged, RuleSet};
use seckill::ports::{Rules, StoreError, StoreResult};
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{READ_ONLY_KEY, TestShop, config, eventually, migrated, open, operate, rfc3339};

in_both_modes!(
    a_rule_is_put_replaced_listed_and_removed,
    what_is_no_rule_changes_nothing,
    a_rule_limits_what_it_is_about_and_a_dry_run_nothing,
    a_rule_is_tried_on_the_requests_of_late_and_changes_nothing,
    who_is_blocked_is_refused_and_who_is_allowed_is_not_limited,
    a_rule_stands_after_a_restart_and_ends_at_its_time,
    a_process_that_never_read_the_rules_serves_nobody_and_says_so,
    a_process_that_was_cut_off_keeps_the_last_rules_and_catches_up,
);

/// The rules of a directory that can be cut off.
struct Far {
    rules: Arc<dyn Rules>,
    is_cut_off: Arc<AtomicBool>,
}

#[async_trait]
impl Rules for Far {
    async fn other_than(&self, known: u64) -> StoreResult<Option<RuleSet>> {
        if self.is_cut_off.load(Ordering::Relaxed) {
            return Err(StoreError::broken("read rules", "a rule of another version"));
        }
        self.rules.other_than(known).await
    }

    async fn change(&self, wish: &RuleChange, change: &Change) -> StoreResult<RuleChanged> {
        self.rules.change(wish, change).await
    }
}

/// Starts a shop whose directory of rules the test can cut off.
pub async fn far(mode: Mode, is_cut_off: &Arc<AtomicBool>) -> TestShop {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    backend.rules = Arc::new(Far { rules: backend.rules, is_cut_off: is_cut_off.clone() });
    TestShop::start_on(config, backend, Role::All).await
}

async fn a_process_that_never_read_the_rules_serves_nobody_and_says_so(mode: Mode) {
    let is_cut_off = Arc::new(AtomicBool::new(true));
    let shop = far(mode, &is_cut_off).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let ready = call(shop.admin, "GET", "/readyz?verbose", &[], "").await;
    assert!(ready.status == 503 && ready.text.contains("rules of traffic"), "{ready:?}");
    let unavailable = (503, "dependency_unavailable".to_owned());
    assert_eq!(shop.buy("ada", "drop", "phone", "k").await.problem(), unavailable);
    for path in ["/api/v1/orders", "/api/v1/sales", "/api/v1/sales/drop"] {
        assert_eq!(shop.get("ada", path).await.problem(), unavailable, "{path}");
    }
    is_cut_off.store(false, Ordering::Relaxed);
    eventually("it serves", async || shop.buy("ada", "drop", "phone", "k").await.status == 202).await;
    shop.finish().await;
}

async fn a_process_that_was_cut_off_keeps_the_last_rules_and_catches_up(mode: Mode) {
    let is_cut_off = Arc::default();
    let shop = far(mode, &is_cut_off).await;
    let block = |user: &str| json!({ "kind": "block", "value": { "user": user }, "reason": "a test" });
    assert_eq!(put(&shop, "one", block("ada")).await.status, 200);
    is_cut_off.store(true, Ordering::Relaxed);
    assert_eq!(put(&shop, "two", block("bob")).await.status, 200, "the change stands");
    let status = async |user: &str| shop.get(user, "/api/v1/orders").await.status;
    assert_eq!((status("ada").await, status("bob").await), (403, 200), "the last rules that it could read");
    is_cut_off.store(false, Ordering::Relaxed);
    eventually("it catches up", async || status("bob").await == 403).await;
    assert_eq!(status("ada").await, 403);
    shop.finish().await;
}

fn bucket(scope: &str, route: &str, burst: u32) -> Value {
    let value = json!({ "rate": 1, "burst": burst });
    json!({ "scope": scope, "match": { "route": route }, "kind": "token_bucket", "value": value, "reason": "a test" })
}

async fn put(shop: &TestShop, rule: &str, body: Value) -> Answer {
    shop.operate("PUT", &format!("/rules/{rule}"), body).await
}

async fn rules(shop: &TestShop) -> Value {
    let answer = shop.operate("GET", "/rules", json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Asks for a list of orders until it is refused, and returns how often it was not.
async fn lists(shop: &TestShop, user: &str) -> usize {
    for passed in 0..30 {
        let answer = shop.get(user, "/api/v1/orders").await;
        match answer.status {
            200 => {}
            429 => return passed,
            _ => panic!("{answer:?}"),
        }
    }
    30
}

async fn a_rule_is_put_replaced_listed_and_removed(mode: Mode) {
    let flags = [("limits.address_per_s", "9"), ("limits.tokens_per_s", "0")];
    let shop = TestShop::start_with(mode, &flags).await;
    let listed = rules(&shop).await;
    let configured = &listed["rules"][0];
    assert_eq!((&listed["version"], &configured["origin"]), (&json!(0), &json!("config")), "{listed}");
    assert_eq!((&configured["id"], &configured["value"]["rate"]), (&json!("address"), &json!(9)));

    let first = put(&shop, "lists", bucket("user", "order_list", 7)).await;
    assert_eq!((first.status, first.header("ETag")), (200, "\"1\""), "{first:?}");
    let expected = json!({
        "id": "lists", "origin": "directory", "scope": "user", "match": { "route": "order_list" },
        "kind": "token_bucket", "value": { "rate": 1, "burst": 7 }, "mode": "enforce", "reason": "a test", "version": 1,
    });
    assert_eq!(first.json(), expected);
    assert_eq!(rules(&shop).await["rules"][1], expected);
    assert_eq!(put(&shop, "address", bucket("address", "purchase", 9)).await.status, 200);
    let listed = rules(&shop).await;
    let origins: Vec<&Value> =
        listed["rules"].as_array().expect("rules").iter().map(|rule| &rule["origin"]).collect();
    assert_eq!(origins, ["directory", "directory"], "the configuration's is not needed any more");

    let with = async |method: &str, tag: &str, body: Value| {
        let bearer = format!("Bearer {}", crate::harness::API_KEY);
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("If-Match", tag)];
        let path = "/api/v1/admin/rules/lists?reason=done";
        call(shop.admin, method, path, &headers, body.to_string()).await
    };
    let moved = with("PUT", "\"2\"", bucket("user", "order_list", 8)).await;
    assert_eq!((moved.status, &moved.json()["code"]), (412, &json!("etag_mismatch")), "{moved:?}");
    let second = with("PUT", "\"1\"", bucket("user", "order_list", 8)).await;
    assert_eq!((second.status, second.header("ETag")), (200, "\"3\""), "{second:?}");
    assert_eq!(with("DELETE", "\"1\"", Value::Null).await.status, 412);
    assert_eq!(with("DELETE", "\"3\"", Value::Null).await.status, 200);
    let gone = with("DELETE", "*", Value::Null).await;
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("rule_not_found")), "{gone:?}");
    assert_eq!(rules(&shop).await["version"], 4);

    let notes = shop.stage().notes("rule_put").await;
    let details = notes.iter().map(|(reason, details)| (reason.as_str(), details["rule"].clone()));
    let expected = [("a test", json!("lists")), ("a test", json!("address")), ("a test", json!("lists"))];
    assert_eq!(details.collect::<Vec<_>>(), expected);
    assert_eq!(notes[2].1["terms"]["value"]["burst"], 8);
    assert_eq!(
        shop.stage().notes("rule_remove").await,
        [("done".to_owned(), json!({ "rule": "lists", "terms": null }))]
    );
    let refused = operate(shop.admin, READ_ONLY_KEY, "PUT", "/rules/x", bucket("all", "purchase", 1)).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    shop.finish().await;
}

async fn what_is_no_rule_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    assert_eq!(put(&shop, "lists", bucket("user", "order_list", 7)).await.status, 200);
    let before = rules(&shop).await;
    let with = |name: &str, value: Value| {
        let mut rule = bucket("user", "order_list", 3);
        rule[name] = value;
        rule
    };
    for (body, pointer) in [
        (with("value", json!({ "rate": 0 })), "/value/rate"),
        (with("value", json!({ "rate": 1, "burst": 1_000_001 })), "/value/burst"),
        (with("value", json!({ "rate": 1, "per": 1 })), "/value"),
        (with("kind", json!("sliding_window")), "/value"),
        (with("scope", json!("moon")), "/scope"),
        (with("match", json!({ "route": "nowhere" })), "/match/route"),
        (with("match", json!({ "route": "sale_list" })), "/scope"),
        (with("mode", json!("perhaps")), "/mode"),
        (with("until", json!("tomorrow")), "/until"),
        (with("reason", json!("")), "/reason"),
        (with("more", json!(1)), "/more"),
        (json!({ "kind": "block", "value": { "address": "everybody" }, "reason": "r" }), "/value"),
        (json!({ "kind": "block", "value": {}, "reason": "r" }), "/value"),
        (json!({ "kind": "block", "scope": "user", "value": { "user": "u" }, "reason": "r" }), "/scope"),
    ] {
        let refused = put(&shop, "lists", body.clone()).await;
        let problem = refused.json();
        let found = (refused.status, problem["errors"][0]["pointer"].as_str());
        assert_eq!(found, (400, Some(pointer)), "{body}: {refused:?}");
    }
    let no_name = put(&shop, "No%20Name", bucket("user", "order_list", 7)).await;
    assert_eq!(no_name.status, 400, "{no_name:?}");
    assert_eq!(rules(&shop).await, before);
    assert_eq!(shop.stage().notes("rule_put").await.len(), 1);
    assert_eq!(lists(&shop, "ada").await, 7);
    shop.finish().await;
}

async fn a_rule_limits_what_it_is_about_and_a_dry_run_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut dry = bucket("user", "order_list", 3);
    dry["mode"] = json!("dry_run");
    assert_eq!(put(&shop, "lists", dry).await.status, 200);
    assert_eq!(lists(&shop, "ada").await, 30, "a dry run refuses nothing");
    let metric = call(shop.admin, "GET", "/metrics", &[], "").await.text;
    let line = "seckill_rule_decisions_total{rule=\"lists\",decision=\"would_refuse\"}";
    assert!(metric.lines().any(|found| found.starts_with(line)), "{metric}");
    assert_eq!(put(&shop, "reads", bucket("user", "order_list", 3)).await.status, 200);
    assert!((3..=4).contains(&lists(&shop, "ada").await));
    assert!((3..=4).contains(&lists(&shop, "bob").await), "each has a bucket");
    let refused = shop.get("ada", "/api/v1/orders").await;
    assert_eq!((refused.status, &refused.json()["policy"]), (429, &json!("reads")), "{refused:?}");
    assert!(!refused.header("Retry-After").is_empty(), "{refused:?}");
    assert_eq!(shop.get("ada", "/api/v1/sales").await.status, 200, "it is about lists of orders");
    shop.finish().await;
}

async fn a_rule_is_tried_on_the_requests_of_late_and_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let began = Instant::now();
    assert_eq!((lists(&shop, "ada").await, lists(&shop, "bob").await), (30, 30));
    let took_s = began.elapsed().as_secs();
    let before = shop.operate("GET", "/rules", Value::Null).await.json()["version"].clone();
    let tries = async |mut rule: Value| {
        rule.as_object_mut().expect("a rule").remove("reason");
        let tried = shop.operate("POST", "/rules:try", rule).await;
        assert_eq!(tried.status, 200, "{tried:?}");
        let of = |name: &str| tried.json()[name].as_u64();
        (of("requests").expect("a number"), of("would_refuse").expect("a number"), of("callers"))
    };
    let (requests, refused, callers) = tries(bucket("user", "order_list", 3)).await;
    assert_eq!((requests, callers), (60, Some(2)));
    // Each has three at once, and one a second.
    assert!((52 - 2 * took_s..=54).contains(&refused), "{refused} in {took_s} s");
    assert_eq!(tries(bucket("address", "order_read", 3)).await, (0, 0, Some(0)), "none was read");
    for (caller, refused) in [(json!({ "user": "ada" }), 30), (json!({ "address": "127.0.0.0/8" }), 60)] {
        assert_eq!(tries(json!({ "kind": "block", "value": caller })).await, (60, refused, None));
    }
    let allow = json!({ "kind": "allow", "value": { "user": "ada" } });
    let untried = shop.operate("POST", "/rules:try", allow).await;
    assert_eq!(
        (untried.status, &untried.json()["errors"][0]["pointer"]),
        (400, &json!("/kind")),
        "{untried:?}"
    );
    let foreign =
        operate(shop.admin, READ_ONLY_KEY, "POST", "/rules:try", bucket("user", "order_list", 3)).await;
    assert_eq!(foreign.status, 403, "{foreign:?}");
    assert_eq!(lists(&shop, "ada").await, 30, "nothing holds");
    assert_eq!(shop.operate("GET", "/rules", Value::Null).await.json()["version"], before);
    shop.finish().await;
}

async fn who_is_blocked_is_refused_and_who_is_allowed_is_not_limited(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("limits.user_per_s", "1"), ("limits.user_burst", "1")]).await;
    shop.open_sale("drop", 9, &[("phone", 50)]).await;
    let about =
        |kind: &str, user: &str| json!({ "kind": kind, "value": { "user": user }, "reason": "a bot" });
    assert_eq!(put(&shop, "bot", about("block", "bot")).await.status, 200);
    assert_eq!(put(&shop, "friend", about("allow", "friend")).await.status, 200);
    let blocked = shop.buy("bot", "drop", "phone", "k").await;
    assert_eq!((blocked.status, &blocked.json()["code"]), (403, &json!("blocked")), "{blocked:?}");
    assert_eq!(blocked.json()["policy"], "bot");
    assert_eq!(shop.get("bot", "/api/v1/orders").await.status, 403);
    for n in 0..9 {
        let bought = shop.buy("friend", "drop", "phone", &format!("k{n}")).await;
        assert_eq!(bought.status, 202, "{bought:?}");
    }
    assert_eq!(shop.buy("guest", "drop", "phone", "k1").await.status, 202);
    assert_eq!(shop.buy("guest", "drop", "phone", "k2").await.status, 429);
    let net =
        json!({ "kind": "block", "value": { "address": "127.0.0.0/8" }, "reason": "all of this machine" });
    assert_eq!(put(&shop, "net", net).await.status, 200);
    assert_eq!(shop.get("guest", "/api/v1/sales").await.status, 403);
    assert_eq!(shop.operate("DELETE", "/rules/net?reason=done", Value::Null).await.status, 200);
    assert_eq!(shop.get("guest", "/api/v1/sales").await.status, 200);
    shop.finish().await;
}

async fn a_rule_stands_after_a_restart_and_ends_at_its_time(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    let mut soon = json!({ "kind": "block", "value": { "user": "ada" }, "reason": "for a moment" });
    soon["until"] = json!(rfc3339(Clock::System.now_ms() + 4000));
    assert_eq!(put(&shop, "soon", soon).await.status, 200);
    assert_eq!(
        put(&shop, "bob", json!({ "kind": "block", "value": { "user": "bob" }, "reason": "r" })).await.status,
        200
    );
    shop.stop().await;
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    let status = async |user: &str| shop.get(user, "/api/v1/orders").await.status;
    assert_eq!((status("ada").await, status("bob").await), (403, 403));
    eventually("its time is over", async || status("ada").await == 200).await;
    assert_eq!(status("bob").await, 403);
    let listed = rules(&shop).await;
    let over =
        listed["rules"].as_array().expect("rules").iter().find(|rule| rule["id"] == "soon").expect("it");
    assert_eq!(over["is_over"], true, "it is listed until it is removed");
    shop.finish().await;
}

#[cfg(feature = "distributed")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn every_process_follows_a_change_within_a_second() {
    use std::time::{Duration, Instant};

    use crate::harness::token;

    const FRONTS: usize = 5;
    const CHANGES: usize = 12;
    let first = TestShop::start(Mode::Distributed).await;
    let mut fronts = Vec::new();
    for _ in 1..FRONTS {
        let ports = open(&first.config).await;
        fronts.push(TestShop::start_on(first.config.clone(), ports, Role::Api).await);
    }
    let mut waits: Vec<Duration> = Vec::new();
    for change in 0..CHANGES {
        let user = format!("u{change}");
        let block = json!({ "kind": "block", "value": { "user": user }, "reason": "a test" });
        assert_eq!(put(&first, "moving", block).await.status, 200);
        let began = Instant::now();
        let bearer = format!("Bearer {}", token(&user));
        let heard = fronts.iter().map(async |front| {
            let headers = [("Authorization", bearer.as_str())];
            while call(front.shopper, "GET", "/api/v1/orders", &headers, "").await.status != 403 {
                assert!(began.elapsed() < Duration::from_secs(10), "never");
            }
            began.elapsed()
        });
        waits.extend(futures::future::join_all(heard).await);
    }
    eventually("every process has confirmed it", async || {
        let listed = rules(&first).await;
        listed["nodes"] == json!({ "following": FRONTS, "of": FRONTS })
    })
    .await;
    waits.sort();
    // Half of them do even on a machine that is full of other tests.
    assert!(waits[waits.len() / 2] <= Duration::from_secs(1), "{waits:?}");
    for mut front in fronts {
        front.stop().await;
    }
    let nodes = first.operate("GET", "/nodes", Value::Null).await.json()["nodes"].clone();
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "who ends as it should is forgotten: {nodes}");
    assert_eq!((&nodes[0]["status"], &nodes[0]["role"]), (&json!("serving"), &json!("all")), "{nodes}");
    first.finish().await;
}
