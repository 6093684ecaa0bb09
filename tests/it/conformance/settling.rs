//! Tests of how a sale is settled: nothing of it stays where the crowd is served, and every answer about it stays true.

use std::time::Duration;

use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::harness::{TestShop, eventually, open, open_sale, rfc3339, sale_body};

in_both_modes!(
    a_settled_sale_leaves_nothing_and_its_answers_stay_true,
    a_sale_is_not_settled_while_something_of_it_is_open,
    units_that_are_missing_stop_it_until_somebody_says_so,
    a_front_that_has_not_heard_of_it_answers_the_same,
    a_sale_that_is_over_for_long_is_settled_by_itself,
);

async fn step(shop: &TestShop, action: &str, body: Value) -> Answer {
    let mut body = body;
    body["reason"] = json!("a test");
    shop.operate("POST", &format!("/sales/drop/{action}"), body).await
}

/// Opens a sale in which ada has given her order up.
async fn given_up(shop: &TestShop) -> String {
    shop.open_sale("drop", 2, &[("phone", 3), ("bag", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    assert_eq!(shop.act("ada", &order, "cancel").await.status, 200);
    order
}

/// Ends the sale and settles it, once its units are back.
async fn settled(shop: &TestShop) -> Value {
    assert_eq!(step(shop, "end", json!({})).await.status, 200);
    let mut sale = Value::Null;
    eventually("it is settled", async || {
        let answer = step(shop, "settle", json!({})).await;
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        sale = answer.json();
        answer.status == 200
    })
    .await;
    sale
}

async fn a_settled_sale_leaves_nothing_and_its_answers_stay_true(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    let order = given_up(&shop).await;
    let sale = settled(&shop).await;
    assert_eq!(sale["state"], "settled");
    assert_eq!(step(&shop, "settle", json!({})).await.json(), sale, "a repetition changes nothing");
    for action in ["publish", "preheat", "pause", "resume", "end"] {
        let answer = step(&shop, action, json!({})).await;
        assert_eq!(answer.problem(), (409, "state_conflict".to_owned()), "{action}");
    }
    let report = shop.operate("GET", "/sales/drop/report", Value::Null).await.json();
    let units = |sku: &str, stock: u32| json!({ "sku_id": sku, "configured": stock, "sold": 0, "withheld": 0, "available": stock });
    assert_eq!(report["report"]["items"], json!([units("bag", 1), units("phone", 3)]), "{report}");
    assert_eq!(report["report"]["view"]["states"]["cancelled"], json!({ "orders": 1, "units": 1 }));
    assert_eq!(report["hash"].as_str().map(str::len), Some(64));
    for round in ["at once", "after a restart"] {
        let again = shop.buy("ada", "drop", "phone", "k").await;
        assert_eq!((again.status, &again.json()["id"]), (200, &json!(order)), "{round}: {again:?}");
        assert_eq!(again.json()["status"], "cancelled", "{round}");
        let other = shop.buy("ada", "drop", "bag", "k").await;
        assert_eq!(other.problem(), (422, "idempotency_key_reused".to_owned()), "{round}");
        let late = shop.buy("ada", "drop", "phone", "another").await;
        assert_eq!(late.problem(), (409, "sale_ended".to_owned()), "{round}");
        let unknown = shop.buy("ada", "drip", "phone", "k").await;
        assert_eq!(unknown.problem(), (404, "sale_not_found".to_owned()), "{round}");
        let page = shop.get("ada", "/api/v1/sales/drop").await;
        assert_eq!((page.status, &page.json()["status"]), (200, &json!("ended")), "{round}: {page:?}");
        assert_eq!(page.json()["items"][0]["stock"], "plenty", "{round}: {page:?}");
        let all = shop.get("ada", "/api/v1/sales").await.json();
        assert_eq!(all["sales"], json!([]), "{round}");
        let mine = shop.get("ada", "/api/v1/orders").await.json();
        assert_eq!(mine["orders"][0]["id"], json!(order), "{round}");
        let for_operators = shop.operate("GET", "/sales/drop", Value::Null).await.json();
        assert_eq!(for_operators["state"], "settled", "{round}");
        if round == "at once" {
            shop.stop().await;
            let ports = open(&shop.config).await;
            shop = TestShop::start_on(shop.config.clone(), ports, Role::All).await;
        }
    }
    shop.finish().await;
}

async fn a_sale_is_not_settled_while_something_of_it_is_open(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 3)]).await;
    let order = shop.unpaid("ada", "k").await;
    let selling = step(&shop, "settle", json!({})).await;
    assert_eq!(selling.problem(), (409, "state_conflict".to_owned()));
    assert_eq!(selling.json()["state"], "preheated");
    let report = shop.operate("GET", "/sales/drop/report", Value::Null).await;
    assert_eq!(report.problem(), (404, "sale_not_found".to_owned()));
    assert_eq!(step(&shop, "end", json!({})).await.status, 200);
    let open = step(&shop, "settle", json!({})).await;
    assert_eq!(open.json()["open"], json!(["1 units of orders that wait for their payment"]), "{open:?}");
    assert_eq!(shop.act("ada", &order, "cancel").await.status, 200, "nothing was changed");
    assert_eq!(step(&shop, "settle", json!({ "surplus": 1 })).await.status, 400);
    assert_eq!(shop.operate("POST", "/sales/drip/settle", json!({ "reason": "x" })).await.status, 404);
    settled(&shop).await;
    shop.finish().await;
}

async fn units_that_are_missing_stop_it_until_somebody_says_so(mode: Mode) {
    let shop = TestShop::start(mode).await;
    given_up(&shop).await;
    eventually("the unit is back", async || shop.stock("drop").await["phone"]["available"] == 3).await;
    assert_eq!(step(&shop, "end", json!({})).await.status, 200);
    shop.stage().take_away("drop", "phone").await;
    let differs = step(&shop, "settle", json!({})).await;
    assert_eq!(differs.problem(), (409, "state_conflict".to_owned()));
    assert_eq!(differs.json()["differences"][1]["available"], 2, "{differs:?}");
    let settled = step(&shop, "settle", json!({ "accept_differences": true })).await;
    assert_eq!(settled.json()["state"], "settled", "{settled:?}");
    let report = shop.operate("GET", "/sales/drop/report", Value::Null).await.json();
    assert_eq!(report["report"]["items"][1]["available"], 2);
    shop.finish().await;
}

async fn a_front_that_has_not_heard_of_it_answers_the_same(mode: Mode) {
    // One process has a folder.
    if mode == Mode::Embedded {
        return;
    }
    let shop = TestShop::start(mode).await;
    let order = given_up(&shop).await;
    assert_eq!(step(&shop, "end", json!({})).await.status, 200);
    let mut deaf = shop.config.clone();
    deaf.catalog.refresh_ms = 60_000;
    let front = TestShop::start_on(deaf.clone(), open(&deaf).await, Role::Api).await;
    settled(&shop).await;
    let again = front.buy("ada", "drop", "phone", "k").await;
    assert_eq!((again.status, &again.json()["id"]), (200, &json!(order)), "{again:?}");
    let late = front.buy("ada", "drop", "phone", "another").await;
    assert_eq!(late.problem(), (409, "sale_ended".to_owned()));
    let mut front = front;
    front.stop().await;
    shop.finish().await;
}

async fn a_sale_that_is_over_for_long_is_settled_by_itself(mode: Mode) {
    let mut shop = TestShop::start_with(mode, &[("sale.settle_after_ms", "0")]).await;
    let mut body = sale_body("drop", 2, &[("phone", 3)]);
    let ends_ms = Clock::System.now_ms() + 3000;
    body["ends_at"] = json!(rfc3339(ends_ms));
    open_sale(shop.admin, body).await;
    let order = shop.unpaid("ada", "k").await;
    assert_eq!(shop.act("ada", &order, "cancel").await.status, 200);
    Clock::System
        .sleep(Duration::from_millis((ends_ms - Clock::System.now_ms()).max(0).unsigned_abs()))
        .await;
    shop.stop().await;
    let mut config = shop.config.clone();
    config.sale.settle_after_ms = 1;
    let ports = open(&config).await;
    shop = TestShop::start_on(config, ports, Role::All).await;
    eventually("it is settled", async || {
        let sale = shop.operate("GET", "/sales/drop", Value::Null).await.json();
        sale["state"] == "settled"
    })
    .await;
    let audit = shop.stage().audit(Some("drop")).await;
    let last = audit.last().expect("changes");
    assert_eq!((last[0].as_str(), last[1].as_str()), ("seckill", "settle"));
    shop.finish().await;
}
