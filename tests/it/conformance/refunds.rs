//! Tests of orders that an operator pays back.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::harness::{Books, READ_ONLY_KEY, TestShop, eventually, operate};
use crate::provider::{Provider, paying_shop};

in_both_modes!(
    an_order_is_paid_back_and_its_units_are_withheld,
    an_order_is_paid_back_and_its_units_are_for_sale_again,
    after_the_end_nothing_goes_back_on_sale,
    only_a_paid_order_is_paid_back_and_only_by_who_may,
);

/// Buys and pays a phone.
async fn paid(shop: &TestShop, provider: &Provider, user: &str) -> (String, String) {
    let order = shop.unpaid(user, "k").await;
    let (payment, page) = shop.payment(user, &order).await;
    provider.press(&page, "pay").await;
    provider.events.run_once().await;
    assert_eq!(shop.status(user, &order).await, "paid");
    (order, payment)
}

async fn refund(shop: &TestShop, order: &str, restock: bool) -> Value {
    let body = json!({ "reason": "broken", "restock": restock });
    let refunded = shop.operate("POST", &format!("/orders/{order}/refund"), body).await;
    assert_eq!((refunded.status, &refunded.json()["status"]), (200, &json!("refunded")), "{refunded:?}");
    refunded.json()
}

async fn phones(shop: &TestShop) -> [i64; 4] {
    let stock = shop.stock("drop").await["phone"].clone();
    ["available", "held", "sold", "withheld"].map(|state| stock[state].as_i64().expect("a number"))
}

async fn an_order_is_paid_back_and_its_units_are_withheld(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let (order, payment) = paid(&shop, &provider, "ada").await;
    let view = refund(&shop, &order, false).await;
    assert_eq!(
        (&view["user_id"], &view["payments"][0]["refund"]["reason"]),
        (&json!("ada"), &json!("operator"))
    );
    refund(&shop, &order, true).await;
    eventually("the money is back", async || provider.books() == [(payment.clone(), 19_900, 19_900)]).await;
    let keyed = ["orders", "order_moves", "payments", "refunds", "payment_events"];
    assert_eq!(shop.stage().refused_copies().await, keyed, "nothing has a second row");
    assert_eq!(phones(&shop).await, [1, 0, 0, 1], "repeating it brings nothing back");
    // The unit cannot be sold, and its buyer may buy again.
    shop.unpaid("ada", "k2").await;
    let sold_out = shop.buy("bob", "drop", "phone", "k").await;
    assert_eq!(sold_out.problem(), (409, "sold_out".to_owned()));
    let rows = shop.stage().notes("order_refund").await;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], ("broken".to_owned(), json!({ "order_id": order })));
    shop.finish_with(Books::Audited).await;
}

async fn an_order_is_paid_back_and_its_units_are_for_sale_again(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let (order, payment) = paid(&shop, &provider, "ada").await;
    refund(&shop, &order, true).await;
    eventually("the unit is for sale", async || phones(&shop).await == [1, 0, 0, 0]).await;
    eventually("the money is back", async || provider.books() == [(payment.clone(), 19_900, 19_900)]).await;
    paid(&shop, &provider, "bob").await;
    assert_eq!(phones(&shop).await, [0, 0, 1, 0]);
    shop.finish_with(Books::Audited).await;
}

async fn after_the_end_nothing_goes_back_on_sale(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let (order, _) = paid(&shop, &provider, "ada").await;
    let ended = shop.operate("POST", "/sales/drop/end", json!({ "reason": "a test" })).await;
    assert_eq!(ended.status, 200, "{ended:?}");
    eventually("the end is known", async || {
        shop.buy("bob", "drop", "phone", "k").await.problem() == (409, "sale_ended".to_owned())
    })
    .await;
    refund(&shop, &order, true).await;
    assert_eq!(phones(&shop).await, [0, 0, 0, 1]);
    shop.finish_with(Books::Audited).await;
}

async fn only_a_paid_order_is_paid_back_and_only_by_who_may(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let unpaid = shop.unpaid("ada", "k").await;
    let path = format!("/orders/{unpaid}/refund");
    let refused = shop.operate("POST", &path, json!({ "reason": "x" })).await;
    assert_eq!(refused.problem(), (409, "order_not_refundable".to_owned()));
    assert_eq!(refused.json()["order_status"], "awaiting_payment");
    let (order, _) = paid(&shop, &provider, "bob").await;
    let path = format!("/orders/{order}/refund");
    for body in
        [json!({}), json!({ "reason": "" }), json!({ "reason": "x", "restock": 1 }), json!({ "why": "x" })]
    {
        assert_eq!(shop.operate("POST", &path, body).await.problem(), (400, "validation_failed".to_owned()));
    }
    let forbidden = operate(shop.admin, READ_ONLY_KEY, "POST", &path, json!({ "reason": "x" })).await;
    assert_eq!(forbidden.problem(), (403, "forbidden".to_owned()));
    let unknown = "/orders/ord_0000000000000000000000000g/refund";
    assert_eq!(
        shop.operate("POST", unknown, json!({ "reason": "x" })).await.problem(),
        (404, "order_not_found".to_owned())
    );
    assert_eq!(shop.status("bob", &order).await, "paid");
    shop.finish_with(Books::Audited).await;
}
