//! Tests of refunds that fail, of the comparison with the provider's books, and of what a person has to do.

use std::time::Duration;

use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::PaymentId;
use seckill::domain::payment::{RefundKey, RefundState};
use seckill::ports::RefundStep;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::harness::{Books, TestShop, eventually, open, remove};
use crate::provider::{Provider, paying_shop, tell};

in_both_modes!(
    a_refund_that_fails_later_is_open_again,
    a_failed_refund_calls_until_a_person_has_paid_it_back,
    a_failed_refund_of_an_ended_order_is_tried_again,
    a_failed_refund_is_tried_again_and_the_capture_that_paid_stays,
    a_refund_that_was_paid_in_another_way_is_settled,
    a_refund_that_failed_unheard_is_found_in_the_books,
    money_that_somebody_paid_back_is_found_in_the_books,
    a_capture_that_cannot_be_taken_keeps_no_other_one_out,
    a_late_step_changes_no_refund,
    a_row_of_a_newer_version_holds_up_no_other,
    a_refund_without_an_end_calls_after_an_hour,
);

async fn a_refund_that_fails_later_is_open_again(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    let refund = json!({ "reason": "a test" });
    let refunded = shop.operate("POST", &format!("/orders/{order}/refund"), refund.clone()).await;
    assert_eq!(refunded.status, 200, "{refunded:?}");
    let state = async || {
        let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
        read["payments"][0]["refund"]["status"].clone()
    };
    eventually("it is paid back", async || state().await == "done").await;
    // The bank sends it back.
    let (_, refunds) = provider.simulator.books().get("refunds", &[]);
    let id = refunds["data"][0]["id"].as_str().expect("an id").to_owned();
    provider.simulator.books().fail_refund(&id).expect("books");
    provider.events.run_once().await;
    eventually("it has failed", async || state().await == "failed").await;
    assert_eq!(provider.books(), [(payment.clone(), 19_900, 0)]);
    shop.operate("POST", &format!("/orders/{order}/refund"), refund).await;
    eventually("it is paid back again", async || provider.books() == [(payment.clone(), 19_900, 19_900)])
        .await;
    eventually("it is told", async || state().await == "done").await;
    shop.finish_with(Books::Audited).await;
}

async fn a_failed_refund_calls_until_a_person_has_paid_it_back(mode: Mode) {
    let (mut shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    let refund = json!({ "reason": "a test" });
    let refunded = shop.operate("POST", &format!("/orders/{order}/refund"), refund).await;
    assert_eq!(refunded.status, 200, "{refunded:?}");
    let books = provider.simulator.books();
    eventually("it is paid back", async || provider.books() == [(payment.clone(), 19_900, 19_900)]).await;
    let refund = books.get("refunds", &[]).1["data"][0].clone();
    books.fail_refund(refund["id"].as_str().expect("an id")).expect("books");
    provider.events.run_once().await;
    let state = async |shop: &TestShop| {
        let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
        read["payments"][0]["refund"]["status"].clone()
    };
    eventually("it has failed", async || state(&shop).await == "failed").await;
    shop.stop().await;
    assert_eq!(stuck_refunds(&shop).await, 1);
    let backend = open(&shop.config).await;
    shop = TestShop::start_on(shop.config.clone(), backend, Role::All).await;
    reconcile(&shop).await;
    assert_eq!(state(&shop).await, "failed", "nobody has paid it back");
    let capture = refund["payment_intent"].as_str().expect("a capture").to_owned();
    let by_hand = [("payment_intent".to_owned(), capture), ("amount".to_owned(), "19900".to_owned())];
    assert_eq!(books.post("refunds", &by_hand, None).0, 200);
    reconcile(&shop).await;
    eventually("it is done", async || state(&shop).await == "done").await;
    shop.stop().await;
    assert_eq!(stuck_refunds(&shop).await, 0);
    let backend = open(&shop.config).await;
    TestShop::start_on(shop.config.clone(), backend, Role::All).await.finish_with(Books::Audited).await;
}

/// Counts the stuck refunds of a shop that stands still.
async fn stuck_refunds(shop: &TestShop) -> u64 {
    let ports = open(&shop.config).await;
    let each = ports.payments.instances().into_iter().map(|at| ports.refunds.stuck(at));
    futures::future::try_join_all(each).await.expect("counts").iter().sum()
}

async fn reconcile(shop: &TestShop) {
    let done = shop.operate("POST", "/payments/reconcile", json!({ "days": 1, "reason": "a test" })).await;
    assert_eq!((done.status, &done.json()["found"]), (200, &json!(0)), "{done:?}");
}

/// A captured payment.
struct Paid {
    order: String,
    payment: String,
    /// The event that tells of it.
    event: Value,
}

impl Paid {
    fn id(&self) -> PaymentId {
        PaymentId::parse(&self.payment).expect("ours")
    }

    fn capture(&self) -> &str {
        self.event["data"]["object"]["payment_intent"].as_str().expect("a capture")
    }
}

/// Buys a phone, opens a payment and pays on its page; the shop does not hear of it.
async fn captured(shop: &TestShop, provider: &Provider, user: &str) -> Paid {
    let order = shop.unpaid(user, "k").await;
    let (payment, page) = shop.payment(user, &order).await;
    provider.press(&page, "pay").await;
    let event = provider.simulator.books().take_events().remove(0);
    Paid { order, payment, event }
}

async fn payments(shop: &TestShop, user: &str, order: &str) -> Value {
    shop.get(user, &format!("/api/v1/orders/{order}")).await.json()["payments"].clone()
}

async fn refund_order(shop: &TestShop, order: &str) -> Answer {
    shop.operate("POST", &format!("/orders/{order}/refund"), json!({ "reason": "a test" })).await
}

async fn retry(shop: &TestShop, refund: &str) -> Answer {
    shop.operate("POST", &format!("/refunds/{refund}/retry"), json!({ "reason": "a test" })).await
}

async fn heard(shop: &TestShop, event: &Value) {
    assert_eq!(tell(shop.shopper, event).await.status, 200, "{event}");
}

/// Lets the newest refund fail, as a bank that sends it back, and throws the event away.
fn fail_newest_refund(provider: &Provider) {
    let books = provider.simulator.books();
    let refund = books.get("refunds", &[]).1["data"][0].clone();
    books.fail_refund(refund["id"].as_str().expect("an id")).expect("books");
}

async fn a_failed_refund_of_an_ended_order_is_tried_again(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    let mut lie = paid.event.clone();
    (lie["id"], lie["type"]) = ("evt_lie".into(), "checkout.session.expired".into());
    heard(&shop, &lie).await;
    assert_eq!(shop.act("ada", &paid.order, "cancel").await.status, 200);
    heard(&shop, &paid.event).await;
    let state = async || payments(&shop, "ada", &paid.order).await[0]["refund"]["status"].clone();
    eventually("it is paid back", async || state().await == "done").await;
    fail_newest_refund(&provider);
    provider.events.run_once().await;
    eventually("it has failed", async || state().await == "failed").await;
    let refused = refund_order(&shop, &paid.order).await;
    assert_eq!(refused.problem(), (409, "order_not_refundable".to_owned()), "nobody has paid this order");
    let again = retry(&shop, &paid.payment).await;
    let told = json!({ "refund": paid.payment, "status": "owed" });
    assert_eq!((again.status, again.json()), (200, told), "{again:?}");
    eventually("it is paid back again", async || provider.books()[0].2 == 19_900).await;
    eventually("it is told", async || state().await == "done").await;
    assert_eq!(retry(&shop, &paid.payment).await.problem(), (404, "refund_not_found".to_owned()));
    shop.finish_with(Books::Audited).await;
}

async fn a_failed_refund_is_tried_again_and_the_capture_that_paid_stays(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let first = captured(&shop, &provider, "ada").await;
    let mut lie = first.event.clone();
    (lie["id"], lie["type"]) = ("evt_lie".into(), "checkout.session.expired".into());
    heard(&shop, &lie).await;
    let (_, page) = shop.payment("ada", &first.order).await;
    provider.press(&page, "pay").await;
    let second = provider.simulator.books().take_events().remove(0);
    heard(&shop, &second).await;
    assert_eq!(shop.status("ada", &first.order).await, "paid");
    heard(&shop, &first.event).await;
    let refunds = async || {
        let all = payments(&shop, "ada", &first.order).await;
        [all[0]["refund"]["status"].clone(), all[1]["refund"]["status"].clone()]
    };
    eventually("the first is paid back", async || refunds().await == [json!("done"), Value::Null]).await;
    fail_newest_refund(&provider);
    provider.events.run_once().await;
    eventually("it has failed", async || refunds().await == [json!("failed"), Value::Null]).await;
    // However often it is asked for, the order stays paid.
    assert_eq!(retry(&shop, &first.payment).await.status, 200);
    retry(&shop, &first.payment).await;
    eventually("the first is paid back", async || refunds().await == [json!("done"), Value::Null]).await;
    assert_eq!(shop.status("ada", &first.order).await, "paid");
    shop.finish_with(Books::Audited).await;
}

async fn a_refund_that_was_paid_in_another_way_is_settled(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    heard(&shop, &paid.event).await;
    let settle = async |refund: &str| {
        shop.operate("POST", &format!("/refunds/{refund}/settle"), json!({ "reason": "bank transfer" })).await
    };
    assert_eq!(
        settle(&paid.payment).await.problem(),
        (404, "refund_not_found".to_owned()),
        "nothing is owed"
    );
    assert_eq!(refund_order(&shop, &paid.order).await.status, 200);
    let state = async || payments(&shop, "ada", &paid.order).await[0]["refund"]["status"].clone();
    eventually("it is paid back", async || state().await == "done").await;
    assert_eq!(settle(&paid.payment).await.status, 404, "it is done");
    fail_newest_refund(&provider);
    provider.events.run_once().await;
    eventually("it has failed", async || state().await == "failed").await;
    let settled = settle(&paid.payment).await;
    let told = json!({ "refund": paid.payment, "status": "settled" });
    assert_eq!((settled.status, settled.json()), (200, told), "{settled:?}");
    assert_eq!(state().await, "settled");
    assert_eq!(settle("pi_unknown").await.status, 404);
    reconcile(&shop).await;
    assert_eq!(state().await, "settled", "the books do not show it");
    shop.finish_with(Books::Audited).await;
}

async fn a_refund_that_failed_unheard_is_found_in_the_books(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    heard(&shop, &paid.event).await;
    assert_eq!(refund_order(&shop, &paid.order).await.status, 200);
    let state = async || payments(&shop, "ada", &paid.order).await[0]["refund"]["status"].clone();
    eventually("it is paid back", async || state().await == "done").await;
    reconcile(&shop).await;
    assert_eq!(state().await, "done", "the books say so, too");
    fail_newest_refund(&provider);
    provider.simulator.books().take_events();
    reconcile(&shop).await;
    eventually("it has failed", async || state().await == "failed").await;
    assert_eq!(refund_order(&shop, &paid.order).await.status, 200);
    eventually("it is paid back again", async || state().await == "done").await;
    shop.finish_with(Books::Audited).await;
}

async fn money_that_somebody_paid_back_is_found_in_the_books(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    heard(&shop, &paid.event).await;
    let by_hand = [("payment_intent", paid.capture()), ("amount", "19900")];
    let by_hand = by_hand.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(provider.simulator.books().post("refunds", &by_hand, None).0, 200);
    provider.simulator.books().take_events();
    reconcile(&shop).await;
    reconcile(&shop).await;
    let all = payments(&shop, "ada", &paid.order).await;
    let notices = all[0]["notices"].as_array().cloned().unwrap_or_default();
    assert_eq!(notices.len(), 1, "it is noticed once: {all}");
    assert_eq!(notices[0]["kind"], "refund.unasked");
    assert_eq!(shop.status("ada", &paid.order).await, "paid", "a person decides");
    shop.finish().await;
}

async fn a_capture_that_cannot_be_taken_keeps_no_other_one_out(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 2)]).await;
    let good = captured(&shop, &provider, "ada").await;
    let bad = captured(&shop, &provider, "bob").await;
    let stage = shop.stage();
    stage.damage("payments", bad.id(), "request = REPLACE(request, '{', '<')").await;
    let done = shop.operate("POST", "/payments/reconcile", json!({ "days": 1, "reason": "a test" })).await;
    assert!(done.status >= 500, "an operator hears that something is missing: {done:?}");
    assert_eq!(shop.status("ada", &good.order).await, "paid");
    stage.damage("payments", bad.id(), "request = REPLACE(request, '<', '{')").await;
    heard(&shop, &bad.event).await;
    shop.finish_with(Books::Audited).await;
}

async fn a_late_step_changes_no_refund(mode: Mode) {
    let (mut shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    heard(&shop, &paid.event).await;
    provider.simulator.stop().await;
    assert_eq!(refund_order(&shop, &paid.order).await.status, 200);
    shop.stop().await;
    let ports = open(&shop.config).await;
    let key = RefundKey::Payment(paid.id());
    let step = async |capture: Option<&str>, from: RefundState, to: RefundState| {
        let step = RefundStep { key: &key, capture, from: &[from], to, again_in: Some(Duration::ZERO) };
        ports.refunds.advance(&step).await.expect("a step")
    };
    let (owed, sent, done) = (RefundState::Owed, RefundState::Sent, RefundState::Done);
    assert!(!step(None, sent, done).await, "an event of a try before");
    assert!(!step(Some("pi_of_another_capture"), owed, done).await);
    assert!(step(Some(paid.capture()), owed, done).await);
    assert!(!step(Some(paid.capture()), owed, sent).await, "it is done");
    assert!(step(None, done, owed).await);
    let instances: Vec<_> = ports.payments.instances().into_iter().cycle().take(16).collect();
    let due = instances.into_iter().map(|at| ports.refunds.due(at, 10));
    let taken = futures::future::try_join_all(due).await.expect("due");
    assert_eq!(taken.concat().len(), 1, "nobody takes what another one has taken");
    drop(ports);
    remove(&shop.config).await;
}

async fn a_row_of_a_newer_version_holds_up_no_other(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 2)]).await;
    let new = captured(&shop, &provider, "ada").await;
    let usual = captured(&shop, &provider, "bob").await;
    shop.stage().damage("payments", new.id(), "state = 'pondering'").await;
    shop.stage().ask_now().await;
    eventually("the other one is asked about", async || shop.status("bob", &usual.order).await == "paid")
        .await;
    let read = shop.get("ada", &format!("/api/v1/orders/{}", new.order)).await;
    assert_eq!((read.status, &read.json()["payments"]), (200, &Value::Null), "it is passed over: {read:?}");
    shop.stage().damage("payments", new.id(), "state = 'open'").await;
    heard(&shop, &new.event).await;
    shop.finish_with(Books::Audited).await;
}

async fn a_refund_without_an_end_calls_after_an_hour(mode: Mode) {
    let (mut shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let paid = captured(&shop, &provider, "ada").await;
    heard(&shop, &paid.event).await;
    provider.simulator.stop().await;
    assert_eq!(refund_order(&shop, &paid.order).await.status, 200);
    shop.stop().await;
    assert_eq!(stuck_refunds(&shop).await, 0, "it is young");
    shop.stage().damage("refunds", paid.id(), "created_ms = created_ms - 3700000").await;
    assert_eq!(stuck_refunds(&shop).await, 1);
    remove(&shop.config).await;
}
