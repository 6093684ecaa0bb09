//! Tests of what goes when it is old: only what is no book, and only what nobody needs any more.

use std::time::Duration;

use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::SaleId;
use seckill::ports::{Ports, VIEWS};
use seckill::shop::views::{RebuildOutcome, rebuild};
use seckill::worker::driver::Task as _;
use seckill::worker::housekeeping::{Ages, Housekeeping};
use serde_json::{Value, json};

use super::dead_letters::letters;
use crate::harness::{TestShop, config, eventually, migrated, open};

in_both_modes!(
    events_go_when_their_sale_is_settled_and_all_readers_have_had_them,
    decided_letters_go_and_open_ones_stay,
    the_audit_log_loses_its_oldest_rows,
    nothing_goes_whose_age_is_never,
);

const DAY_MS: i64 = 86_400_000;
/// Cut off in the future, so that everything is old.
const ALL_OLD: i64 = i64::MAX / 2;

async fn start(mode: Mode) -> (TestShop, Ports) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let ports = open(&config).await;
    let shop = TestShop::start_on(config, ports.clone(), Role::All).await;
    (shop, ports)
}

/// Removes events of all instances, and answers how many rows went.
async fn forget(ports: &Ports, before_ms: i64, read_by: &[&str], settled: &[SaleId]) -> u64 {
    let mut gone = 0;
    for at in ports.events.instances() {
        let bounds = (read_by, settled);
        gone += ports.retention.forget_events(at, before_ms, bounds, 1000).await.expect("a store");
    }
    gone
}

async fn view(shop: &TestShop) -> Value {
    shop.operate("GET", "/sales/drop/view", Value::Null).await.json()
}

async fn events(shop: &TestShop) -> usize {
    let page = shop.operate("GET", "/events?limit=100", Value::Null).await.json();
    page["events"].as_array().expect("events").len()
}

async fn events_go_when_their_sale_is_settled_and_all_readers_have_had_them(mode: Mode) {
    let (shop, ports) = start(mode).await;
    let sold = SaleId::parse("drop").expect("a slug");
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    for user in ["ada", "bob", "cid"] {
        let order = shop.unpaid(user, "k").await;
        assert_eq!(shop.act(user, &order, "cancel").await.status, 200);
    }
    eventually("the view has all events", async || view(&shop).await["events"] == 6).await;
    assert_eq!(forget(&ports, ALL_OLD, &[VIEWS], &[]).await, 0, "the sale is not settled");
    for action in ["end", "settle"] {
        let reason = json!({ "reason": "a test" });
        eventually("it is done", async || {
            shop.operate("POST", &format!("/sales/drop/{action}"), reason.clone()).await.status == 200
        })
        .await;
    }
    let settled = [sold.clone()];
    let before = view(&shop).await;
    let now_ms = Clock::System.now_ms();
    assert_eq!(forget(&ports, now_ms - DAY_MS, &[VIEWS], &settled).await, 0, "they are young");
    assert_eq!(forget(&ports, ALL_OLD, &[VIEWS, "nobody"], &settled).await, 0, "somebody has not had them");
    assert_eq!(events(&shop).await, 6);

    // What comes later stays, and so does its own order of numbers.
    shop.open_sale("next", 1, &[("phone", 9)]).await;
    let bought = shop.buy("dan", "next", "phone", "k").await.json();
    shop.decided("dan", bought["id"].as_str().expect("an id")).await;
    eventually("it is read", async || {
        let told = shop.operate("GET", "/sales/next/view", Value::Null).await.json();
        told["events"] == 1
    })
    .await;
    assert!(forget(&ports, ALL_OLD, &[VIEWS], &settled).await > 0);
    assert_eq!(events(&shop).await, 1, "that of the sale that is on");
    assert_eq!(forget(&ports, ALL_OLD, &[VIEWS], &settled).await, 0);
    let after = view(&shop).await;
    assert_eq!((&after["hash"], &after["events"]), (&before["hash"], &json!(6)));
    let stores = (ports.events.as_ref(), ports.views.as_ref());
    let rebuilt = rebuild(stores, Some(&sold), |_| ()).await.expect("read");
    let is_kept = |outcome: &RebuildOutcome| *outcome == RebuildOutcome::Kept;
    assert!(rebuilt.iter().all(|one| is_kept(&one.outcome)), "{rebuilt:?}");
    drop(ports);
    shop.finish().await;
}

async fn decided_letters_go_and_open_ones_stay(mode: Mode) {
    let (shop, ports) = start(mode).await;
    letters(&shop, 2).await;
    let list = async || {
        let all = shop.operate("GET", "/dead-letters", Value::Null).await.json();
        all["dead_letters"].as_array().expect("letters").clone()
    };
    let id = list().await[0]["id"].as_str().expect("an id").to_owned();
    let reason = json!({ "reason": "a test" });
    let given = shop.operate("POST", &format!("/dead-letters/{id}/give-back"), reason).await;
    assert_eq!(given.status, 200, "{given:?}");
    let forget = async |before_ms: i64| {
        let mut gone = 0;
        for at in ports.events.instances() {
            gone += ports.retention.forget_letters(at, before_ms, 1000).await.expect("a store");
        }
        gone
    };
    assert_eq!(forget(Clock::System.now_ms() - DAY_MS).await, 0);
    assert_eq!((forget(ALL_OLD).await, forget(ALL_OLD).await), (1, 0));
    let left = list().await;
    assert_eq!((left.len(), &left[0]["status"]), (1, &json!("open")));
    drop(ports);
    shop.finish().await;
}

async fn the_audit_log_loses_its_oldest_rows(mode: Mode) {
    let (shop, ports) = start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let all = shop.stage().audit(None).await;
    assert!(all.len() > 2, "{all:?}");
    let young = Clock::System.now_ms() - DAY_MS;
    assert_eq!(ports.retention.forget_audit_log(young, 1000).await.expect("a store"), 0);
    // The oldest two say that the keys of the test were made, and are no sale's.
    assert_eq!(ports.retention.forget_audit_log(ALL_OLD, 4).await.expect("a store"), 4);
    assert_eq!(shop.stage().audit(None).await, all[2..]);
    drop(ports);
    shop.finish().await;
}

async fn nothing_goes_whose_age_is_never(mode: Mode) {
    let (shop, ports) = start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 9)]).await;
    let house = |age_ms: i64| Housekeeping {
        retention: ports.retention.clone(),
        settling: ports.settling.clone(),
        subscriptions: ports.subscriptions.clone(),
        instances: ports.events.instances(),
        has_topic: false,
        clock: Clock::System,
        ages: Ages { events_ms: age_ms, dead_letters_ms: age_ms, audit_log_ms: age_ms },
        period: Duration::from_secs(1),
    };
    let all = shop.stage().audit(None).await;
    for age_ms in [0, DAY_MS] {
        assert_eq!(house(age_ms).run_once().await.expect("a store").done, 0);
    }
    assert_eq!(shop.stage().audit(None).await, all);
    eventually("they are a millisecond old", async || {
        house(1).run_once().await.expect("a store");
        shop.stage().audit(None).await.is_empty()
    })
    .await;
    drop(ports);
    shop.finish().await;
}
