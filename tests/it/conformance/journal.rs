//! Tests of the events that tell what happened to orders, and of the views that are built of them.

use std::collections::BTreeMap;

use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::SaleId;
use seckill::shop::views::{RebuildOutcome, rebuild};
use serde_json::{Value, json};

use crate::harness::{Books, READ_ONLY_KEY, TestShop, eventually, migrated, open, operate};
use crate::provider::paying_shop;

in_both_modes!(
    steps_from_before_there_were_events_are_told_once,
    every_step_is_told_once_and_in_order,
    a_cursor_goes_on_where_it_was,
    the_journal_says_who_and_why,
    a_view_adds_the_events_up_and_is_made_anew_equal,
    a_view_whose_events_are_gone_is_kept,
    views_and_events_are_for_who_may,
);

/// Reads all events, `limit` at a time.
async fn events(shop: &TestShop, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/events?limit={limit}{cursor}");
        let page = shop.operate("GET", &path, Value::Null).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let found = page["events"].as_array().expect("events").clone();
        assert!(found.len() <= limit, "{page}");
        all.extend(found);
        cursor = format!("&cursor={}", page["next_cursor"].as_str().expect("a cursor"));
        if page["has_more"] == false {
            return all;
        }
    }
}

/// Returns the words of an order's events, in the order in which they were told.
fn steps_of(events: &[Value], order: &str) -> Vec<String> {
    let of_order = events.iter().filter(|event| event["subject"] == order);
    of_order.map(|event| event["data"]["kind"].as_str().expect("a word").to_owned()).collect()
}

async fn every_step_is_told_once_and_in_order(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let refunded = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &refunded).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    let reason = json!({ "reason": "broken" });
    assert_eq!(shop.operate("POST", &format!("/orders/{refunded}/refund"), reason).await.status, 200);
    let cancelled = shop.unpaid("bob", "k").await;
    assert_eq!(shop.act("bob", &cancelled, "cancel").await.status, 200);
    let waiting = shop.unpaid("cid", "k").await;

    let told = events(&shop, 1000).await;
    assert_eq!(steps_of(&told, &refunded), ["persisted", "paid", "refunded"]);
    assert_eq!(steps_of(&told, &cancelled), ["persisted", "cancelled"]);
    assert_eq!(steps_of(&told, &waiting), ["persisted"]);
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for event in &told {
        assert_eq!(
            (&event["specversion"], &event["datacontenttype"]),
            (&json!("1.0"), &json!("application/json"))
        );
        let text = |member: &str| event[member].as_str().expect("text").to_owned();
        let kind = event["data"]["kind"].as_str().expect("a word");
        assert_eq!(text("type"), format!("seckill.order.{kind}"));
        assert_eq!(text("id"), format!("{}.{kind}", text("subject")));
        assert_eq!(text("partitionkey"), text("subject"));
        let before = last.insert(text("source"), text("sequence"));
        assert!(before < Some(text("sequence")), "sequences ascend in a source: {event}");
    }
    let paid = told.iter().find(|event| event["data"]["kind"] == "paid").expect("it was paid");
    let data = json!({
        "order_id": refunded, "sale_id": "drop", "sku_id": "phone", "user_id": "ada", "quantity": 1,
        "unit_price": { "amount": 19900, "currency": "CNY" }, "kind": "paid", "from": "awaiting_payment",
        "to": "paid", "by": "payment_provider", "accepted_ms": paid["data"]["accepted_ms"],
    });
    assert_eq!(paid["data"], data);
    shop.finish_with(Books::Audited).await;
}

async fn a_cursor_goes_on_where_it_was(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    for buyer in 0..12 {
        let user = format!("u{buyer}");
        let bought = shop.buy(&user, "drop", "phone", "k").await;
        shop.decided(&user, bought.json()["id"].as_str().expect("an id")).await;
    }
    let ids = |events: &[Value]| -> Vec<String> {
        let mut ids: Vec<String> =
            events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    };
    let whole = ids(&events(&shop, 1000).await);
    assert_eq!(whole.len(), 12);
    for limit in [1, 2, 5] {
        assert_eq!(ids(&events(&shop, limit).await), whole, "pages of {limit}");
    }
    // Who was at the end hears of what comes later, and of nothing else.
    let end = shop.operate("GET", "/events", Value::Null).await.json();
    let later = shop.buy("late", "drop", "phone", "k").await.json()["id"].as_str().expect("an id").to_owned();
    shop.decided("late", &later).await;
    let path = format!("/events?cursor={}", end["next_cursor"].as_str().expect("a cursor"));
    let page = shop.operate("GET", &path, Value::Null).await.json();
    let subjects: Vec<&Value> =
        page["events"].as_array().expect("events").iter().map(|event| &event["subject"]).collect();
    assert_eq!(subjects, [&json!(later)]);
    for query in ["limit=0", "limit=1001", "cursor=%25", "cursor=eA", "from=1"] {
        let answer = shop.operate("GET", &format!("/events?{query}"), Value::Null).await;
        assert_eq!(answer.problem(), (400, "validation_failed".to_owned()), "{query}");
    }
    shop.finish().await;
}

async fn the_journal_says_who_and_why(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let order = shop.unpaid("ada", "k").await;
    let reason = json!({ "reason": "a \"wish\" — 愿望" });
    assert_eq!(shop.operate("POST", &format!("/orders/{order}/cancel"), reason).await.status, 200);
    let told = events(&shop, 1000).await;
    let step = told.iter().find(|event| event["data"]["kind"] == "cancelled").expect("it was cancelled");
    assert_eq!(
        (&step["data"]["by"], &step["data"]["why"]),
        (&json!("operator:tester"), &json!("a \"wish\" — 愿望"))
    );
    let row = shop.stage().moves(&order).await;
    let cancelled = &row["cancelled"];
    assert_eq!(cancelled, &["operator:tester", "a \"wish\" — 愿望"]);
    assert_eq!(row.len(), 1, "the order's row says that the order writer made it: {row:?}");
    let made = told.iter().find(|event| event["data"]["kind"] == "persisted").expect("it was persisted");
    assert_eq!(made["data"]["by"], "order_writer");
    shop.finish().await;
}

async fn steps_from_before_there_were_events_are_told_once(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let order = shop.unpaid("ada", "k").await;
    assert_eq!(shop.act("ada", &order, "cancel").await.status, 200);
    shop.unpaid("bob", "k").await;
    shop.stop().await;
    // As a version without events leaves it, in which every step had a row.
    shop.stage().note_first_moves().await;
    let retold = match mode {
        Mode::Distributed => "UPDATE retold_shards SET upto = ''",
        Mode::Embedded => "UPDATE retold_orders SET upto = ''",
    };
    let readers = ["DELETE FROM event_readers", "DELETE FROM view_counts", "DELETE FROM view_marks"];
    let log = ["DELETE FROM order_events", "UPDATE event_logs SET next_number = 1", retold];
    for statement in readers.into_iter().chain(log) {
        shop.stage().execute_control(statement).await;
    }
    for _ in 0..2 {
        migrated(&shop.config).await;
    }
    let ports = open(&shop.config).await;
    let shop = TestShop::start_on(shop.config.clone(), ports, Role::All).await;
    let told = events(&shop, 1000).await;
    let of = |id: &str| -> Vec<[&str; 3]> {
        let of_order = told.iter().filter(|event| event["subject"] == id);
        of_order
            .map(|event| ["kind", "from", "by"].map(|of| event["data"][of].as_str().expect("text")))
            .collect()
    };
    let steps = [["persisted", "queued", "unknown"], ["cancelled", "awaiting_payment", "unknown"]];
    assert_eq!((of(&order), told.len()), (steps.to_vec(), 3), "{told:?}");
    shop.finish().await;
}

async fn view(shop: &TestShop) -> Value {
    let answer = shop.operate("GET", "/sales/drop/view", Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn a_view_adds_the_events_up_and_is_made_anew_equal(mode: Mode) {
    let (mut shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 9), ("bag", 3)]).await;
    assert_eq!(view(&shop).await["events"], 0);
    for user in ["ada", "bob", "cid", "dan"] {
        shop.unpaid(user, "k").await;
    }
    let paid = shop.unpaid("eve", "k").await;
    let (_, page) = shop.payment("eve", &paid).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    let given_up = shop.unpaid("fay", "k").await;
    assert_eq!(shop.act("fay", &given_up, "cancel").await.status, 200);
    eventually("the view has all events", async || view(&shop).await["events"] == 8).await;
    let seen = view(&shop).await;
    let states = json!({
        "awaiting_payment": { "orders": 4, "units": 4 }, "paid": { "orders": 1, "units": 1 },
        "cancelled": { "orders": 1, "units": 1 },
    });
    assert_eq!(seen["states"], states);
    assert_eq!(seen["revenue"], json!({ "CNY": { "paid": 19900, "refunded": 0, "net": 19900 } }));
    assert_eq!(seen["items"]["phone"]["states"], states);
    let steps: i64 = seen["minutes"]
        .as_array()
        .expect("minutes")
        .iter()
        .flat_map(|minute| minute["steps"].as_object().expect("steps").values())
        .map(|steps| steps.as_i64().expect("a number"))
        .sum();
    assert_eq!(steps, 8);

    // Somebody spoils the view. It is made anew of the events, and says the same, byte for byte.
    shop.stop().await;
    let sale = SaleId::parse("drop").expect("a slug");
    for (damage, outcome) in
        [("", RebuildOutcome::Same), ("UPDATE view_counts SET orders = orders + 1", RebuildOutcome::Changed)]
    {
        if !damage.is_empty() {
            shop.stage().execute_control(damage).await;
        }
        let ports = open(&shop.config).await;
        let stores = (ports.events.as_ref(), ports.views.as_ref());
        let rebuilt = rebuild(stores, Some(&sale), |_| ()).await.expect("rebuilt");
        assert!(rebuilt.iter().all(|one| one.outcome == outcome), "{rebuilt:?}");
    }
    let config = shop.config.clone();
    let backend = open(&config).await;
    shop = TestShop::start_on(config, backend, Role::All).await;
    let again = view(&shop).await;
    assert_eq!((&again["hash"], &again["states"]), (&seen["hash"], &seen["states"]));
    shop.finish_with(Books::Audited).await;
}

async fn a_view_whose_events_are_gone_is_kept(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    for user in ["ada", "bob", "cid", "dan"] {
        shop.unpaid(user, "k").await;
    }
    eventually("the view has all events", async || view(&shop).await["events"] == 4).await;
    let seen = view(&shop).await["hash"].clone();
    shop.stop().await;
    shop.stage().execute_control("DELETE FROM order_events WHERE first_number = 1").await;
    let ports = open(&shop.config).await;
    let rebuilt = rebuild((ports.events.as_ref(), ports.views.as_ref()), None, |_| ()).await.expect("read");
    assert!(
        !rebuilt.is_empty() && rebuilt.iter().all(|one| one.outcome == RebuildOutcome::Kept),
        "{rebuilt:?}"
    );
    drop(ports);
    let config = shop.config.clone();
    let backend = open(&config).await;
    shop = TestShop::start_on(config, backend, Role::All).await;
    assert_eq!(view(&shop).await["hash"], seen);
    // Who follows the events hears how many are gone.
    let page = shop.operate("GET", "/events?cursor=MDox", Value::Null).await.json();
    assert!(page["gone"].as_i64().is_some_and(|gone| gone > 0), "{page}");
    shop.finish().await;
}

async fn views_and_events_are_for_who_may(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let unknown = shop.operate("GET", "/sales/no-such/view", Value::Null).await;
    assert_eq!(unknown.problem(), (404, "sale_not_found".to_owned()));
    let read = operate(shop.admin, READ_ONLY_KEY, "GET", "/sales/drop/view", Value::Null).await;
    assert_eq!(read.status, 200, "{read:?}");
    let forbidden = operate(shop.admin, READ_ONLY_KEY, "GET", "/events", Value::Null).await;
    assert_eq!(forbidden.problem(), (403, "forbidden".to_owned()));
    shop.finish().await;
}
