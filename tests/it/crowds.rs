//! Many at once: the answers of a crowd add up, whatever the order they are served in.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;

use crate::client::Answer;
use crate::harness::{TestShop, eventually};

fn tally(answers: &[Answer]) -> HashMap<String, usize> {
    let mut tally = HashMap::new();
    for answer in answers {
        let word = match answer.status {
            200..=202 => "accepted".to_owned(),
            _ => answer.code(),
        };
        *tally.entry(word).or_default() += 1;
    }
    tally
}

async fn all_written(shop: &TestShop, orders: i64) {
    let database = shop.database();
    eventually("every accepted order has its row", async || {
        database.orders("awaiting_payment").await >= orders
    })
    .await;
    assert_eq!(database.orders("awaiting_payment").await, orders);
    assert_eq!(database.orders("rejected").await, 0);
    assert_eq!(database.control_sum("SUM(held)", "ledger").await, orders);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_buys_exactly_the_stock() {
    let shop = TestShop::start().await;
    shop.open_sale("drop", 1, &[("phone", 40)]).await;
    let buyers = (0..400).map(|n| {
        let shop = &shop;
        async move { shop.buy(&format!("u{n}"), "drop", "phone", "k").await }
    });
    let tally = tally(&join_all(buyers).await);
    assert_eq!(tally, HashMap::from([("accepted".to_owned(), 40), ("sold_out".to_owned(), 360)]));
    all_written(&shop, 40).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_buyer_with_many_keys_gets_the_limit() {
    let shop = TestShop::start().await;
    shop.open_sale("drop", 1, &[("phone", 400)]).await;
    let clicks = (0..200).map(|n| {
        let shop = &shop;
        async move { shop.buy("alice", "drop", "phone", &format!("k{n}")).await }
    });
    let tally = tally(&join_all(clicks).await);
    assert_eq!(tally, HashMap::from([("accepted".to_owned(), 1), ("limit_reached".to_owned(), 199)]));
    all_written(&shop, 1).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_many_times_is_one_order() {
    let shop = TestShop::start().await;
    shop.open_sale("drop", 1, &[("phone", 400)]).await;
    let clicks = (0..200).map(|_| shop.buy("alice", "drop", "phone", "k"));
    let answers = join_all(clicks).await;
    assert_eq!(tally(&answers), HashMap::from([("accepted".to_owned(), 200)]));
    let ids: HashSet<String> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    all_written(&shop, 1).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_goes_to_one_buyer() {
    let shop = TestShop::start().await;
    for round in 0..10 {
        let sale = format!("last-{round}");
        shop.open_sale(&sale, 1, &[("phone", 1)]).await;
        let buyers = (0..60).map(|n| {
            let (shop, sale) = (&shop, &sale);
            async move { shop.buy(&format!("u{n}"), sale, "phone", "k").await }
        });
        let tally = tally(&join_all(buyers).await);
        assert_eq!(tally, HashMap::from([("accepted".to_owned(), 1), ("sold_out".to_owned(), 59)]));
    }
    all_written(&shop, 10).await;
    shop.finish().await;
}
