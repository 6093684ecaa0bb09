//! Tests of circuit breakers and bounds on what is in flight, as operators see and force them.

use seckill::clock::Clock;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::harness::{TestShop, rfc3339};

in_both_modes!(
    a_breaker_that_an_operator_opens_refuses_what_needs_it_and_nothing_else,
    rules_about_dependencies_are_checked,
);

async fn breaker(shop: &TestShop, name: &str) -> Value {
    let listed = shop.operate("GET", "/breakers", Value::Null).await.json();
    let all = listed["breakers"].as_array().expect("breakers").clone();
    all.into_iter().find(|breaker| breaker["dependency"] == name).unwrap_or_else(|| panic!("{listed}"))
}

async fn a_breaker_that_an_operator_opens_refuses_what_needs_it_and_nothing_else(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 50)]).await;
    let name = if mode == Mode::Embedded { "folder" } else { "redis" };
    let bought = shop.buy("ada", "drop", "phone", "k1").await;
    let order = bought.json()["id"].as_str().expect("an id").to_owned();
    shop.decided("ada", &order).await;
    assert_eq!(breaker(&shop, name).await["state"], "closed");
    let force = async |forced: Value| {
        let body = json!({ "forced": forced, "reason": "a test" });
        let answer = shop.operate("POST", &format!("/breakers/{name}"), body).await;
        assert_eq!((answer.status, &answer.json()["forced"]), (200, &forced), "{answer:?}");
    };
    force(json!("open")).await;
    let refused = shop.buy("ada", "drop", "phone", "k2").await;
    assert_eq!(refused.problem(), (503, "dependency_unavailable".to_owned()), "{refused:?}");
    assert!(!refused.header("Retry-After").is_empty());
    assert_eq!(shop.get("ada", "/api/v1/sales/drop").await.status, 200, "sales are in memory");
    if mode == Mode::Distributed {
        assert_eq!(
            shop.get("ada", &format!("/api/v1/orders/{order}")).await.status,
            200,
            "the row is in MySQL"
        );
    }
    assert_eq!(shop.stage().notes("breaker_force").await.len(), 1);
    force(json!("closed")).await;
    assert_eq!(
        shop.buy("ada", "drop", "phone", "k2").await.status,
        202,
        "nothing was taken by the refused one"
    );
    let own = json!({ "kind": "breaker", "value": { "dependency": name, "calls_min": 7 }, "reason": "ours" });
    assert_eq!(shop.operate("PUT", "/rules/own", own).await.status, 200);
    let soon = json!({ "forced": "closed", "until": rfc3339(Clock::System.now_ms() + 3_600_000), "reason": "a test" });
    assert_eq!(shop.operate("POST", &format!("/breakers/{name}"), soon).await.status, 200);
    force(Value::Null).await;
    let listed = shop.operate("GET", "/rules", Value::Null).await.json();
    let ours = listed["rules"].as_array().expect("rules").iter().filter(|rule| rule["kind"] == "breaker");
    let ours: Vec<&Value> = ours.collect();
    assert_eq!(ours.len(), 1, "{listed}");
    assert_eq!((&ours[0]["value"]["calls_min"], &ours[0]["until"]), (&json!(7), &Value::Null), "{listed}");
    assert_eq!(shop.operate("DELETE", "/rules/own?reason=done", Value::Null).await.status, 200);
    let listed = shop.operate("GET", "/rules", Value::Null).await.json();
    let kinds: Vec<&Value> =
        listed["rules"].as_array().expect("rules").iter().map(|rule| &rule["kind"]).collect();
    assert!(!kinds.contains(&&json!("breaker")), "left to itself again: {listed}");
    let unknown = shop.operate("POST", "/breakers/oracle", json!({ "forced": null, "reason": "r" })).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    shop.finish().await;
}

async fn rules_about_dependencies_are_checked(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let name = if mode == Mode::Embedded { "folder" } else { "mysql-0" };
    for (value, pointer) in [
        (json!({ "dependency": name, "window_ms": 99 }), "/value/window_ms"),
        (json!({ "dependency": name, "error_percent": 0 }), "/value/error_percent"),
        (json!({ "dependency": name, "probes": 101 }), "/value/probes"),
        (json!({ "window_ms": 1000 }), "/value"),
        (json!({ "dependency": name, "forced": "ajar" }), "/value"),
    ] {
        let body = json!({ "kind": "breaker", "value": value, "reason": "r" });
        let refused = shop.operate("PUT", "/rules/b", body).await;
        let found = (refused.status, refused.json()["errors"][0]["pointer"].clone());
        assert_eq!(found, (400, json!(pointer)), "{refused:?}");
    }
    let limit = json!({ "dependency": name, "ceiling": 64, "floor": 4, "latency_ms": 50 });
    let body = json!({ "kind": "concurrency", "value": limit, "reason": "r" });
    assert_eq!(shop.operate("PUT", "/rules/c", body).await.status, 200);
    assert_eq!(breaker(&shop, name).await["in_flight_max"], 64);
    let wrong = json!({ "kind": "concurrency", "value": { "dependency": name, "ceiling": 4, "floor": 5 }, "reason": "r" });
    assert_eq!(shop.operate("PUT", "/rules/c", wrong).await.status, 400);
    shop.finish().await;
}
