//! Tests of the stock view, which shows every bucket in Redis and the ledgers.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::harness::{TestShop, eventually, open_sale, sale_body};

use super::{create, reason};

in_both_modes!(the_stock_view_adds_up_over_buckets_and_ledgers, a_repeated_preheat_gives_no_stock_back,);

fn number(item: &Value, name: &str) -> i64 {
    item[name].as_i64().unwrap_or_else(|| panic!("no {name} in {item}"))
}

async fn the_stock_view_adds_up_over_buckets_and_ledgers(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut body = sale_body("wide", 9, &[("phone", 11), ("pad", 3)]);
    body["buckets"] = 4.into();
    create(&shop, body).await;
    let draft = shop.stock("wide").await;
    for (sku, units) in [("phone", 11), ("pad", 3)] {
        assert_eq!(draft[sku]["available"], Value::Null, "nothing is in Redis before preheat");
        assert_eq!((number(&draft[sku], "configured"), number(&draft[sku], "held")), (units, 0));
    }
    for action in ["publish", "preheat"] {
        let done = shop.operate("POST", &format!("/sales/wide/{action}"), reason("a test")).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let mut bought = 0;
    for n in 0..7 {
        let answer = shop.buy(&format!("u{n}"), "wide", "phone", "k").await;
        if answer.status == 202 {
            bought += 1;
            shop.decided(&format!("u{n}"), answer.json()["id"].as_str().expect("an id")).await;
        }
    }
    assert!(bought > 0);
    let stock = shop.stock("wide").await;
    for (sku, configured, held) in [("phone", 11, bought), ("pad", 3, 0)] {
        let item = &stock[sku];
        let buckets: Vec<i64> = item["buckets"]
            .as_array()
            .expect("buckets")
            .iter()
            .map(|units| units.as_i64().expect("units"))
            .collect();
        assert_eq!(buckets.len(), 4, "{item}");
        assert!(buckets.iter().all(|units| *units >= 0), "{item}");
        assert_eq!(buckets.iter().sum::<i64>(), number(item, "available"), "{item}");
        assert_eq!(number(item, "configured"), configured);
        assert_eq!(number(item, "available"), configured - held, "{item}");
        assert_eq!((number(item, "held"), number(item, "sold")), (held, 0), "{item}");
        assert!((held..=configured).contains(&number(item, "granted")), "{item}");
        assert_eq!(number(item, "granted"), number(item, "allotted"), "{item}");
    }
    shop.finish().await;
}

async fn a_repeated_preheat_gives_no_stock_back(mode: Mode) {
    let shop = TestShop::start(mode).await;
    open_sale(shop.admin, sale_body("drop", 9, &[("phone", 5)])).await;
    assert_eq!(shop.buy("alice", "drop", "phone", "k1").await.status, 202);
    for action in ["preheat", "pause", "pause", "resume", "resume"] {
        let done = shop.operate("POST", &format!("/sales/drop/{action}"), reason("a test")).await;
        assert_eq!(done.status, 200, "{done:?}");
        assert_eq!(shop.stock("drop").await["phone"]["available"], 4, "{action}");
    }
    let mut more = 0;
    for n in 0..9 {
        more += u32::from(shop.buy("bob", "drop", "phone", &format!("k{n}")).await.status == 202);
    }
    assert_eq!(more, 4);
    eventually("all are decided", async || shop.stage().orders("awaiting_payment").await == 5).await;
    assert_eq!(shop.stock("drop").await["phone"]["held"], json!(5));
    shop.finish().await;
}
