//! Tests of a sale's states: which action leads where, what is refused, and what the audit log keeps.

use seckill::clock::Clock;
use seckill::config::Mode;
use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::conformance::http_errors::Findings;
use crate::harness::{API_KEY, TestShop, eventually, open_sale, rfc3339, sale_body};

use super::{PHONE, audit, audited, create, reason};

in_both_modes!(
    a_sale_goes_through_its_life_and_no_other_way,
    a_sale_that_is_over_cannot_begin,
    a_change_without_a_good_reason_is_refused,
    the_audit_log_says_who_did_what_why_and_in_which_request,
    a_request_id_of_any_shape_breaks_no_change,
    the_same_action_from_two_operators_at_once_is_one_change,
    a_published_sale_is_put_in_place_by_itself_shortly_before_its_start,
    the_alarm_of_a_sale_that_is_not_in_place_ends_with_its_cause,
);

const ACTIONS: [&str; 6] = ["publish", "preheat", "pause", "resume", "end", "settle"];

async fn advance(shop: &TestShop, action: &str) -> Answer {
    shop.operate("POST", &format!("/sales/drop/{action}"), reason("a test")).await
}

fn set(actions: &Value) -> BTreeSet<String> {
    let actions = actions.as_array().expect("a list").iter();
    actions.map(|action| action.as_str().expect("an action").to_owned()).collect()
}

async fn a_sale_goes_through_its_life_and_no_other_way(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let mut findings = Findings::default();
    let (mut version, mut repetitions) = (1, 0);
    // Each row has the action that leads into a state, the state, and the actions that are allowed there: the ways out,
    // and the action that led in.
    for (action, state, allowed) in [
        (None, "draft", &["publish"][..]),
        (Some("publish"), "published", &["publish", "preheat", "end"]),
        (Some("preheat"), "preheated", &["preheat", "pause", "resume", "end"]),
        (Some("pause"), "paused", &["pause", "resume", "end"]),
        (Some("resume"), "preheated", &["preheat", "pause", "resume", "end"]),
        (Some("end"), "ended", &["end", "settle"]),
        (Some("settle"), "settled", &["settle"]),
    ] {
        if let Some(action) = action {
            let done = advance(&shop, action).await;
            version += 1;
            let told = (done.status, done.json()["state"].clone(), done.json()["version"].clone());
            assert_eq!(told, (200, json!(state), json!(version)), "{done:?}");
            assert_eq!(done.header("ETag"), format!("\"{version}\""));
            for _ in 0..2 {
                let again = advance(&shop, action).await;
                repetitions += 1;
                let same = (again.status, again.json()) == (200, done.json());
                findings.rule(state, same, &format!("{action} again: {again:?}"));
            }
        }
        let rows = audited(&shop).await;
        assert_eq!(rows, version + repetitions, "one row per change and per repetition");
        let allowed: BTreeSet<String> = allowed.iter().map(|&one| one.to_owned()).collect();
        let sale = shop.operate("GET", "/sales/drop", Value::Null).await.json();
        findings.rule(state, set(&sale["allowed"]) == allowed, &format!("allowed: {}", sale["allowed"]));
        for wrong in ACTIONS.into_iter().filter(|action| !allowed.contains(*action)) {
            let what = format!("{wrong} when {state}");
            let refused = advance(&shop, wrong).await;
            findings.check(&what, &refused, (409, "state_conflict"));
            let body = refused.json();
            findings.rule(&what, body["state"] == state && set(&body["allowed"]) == allowed, &refused.text);
        }
        findings.rule(state, audited(&shop).await == rows, "a refusal was audited");
        let now = shop.operate("GET", "/sales/drop", Value::Null).await.json();
        findings.rule(state, now == sale, &format!("a refusal changed {sale} to {now}"));
    }
    for unknown in ["destroy", "PUBLISH", "stock", "%00"] {
        let answer = advance(&shop, unknown).await;
        findings.rule(unknown, matches!(answer.status, 404 | 405), &format!("{answer:?}"));
    }
    findings.done();
    shop.finish().await;
}

async fn a_sale_that_is_over_cannot_begin(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let body = sale_body("drop", 1, PHONE).as_object().expect("an object").clone();
    let last_year = json!({ "starts_at": "2025-01-01T10:00:00.000Z", "ends_at": "2025-01-01T11:00:00.000Z" });
    let last_year = last_year.as_object().expect("an object").clone();
    create(&shop, Value::Object(body.into_iter().chain(last_year).collect())).await;
    let before = audited(&shop).await;
    for action in ["publish", "preheat"] {
        let refused = advance(&shop, action).await;
        assert_eq!(refused.problem(), (409, "state_conflict".to_owned()), "{action}");
    }
    assert_eq!(audited(&shop).await, before, "nothing was changed");
    shop.finish().await;
}

async fn a_change_without_a_good_reason_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let mut findings = Findings::default();
    let long = "理".repeat(201);
    for body in [
        json!({}),
        json!({ "reason": null }),
        json!({ "reason": "" }),
        json!({ "reason": " \n\t " }),
        json!({ "reason": "r".repeat(201) }),
        json!({ "reason": long }),
        json!({ "reason": 5 }),
        json!({ "reason": ["a test"] }),
        json!({ "reason": "a test", "force": true }),
    ] {
        for action in ACTIONS {
            let answer = shop.operate("POST", &format!("/sales/drop/{action}"), body.clone()).await;
            findings.check(&format!("{action} {body}"), &answer, (400, "validation_failed"));
            let pointer = answer.json()["errors"][0]["pointer"].clone();
            let typed = body["reason"].is_string() && body["force"].is_null();
            findings.rule(action, !typed || pointer == "/reason", &format!("points to {pointer}"));
        }
    }
    findings.done();
    let sale = shop.operate("GET", "/sales/drop", Value::Null).await.json();
    assert_eq!((&sale["state"], audited(&shop).await), (&json!("draft"), 1));
    // The limit counts characters, whatever they are.
    for (action, character) in
        [("publish", "秒"), ("preheat", "🔥"), ("pause", "'"), ("resume", "\u{0}"), ("end", "é")]
    {
        let text = character.repeat(200);
        let path = format!("/sales/drop/{action}");
        let answer = shop.operate("POST", &path, json!({ "reason": text })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let [_, written, why, _] = audit(&shop, "drop").await.pop().expect("a row");
        assert_eq!((written.as_str(), why), (action, text));
    }
    shop.finish().await;
}

async fn the_audit_log_says_who_did_what_why_and_in_which_request(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut body = sale_body("drop", 1, PHONE);
    body["reason"] = "autumn campaign".into();
    let mut expected = Vec::new();
    let mut note = |answer: Answer, action: &str, why: &str| {
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        let id = answer.header("X-Request-Id").to_owned();
        expected.push(["tester".to_owned(), action.to_owned(), why.to_owned(), id]);
    };
    note(shop.operate("POST", "/sales", body).await, "create", "autumn campaign");
    let patch = json!({ "name": "Autumn", "reason": "a better name" });
    note(shop.operate("PATCH", "/sales/drop", patch).await, "patch", "a better name");
    for action in ACTIONS {
        let why = format!("because of {action}");
        let path = format!("/sales/drop/{action}");
        note(shop.operate("POST", &path, reason(&why)).await, action, &why);
    }
    assert_eq!(audit(&shop, "drop").await, expected);
    let last = shop.stage().audited_sale("drop").await;
    assert_eq!(last["state"], "settled", "the sale as it was afterwards is kept");
    shop.finish().await;
}

async fn a_request_id_of_any_shape_breaks_no_change(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let bearer = format!("Bearer {API_KEY}");
    let long = "x".repeat(2000);
    let just = "y".repeat(65);
    for (n, id) in
        [long.as_str(), &just, "", "a b", "'; DROP TABLE sales; --", "\"", "{}"].into_iter().enumerate()
    {
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("X-Request-Id", id)];
        let name = format!("sale-{n}");
        let body = sale_body(&name, 1, PHONE).to_string();
        let answer = call(shop.admin, "POST", "/api/v1/admin/sales", &headers, body).await;
        assert_eq!(answer.status, 201, "{id}: {answer:?}");
        let rows = audit(&shop, &name).await;
        assert_eq!((rows.len(), rows[0][3].as_str()), (1, answer.header("X-Request-Id")), "{id}");
        assert!((1..=64).contains(&rows[0][3].len()), "{id}");
    }
    shop.finish().await;
}

async fn the_same_action_from_two_operators_at_once_is_one_change(mode: Mode) {
    let shop = TestShop::start(mode).await;
    open_sale(shop.admin, sale_body("drop", 1, PHONE)).await;
    for round in 0..8 {
        let action = ["pause", "resume"][round % 2];
        let before = audited(&shop).await;
        let (one, two, three) =
            tokio::join!(advance(&shop, action), advance(&shop, action), advance(&shop, action));
        for answer in [&one, &two, &three] {
            assert_eq!((answer.status, answer.json()), (200, one.json()), "{answer:?}");
        }
        assert_eq!(audited(&shop).await, before + 3, "{action}: every operator leaves a row");
    }
    shop.finish().await;
}

async fn a_published_sale_is_put_in_place_by_itself_shortly_before_its_start(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("sale.preheat_before_ms", "600000")]).await;
    let now_ms = Clock::System.now_ms();
    for (id, in_ms) in [("soon", 60_000), ("later", 1_200_000), ("draft", 60_000)] {
        let mut body = sale_body(id, 1, PHONE);
        body["starts_at"] = json!(rfc3339(now_ms + in_ms));
        create(&shop, body).await;
    }
    for id in ["soon", "later"] {
        let done = shop.operate("POST", &format!("/sales/{id}/publish"), reason("a test")).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let state = async |id: &str| {
        shop.operate("GET", &format!("/sales/{id}"), Value::Null).await.json()["state"].clone()
    };
    eventually("it is put in place", async || state("soon").await == "preheated").await;
    eventually("its stock is seen", async || shop.stock("soon").await["phone"]["available"] == 10).await;
    assert_eq!((state("later").await, state("draft").await), (json!("published"), json!("draft")));
    let rows = audit(&shop, "soon").await;
    let last = rows.last().expect("a row").clone();
    assert_eq!(last, ["seckill", "preheat", "it starts soon", "-"].map(str::to_owned));
    assert_eq!(rows.len(), 3, "once: {rows:?}");
    let early = shop.buy("ada", "soon", "phone", "k").await;
    assert_eq!(early.problem(), (409, "sale_not_started".to_owned()));
    // Its gates are opened last, which whoever asks for the same sees to, too.
    let again = shop.operate("POST", "/sales/soon/preheat", reason("a test")).await;
    assert_eq!(again.status, 200, "{again:?}");
    shop.finish().await;
}

async fn the_alarm_of_a_sale_that_is_not_in_place_ends_with_its_cause(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let now_ms = Clock::System.now_ms();
    let id = format!("alarm-{}", mode.as_str());
    let mut body = sale_body(&id, 1, PHONE);
    body["starts_at"] = json!(rfc3339(now_ms + 60_000));
    create(&shop, body).await;
    let published = shop.operate("POST", &format!("/sales/{id}/publish"), reason("a test")).await;
    assert_eq!(published.status, 200, "{published:?}");
    let shows = async |value: u8| {
        let line = format!("seckill_sale_unplaced{{sale=\"{id}\"}} {value}");
        let metrics = call(shop.admin, "GET", "/metrics", &[], "").await;
        metrics.text.lines().any(|found| found == line)
    };
    eventually("the alarm", async || shows(1).await).await;
    let later = json!({ "starts_at": rfc3339(now_ms + 1_800_000), "reason": "a test" });
    assert_eq!(shop.operate("PATCH", &format!("/sales/{id}"), later).await.status, 200);
    eventually("its end", async || shows(0).await).await;
    shop.finish().await;
}
