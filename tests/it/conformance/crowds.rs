//! Many buyers click at once: their answers add up, in whatever order they are served. Every rule is tried twenty
//! times, each time on a sale of its own.

use seckill::config::Mode;
use std::collections::{HashMap, HashSet};

use futures::future::join_all;

use crate::client::{Answer, Line};
use crate::harness::{TestShop, eventually, token};

in_both_modes!(
    a_crowd_buys_exactly_the_stock,
    one_buyer_with_many_keys_gets_the_limit,
    one_key_many_times_is_one_order,
    the_last_unit_goes_to_one_buyer,
);

const ROUNDS: usize = 20;
/// The clicks that are under way at once.
const PARALLEL: usize = 1000;

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

fn of(accepted: usize, word: &str, rest: usize) -> HashMap<String, usize> {
    HashMap::from([("accepted".to_owned(), accepted), (word.to_owned(), rest)])
}

/// Opens as many kept connections as clicks may be under way.
async fn lines(shop: &TestShop) -> Vec<Line> {
    let open = (0..PARALLEL).map(|_| Line::open(shop.shopper));
    join_all(open).await.into_iter().map(|line| line.expect("a connection")).collect()
}

/// Sends all clicks, given as user and key, as many at once as there are connections.
async fn click(lines: &mut [Line], sale: &str, clicks: &[(String, String)]) -> Vec<Answer> {
    let path = format!("/api/v1/sales/{sale}/orders");
    let shares = clicks.chunks(clicks.len().div_ceil(lines.len()));
    let busy = lines.iter_mut().zip(shares).map(|(line, share)| {
        let path = &path;
        async move {
            let mut answers = Vec::new();
            for (user, key) in share {
                let bearer = format!("Bearer {}", token(user));
                let headers = [
                    ("Authorization", bearer.as_str()),
                    ("Content-Type", "application/json"),
                    ("Idempotency-Key", key),
                ];
                let body = r#"{"sku_id":"phone","quantity":1}"#.into();
                answers.push(line.exchange("POST", path, &headers, body).await.expect("an answer"));
            }
            answers
        }
    });
    join_all(busy).await.into_iter().flatten().collect()
}

async fn all_written(shop: &TestShop, orders: i64) {
    let database = shop.stage();
    eventually("every accepted order has its row", async || {
        database.orders("awaiting_payment").await >= orders
    })
    .await;
    assert_eq!(database.orders("awaiting_payment").await, orders);
    assert_eq!(database.orders("rejected").await, 0);
    assert_eq!(database.sum("SUM(held)", "ledger").await, orders);
}

async fn a_crowd_buys_exactly_the_stock(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 40)]).await;
    let buyers: Vec<_> = (0..400).map(|n| (format!("u{n}"), "k".to_owned())).collect();
    assert_eq!(tally(&click(&mut lines(&shop).await, "drop", &buyers).await), of(40, "sold_out", 360));
    all_written(&shop, 40).await;
    shop.finish().await;
}

async fn one_buyer_with_many_keys_gets_the_limit(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut lines = lines(&shop).await;
    for round in 0..ROUNDS {
        let sale = format!("drop-{round}");
        shop.open_sale(&sale, 1, &[("phone", 4000)]).await;
        let clicks: Vec<_> = (0..PARALLEL).map(|n| ("alice".to_owned(), format!("k{n}"))).collect();
        let tally = tally(&click(&mut lines, &sale, &clicks).await);
        assert_eq!(tally, of(1, "limit_reached", PARALLEL - 1), "round {round}");
    }
    all_written(&shop, 20).await;
    shop.finish().await;
}

async fn one_key_many_times_is_one_order(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut lines = lines(&shop).await;
    let clicks = vec![("alice".to_owned(), "k".to_owned()); PARALLEL];
    for round in 0..ROUNDS {
        let sale = format!("drop-{round}");
        shop.open_sale(&sale, 1, &[("phone", 4000)]).await;
        let answers = click(&mut lines, &sale, &clicks).await;
        let strange = answers.iter().find(|answer| answer.status > 202);
        assert!(strange.is_none(), "round {round}: {strange:?}");
        let facts = |answer: &Answer| {
            let order = answer.json();
            ["id", "sale_id", "sku_id", "quantity", "price"].map(|field| order[field].to_string())
        };
        let different: HashSet<[String; 5]> = answers.iter().map(facts).collect();
        assert_eq!(different.len(), 1, "round {round}: one order, one answer");
        let new = answers.iter().filter(|answer| answer.header("Idempotent-Replayed").is_empty());
        assert_eq!(new.count(), 1, "round {round}: one click made it");
    }
    all_written(&shop, 20).await;
    shop.finish().await;
}

async fn the_last_unit_goes_to_one_buyer(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut lines = lines(&shop).await;
    let buyers: Vec<_> = (0..5000).map(|n| (format!("u{n}"), "k".to_owned())).collect();
    for round in 0..ROUNDS {
        let sale = format!("last-{round}");
        shop.open_sale(&sale, 1, &[("phone", 1)]).await;
        let answers = click(&mut lines, &sale, &buyers).await;
        assert_eq!(tally(&answers), of(1, "sold_out", buyers.len() - 1), "round {round}");
    }
    all_written(&shop, 20).await;
    shop.finish().await;
}
