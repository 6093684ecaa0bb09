//! Tests of orders that are paid: on the provider's page, late, twice, or not at all.

use seckill::app::Role;
use seckill::config::{Mode, ProviderKind};
use seckill::domain::PaymentId;
use serde_json::{Value, json};

use crate::harness::{Books, TestShop, eventually, open, open_sale, sale_body};
use crate::provider::{paying_shop, tell};

in_both_modes!(
    a_buyer_pays_on_the_page_and_the_order_is_paid,
    only_what_waits_for_its_payment_can_be_paid,
    many_who_want_to_pay_at_once_find_one_payment,
    an_order_that_costs_nothing_is_paid_without_a_provider,
    a_declined_card_changes_nothing_and_can_be_tried_again,
    a_payment_whose_event_was_lost_is_found_by_asking,
    a_payment_whose_event_was_lost_is_found_in_the_books,
    who_gives_an_order_up_cannot_pay_it_any_more,
    who_has_paid_unheard_cannot_give_the_order_up,
    a_provider_that_is_down_changes_nothing,
    an_order_with_an_open_payment_expires_when_that_is_closed,
    a_payment_at_the_last_moment_counts,
    an_order_whose_provider_is_silent_expires_and_late_money_goes_back,
    after_a_closed_payment_another_one_can_be_opened,
    what_is_sold_out_may_return_until_all_of_it_is_paid,
    a_price_that_the_provider_does_not_take_is_refused_before_it_is_sold,
    a_sale_of_before_the_provider_is_not_put_in_place_when_it_cannot_be_paid,
    an_order_that_costs_nothing_cannot_be_paid_after_its_time,
    a_failure_that_the_provider_repeats_ends_with_the_next_attempt,
);

async fn a_buyer_pays_on_the_page_and_the_order_is_paid(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let order = shop.unpaid("ada", "k").await;
    let opened = shop.act("ada", &order, "pay").await;
    assert_eq!(opened.status, 201, "{opened:?}");
    let payment = opened.json()["payment"].clone();
    assert_eq!(
        (&payment["status"], &payment["amount"]),
        (&json!("open"), &json!({ "amount": 19_900, "currency": "CNY" }))
    );
    let again = shop.act("ada", &order, "pay").await;
    assert_eq!((again.status, &again.json()["payment"]), (200, &payment), "the same payment");
    let page = payment["redirect_url"].as_str().expect("a page").to_owned();
    assert_eq!(shop.status("ada", &order).await, "awaiting_payment");
    assert_eq!(provider.press(&page, "pay").await.status, 303);
    assert_eq!(provider.events.run_once().await, 1);
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!((&read["status"], &read["final"]), (&json!("paid"), &json!(true)));
    assert_eq!(read["payments"][0]["status"], "captured");
    assert_eq!(read["payments"][0]["redirect_url"], Value::Null, "nothing is left to pay");
    let stock = shop.stock("drop").await["phone"].clone();
    assert_eq!((&stock["held"], &stock["sold"]), (&json!(0), &json!(1)));
    let late = shop.act("ada", &order, "pay").await;
    assert_eq!(
        (late.problem(), &late.json()["order_status"]),
        ((409, "order_not_payable".to_owned()), &json!("paid"))
    );
    assert_eq!(shop.act("ada", &order, "cancel").await.problem(), (409, "order_not_cancellable".to_owned()));
    assert_eq!(provider.press(&page, "pay").await.status, 303, "pressing again pays nothing again");
    assert_eq!(provider.books().len(), 1);
    shop.finish_with(Books::Audited).await;
}

async fn only_what_waits_for_its_payment_can_be_paid(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let order = shop.unpaid("ada", "k").await;
    assert_eq!(shop.act("bob", &order, "pay").await.problem(), (404, "order_not_found".to_owned()));
    assert_eq!(shop.act("ada", "ord_none", "pay").await.problem(), (404, "order_not_found".to_owned()));
    shop.act("ada", &order, "cancel").await;
    let cancelled = shop.act("ada", &order, "pay").await;
    assert_eq!(cancelled.problem(), (409, "order_not_payable".to_owned()));
    assert_eq!(cancelled.json()["order_status"], "cancelled");
    // Its time is over, and nobody has let it expire yet.
    let overdue = shop.unpaid("ada", "k2").await;
    shop.stage().make_due(-1_000).await;
    assert_eq!(shop.act("ada", &overdue, "pay").await.problem(), (409, "order_not_payable".to_owned()));
    assert_eq!(shop.stage().sum("COUNT(*)", "payments").await, 0);
    shop.finish_with(Books::Audited).await;
}

async fn many_who_want_to_pay_at_once_find_one_payment(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let calls = (0..20).map(|_| shop.act("ada", &order, "pay"));
    let answers = futures::future::join_all(calls).await;
    let mut pages: Vec<Value> = Vec::new();
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        pages.push(answer.json()["payment"]["redirect_url"].clone());
    }
    pages.dedup();
    assert_eq!(pages.len(), 1, "{pages:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(shop.stage().sum("COUNT(*)", "payments").await, 1);
    let (_, sessions) = provider.simulator.books().get("checkout/sessions", &[]);
    assert_eq!(sessions["data"].as_array().map(Vec::len), Some(1), "{sessions}");
    shop.finish_with(Books::Audited).await;
}

async fn an_order_that_costs_nothing_is_paid_without_a_provider(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    let mut sale = sale_body("drop", 1, &[("phone", 1)]);
    sale["items"][0]["price"]["amount"] = 0.into();
    open_sale(shop.admin, sale).await;
    let order = shop.unpaid("ada", "k").await;
    for _ in 0..2 {
        let paid = shop.act("ada", &order, "pay").await;
        assert_eq!((paid.status, &paid.json()["status"]), (200, &json!("paid")), "{paid:?}");
    }
    assert_eq!((provider.books().len(), shop.stage().sum("COUNT(*)", "payments").await), (0, 0));
    shop.finish_with(Books::Audited).await;
}

async fn a_declined_card_changes_nothing_and_can_be_tried_again(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    let declined = provider.press(&page, "decline").await;
    assert!(declined.status == 200 && declined.text.contains("declined"), "{declined:?}");
    assert_eq!(provider.events.run_once().await, 0);
    assert_eq!(shop.status("ada", &order).await, "awaiting_payment");
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    assert_eq!(shop.status("ada", &order).await, "paid");
    shop.finish_with(Books::Audited).await;
}

async fn a_payment_whose_event_was_lost_is_found_by_asking(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.simulator.books().take_events();
    shop.stage().ask_now().await;
    eventually("the order is paid", async || shop.status("ada", &order).await == "paid").await;
    shop.finish_with(Books::Audited).await;
}

async fn a_payment_whose_event_was_lost_is_found_in_the_books(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.simulator.books().take_events();
    let compare = async |days| {
        let body = json!({ "days": days, "reason": "a test" });
        shop.operate("POST", "/payments/reconcile", body).await
    };
    assert_eq!(compare(0).await.problem(), (400, "validation_failed".to_owned()));
    let first = compare(1).await;
    assert_eq!(first.json(), json!({ "captures": 1, "found": 1, "unknown": 0 }), "{first:?}");
    assert_eq!(shop.status("ada", &order).await, "paid");
    assert_eq!(compare(1).await.json(), json!({ "captures": 1, "found": 0, "unknown": 0 }));
    shop.finish_with(Books::Audited).await;
}

async fn who_gives_an_order_up_cannot_pay_it_any_more(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    let cancelled = shop.act("ada", &order, "cancel").await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")), "{cancelled:?}");
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    assert_eq!(provider.books(), []);
    assert_eq!(shop.status("ada", &order).await, "cancelled");
    shop.finish_with(Books::Audited).await;
}

async fn who_has_paid_unheard_cannot_give_the_order_up(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    let cancelled = shop.act("ada", &order, "cancel").await;
    assert_eq!(cancelled.problem(), (409, "order_not_cancellable".to_owned()), "{cancelled:?}");
    assert_eq!(cancelled.json()["order_status"], "paid");
    provider.events.run_once().await;
    assert_eq!((provider.books().len(), shop.stage().sum("COUNT(*)", "refunds").await), (1, 0));
    shop.finish_with(Books::Audited).await;
}

async fn a_provider_that_is_down_changes_nothing(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 2)]).await;
    let (paying, new) = (shop.unpaid("ada", "k").await, shop.unpaid("ada", "k2").await);
    let (_, page) = shop.payment("ada", &paying).await;
    provider.simulator.stop().await;
    assert_eq!(shop.act("ada", &new, "pay").await.problem(), (503, "dependency_unavailable".to_owned()));
    assert_eq!(
        shop.act("ada", &paying, "cancel").await.problem(),
        (503, "dependency_unavailable".to_owned())
    );
    assert_eq!(shop.payment("ada", &paying).await.1, page, "the payment stands");
    for order in [&paying, &new] {
        assert_eq!(shop.status("ada", order).await, "awaiting_payment");
    }
    // Perhaps the provider knows this one's payment, too.
    assert_eq!(shop.act("ada", &new, "cancel").await.problem(), (503, "dependency_unavailable".to_owned()));
    shop.finish().await;
}

async fn an_order_with_an_open_payment_expires_when_that_is_closed(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[("payment.expiry", "on")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    shop.stage().make_due(-3_600_000).await;
    eventually("the order expires", async || shop.status("ada", &order).await == "expired").await;
    provider.press(&page, "pay").await;
    assert_eq!(provider.books(), [], "its page is closed");
    eventually("the unit is for sale", async || shop.stock("drop").await["phone"]["available"] == 1).await;
    shop.finish_with(Books::Audited).await;
}

async fn a_payment_at_the_last_moment_counts(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[("payment.expiry", "on")]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (_, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    provider.simulator.books().take_events();
    shop.stage().make_due(-3_600_000).await;
    eventually("the order is paid", async || shop.status("ada", &order).await == "paid").await;
    assert_eq!(shop.stage().sum("COUNT(*)", "refunds").await, 0);
    shop.finish_with(Books::Audited).await;
}

async fn an_order_whose_provider_is_silent_expires_and_late_money_goes_back(mode: Mode) {
    let flags = [("payment.expiry", "on"), ("payment.closing_max_ms", "1000")];
    let (shop, provider) = paying_shop(mode, &flags).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (payment, page) = shop.payment("ada", &order).await;
    provider.press(&page, "pay").await;
    let told = provider.simulator.books().take_events();
    // Nobody answers, and so nobody knows that the buyer has paid.
    provider.simulator.stop().await;
    shop.stage().make_due(-3_600_000).await;
    eventually("the order expires", async || shop.status("ada", &order).await == "expired").await;
    eventually("the unit is for sale", async || shop.stock("drop").await["phone"]["available"] == 1).await;
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!(read["payments"][0]["status"], "closing", "there is no final answer: {read}");
    let late = tell(shop.shopper, &told[0]).await;
    assert_eq!(late.status, 200, "{late:?}");
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!(
        (&read["status"], &read["payments"][0]["id"], &read["payments"][0]["refund"]["reason"]),
        (&json!("expired"), &json!(payment), &json!("order_ended"))
    );
    shop.finish().await;
}

async fn after_a_closed_payment_another_one_can_be_opened(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    let (first, _) = shop.payment("ada", &order).await;
    // The page closes by itself, as it does after a day.
    let (_, sessions) = provider.simulator.books().get("checkout/sessions", &[]);
    let session = sessions["data"][0]["id"].as_str().expect("an id").to_owned();
    provider.simulator.books().post(&format!("checkout/sessions/{session}/expire"), &[], None);
    assert_eq!(provider.events.run_once().await, 1);
    let (second, page) = shop.payment("ada", &order).await;
    assert_ne!(first, second);
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    let states: Vec<&Value> =
        read["payments"].as_array().expect("two").iter().map(|one| &one["status"]).collect();
    assert_eq!((&read["status"], states), (&json!("paid"), vec![&json!("closed"), &json!("captured")]));
    shop.finish_with(Books::Audited).await;
}

async fn what_is_sold_out_may_return_until_all_of_it_is_paid(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let (first, second) = (shop.unpaid("ada", "k").await, shop.unpaid("bob", "k").await);
    let told = async |may_return: bool| {
        let refused = shop.buy("cleo", "drop", "phone", "k").await;
        assert_eq!(refused.problem(), (409, "sold_out".to_owned()), "{refused:?}");
        refused.json()["may_return"] == may_return
    };
    assert!(told(true).await, "both may be given up");
    let pay = async |user: &str, order: &str| {
        let (_, page) = shop.payment(user, order).await;
        provider.press(&page, "pay").await;
        provider.events.run_once().await;
    };
    pay("ada", &first).await;
    assert!(told(true).await, "one may be given up");
    pay("bob", &second).await;
    eventually("nothing comes back", async || told(false).await).await;
    let refund = json!({ "reason": "a test", "restock": false });
    assert_eq!(shop.operate("POST", &format!("/orders/{first}/refund"), refund).await.status, 200);
    assert!(told(false).await, "a withheld unit is gone, too");
    shop.finish_with(Books::Audited).await;
}

async fn a_price_that_the_provider_does_not_take_is_refused_before_it_is_sold(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    let sale = |id: &str, limit: u32, amount: i64, currency: &str| {
        let mut body = sale_body(id, limit, &[("zebra", 5), ("ant", 5)]);
        body["items"][0]["price"] = json!({ "amount": amount, "currency": currency });
        body
    };
    for (id, limit, amount, currency) in [
        ("too-little", 1, 49, "USD"),
        ("too-much", 1, 100_000_000, "EUR"),
        ("too-much-together", 99, 2_000_000, "EUR"),
        ("unknown", 1, 19_900, "XTS"),
    ] {
        let refused = shop.operate("POST", "/sales", sale(id, limit, amount, currency)).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{id}: {refused:?}");
        let error = refused.json()["errors"][0].clone();
        assert_eq!(error["pointer"], "/items/0/price", "as the operator gave them: {error}");
        assert!(error["detail"].as_str().is_some_and(|text| text.contains("payment provider")), "{error}");
        assert_eq!(shop.operate("GET", &format!("/sales/{id}"), Value::Null).await.status, 404);
    }
    for (id, amount) in [("free", 0), ("cheap", 50)] {
        let created = shop.operate("POST", "/sales", sale(id, 1, amount, "USD")).await;
        assert_eq!(created.status, 201, "{created:?}");
    }
    let patch = json!({ "items": sale("x", 1, 49, "USD")["items"], "reason": "a test" });
    let refused = shop.operate("PATCH", "/sales/cheap", patch).await;
    assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{refused:?}");
    let kept = shop.operate("GET", "/sales/cheap", Value::Null).await.json();
    let prices = kept["items"].as_array().expect("items").iter().map(|item| item["price"]["amount"].clone());
    assert!(prices.into_iter().any(|amount| amount == 50), "{kept}");
    shop.finish().await;
}

async fn a_sale_of_before_the_provider_is_not_put_in_place_when_it_cannot_be_paid(mode: Mode) {
    let (mut shop, provider) = paying_shop(mode, &[]).await;
    shop.stop().await;
    let mut without = shop.config.clone();
    without.payment.provider = ProviderKind::None;
    let mut before = TestShop::start_on(without.clone(), open(&without).await, Role::All).await;
    let mut body = sale_body("drop", 1, &[("phone", 1)]);
    body["items"][0]["price"] = json!({ "amount": 100, "currency": "XTS" });
    assert_eq!(before.operate("POST", "/sales", body).await.status, 201);
    let reason = json!({ "reason": "a test" });
    assert_eq!(before.operate("POST", "/sales/drop/publish", reason.clone()).await.status, 200);
    before.stop().await;
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    let refused = shop.operate("POST", "/sales/drop/preheat", reason).await;
    assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{refused:?}");
    assert_eq!(shop.operate("GET", "/sales/drop", Value::Null).await.json()["state"], "published");
    drop(provider);
    shop.finish().await;
}

async fn an_order_that_costs_nothing_cannot_be_paid_after_its_time(mode: Mode) {
    let (shop, _provider) = paying_shop(mode, &[]).await;
    let mut body = sale_body("drop", 1, &[("phone", 1)]);
    body["items"][0]["price"]["amount"] = json!(0);
    open_sale(shop.admin, body).await;
    let order = shop.unpaid("ada", "k").await;
    shop.stage().make_due(-1_000).await;
    let late = shop.act("ada", &order, "pay").await;
    assert_eq!(late.problem(), (409, "order_not_payable".to_owned()), "{late:?}");
    assert_eq!(shop.status("ada", &order).await, "awaiting_payment");
    shop.finish().await;
}

/// A provider keeps its own failures under the key of the request for a day.
async fn a_failure_that_the_provider_repeats_ends_with_the_next_attempt(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = shop.unpaid("ada", "k").await;
    provider.simulator.books().fail_once();
    for _ in 0..2 {
        let failed = shop.act("ada", &order, "pay").await;
        assert!(failed.status >= 500, "{failed:?}");
    }
    let id = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json()["payments"][0]["id"].clone();
    let id = PaymentId::parse(id.as_str().expect("an id")).expect("ours");
    // Two minutes later.
    let created = "request = JSON_SET(request, '$.created_ms', \
                   CAST(JSON_EXTRACT(request, '$.created_ms') AS SIGNED) - 120000)";
    shop.stage().damage("payments", id, created).await;
    shop.stage().ask_now().await;
    eventually("the attempt is over", async || {
        let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
        read["payments"][0]["status"] == "closed"
    })
    .await;
    let (second, page) = shop.payment("ada", &order).await;
    assert_ne!(second, id.to_string());
    assert_eq!(provider.press(&page, "pay").await.status, 303);
    provider.events.run_once().await;
    assert_eq!(shop.status("ada", &order).await, "paid");
    shop.finish_with(Books::Audited).await;
}
