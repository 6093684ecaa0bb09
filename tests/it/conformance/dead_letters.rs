//! Tests of what operators do about dead letters.

use seckill::config::Mode;
use seckill::domain::decided::Decided;
use seckill::domain::{Month, OrderRecord, OrderState, SkuId, TakenStep, UserId};
use serde_json::{Value, json};

use super::poison::{record, users_of};
use crate::harness::{READ_ONLY_KEY, TestShop, eventually, operate, remove};

in_both_modes!(
    a_letter_is_listed_looked_at_and_given_back,
    a_letter_is_decided_again_with_the_sale_as_it_is_today,
    what_names_no_order_is_dismissed,
    several_letters_are_decided_together_and_a_dry_run_changes_nothing,
    an_order_that_was_decided_in_another_way_is_left_alone,
    what_another_backend_had_decided_is_written_as_it_was_or_not_at_all,
);

const REASON: &str = "the sale came late";

/// Appends records of orders of a sale that there is not yet, and waits until they are dead letters. Returns their
/// orders and buyers. Then the sale opens.
pub async fn letters(shop: &TestShop, count: usize) -> Vec<(String, UserId)> {
    let month = Month::of_ms(seckill::clock::Clock::System.now_ms());
    let users: Vec<UserId> = users_of(shop, 0).take(count).collect();
    let mut orders = Vec::new();
    for user in users {
        // Not before the opening, which comes later.
        let accepted_ms = seckill::clock::Clock::System.now_ms() + 60_000;
        let record = OrderRecord { accepted_ms, ..record(shop, &user, month, "k") };
        shop.stage().append(record.order_id, vec![record.encode()]).await;
        orders.push((record.order_id.to_string(), user));
    }
    // A purchase of another sale, so that the writer of a folder looks into the log.
    shop.open_sale("other", 1, &[("phone", 10)]).await;
    let bought = shop.buy(users_of(shop, 0).next().expect("endless").as_str(), "other", "phone", "k").await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let wanted = i64::try_from(count).expect("few");
    eventually("they are dead letters", async || {
        shop.stage().sum("COUNT(*)", "dead_letters").await == wanted
    })
    .await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    orders
}

async fn list(shop: &TestShop, query: &str) -> Vec<Value> {
    let answer = shop.operate("GET", &format!("/dead-letters{query}"), Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["dead_letters"].as_array().expect("letters").clone()
}

fn id_of(letters: &[Value], order: &str) -> String {
    let letter = letters.iter().find(|letter| letter["order_id"] == order).expect("its letter");
    letter["id"].as_str().expect("an id").to_owned()
}

async fn a_letter_is_listed_looked_at_and_given_back(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let orders = letters(&shop, 1).await;
    let (order, user) = &orders[0];
    let all = list(&shop, "?status=open&reason=unknown_sale").await;
    let id = id_of(&all, order);
    assert_eq!((&all[0]["sale_id"], &all[0]["status"]), (&json!("drop"), &json!("open")));
    assert!(
        list(&shop, "?status=retried").await.is_empty() && list(&shop, "?reason=garbage").await.is_empty()
    );
    let one = shop.operate("GET", &format!("/dead-letters/{id}"), Value::Null).await.json();
    let payload: Value = serde_json::from_str(one["payload"].as_str().expect("bytes")).expect("JSON");
    assert_eq!(payload["user_id"], user.as_str());

    let path = format!("/dead-letters/{id}/give-back");
    let dry = shop.operate("POST", &path, json!({ "reason": REASON, "dry_run": true })).await;
    assert_eq!(dry.json(), json!({ "id": id, "outcome": "given_back" }));
    assert_eq!(shop.stage().orders("rejected").await, 0, "nothing was changed");
    for _ in 0..2 {
        let done = shop.operate("POST", &path, json!({ "reason": REASON })).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let told = shop.get(user.as_str(), &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!((&told["status"], &told["reason"]), (&json!("rejected"), &json!("given_up")));
    assert_eq!((&told["final"], &told["delayed"]), (&json!(true), &Value::Null));
    let letter = list(&shop, "").await.remove(0);
    assert_eq!(letter["status"], "given_back");
    assert!(letter["decided_at"].is_string(), "{letter}");
    let notes = shop.stage().notes("dead_letter_give_back").await;
    assert_eq!(notes, [(REASON.to_owned(), json!({ "dead_letter": id }))], "a repetition changes nothing");
    assert_eq!(shop.stage().moves(order).await["rejected"], ["operator:tester", REASON]);
    let conflict =
        shop.operate("POST", &format!("/dead-letters/{id}/retry"), json!({ "reason": REASON })).await;
    assert_eq!(conflict.problem(), (409, "dead_letter_conflict".to_owned()));
    // Its buyer may buy.
    shop.unpaid(user.as_str(), "another").await;
    shop.finish().await;
}

async fn a_letter_is_decided_again_with_the_sale_as_it_is_today(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let orders = letters(&shop, 1).await;
    let (order, user) = &orders[0];
    let id = id_of(&list(&shop, "").await, order);
    let path = format!("/dead-letters/{id}/retry");
    let dry = shop.operate("POST", &path, json!({ "reason": REASON, "dry_run": true })).await;
    let outcome = json!({ "id": id, "outcome": "retried", "order_status": "awaiting_payment" });
    assert_eq!(dry.json(), outcome);
    assert_eq!(
        shop.stage().orders("awaiting_payment").await,
        1,
        "nothing was changed: the other sale has one"
    );
    let done = shop.operate("POST", &path, json!({ "reason": REASON })).await;
    assert_eq!((done.status, done.json()), (200, outcome), "{done:?}");
    assert_eq!(shop.status(user.as_str(), order).await, "awaiting_payment");
    // Its units count, and so does its buyer's limit.
    assert_eq!(shop.stock("drop").await["phone"]["held"], 1);
    let again = shop.operate("POST", &path, json!({ "reason": REASON })).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(shop.stage().orders("awaiting_payment").await, 2);
    assert_eq!(shop.stage().notes("dead_letter_retry").await.len(), 1);
    // No front reserved its unit, so the inventory does not know it: it is given up before the audit.
    assert_eq!(shop.act(user.as_str(), order, "cancel").await.status, 200);
    shop.finish().await;
}

async fn what_names_no_order_is_dismissed(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let order = shop.unpaid("ada", "k").await;
    let place = seckill::domain::OrderId::parse(&order).expect("ours");
    shop.stage().append(place, vec![b"garbage".to_vec(), br#"{"v":9}"#.to_vec()]).await;
    shop.unpaid(users_of(&shop, 0).next().expect("endless").as_str(), "k").await;
    shop.unpaid(users_of(&shop, 1).next().expect("endless").as_str(), "k").await;
    eventually("they are dead letters", async || list(&shop, "").await.len() == 2).await;
    for (letter, reason) in list(&shop, "").await.iter().zip(["garbage", "unknown_version"]) {
        assert_eq!(letter["reason"], reason);
        let id = letter["id"].as_str().expect("an id");
        let retry =
            shop.operate("POST", &format!("/dead-letters/{id}/retry"), json!({ "reason": "x" })).await;
        assert_eq!(retry.problem(), (409, "dead_letter_conflict".to_owned()));
        assert_eq!(retry.json()["reason"], reason);
        let path = format!("/dead-letters/{id}/give-back");
        let done = shop.operate("POST", &path, json!({ "reason": "nothing to give" })).await;
        assert_eq!(done.json()["outcome"], "dismissed", "{done:?}");
    }
    assert!(list(&shop, "?status=open").await.is_empty());
    assert_eq!(list(&shop, "?status=dismissed").await.len(), 2);
    shop.finish().await;
}

async fn several_letters_are_decided_together_and_a_dry_run_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let orders = letters(&shop, 5).await;
    let body = |dry_run: bool| json!({ "reason": REASON, "dry_run": dry_run, "because": "unknown_sale", "limit": 2 });
    let dry = shop.operate("POST", "/dead-letters/give-back", body(true)).await.json();
    assert_eq!(dry["dead_letters"].as_array().map(Vec::len), Some(2));
    assert_eq!(list(&shop, "?status=open").await.len(), 5, "nothing was changed");
    let mut page = body(false);
    let mut done = 0;
    loop {
        let answer = shop.operate("POST", "/dead-letters/give-back", page.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        let outcomes = answer["dead_letters"].as_array().expect("letters");
        assert!(outcomes.iter().all(|one| one["outcome"] == "given_back"), "{answer}");
        done += outcomes.len();
        page["cursor"] = answer["next_cursor"].clone();
        if page["cursor"].is_null() {
            break;
        }
    }
    assert_eq!((done, shop.stage().orders("rejected").await), (5, 5));
    let ids: Vec<String> =
        list(&shop, "").await.iter().map(|l| l["id"].as_str().expect("an id").to_owned()).collect();
    let by_id = json!({ "reason": REASON, "ids": ids });
    let again = shop.operate("POST", "/dead-letters/give-back", by_id).await.json();
    assert!(again["dead_letters"].as_array().expect("letters").iter().all(|one| one["outcome"] == "decided"));
    let other =
        shop.operate("POST", "/dead-letters/retry", json!({ "reason": REASON, "because": "garbage" })).await;
    assert_eq!(other.json()["dead_letters"], json!([]));
    for body in [
        json!({}),
        json!({ "reason": "" }),
        json!({ "reason": "x", "ids": ["x"] }),
        json!({ "reason": "x", "limit": 101 }),
        json!({ "reason": "x", "cursor": "x" }),
        json!({ "reason": "x", "all": true }),
    ] {
        let refused = shop.operate("POST", "/dead-letters/retry", body.clone()).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{body}");
    }
    let forbidden =
        operate(shop.admin, READ_ONLY_KEY, "POST", "/dead-letters/retry", json!({ "reason": "x" })).await;
    assert_eq!(forbidden.problem(), (403, "forbidden".to_owned()));
    for path in ["/dead-letters/9-1", "/dead-letters/0-99", "/dead-letters/x"] {
        let missing = shop.operate("GET", path, Value::Null).await;
        assert_eq!(missing.problem(), (404, "dead_letter_not_found".to_owned()), "{path}");
    }
    assert_eq!(orders.len(), 5);
    shop.finish().await;
}

async fn an_order_that_was_decided_in_another_way_is_left_alone(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let order = shop.unpaid("ada", "k").await;
    // A record of the same order that no writer could take.
    let id = seckill::domain::OrderId::parse(&order).expect("ours");
    let spoilt = OrderRecord {
        order_id: id,
        sku_id: SkuId::parse("no-such").expect("a slug"),
        ..record(&shop, &UserId::parse("ada").expect("a user"), id.month(), "k")
    };
    shop.stage().append(id, vec![spoilt.encode()]).await;
    shop.unpaid("ada", "another").await;
    eventually("it is a dead letter", async || list(&shop, "").await.len() == 1).await;
    let letter = id_of(&list(&shop, "").await, &order);
    let path = format!("/dead-letters/{letter}/give-back");
    let refused = shop.operate("POST", &path, json!({ "reason": "x" })).await;
    assert_eq!(refused.problem(), (409, "dead_letter_conflict".to_owned()));
    assert_eq!(refused.json()["order_status"], "awaiting_payment");
    assert_eq!(shop.status("ada", &order).await, "awaiting_payment", "its buyer keeps it");
    let closed =
        shop.operate("POST", &format!("/dead-letters/{letter}/retry"), json!({ "reason": "x" })).await;
    assert_eq!(closed.json()["order_status"], "awaiting_payment", "{closed:?}");
    assert!(list(&shop, "?status=open").await.is_empty());
    shop.finish().await;
}

async fn what_another_backend_had_decided_is_written_as_it_was_or_not_at_all(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    let month = Month::of_ms(seckill::clock::Clock::System.now_ms());
    let user = users_of(&shop, 0).next().expect("endless");
    // The record of an import whose sale comes late. Its order was paid, and its payment would stand beside it.
    let now_ms = seckill::clock::Clock::System.now_ms() + 60_000;
    let step =
        |kind: &str| TakenStep { kind: kind.to_owned(), by: None, why: None, at_ms: now_ms, node: None };
    let decided = Decided {
        state: OrderState::Paid,
        rejected: None,
        created_ms: now_ms,
        expires_ms: now_ms + 900_000,
        steps: vec![step("persisted"), step("paid")],
    };
    let plain = record(&shop, &user, month, "k");
    let v = OrderRecord::VERSION_DECIDED;
    let imported = OrderRecord { v, accepted_ms: now_ms, decided: Some(Box::new(decided)), ..plain };
    let order = imported.order_id.to_string();
    shop.stage().append(imported.order_id, vec![imported.encode()]).await;
    shop.open_sale("other", 1, &[("phone", 10)]).await;
    assert_eq!(shop.buy(user.as_str(), "other", "phone", "k").await.status, 202);
    eventually("it is a dead letter", async || list(&shop, "").await.len() == 1).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let path = format!("/dead-letters/{}/give-back", id_of(&list(&shop, "").await, &order));
    for body in [json!({ "reason": "x", "dry_run": true }), json!({ "reason": "x" })] {
        let refused = shop.operate("POST", &path, body).await.json();
        assert_eq!(refused["order_status"], "paid", "{refused}");
    }
    assert_eq!(shop.stage().orders("rejected").await, 0, "nothing was changed");
    assert_eq!(list(&shop, "?status=open").await.len(), 1);
    shop.stop().await;
    remove(&shop.config).await;
}
