//! What a process tells of itself: attempts by what was answered, figures of each second, and how its tasks fare.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use seckill::config::Mode;
use serde_json::{Value, json};

use super::rules::far;
use crate::client::call;
use crate::harness::{TestShop, eventually};

in_both_modes!(
    attempts_are_counted_by_what_was_answered,
    a_process_keeps_the_figures_of_every_second,
    a_task_that_fails_is_seen_in_its_process_and_in_all_others,
);

async fn read(shop: &TestShop, path: &str) -> Value {
    let answer = shop.operate("GET", path, Value::Null).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

async fn attempts_are_counted_by_what_was_answered(mode: Mode) {
    let shop = TestShop::start(mode).await;
    // All tests of a run share one recorder of metrics.
    let sale = format!("attempted-{}", mode.as_str());
    let path = format!("/sales/{sale}/attempts");
    assert_eq!(shop.operate("GET", &path, Value::Null).await.problem(), (404, "sale_not_found".to_owned()));
    shop.open_sale(&sale, 1, &[("phone", 2)]).await;
    assert_eq!(read(&shop, &path).await, json!({ "sale_id": sale, "attempts": {} }));
    for user in ["ada", "bob", "cyd", "dan", "ada"] {
        // A sale that was just put in place is not open everywhere yet.
        eventually("it is answered", async || shop.buy(user, &sale, "phone", "k").await.status != 503).await;
    }
    eventually("they are counted", async || {
        let counted: BTreeMap<String, u64> =
            serde_json::from_value(read(&shop, &path).await["attempts"].clone()).expect("counts");
        let of = |outcome: &str| counted.get(outcome).copied().unwrap_or_default();
        // An order whose record the log is slow to take is answered `reserved`.
        (of("queued") + of("reserved"), of("replayed"), of("sold_out")) == (2, 1, 2)
    })
    .await;
    let since = read(&shop, &path).await["since"].clone();
    assert!(since.as_str().is_some_and(|since| since.ends_with('Z')), "{since}");
    shop.finish().await;
}

async fn a_process_keeps_the_figures_of_every_second(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 9)]).await;
    shop.unpaid("ada", "k").await;
    let named = |figures: &Value, name: &str| {
        let of_name = figures["figures"].as_array().expect("figures").iter().find(|one| one["name"] == name);
        of_name.cloned()
    };
    let mut all = Value::Null;
    eventually("a purchase and its row are measured", async || {
        all = read(&shop, "/figures").await;
        ["attempts", "purchase_p99", "persist_p99", "orders_written"]
            .iter()
            .all(|name| named(&all, name).is_some())
    })
    .await;
    let times: Vec<i64> = serde_json::from_value(all["at_ms"].clone()).expect("times");
    assert!(times.len() >= 2 && times.is_sorted(), "{times:?}");
    for one in all["figures"].as_array().expect("figures") {
        assert_eq!(one["values"].as_array().expect("values").len(), times.len(), "{one}");
    }
    assert_eq!(named(&all, "purchase_p99").expect("measured")["unit"], "seconds");
    assert_eq!(all["process"], read(&shop, "/nodes").await["nodes"][0]["id"]);
    // Whoever asks again gets what is new alone.
    let last = times.last().expect("a time");
    let path = format!("/figures?after={}", all["last"]);
    let mut more = Value::Null;
    eventually("a second goes by", async || {
        more = read(&shop, &path).await;
        more["at_ms"][0].is_i64()
    })
    .await;
    assert!(more["at_ms"][0].as_i64() > Some(*last), "{more}");
    for bad in ["after=x", "after=-1", "before=1"] {
        let refused = shop.operate("GET", &format!("/figures?{bad}"), Value::Null).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{bad}");
    }
    shop.finish().await;
}

async fn a_task_that_fails_is_seen_in_its_process_and_in_all_others(mode: Mode) {
    let is_cut_off = Arc::new(AtomicBool::new(false));
    let shop = far(mode, &is_cut_off).await;
    let task = async || {
        let tasks = read(&shop, "/tasks").await["tasks"].clone();
        let found =
            tasks.as_array().expect("tasks").iter().find(|task| task["name"] == "rule_refresh").cloned();
        found.expect("the task")
    };
    eventually("it has run", async || task().await["status"] == "ok").await;
    is_cut_off.store(true, Ordering::Relaxed);
    eventually("it fails again and again", async || task().await["failures"].as_i64() > Some(1)).await;
    let failing = task().await;
    assert_eq!(failing["status"], "failing");
    assert!(
        failing["error"].as_str().is_some_and(|why| why.contains("a rule of another version")),
        "{failing}"
    );
    let told = async || read(&shop, "/nodes").await["nodes"][0]["load"]["failing"].clone();
    eventually("all processes are told", async || told().await == json!(["rule_refresh"])).await;
    is_cut_off.store(false, Ordering::Relaxed);
    eventually("it is well again", async || told().await == json!([])).await;
    assert_eq!(task().await["failures"], 0);
    // The page is there for whoever asks, and what it shows is not.
    assert_eq!(call(shop.admin, "GET", "/ops", &[], "").await.status, 200);
    for path in ["/tasks", "/figures"] {
        let whole = format!("/api/v1/admin{path}");
        assert_eq!(call(shop.admin, "GET", &whole, &[], "").await.status, 401);
    }
    shop.finish().await;
}
