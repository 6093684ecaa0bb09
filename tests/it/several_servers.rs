//! Tests of what only the distributed mode has: servers that forget, processes that share the work, monthly tables.

use seckill::app::{self, Role};
use seckill::backend::distributed;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::Month;
use serde_json::{Value, json};

use crate::conformance::http_errors::Findings;
use crate::harness::{TestShop, config, eventually, migrated, open, rfc3339, sale_body};
use crate::own_redis::OwnRedis;

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_forgot_its_scripts_loses_nothing() {
    // The shared server has scripts of other tests, which would be forgotten too.
    let redis = OwnRedis::start(&[]).await;
    let shop = TestShop::start_with(Mode::Distributed, &[("redis.url", &redis.url())]).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let mut connection = redis.connection().await;
    for n in 0..5 {
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.expect("flushed");
        assert_eq!(shop.buy(&format!("u{n}"), "drop", "phone", "k").await.status, 202);
    }
    assert_eq!(shop.stock("drop").await["phone"]["available"], 0);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn writers_share_the_partitions_and_a_leaving_one_hands_over() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let mut first = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let second = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    first.open_sale("drop", 1, &[("phone", 100)]).await;
    for n in 0..20 {
        assert_eq!(first.buy(&format!("a{n}"), "drop", "phone", "k").await.status, 202);
    }
    first.stop().await;
    eventually("the second shop knows the sale", async || {
        second.buy("probe", "drop", "phone", "k").await.status < 300
    })
    .await;
    for n in 0..20 {
        assert_eq!(second.buy(&format!("b{n}"), "drop", "phone", "k").await.status, 202);
    }
    let database = second.stage();
    eventually("all 41 orders are written", async || database.orders("awaiting_payment").await == 41).await;
    second.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_order_names_the_front_that_accepted_it_and_the_worker_that_wrote_it() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let mut front = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    front.open_sale("drop", 1, &[("phone", 1)]).await;
    let bought = front.buy("ada", "drop", "phone", "k").await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let worker = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let order = bought.json()["id"].as_str().expect("an id").to_owned();
    front.decided("ada", &order).await;
    let nodes = front.operate("GET", "/nodes", Value::Null).await.json();
    let of = |role: &str| {
        let node = nodes["nodes"].as_array().expect("nodes").iter().find(|node| node["role"] == role);
        node.expect("a process")["id"].as_str().expect("an id")[..8].to_owned()
    };
    let read = front.operate("GET", &format!("/orders/{order}"), Value::Null).await.json();
    let hops: Vec<(&Value, &Value)> = read["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .map(|hop| (&hop["what"], &hop["node"]))
        .collect();
    let (accepted, written) = (json!(of("api")), json!(of("all")));
    assert_eq!(hops, [(&json!("accepted"), &accepted), (&json!("persisted"), &written)]);
    front.stop().await;
    worker.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_sale_in_a_month_without_tables_says_how_to_get_them() {
    let shop = TestShop::start(Mode::Distributed).await;
    let starts_ms = Clock::System.now_ms() + 200 * 86_400_000;
    let mut body = sale_body("drop", 1, &[("phone", 10)]);
    body["starts_at"] = rfc3339(starts_ms).into();
    body["ends_at"] = rfc3339(starts_ms + 3_600_000).into();
    let created = shop.operate("POST", "/sales", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    let advance = async |action: &str| {
        shop.operate("POST", &format!("/sales/drop/{action}"), json!({ "reason": "a test" })).await
    };
    assert_eq!(advance("publish").await.status, 200);
    let before = shop.stage().audit(None).await.len();
    let refused = advance("preheat").await;
    let mut findings = Findings::default();
    findings.check("preheat", &refused, (409, "state_conflict"));
    findings.done();
    let detail = refused.json()["detail"].as_str().unwrap_or_default().to_owned();
    let month = Month::of_ms(starts_ms);
    assert!(detail.contains("seckill migrate") && detail.contains(&month.yyyymm().to_string()), "{detail}");
    let sale = shop.operate("GET", "/sales/drop", Value::Null).await.json();
    assert_eq!((&sale["state"], shop.stage().audit(None).await.len()), (&json!("published"), before));

    let settings = app::backend_settings(&shop.config).expect("settings");
    distributed::migrate::run(&settings, &[month], Clock::System, |_| ()).await.expect("migrated");
    let done = advance("preheat").await;
    assert_eq!((done.status, done.json()["state"].clone()), (200, json!("preheated")), "{done:?}");
    shop.finish().await;
}
