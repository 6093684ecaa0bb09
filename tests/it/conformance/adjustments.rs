//! Tests of stock that is adjusted while its sale is on.

use seckill::app::Role;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{API_KEY, Books, TestShop, eventually, open, open_sale, sale_body};
use crate::provider::paying_shop;

in_both_modes!(
    more_units_can_be_bought_at_once_and_each_once,
    fewer_units_stay_and_never_fewer_than_orders_have,
    units_of_refunded_orders_go_back_on_sale,
    of_two_operators_who_know_the_same_stock_one_is_refused,
    a_repeated_adjustment_changes_nothing,
    what_cannot_be_adjusted_is_said_and_stays,
    units_come_and_go_while_a_crowd_buys,
);

async fn adjust(shop: &TestShop, from: u32, to: u32) -> Answer {
    let body = json!({ "sku_id": "phone", "expected_stock": from, "stock": to, "reason": "a test" });
    shop.operate("POST", "/sales/drop/stock/adjust", body).await
}

async fn adjusted(shop: &TestShop, from: u32, to: u32) -> Value {
    let answer = adjust(shop, from, to).await;
    assert_eq!(answer.status, 200, "{from} to {to}: {answer:?}");
    let sale = answer.json();
    let mut items = sale["items"].as_array().expect("items").iter();
    assert_eq!(items.find(|item| item["sku_id"] == "phone").expect("a phone")["stock"], to);
    sale
}

async fn wide_sale(shop: &TestShop, units: u32) {
    let mut body = sale_body("drop", 9, &[("phone", units), ("bag", 1)]);
    body["buckets"] = 8.into();
    open_sale(shop.admin, body).await;
}

/// Buys `units` one by one as buyers of their own, and returns the orders.
async fn buy(shop: &TestShop, name: &str, units: u32) -> Vec<(String, String)> {
    let mut orders = Vec::new();
    for n in 0..units {
        let user = format!("{name}-{n}");
        let answer = shop.buy(&user, "drop", "phone", "k").await;
        assert_eq!(answer.status, 202, "{user}: {answer:?}");
        orders.push((user, answer.json()["id"].as_str().expect("an id").to_owned()));
    }
    orders
}

async fn is_sold_out(shop: &TestShop) {
    let answer = shop.buy("late", "drop", "phone", "k").await;
    assert_eq!(answer.problem(), (409, "sold_out".to_owned()));
}

/// Waits until every order has a row, and returns how many wait for their payment.
async fn awaiting(shop: &TestShop, orders: &[(String, String)]) -> usize {
    let mut awaiting = 0;
    for (user, order) in orders {
        awaiting += usize::from(shop.decided(user, order).await["status"] == "awaiting_payment");
    }
    awaiting
}

async fn phones(shop: &TestShop) -> [i64; 5] {
    let stock = shop.stock("drop").await["phone"].clone();
    let states = ["configured", "available", "held", "sold", "withheld"];
    states.map(|state| stock[state].as_i64().expect("a number"))
}

/// Starts a second process, where a shop may have one.
async fn second_process(shop: &TestShop, mode: Mode) -> Option<TestShop> {
    match mode {
        Mode::Distributed => {
            Some(TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await)
        }
        Mode::Embedded => None,
    }
}

async fn no_drifts(shop: &TestShop) {
    let mut found = Value::Null;
    eventually("the books are right", async || {
        let answer = shop.operate("POST", "/reconcile", json!({ "reason": "a test" })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        found = answer.json();
        found["drifts"] == json!([])
    })
    .await;
}

async fn more_units_can_be_bought_at_once_and_each_once(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("shards.shards", "8")]).await;
    wide_sale(&shop, 3).await;
    let mut orders = buy(&shop, "first", 3).await;
    let second = second_process(&shop, mode).await;
    let other = second.as_ref().unwrap_or(&shop);
    for front in [&shop, other, other] {
        let refused = front.buy("second", "drop", "phone", "k").await;
        assert_eq!(refused.problem(), (409, "sold_out".to_owned()));
    }
    let before = shop.operate("GET", "/sales/drop", Value::Null).await.json();
    let after = adjusted(&shop, 3, 24).await;
    assert_eq!(after["version"], before["version"].as_u64().expect("a version") + 1);
    // What another process remembers of the sold-out sale ends by itself.
    eventually("it sells again", async || other.buy("second", "drop", "phone", "k").await.status < 300).await;
    orders.extend(buy(&shop, "third", 20).await);
    is_sold_out(&shop).await;
    assert_eq!(awaiting(&shop, &orders).await, 23, "no order is refused for want of units");
    eventually("all are written", async || phones(&shop).await == [24, 0, 24, 0, 0]).await;
    assert_eq!(shop.stock("drop").await["bag"]["available"], 1);
    let audit = shop.operate("GET", "/audit?action=adjust_stock", Value::Null).await.json();
    let adjusted = json!({ "sku_id": "phone", "before": 3, "after": 24, "returned": 0 });
    assert_eq!(audit["rows"][0]["subject"]["adjusted"], adjusted, "{audit}");
    assert_eq!(audit["rows"][0]["sale_id"], "drop");
    no_drifts(&shop).await;
    if let Some(mut second) = second {
        second.stop().await;
    }
    shop.finish().await;
}

async fn fewer_units_stay_and_never_fewer_than_orders_have(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("shards.shards", "8")]).await;
    wide_sale(&shop, 40).await;
    let orders = buy(&shop, "first", 5).await;
    let short = adjust(&shop, 40, 4).await;
    assert_eq!(short.problem(), (409, "stock_conflict".to_owned()));
    assert_eq!((&short.json()["configured"], &short.json()["least"]), (&json!(40), &json!(5)));
    eventually("nothing was changed", async || phones(&shop).await == [40, 35, 5, 0, 0]).await;
    adjusted(&shop, 40, 7).await;
    assert_eq!(phones(&shop).await, [7, 2, 5, 0, 0]);
    buy(&shop, "last", 2).await;
    is_sold_out(&shop).await;
    assert_eq!(awaiting(&shop, &orders).await, 5);
    assert_eq!(adjust(&shop, 7, 6).await.json()["least"], 7);
    // The pools have fewer, and grow again.
    adjusted(&shop, 7, 9).await;
    eventually("it sells again", async || shop.buy("new", "drop", "phone", "k").await.status < 300).await;
    eventually("all are written", async || phones(&shop).await == [9, 1, 8, 0, 0]).await;
    no_drifts(&shop).await;
    shop.finish().await;
}

async fn units_of_refunded_orders_go_back_on_sale(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    for user in ["ada", "bea"] {
        let order = shop.unpaid(user, "k").await;
        let (_, page) = shop.payment(user, &order).await;
        provider.press(&page, "pay").await;
        provider.events.run_once().await;
        let body = json!({ "reason": "broken", "restock": false });
        assert_eq!(shop.operate("POST", &format!("/orders/{order}/refund"), body).await.status, 200);
    }
    eventually("both are withheld", async || phones(&shop).await == [2, 0, 0, 0, 2]).await;
    let body =
        json!({ "sku_id": "phone", "expected_stock": 2, "stock": 2, "withheld": 1, "reason": "mended" });
    for _ in 0..2 {
        let answer = shop.operate("POST", "/sales/drop/stock/adjust", body.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(phones(&shop).await, [2, 1, 0, 0, 1], "a repetition brings nothing back");
    }
    eventually("it can be bought", async || shop.buy("cleo", "drop", "phone", "k").await.status < 300).await;
    is_sold_out(&shop).await;
    shop.finish_with(Books::Audited).await;
}

async fn of_two_operators_who_know_the_same_stock_one_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 10)]).await;
    let answers = futures::join!(adjust(&shop, 10, 12), adjust(&shop, 10, 15));
    let done = [&answers.0, &answers.1].iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done, 1, "{answers:?}");
    let refused = if answers.0.status == 200 { &answers.1 } else { &answers.0 };
    let stock = if answers.0.status == 200 { 12 } else { 15 };
    assert_eq!(refused.problem(), (409, "stock_conflict".to_owned()));
    assert_eq!(refused.json()["configured"], stock);
    assert_eq!(phones(&shop).await, [stock, stock, 0, 0, 0]);
    // Two who want the same get it, once.
    let stock = u32::try_from(stock).expect("a stock");
    let answers = futures::join!(adjust(&shop, stock, 20), adjust(&shop, stock, 20));
    assert_eq!((answers.0.status, answers.1.status), (200, 200), "{answers:?}");
    assert_eq!(phones(&shop).await, [20, 20, 0, 0, 0]);
    no_drifts(&shop).await;
    shop.finish().await;
}

async fn a_repeated_adjustment_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 10)]).await;
    let first = adjusted(&shop, 10, 12).await;
    assert_eq!(adjusted(&shop, 10, 12).await, first);
    adjusted(&shop, 12, 11).await;
    adjusted(&shop, 12, 11).await;
    assert_eq!(phones(&shop).await, [11, 11, 0, 0, 0]);
    assert_eq!(adjust(&shop, 10, 12).await.json()["configured"], 11, "it is not the last one any more");
    let tag = |version: u64| format!("\"{version}\"");
    let version = first["version"].as_u64().expect("a version");
    let key = format!("Bearer {API_KEY}");
    let body = json!({ "sku_id": "phone", "expected_stock": 11, "stock": 13, "reason": "x" }).to_string();
    for (seen, status) in [(version, 412), (version + 1, 200), (version + 1, 200)] {
        let seen = tag(seen);
        let headers =
            [("Authorization", key.as_str()), ("Content-Type", "application/json"), ("If-Match", &seen)];
        let path = "/api/v1/admin/sales/drop/stock/adjust";
        let answer = call(shop.admin, "POST", path, &headers, body.clone()).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(phones(&shop).await, [13, 13, 0, 0, 0]);
    shop.finish().await;
}

async fn what_cannot_be_adjusted_is_said_and_stays(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let body =
        |sku: &str, stock: u32| json!({ "sku_id": sku, "expected_stock": 10, "stock": stock, "reason": "x" });
    let path = "/sales/drop/stock/adjust";
    assert_eq!(shop.operate("POST", path, body("phone", 11)).await.code(), "sale_not_found");
    assert_eq!(shop.operate("POST", "/sales", sale_body("drop", 9, &[("phone", 10)])).await.status, 201);
    assert_eq!(shop.operate("POST", path, body("phone", 11)).await.code(), "state_conflict", "a draft");
    for action in ["publish", "preheat"] {
        let done = shop.operate("POST", &format!("/sales/drop/{action}"), json!({ "reason": "x" })).await;
        assert_eq!(done.status, 200);
    }
    for (body, pointer) in [
        (body("tent", 11), "/sku_id"),
        (body("phone", 0), "/stock"),
        (body("phone", 100_000_001), "/stock"),
        (
            json!({ "sku_id": "phone", "expected_stock": 10, "stock": 9, "withheld": 0, "reason": "x" }),
            "/withheld",
        ),
        (json!({ "sku_id": "phone", "expected_stock": 10, "stock": 9, "reason": " " }), "/reason"),
    ] {
        let answer = shop.operate("POST", path, body).await;
        assert_eq!(answer.problem(), (400, "validation_failed".to_owned()), "{pointer}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{answer:?}");
    }
    assert_eq!(shop.operate("POST", path, body("phone", 12)).await.status, 200);
    assert_eq!(shop.operate("POST", "/sales/drop/pause", json!({ "reason": "x" })).await.status, 200);
    adjusted(&shop, 12, 11).await;
    assert_eq!(shop.operate("POST", "/sales/drop/end", json!({ "reason": "x" })).await.status, 200);
    assert_eq!(adjust(&shop, 11, 12).await.code(), "state_conflict");
    assert_eq!(phones(&shop).await, [11, 11, 0, 0, 0]);
    shop.finish().await;
}

async fn units_come_and_go_while_a_crowd_buys(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("shards.shards", "8")]).await;
    wide_sale(&shop, 30).await;
    let second = second_process(&shop, mode).await;
    let crowd = async {
        let mut orders = Vec::new();
        for round in 0..12 {
            let front = second.as_ref().filter(|_| round % 2 == 1).unwrap_or(&shop);
            let buys = (0..10).map(|n| async move {
                let user = format!("u{round}-{n}");
                let answer = front.buy(&user, "drop", "phone", "k").await;
                (user, answer)
            });
            for (user, answer) in futures::future::join_all(buys).await {
                match answer.status {
                    202 => orders.push((user, answer.json()["id"].as_str().expect("an id").to_owned())),
                    _ => assert_eq!(answer.problem(), (409, "sold_out".to_owned())),
                }
            }
        }
        orders
    };
    let operator = async {
        let mut stock = 30;
        for to in [45, 40, 60, 55, 70, 69] {
            let answer = adjust(&shop, stock, to).await;
            match answer.status {
                200 => stock = to,
                _ => assert_eq!(answer.problem(), (409, "stock_conflict".to_owned()), "{answer:?}"),
            }
        }
        stock
    };
    let (orders, stock) = futures::join!(crowd, operator);
    assert_eq!(awaiting(&shop, &orders).await, orders.len(), "no order is refused for want of units");
    let stock = i64::from(stock);
    let held = i64::try_from(orders.len()).expect("few");
    eventually("all units are somewhere", async || phones(&shop).await == [stock, stock - held, held, 0, 0])
        .await;
    no_drifts(&shop).await;
    if let Some(mut second) = second {
        second.stop().await;
    }
    shop.finish().await;
}
