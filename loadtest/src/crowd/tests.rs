//! Tests of the crowd against a shop that is told what to answer.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use super::*;
use crate::buyers::{Behaviour, Pages, Reach};
use crate::client::Target;
use crate::client::fake::{Does, FakeShop, ScriptedShop};
use crate::config::TokenConfig;
use crate::opening::ServerClock;
use crate::schedule::{Shape, Wish};

/// How long buyers try in these tests; none of them tries so long.
const LONG: Duration = Duration::from_secs(20);

fn client(address: SocketAddr) -> Arc<Client> {
    let target = Target { address, host: HeaderValue::from_static("shop") };
    Arc::new(Client::new(target, 20, 4, Duration::from_secs(5)))
}

fn crowd(client: Arc<Client>, wish: &Wish, conduct: Conduct) -> Arc<Crowd> {
    let config = TokenConfig {
        secret: "s".repeat(32),
        kid: String::new(),
        audience: "seckill".to_owned(),
        issuer: String::new(),
    };
    let mint = Mint::new(&config, 0).expect("a secret");
    let basket = Basket { sale: "s".to_owned(), sku: "x".to_owned(), quantity: 2, reference: None };
    let crowd = Crowd::gather(basket, Schedule::new(wish), wish.seed, client, &mint, conduct);
    Arc::new(crowd.expect("gathers"))
}

/// One buyer, who clicks twice with one key.
const DOUBLE_CLICK: Wish = Wish {
    shape: Shape::Constant { per_s: 1, duration_s: 1 },
    users: 1,
    same_key_percent: 100.0,
    new_key_percent: 0.0,
    seed: 3,
};

/// Makes buyers of whom the first one does something, and the others nothing.
fn buyers(client: &Arc<Client>, first: Behaviour) -> Buyers {
    let reach = Reach { allow_remote: false, connections_max: 2, sources: 2, timeout: LONG };
    let clock = ServerClock::new(Instant::now(), 0);
    Buyers::new(client.clone(), Pages::new(reach), clock, vec![first], LONG)
}

#[tokio::test]
async fn every_click_of_the_schedule_has_its_entry_and_none_is_early() {
    let shop = FakeShop::open(Does::Answer(202, r#"{"id":"ord_1","status":"queued"}"#)).await;
    let wish = Wish {
        shape: Shape::Constant { per_s: 500, duration_s: 1 },
        users: 40,
        same_key_percent: 20.0,
        new_key_percent: 0.0,
        seed: 3,
    };
    let crowd = crowd(client(shop.address), &wish, Conduct::default());
    let harvest = crowd.go(Instant::now()).await.expect("runs");
    assert_eq!(harvest.entries.len(), crowd.schedule().clicks.len());
    assert!(harvest.entries.iter().all(|entry| entry.class == Class::Won && entry.quantity == 2));
    assert!(harvest.took >= Duration::from_micros(crowd.schedule().span_us()));
    let users: HashSet<&str> = harvest.entries.iter().map(|entry| entry.user.as_str()).collect();
    assert_eq!(users.len(), 40);
    assert!(harvest.entries.iter().all(|entry| entry.latency_us >= entry.slip_us + entry.wait_us));
    assert!(harvest.after.is_none());
}

#[tokio::test]
async fn an_order_is_acted_on_once_however_often_its_buyer_clicks() {
    let shop = ScriptedShop::open(|asked, _| match asked {
        "GET /api/v1/orders/ord_1" => (200, r#"{"id":"ord_1","status":"awaiting_payment"}"#.to_owned()),
        "POST /api/v1/orders/ord_1/cancel" => (200, r#"{"id":"ord_1","status":"cancelled"}"#.to_owned()),
        _ => (202, r#"{"id":"ord_1","status":"queued","poll_after_ms":1}"#.to_owned()),
    })
    .await;
    let client = client(shop.address);
    let buyers = Some(buyers(&client, Behaviour::Cancel));
    let crowd = crowd(client, &DOUBLE_CLICK, Conduct { buyers, ..Conduct::default() });
    let harvest = crowd.go(Instant::now()).await.expect("runs");
    assert_eq!(harvest.entries.len(), 2);
    let after = harvest.after.expect("buyers act");
    assert_eq!(after.endings, BTreeMap::from([(Ending::Cancelled, 1)]));
    assert!(after.faults.is_empty() && after.returns.is_empty());
    let counts = shop.counts();
    assert_eq!(counts["POST /api/v1/orders/ord_1/cancel"], 1);
    assert_eq!(counts["GET /api/v1/orders/ord_1"], 1);
}

#[tokio::test]
async fn a_refused_buyer_comes_again_with_the_same_key_and_every_click_is_in_the_journal() {
    // Both clicks of the buyer are refused. Of those that come again, the first one is refused and the second is not.
    let shop = ScriptedShop::open(|asked, before| match (asked, before) {
        ("GET /api/v1/orders/ord_1", _) => (200, r#"{"id":"ord_1","status":"awaiting_payment"}"#.to_owned()),
        ("POST /api/v1/sales/s/orders", 0..=2) => (409, r#"{"status":409,"code":"sold_out"}"#.to_owned()),
        _ => (202, r#"{"id":"ord_1","status":"queued","poll_after_ms":1}"#.to_owned()),
    })
    .await;
    let client = client(shop.address);
    let conduct = Conduct {
        buyers: Some(buyers(&client, Behaviour::Abandon)),
        second_chance: Some(SecondChance::new(Some(2), LONG)),
        polls: false,
    };
    let harvest = crowd(client, &DOUBLE_CLICK, conduct).go(Instant::now()).await.expect("runs");
    let after = harvest.after.as_ref().expect("buyers come again");
    assert_eq!((after.came_back, after.unsent), (1, 0));
    assert_eq!(after.endings, BTreeMap::from([(Ending::Abandoned, 1)]));
    let classes: Vec<Class> = after.returns.iter().map(|entry| entry.class).collect();
    assert_eq!(classes, [Class::SoldOut, Class::Won]);
    assert!(after.returns.iter().all(|entry| entry.kind == Kind::SecondChance));
    assert!(after.returns[1].at_us >= after.returns[0].at_us + 500_000);
    let journal = harvest.into_journal();
    assert_eq!(journal.len(), 4);
    assert_eq!(journal.iter().map(|entry| entry.key.as_str()).collect::<HashSet<_>>().len(), 1);
}

#[tokio::test]
async fn nobody_comes_again_without_time_or_without_an_unpaid_unit() {
    let shop = FakeShop::open(Does::Answer(409, r#"{"status":409,"code":"sold_out"}"#)).await;
    for second_chance in [SecondChance::new(Some(0), LONG), SecondChance::new(Some(2), Duration::ZERO)] {
        let conduct = Conduct { second_chance: Some(second_chance), ..Conduct::default() };
        let crowd = crowd(client(shop.address), &DOUBLE_CLICK, conduct);
        let after = crowd.go(Instant::now()).await.expect("runs").after.expect("buyers may come again");
        assert!(after.returns.is_empty() && after.came_back == 0);
    }
}
