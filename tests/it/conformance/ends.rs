//! Tests of orders that end without a payment: their buyers and operators give them up, and they expire. Their units go
//! back on sale.

use seckill::app::Role;
use seckill::config::{Config, Mode};
use seckill::memory::catalog::Catalog;
use seckill::ports::{Grace, Ports};
use seckill::worker::driver::Task as _;
use seckill::worker::expiry::ExpirySweeper;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Answer, call};
use crate::harness::{TestShop, config, eventually, migrated, open, token};

in_both_modes!(
    a_buyer_gives_an_order_up_and_may_buy_again,
    only_what_waits_for_its_payment_is_given_up,
    an_order_is_given_up_before_it_has_a_row,
    an_operator_gives_an_order_up_and_the_audit_log_says_why,
    an_order_expires_after_the_grace_and_not_before,
    a_dry_run_counts_and_changes_nothing,
    a_damaged_order_keeps_no_other_one_from_expiring,
    an_unpaid_order_expires_by_itself_while_the_sale_is_paused,
    who_leaves_too_many_orders_unpaid_is_refused,
);

async fn cancel(shop: &TestShop, user: &str, order: &str) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "c")];
    call(shop.shopper, "POST", &format!("/api/v1/orders/{order}/cancel"), &headers, "").await
}

async fn buy(shop: &TestShop, user: &str, key: &str) -> String {
    let bought = shop.buy(user, "drop", "phone", key).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    bought.json()["id"].as_str().expect("an id").to_owned()
}

async fn waiting(shop: &TestShop, user: &str, key: &str) -> String {
    let order = buy(shop, user, key).await;
    assert_eq!(shop.decided(user, &order).await["status"], "awaiting_payment");
    order
}

async fn available(shop: &TestShop, units: i64) {
    eventually("the units are for sale", async || shop.stock("drop").await["phone"]["available"] == units)
        .await;
}

async fn a_buyer_gives_an_order_up_and_may_buy_again(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = waiting(&shop, "ada", "k").await;
    let cancelled = cancel(&shop, "ada", &order).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let view = cancelled.json();
    assert_eq!(
        (&view["status"], &view["final"], &view["id"]),
        (&json!("cancelled"), &json!(true), &json!(order))
    );
    assert_eq!(cancel(&shop, "ada", &order).await.json(), view, "the same answer again");
    assert_eq!(shop.get("ada", &format!("/api/v1/orders/{order}")).await.json(), view);
    available(&shop, 1).await;
    // The same key is the same order; another key is another one.
    let replayed = shop.buy("ada", "drop", "phone", "k").await;
    assert_eq!((replayed.status, &replayed.json()["status"]), (200, &json!("cancelled")), "{replayed:?}");
    waiting(&shop, "ada", "k2").await;
    let stock = shop.stock("drop").await["phone"].clone();
    assert_eq!((&stock["available"], &stock["held"], &stock["sold"]), (&json!(0), &json!(1), &json!(0)));
    assert_eq!(
        (shop.stage().orders("cancelled").await, shop.stage().sum("COUNT(*)", "claims").await),
        (1, 1)
    );
    shop.finish().await;
}

async fn only_what_waits_for_its_payment_is_given_up(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 3)]).await;
    let order = waiting(&shop, "ada", "k").await;
    let bearer = format!("Bearer {}", token("ada"));
    let path = format!("/api/v1/orders/{order}/cancel");
    let keyless = call(shop.shopper, "POST", &path, &[("Authorization", &bearer)], "").await;
    assert_eq!(keyless.problem(), (400, "idempotency_key_missing".to_owned()));
    assert_eq!(cancel(&shop, "bob", &order).await.problem(), (404, "order_not_found".to_owned()));
    assert_eq!(cancel(&shop, "ada", "ord_none").await.problem(), (404, "order_not_found".to_owned()));
    let headers =
        [("Authorization", bearer.as_str()), ("Idempotency-Key", "c"), ("Content-Type", "application/json")];
    let wish = call(shop.shopper, "POST", &path, &headers, r#"{"why":"x"}"#).await;
    assert_eq!(wish.problem(), (400, "validation_failed".to_owned()));
    assert_eq!(shop.stage().orders("awaiting_payment").await, 1, "nothing was changed");
    shop.stage().make_due(-3_600_000).await;
    eventually("it expires", async || shop.stage().orders("expired").await == 1).await;
    let late = cancel(&shop, "ada", &order).await;
    assert_eq!(late.problem(), (409, "order_not_cancellable".to_owned()));
    assert_eq!(late.json()["order_status"], "expired");
    shop.finish().await;
}

/// A shop without an order writer.
async fn front_alone(mode: Mode) -> (Config, TestShop) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    (config, shop)
}

async fn an_order_is_given_up_before_it_has_a_row(mode: Mode) {
    let (config, mut shop) = front_alone(mode).await;
    let order = buy(&shop, "ada", "k").await;
    for _ in 0..2 {
        let cancelled = cancel(&shop, "ada", &order).await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["status"]),
            (200, &json!("cancelled")),
            "{cancelled:?}"
        );
    }
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!((&read["status"], &read["price"]["amount"]), (&json!("cancelled"), &json!(19_900)));
    shop.stop().await;
    // The order writer finds the row, and the unit is for sale once.
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    available(&shop, 1).await;
    waiting(&shop, "bob", "k").await;
    assert_eq!(shop.stage().orders("cancelled").await, 1);
    assert_eq!(shop.stage().sum("SUM(held)", "ledger").await, 1);
    shop.finish().await;
}

async fn an_operator_gives_an_order_up_and_the_audit_log_says_why(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = waiting(&shop, "ada", "k").await;
    let path = format!("/orders/{order}");
    let read = shop.operate("GET", &path, Value::Null).await;
    assert_eq!(
        (read.status, &read.json()["user_id"], &read.json()["status"]),
        (200, &json!("ada"), &json!("awaiting_payment"))
    );
    let cancel = format!("{path}/cancel");
    assert_eq!(
        shop.operate("POST", &cancel, json!({})).await.problem(),
        (400, "validation_failed".to_owned())
    );
    let cancelled = shop.operate("POST", &cancel, json!({ "reason": "fraud" })).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")), "{cancelled:?}");
    let unknown =
        shop.operate("POST", "/orders/ord_0000000000000000000000000g/cancel", json!({ "reason": "x" })).await;
    assert_eq!(unknown.problem(), (404, "order_not_found".to_owned()));
    let rows = shop.stage().notes("order_cancel").await;
    assert_eq!(rows, [("fraud".to_owned(), json!({ "order_id": order }))]);
    let forbidden = crate::harness::operate(
        shop.admin,
        crate::harness::READ_ONLY_KEY,
        "POST",
        &cancel,
        json!({ "reason": "x" }),
    );
    assert_eq!(forbidden.await.problem(), (403, "forbidden".to_owned()));
    available(&shop, 1).await;
    shop.finish().await;
}

/// A shop whose orders only the test sweeps.
async fn unswept(mode: Mode) -> (TestShop, Ports) {
    let config = config(mode, &[("payment.expiry", "off")]);
    migrated(&config).await;
    let ports = open(&config).await;
    let shop = TestShop::start_on(config, ports.clone(), Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    (shop, ports)
}

pub async fn sweeper(ports: &Ports, is_dry_run: bool) -> ExpirySweeper {
    let catalog = Arc::new(Catalog::default());
    catalog.renew(ports.sales.as_ref(), ports.settling.as_ref()).await.expect("the sales");
    let changes = ports.order_changes.clone();
    let grace = Grace { ms: 30_000, closing_ms: 300_000 };
    ExpirySweeper { changes, catalog, is_dry_run, grace, period: Duration::from_secs(1) }
}

async fn an_order_expires_after_the_grace_and_not_before(mode: Mode) {
    let (shop, ports) = unswept(mode).await;
    let order = waiting(&shop, "ada", "k").await;
    let due = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json()["expires_at"].clone();
    assert!(due.is_string(), "{due}");
    let sweeper = sweeper(&ports, false).await;
    assert_eq!(sweeper.run_once().await.expect("a round").done, 0, "not due");
    shop.stage().make_due(-10_000).await;
    assert_eq!(sweeper.run_once().await.expect("a round").done, 0, "a payment may be on its way");
    shop.stage().make_due(-31_000).await;
    let (one, other) = tokio::join!(sweeper.run_once(), sweeper.run_once());
    assert_eq!(one.expect("a round").done + other.expect("a round").done, 1, "once");
    assert_eq!(sweeper.run_once().await.expect("a round").done, 0);
    // The sweeper is another process to the shop, which may remember the order for a moment.
    eventually("the buyer reads it", async || shop.status("ada", &order).await == "expired").await;
    let read = shop.get("ada", &format!("/api/v1/orders/{order}")).await.json();
    assert_eq!(
        (&read["status"], &read["final"], &read["expires_at"]),
        (&json!("expired"), &json!(true), &Value::Null)
    );
    available(&shop, 2).await;
    waiting(&shop, "ada", "k2").await;
    shop.finish().await;
}

async fn a_dry_run_counts_and_changes_nothing(mode: Mode) {
    let (shop, ports) = unswept(mode).await;
    waiting(&shop, "ada", "k").await;
    shop.stage().make_due(-3_600_000).await;
    let before = shop.stage().contents().await;
    let done = sweeper(&ports, true).await.run_once().await.expect("a round").done;
    assert_eq!((done, shop.stage().contents().await), (0, before));
    shop.finish().await;
}

async fn an_unpaid_order_expires_by_itself_while_the_sale_is_paused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    let order = waiting(&shop, "ada", "k").await;
    let paused = shop.operate("POST", "/sales/drop/pause", json!({ "reason": "a test" })).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    shop.stage().make_due(-3_600_000).await;
    available(&shop, 1).await;
    assert_eq!(shop.decided("ada", &order).await["status"], "expired");
    shop.finish().await;
}

async fn a_damaged_order_keeps_no_other_one_from_expiring(mode: Mode) {
    let (mut shop, ports) = unswept(mode).await;
    shop.open_sale("damaged", 1, &[("phone", 1)]).await;
    let bought = shop.buy("ada", "damaged", "phone", "k").await.json();
    shop.decided("ada", bought["id"].as_str().expect("an id")).await;
    for user in ["ada", "bob"] {
        waiting(&shop, user, "k").await;
    }
    shop.stage().make_due(-3_600_000).await;
    // Somebody removed the units of its SKU.
    shop.stage().drop_ledger("damaged").await;
    let sweeper = sweeper(&ports, false).await;
    assert_eq!(sweeper.run_once().await.map_or(0, |progress| progress.done), 2);
    assert_eq!((shop.stage().orders("expired").await, shop.stage().orders("awaiting_payment").await), (2, 1));
    // Without an audit: the test broke the shop.
    shop.stop().await;
    crate::harness::remove(&shop.config).await;
}

async fn who_leaves_too_many_orders_unpaid_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut sale = crate::harness::sale_body("drop", 1, &[("phone", 5)]);
    sale["unpaid_max"] = 2.into();
    crate::harness::open_sale(shop.admin, sale).await;
    let policy = shop.get("ada", "/api/v1/sales/drop").await.json()["policy"].clone();
    assert_eq!((&policy["unpaid_max"], &policy["buyer_limit"]), (&json!(2), &json!(1)));
    let first = waiting(&shop, "ada", "k1").await;
    assert_eq!(cancel(&shop, "ada", &first).await.status, 200);
    available(&shop, 5).await;
    waiting(&shop, "ada", "k2").await;
    shop.stage().make_due(-3_600_000).await;
    available(&shop, 5).await;
    // Releases and marks may come twice; an order is counted once.
    let refused = shop.buy("ada", "drop", "phone", "k3").await;
    assert_eq!(
        (refused.problem(), &refused.json()["unpaid"]),
        ((409, "too_many_unpaid".to_owned()), &json!(2)),
        "{refused:?}"
    );
    let replayed = shop.buy("ada", "drop", "phone", "k1").await;
    assert_eq!((replayed.status, &replayed.json()["status"]), (200, &json!("cancelled")), "{replayed:?}");
    waiting(&shop, "bob", "k").await;
    shop.finish().await;
}
