//! Tests of webhooks: events are sent to addresses that operators gave.

use std::collections::BTreeMap;

use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::signature::is_signed;
use seckill::domain::subscription::SubscriptionChange;
use serde_json::{Value, json};

use crate::harness::{READ_ONLY_KEY, TestShop, config, eventually, migrated, open, operate};
use crate::receiver::Receiver;

in_both_modes!(
    a_receiver_gets_every_event_signed_and_in_order,
    a_receiver_that_is_down_loses_nothing_and_disturbs_nobody,
    a_webhook_is_paused_rotated_replayed_and_removed,
    what_is_under_way_takes_no_replay_back,
    a_receiver_that_takes_nothing_for_too_long_is_paused,
    a_webhook_that_was_resumed_is_not_given_up_for_what_was_before,
    only_public_addresses_are_called_and_only_by_who_may,
);

const NETWORKS: (&str, &str) = ("events.webhook_networks", "127.0.0.0/8");

async fn subscribe(shop: &TestShop, receiver: &Receiver, more: Value) -> (String, String) {
    let mut body = json!({ "url": receiver.url() });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let made = shop.operate("POST", "/webhooks", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |member: &str| made.json()[member].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

async fn webhook(shop: &TestShop, id: &str) -> Value {
    let all = shop.operate("GET", "/webhooks", Value::Null).await.json();
    let all = all["webhooks"].as_array().expect("webhooks").clone();
    all.into_iter().find(|webhook| webhook["id"] == id).unwrap_or(Value::Null)
}

async fn act(shop: &TestShop, id: &str, action: &str) -> Value {
    let done = shop.operate("POST", &format!("/webhooks/{id}/{action}"), json!({ "reason": "a test" })).await;
    assert_eq!(done.status, 200, "{action}: {done:?}");
    done.json()
}

async fn a_receiver_gets_every_event_signed_and_in_order(mode: Mode) {
    let shop = TestShop::start_with(mode, &[NETWORKS]).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let before = shop.unpaid("early", "k").await;
    let receiver = Receiver::start().await;
    let (_, secret) = subscribe(&shop, &receiver, json!({})).await;
    let mut wanted = Vec::new();
    for buyer in 0..8 {
        let user = format!("u{buyer}");
        let order = shop.unpaid(&user, "k").await;
        assert_eq!(shop.act(&user, &order, "cancel").await.status, 200);
        wanted.push(order);
    }
    eventually("all events are there", async || receiver.taken().len() >= 16).await;
    let mut steps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for call in receiver.taken() {
        let now_s = seckill::clock::Clock::System.now_ms() / 1000;
        assert!(
            is_signed(call.header("seckill-signature"), &call.body, &[secret.as_bytes()], now_s),
            "{call:?}"
        );
        assert_eq!(call.header("content-type"), "application/cloudevents+json");
        let event: Value = serde_json::from_slice(&call.body).expect("JSON");
        assert_eq!(call.header("seckill-event-id"), event["id"].as_str().expect("an id"));
        let order = event["subject"].as_str().expect("an order").to_owned();
        steps.entry(order).or_default().push(event["data"]["kind"].as_str().expect("a word").to_owned());
    }
    assert!(!steps.contains_key(&before), "it begins with the next event");
    for order in &wanted {
        assert_eq!(steps[order], ["persisted", "cancelled"]);
    }
    // Another one wants one kind, from the beginning.
    let other = Receiver::start().await;
    subscribe(&shop, &other, json!({ "kinds": ["cancelled"], "from": "oldest" })).await;
    eventually("all cancellations are there", async || other.taken().len() >= 8).await;
    assert!(other.taken().iter().all(|call| call.header("seckill-event-id").ends_with(".cancelled")));
    // No event goes out while the one before it of the same order was not taken.
    let slow = Receiver::start().await;
    slow.answer(500);
    let (failing, _) = subscribe(&shop, &slow, json!({ "from": "oldest" })).await;
    eventually("it fails", async || webhook(&shop, &failing).await["failing_since"].is_string()).await;
    let offered = slow.offered();
    assert!(offered.iter().all(|id| id.ends_with(".persisted")), "{offered:?}");
    slow.answer(200);
    eventually("it has all of them", async || slow.ids().len() == 17).await;
    shop.finish().await;
}

async fn a_receiver_that_is_down_loses_nothing_and_disturbs_nobody(mode: Mode) {
    let shop = TestShop::start_with(mode, &[NETWORKS, ("events.webhook_timeout_ms", "300")]).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let (down, well, silent) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    down.answer(500);
    silent.hang();
    let (failing, _) = subscribe(&shop, &down, json!({})).await;
    subscribe(&shop, &well, json!({})).await;
    subscribe(&shop, &silent, json!({})).await;
    for buyer in 0..6 {
        shop.unpaid(&format!("u{buyer}"), "k").await;
    }
    eventually("who is well has all", async || well.taken().len() >= 6).await;
    eventually("it is known to fail", async || {
        let webhook = webhook(&shop, &failing).await;
        webhook["failing_since"].is_string() && webhook["unread"] == 6
    })
    .await;
    assert!(down.calls() > 0 && down.taken().is_empty());
    down.answer(204);
    eventually("it has all of them", async || down.ids().len() == 6).await;
    eventually("it is well again", async || webhook(&shop, &failing).await["failing_since"].is_null()).await;
    assert_eq!(webhook(&shop, &failing).await["unread"], 0);
    shop.finish().await;
}

async fn a_webhook_is_paused_rotated_replayed_and_removed(mode: Mode) {
    let shop = TestShop::start_with(mode, &[NETWORKS]).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let receiver = Receiver::start().await;
    let (id, first) = subscribe(&shop, &receiver, json!({ "reason": "the ERP" })).await;
    act(&shop, &id, "pause").await;
    let paused = webhook(&shop, &id).await;
    assert_eq!((&paused["status"], &paused["why"]), (&json!("paused"), &json!("by tester: a test")));
    assert_eq!(paused["secret"], Value::Null, "the secret is shown once");
    shop.unpaid("ada", "k").await;
    let second = act(&shop, &id, "rotate").await["secret"].as_str().expect("a secret").to_owned();
    assert_ne!(first, second);
    assert_eq!(receiver.calls(), 0, "nothing is sent while it is paused");
    act(&shop, &id, "resume").await;
    eventually("it goes on where it was", async || receiver.taken().len() == 1).await;
    let call = receiver.taken().remove(0);
    let now_s = seckill::clock::Clock::System.now_ms() / 1000;
    for secret in [&first, &second] {
        let header = call.header("seckill-signature");
        assert!(is_signed(header, &call.body, &[secret.as_bytes()], now_s), "both secrets sign");
    }
    act(&shop, &id, "replay").await;
    eventually("everything is sent again", async || receiver.taken().len() == 2).await;
    let removed = shop.operate("DELETE", &format!("/webhooks/{id}?reason=done"), Value::Null).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    assert_eq!(webhook(&shop, &id).await, Value::Null);
    for (method, path) in [
        ("DELETE", format!("/webhooks/{id}?reason=done")),
        ("POST", format!("/webhooks/{id}/replay")),
        ("POST", format!("/webhooks/{id}/pause")),
        ("POST", "/webhooks/nothing/resume".to_owned()),
    ] {
        let missing = shop.operate(method, &path, json!({ "reason": "x" })).await;
        assert_eq!(missing.problem(), (404, "webhook_not_found".to_owned()), "{path}");
    }
    let notes = shop.stage().notes("webhook_create").await;
    assert_eq!(notes, [("the ERP".to_owned(), json!({ "subscription": id, "url": receiver.url() }))]);
    let all = shop.stage().audit(None).await;
    assert!(all.iter().all(|row| !row.iter().any(|text| text.contains("whsec_"))), "no secret is noted");
    shop.finish().await;
}

async fn what_is_under_way_takes_no_replay_back(mode: Mode) {
    let shop = TestShop::start_with(mode, &[NETWORKS]).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let receiver = Receiver::start().await;
    let (id, _) = subscribe(&shop, &receiver, json!({})).await;
    receiver.hold_answers();
    shop.unpaid("ada", "k").await;
    eventually("an event is under way", async || receiver.calls() == 1).await;
    act(&shop, &id, "replay").await;
    receiver.give_answers();
    eventually("everything is sent again", async || receiver.taken().len() == 2).await;
    eventually("and it goes on", async || webhook(&shop, &id).await["unread"] == 0).await;
    assert_eq!(receiver.ids().len(), 1);
    shop.finish().await;
}

async fn a_webhook_that_was_resumed_is_not_given_up_for_what_was_before(mode: Mode) {
    let config = config(mode, &[NETWORKS]);
    migrated(&config).await;
    let ports = open(&config).await;
    let shop = TestShop::start_on(config, ports.clone(), Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let (id, _) = subscribe(&shop, &receiver, json!({})).await;
    shop.unpaid("ada", "k").await;
    eventually("it fails", async || webhook(&shop, &id).await["failing_since"].is_string()).await;
    let before = ports.subscriptions.all().await.expect("subscriptions").remove(0);
    let failing_since_ms = before.failing_since_ms.expect("it fails");
    receiver.answer(200);
    act(&shop, &id, "resume").await;
    let given_up = SubscriptionChange::GiveUp { failing_since_ms, why: "too long".to_owned() };
    assert!(!ports.subscriptions.change(&before.id, &given_up).await.expect("a store"));
    assert_eq!(webhook(&shop, &id).await["status"], "active");
    eventually("it is sent", async || receiver.taken().len() == 1).await;
    shop.finish().await;
}

async fn a_receiver_that_takes_nothing_for_too_long_is_paused(mode: Mode) {
    let flags = [NETWORKS, ("events.webhook_pause_after_ms", "1000")];
    let shop = TestShop::start_with(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 99)]).await;
    let receiver = Receiver::start().await;
    receiver.answer(503);
    let (id, _) = subscribe(&shop, &receiver, json!({})).await;
    shop.unpaid("ada", "k").await;
    eventually("it is paused", async || webhook(&shop, &id).await["status"] == "paused").await;
    let paused = webhook(&shop, &id).await;
    assert!(paused["why"].as_str().is_some_and(|why| why.contains("503")), "{paused}");
    eventually("it is noted", async || shop.stage().notes("webhook_give_up").await.len() == 1).await;
    receiver.answer(200);
    act(&shop, &id, "resume").await;
    eventually("nothing was lost", async || receiver.ids().len() == 1).await;
    shop.finish().await;
}

async fn only_public_addresses_are_called_and_only_by_who_may(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let receiver = Receiver::start().await;
    for (url, what) in [
        (receiver.url(), "a loopback address"),
        (receiver.url().replace("http:", "https:"), "the same over TLS"),
        ("x".repeat(1025), "a long one"),
        (String::new(), "none"),
    ] {
        let refused = shop.operate("POST", "/webhooks", json!({ "url": url })).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{what}");
        assert_eq!(refused.json()["errors"][0]["pointer"], "/url", "{what}");
    }
    let good = format!("https{}", "://shop.example/hook");
    for body in [
        json!({ "url": good, "kinds": ["melted"] }),
        json!({ "url": good, "from": "yesterday" }),
        json!({ "url": good, "reason": "" }),
        json!({ "url": good, "secret": "mine" }),
        json!({}),
    ] {
        let refused = shop.operate("POST", "/webhooks", body.clone()).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{body}");
    }
    let forbidden = operate(shop.admin, READ_ONLY_KEY, "POST", "/webhooks", json!({ "url": good })).await;
    assert_eq!(forbidden.problem(), (403, "forbidden".to_owned()));
    assert_eq!(shop.operate("GET", "/webhooks", Value::Null).await.json(), json!({ "webhooks": [] }));
    for nth in 0..32 {
        let url = format!("{good}/{nth}");
        let made = shop.operate("POST", "/webhooks", json!({ "url": url })).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    let full = shop.operate("POST", "/webhooks", json!({ "url": good })).await;
    assert_eq!(full.problem(), (409, "too_many_webhooks".to_owned()));
    assert_eq!(receiver.calls(), 0);
    shop.finish().await;
}
