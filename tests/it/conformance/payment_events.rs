//! Tests of what the payment provider tells: what changes something, what must not, and that no money is lost (I7).

use seckill::clock::Clock;
use seckill::config::{Mode, Secret};
use seckill::provider::simulator::{Faults, sign};
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{Books, TestShop, eventually};
use crate::provider::{
    DEPLOYMENT, Event, PREVIOUS_SECRET, WEBHOOK, WEBHOOK_SECRET, paying_shop, send_event, tell,
};

in_both_modes!(
    nobody_without_a_secret_of_the_shop_is_heard,
    both_secrets_are_heard_while_they_change,
    what_is_no_event_changes_nothing,
    events_of_others_are_taken_and_change_nothing,
    a_complete_session_that_is_not_paid_pays_nothing,
    an_event_that_comes_fifty_times_at_once_pays_once,
    money_for_an_order_that_has_ended_goes_back,
    money_of_another_amount_or_currency_goes_back,
    money_for_an_order_that_is_paid_goes_back,
    money_for_no_order_is_kept_and_goes_back,
    an_event_before_its_payment_is_known_pays_later,
    events_that_are_lost_late_repeated_and_forged_lose_no_money,
    what_is_done_at_the_provider_stands_with_its_payment,
    a_shop_without_a_provider_hears_nothing,
);

const NOTHING_CHANGED: (i64, i64, i64) = (0, 0, 0);

/// Answers how many events, refunds and orphans there are.
async fn traces(shop: &TestShop) -> (i64, i64, i64) {
    let count = async |table| shop.stage().sum("COUNT(*)", table).await;
    (count("payment_events").await, count("refunds").await, count("orphan_captures").await)
}

fn event<'a>(id: &'a str, payment: &'a str, capture: &'a str) -> Event<'a> {
    Event { id, payment, amount: 19_900, currency: "cny", capture }
}

async fn heard(shop: &TestShop, event: &Value) {
    let answer = tell(shop.shopper, event).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "received": true })), "{event}");
}

async fn signed(shop: &TestShop, secret: &str, at_s: i64, body: &str) -> Answer {
    let signature = sign(&Secret::new(secret), at_s, body.as_bytes());
    send_event(shop.shopper, &signature, body.to_owned()).await
}

fn now_s() -> i64 {
    Clock::System.now_ms() / 1000
}

async fn nobody_without_a_secret_of_the_shop_is_heard(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, _) = shop.payment("ada", &order).await;
    let body = event("evt_1", &payment, "pi_1").completed().to_string();
    let refused = (401, "unauthenticated".to_owned());
    assert_eq!(signed(&shop, "whsec_of-somebody-else", now_s(), &body).await.problem(), refused);
    assert_eq!(signed(&shop, WEBHOOK_SECRET, now_s() - 330, &body).await.problem(), refused, "replayed");
    assert_eq!(signed(&shop, WEBHOOK_SECRET, now_s() + 330, &body).await.problem(), refused);
    let other = sign(&Secret::new(WEBHOOK_SECRET), now_s(), b"another body");
    assert_eq!(send_event(shop.shopper, &other, body.clone()).await.problem(), refused);
    assert_eq!(call(shop.shopper, "POST", WEBHOOK, &[], body.clone()).await.problem(), refused);
    for broken in ["", "t=1", "v1=00", &format!("t={},v1=", now_s())] {
        assert_eq!(send_event(shop.shopper, broken, body.clone()).await.problem(), refused, "{broken}");
    }
    assert_eq!(
        (traces(&shop).await, shop.status("ada", &order).await),
        (NOTHING_CHANGED, "awaiting_payment".into())
    );
    shop.finish().await;
}

async fn both_secrets_are_heard_while_they_change(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 2)]).await;
    for (key, secret) in [("a", PREVIOUS_SECRET), ("b", WEBHOOK_SECRET)] {
        let order = shop.unpaid("ada", key).await;
        let (payment, _) = shop.payment("ada", &order).await;
        let body = event(&format!("evt_{key}"), &payment, &format!("pi_{key}")).completed().to_string();
        assert_eq!(signed(&shop, secret, now_s(), &body).await.status, 200);
        assert_eq!(shop.status("ada", &order).await, "paid");
    }
    shop.finish().await;
}

async fn what_is_no_event_changes_nothing(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[("payment.webhook_body_bytes_max", "65536")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let malformed = (400, "malformed_json".to_owned());
    for body in
        ["", "{", "[]", "null", "{\"id\":\"evt_1\"}", "{\"type\":\"checkout.session.completed\"}", "\u{0}"]
    {
        assert_eq!(signed(&shop, WEBHOOK_SECRET, now_s(), body).await.problem(), malformed, "{body}");
    }
    let mut long_id = event("evt_1", "pay_x", "pi_1").completed();
    long_id["id"] = "e".repeat(256).into();
    assert_eq!(tell(shop.shopper, &long_id).await.problem(), malformed);
    let huge = format!("{{\"id\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(
        signed(&shop, WEBHOOK_SECRET, now_s(), &huge).await.problem(),
        (413, "body_too_large".to_owned())
    );
    // What is large and within the bound is read.
    let mut large = event("evt_2", "pay_x", "pi_2").completed();
    large["type"] = "invoice.paid".into();
    large["padding"] = "x".repeat(60_000).into();
    heard(&shop, &large).await;
    assert_eq!(traces(&shop).await, NOTHING_CHANGED);
    shop.finish().await;
}

async fn events_of_others_are_taken_and_change_nothing(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, _) = shop.payment("ada", &order).await;
    let ours = event("evt_1", &payment, "pi_1").completed();
    let mut live = ours.clone();
    live["livemode"] = true.into();
    heard(&shop, &live).await;
    let mut staging = ours.clone();
    staging["data"]["object"]["metadata"]["seckill_deployment"] = "staging".into();
    heard(&shop, &staging).await;
    let mut nameless = ours.clone();
    nameless["data"]["object"]["metadata"] = json!({});
    heard(&shop, &nameless).await;
    let mut dispute = ours.clone();
    dispute["type"] = "charge.dispute.created".into();
    heard(&shop, &dispute).await;
    assert_eq!(
        (traces(&shop).await, shop.status("ada", &order).await),
        (NOTHING_CHANGED, "awaiting_payment".into())
    );
    heard(&shop, &ours).await;
    assert_eq!(shop.status("ada", &order).await, "paid", "the same event of our own");
    shop.finish().await;
}

async fn a_complete_session_that_is_not_paid_pays_nothing(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, _) = shop.payment("ada", &order).await;
    let mut unpaid = event("evt_1", &payment, "pi_1").completed();
    unpaid["data"]["object"]["payment_status"] = "unpaid".into();
    heard(&shop, &unpaid).await;
    assert_eq!(
        (traces(&shop).await, shop.status("ada", &order).await),
        (NOTHING_CHANGED, "awaiting_payment".into())
    );
    // The money came after all.
    let mut paid = event("evt_2", &payment, "pi_1").completed();
    paid["type"] = "checkout.session.async_payment_succeeded".into();
    heard(&shop, &paid).await;
    assert_eq!(shop.status("ada", &order).await, "paid");
    shop.finish().await;
}

async fn an_event_that_comes_fifty_times_at_once_pays_once(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, _) = shop.payment("ada", &order).await;
    let told = event("evt_1", &payment, "pi_1").completed();
    // The provider may also tell the same in other words.
    let other = event("evt_2", &payment, "pi_1").completed();
    let all = (0..50).map(|n| tell(shop.shopper, if n % 5 == 0 { &other } else { &told }));
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(shop.status("ada", &order).await, "paid");
    assert_eq!(traces(&shop).await, (1, 0, 0));
    shop.finish().await;
}

async fn money_for_an_order_that_has_ended_goes_back(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    let told = provider.simulator.books().take_events();
    // The order ends as if the provider had said that nothing was paid.
    let mut lie = told[0].clone();
    (lie["id"], lie["type"]) = ("evt_lie".into(), "checkout.session.expired".into());
    heard(&shop, &lie).await;
    assert_eq!(shop.act("ada", &order, "cancel").await.status, 200);
    heard(&shop, &told[0]).await;
    eventually("the money is back", async || provider.books() == [(payment.clone(), 19_900, 19_900)]).await;
    let refund = async || {
        let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
        (read["status"].clone(), read["payments"][0]["refund"]["status"].clone())
    };
    eventually("it is told", async || refund().await == (json!("cancelled"), json!("done"))).await;
    shop.finish_with(Books::Audited).await;
}

async fn money_of_another_amount_or_currency_goes_back(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 2)]).await;
    for (key, amount, currency) in [("a", 1, "cny"), ("b", 19_900, "jpy")] {
        let order = shop.unpaid("ada", key).await;
        let (payment, _) = shop.payment("ada", &order).await;
        let (id, capture) = (format!("evt_{key}"), format!("pi_{key}"));
        let told = Event { id: &id, payment: &payment, amount, currency, capture: &capture }.completed();
        heard(&shop, &told).await;
        let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
        let refund = &read["payments"][0]["refund"];
        assert_eq!(
            (&read["status"], &refund["reason"]),
            (&json!("awaiting_payment"), &json!("other_amount"))
        );
        assert_eq!(refund["amount"], json!({ "amount": amount, "currency": currency.to_uppercase() }));
        assert_eq!(shop.act("ada", &order, "cancel").await.status, 200, "the order is not paid");
    }
    shop.finish().await;
}

async fn money_for_an_order_that_is_paid_goes_back(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (first, _) = shop.payment("ada", &order).await;
    let (_, sessions) = provider.simulator.books().get("checkout/sessions", &[]);
    let session = sessions["data"][0]["id"].as_str().expect("an id").to_owned();
    provider.simulator.books().post(&format!("checkout/sessions/{session}/expire"), &[], None);
    provider.events.run_once().await;
    let (_, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    assert_eq!(shop.status("ada", &order).await, "paid");
    heard(&shop, &event("evt_late", &first, "pi_late").completed()).await;
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!(
        (&read["status"], &read["payments"][0]["refund"]["reason"]),
        (&json!("paid"), &json!("paid_before"))
    );
    assert_eq!(read["payments"][1]["refund"], Value::Null);
    shop.finish().await;
}

async fn money_for_no_order_is_kept_and_goes_back(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[("payment.orphan_ms", "1000")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, _) = shop.payment("ada", &order).await;
    let unknown = payment.replace("_1", "_2");
    for (number, told) in ["", "pay_nothing", &unknown].into_iter().enumerate() {
        let (id, capture) = (format!("evt_{number}"), format!("pi_{number}"));
        heard(&shop, &event(&id, told, &capture).completed()).await;
        heard(&shop, &event(&id, told, &capture).completed()).await;
    }
    assert_eq!(traces(&shop).await, (0, 0, 3));
    // The provider knows none of these captures, so a person has to see to them.
    eventually("it is tried to pay them back", async || {
        shop.stage().sum("SUM(state = 'failed')", "orphan_captures").await == 3
    })
    .await;
    assert_eq!(shop.status("ada", &order).await, "awaiting_payment");
    shop.finish().await;
}

async fn an_event_before_its_payment_is_known_pays_later(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let payment = format!("pay_{}_1", order.strip_prefix("ord_").expect("an order id"));
    heard(&shop, &event("evt_1", &payment, "pi_1").completed()).await;
    assert_eq!(
        (traces(&shop).await, shop.status("ada", &order).await),
        ((0, 0, 1), "awaiting_payment".into())
    );
    assert_eq!(shop.payment("ada", &order).await.0, payment);
    shop.stage().ask_now().await;
    eventually("the order is paid", async || shop.status("ada", &order).await == "paid").await;
    eventually("nothing is left over", async || traces(&shop).await == (0, 0, 0)).await;
    shop.finish().await;
}

async fn events_that_are_lost_late_repeated_and_forged_lose_no_money(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 20)]).await;
    provider.events.set_faults(Faults {
        lost_percent: 30,
        repeated_percent: 50,
        forged_percent: 50,
        delay_ms_max: 300,
    });
    let mut orders = Vec::new();
    for number in 0..20 {
        let user = format!("user-{number}");
        let order = shop.unpaid(&user, "k").await;
        let (_, page) = shop.payment(&user, &order).await;
        provider.press(&page, "pay").await;
        orders.push((user, order));
    }
    tokio::select! {
        () = provider.events.run() => {}
        () = async {
            shop.stage().ask_now().await;
            eventually("all are paid", async || shop.stage().orders("paid").await == 20).await;
        } => {}
    }
    assert_eq!(shop.stage().sum("COUNT(*)", "refunds").await, 0);
    assert_eq!(provider.books().len(), 20);
    shop.finish_with(Books::Audited).await;
}

async fn what_is_done_at_the_provider_stands_with_its_payment(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    let paid = provider.simulator.books().take_events().remove(0);
    heard(&shop, &paid).await;
    let capture = paid["data"]["object"]["payment_intent"].clone();
    let by_hand = |id: &str, kind: &str, capture: &Value| {
        let object = json!({ "id": "x_1", "status": "succeeded", "payment_intent": capture, "metadata": {} });
        json!({ "id": id, "type": kind, "livemode": false, "data": { "object": object } })
    };
    let before = traces(&shop).await;
    for (n, reference) in ["pi_unknown", "../accounts", ""].into_iter().enumerate() {
        heard(&shop, &by_hand(&format!("evt_other_{n}"), "charge.dispute.created", &json!(reference))).await;
    }
    assert_eq!(traces(&shop).await, before, "what is about no capture of ours");
    heard(&shop, &by_hand("evt_dispute", "charge.dispute.created", &capture)).await;
    heard(&shop, &by_hand("evt_dispute", "charge.dispute.created", &capture)).await;
    heard(&shop, &by_hand("evt_refund", "refund.created", &capture)).await;
    let mut of_nobody = by_hand("evt_of_nobody", "refund.updated", &capture);
    of_nobody["data"]["object"]["metadata"] =
        json!({ "seckill_payment": format!("{payment}9"), "seckill_deployment": DEPLOYMENT });
    heard(&shop, &of_nobody).await;
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    let notices = read["payments"][0]["notices"].as_array().expect("notices").clone();
    let mut kinds: Vec<&str> = notices.iter().filter_map(|notice| notice["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["charge.dispute.created", "refund.created", "refund.updated"], "{read}");
    assert!(notices.iter().all(|notice| notice["at"].is_string()), "{read}");
    assert_eq!((&read["status"], &read["payments"][0]["id"]), (&json!("paid"), &json!(&payment)));
    // The same account serves another deployment, too.
    let staging = [
        ("expires_at", (now_s() + 3_600).to_string()),
        ("success_url", "https://staging.example".to_owned()),
        ("line_items[0][price_data][unit_amount]", "100".to_owned()),
        ("line_items[0][price_data][currency]", "cny".to_owned()),
        ("line_items[0][price_data][product_data][name]", "a phone".to_owned()),
        ("payment_intent_data[metadata][seckill_payment]", payment),
        ("payment_intent_data[metadata][seckill_deployment]", "staging".to_owned()),
    ];
    let staging = staging.map(|(name, value)| (name.to_owned(), value));
    let (_, session) = provider.simulator.books().post("checkout/sessions", &staging, None);
    provider.press(session["url"].as_str().expect("a page"), "pay").await;
    let capture = provider.simulator.books().take_events()[0]["data"]["object"]["payment_intent"].clone();
    let before = traces(&shop).await;
    heard(&shop, &by_hand("evt_staging", "charge.dispute.created", &capture)).await;
    assert_eq!(traces(&shop).await, before, "a dispute of another deployment");
    shop.finish().await;
}

async fn a_shop_without_a_provider_hears_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let told = event("evt_1", "pay_x", "pi_1").completed();
    assert_eq!(tell(shop.shopper, &told).await.problem(), (404, "not_found".to_owned()));
    assert_eq!(shop.act("ada", &order, "pay").await.problem(), (409, "order_not_payable".to_owned()));
    shop.finish().await;
}
