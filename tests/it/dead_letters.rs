//! Tests of what the buyer of a dead letter is told.

use seckill::config::Mode;
use seckill::domain::reservation::Verdict;
use seckill::domain::{BucketId, SaleId};
use serde_json::Value;

use crate::harness::{TestShop, eventually, open, remove};
use crate::relay::requests;

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_buyer_of_a_dead_letter_hears_that_the_order_is_delayed() {
    let mut shop = TestShop::start_with(Mode::Distributed, &[("relay.min_age_ms", "60000")]).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let ports = open(&shop.config).await;
    let bucket = BucketId { sale: SaleId::parse("drop").expect("a slug"), bucket: 0 };
    let sale = ports.sales.sale(&bucket.sale).await.expect("a directory").expect("the sale");
    // A front of a newer version accepts an order, and our writers cannot read its record.
    let request = requests(&shop, &sale, "buyer").remove(0);
    let (order, user) = (request.record.order_id, request.record.user_id.clone());
    let verdicts = ports.inventory.reserve(&bucket, vec![request].into()).await.expect("Redis");
    let [Verdict::Reserved { outbox_entry, .. }] = &verdicts[..] else { panic!("{verdicts:?}") };
    let newer = format!(r#"{{"v":2,"order_id":"{order}"}}"#);
    shop.stage().append(order, vec![newer.into_bytes()]).await;
    ports.outbox.acknowledge(&bucket, &[order], std::slice::from_ref(outbox_entry)).await.expect("Redis");

    let mut seen = Value::Null;
    eventually("the buyer hears of it", async || {
        seen = shop.get(user.as_str(), &format!("/api/v1/orders/{order}")).await.json();
        seen["delayed"] == true
    })
    .await;
    let replay = shop.buy(user.as_str(), "drop", "phone", "k").await;
    assert_eq!(replay.status, 202, "{replay:?}");
    for told in [seen, replay.json()] {
        assert_eq!(
            (&told["status"], &told["final"], &told["delayed"]),
            (&"queued".into(), &false.into(), &true.into())
        );
        let poll_after_ms = told["poll_after_ms"].as_u64().expect("a number");
        assert!((15_000..=60_000).contains(&poll_after_ms), "{told}");
    }
    // Another buyer's order is written, and says nothing of a delay.
    let other = shop.buy("other", "drop", "phone", "k").await.json();
    assert_eq!(other["delayed"], Value::Null, "{other}");
    shop.decided("other", other["id"].as_str().expect("an id")).await;
    let config = shop.config.clone();
    shop.stop().await;
    remove(&config).await;
}
