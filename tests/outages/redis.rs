//! Redis is gone: nothing can be sold, shoppers are told so at once, and nothing that was sold is lost.

use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::client::{Answer, call};
use crate::harness::{Stage as _, TestShop, eventually};
use crate::world::{LOSSES, Loss, World};

/// How soon a purchase is answered: what docs/api.md promises, and what the client's connection and this machine may
/// add.
const ANSWERED_WITHIN: Duration = Duration::from_millis(300 + 100);

async fn timed(shop: &TestShop, user: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = shop.buy(user, "drop", "phone", "k").await;
    (answer, began.elapsed())
}

/// How soon `/readyz` knows of a fault and of its end.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// How soon a sale goes on when its Redis is back: what docs/operations.md promises of a rebuild.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);

async fn can_buy(shop: &TestShop) -> bool {
    call(shop.admin, "GET", "/readyz?duty=buy", &[], "").await.status == 200
}

/// Sells while Redis goes away and comes back.
async fn sell_through(world: &mut World, loss: Loss) {
    let shop = world.shop().await;
    shop.open_sale("drop", 1, &[("phone", 1000)]).await;
    for n in 0..20 {
        assert_eq!(shop.buy(&format!("before-{n}"), "drop", "phone", "k").await.status, 202);
    }
    world.lose("redis", loss);
    // Buyers whose call was under way do not learn its outcome. Everybody after them is refused before the call.
    let names: Vec<String> = (0..200).map(|n| format!("during-{n}")).collect();
    let first = join_all(names.iter().map(|user| timed(&shop, user))).await;
    let later = join_all(names.iter().map(|user| timed(&shop, user))).await;
    for (answer, _) in &first {
        assert!(matches!(answer.status, 503 | 504), "{loss:?}: {answer:?}");
    }
    for (answer, took) in &later {
        assert_eq!(answer.problem(), (503, "dependency_unavailable".to_owned()), "{loss:?}");
        assert_eq!(answer.json()["retryable"], true);
        assert!(*took <= ANSWERED_WITHIN, "{loss:?}: {took:?}");
    }
    let slowest = first.iter().map(|(_, took)| *took).max().expect("some");
    assert!(slowest <= ANSWERED_WITHIN, "{loss:?}: the first took {slowest:?}");
    let lost = Instant::now();
    eventually("buying is said to be impossible", async || !can_buy(&shop).await).await;
    assert!(lost.elapsed() <= KNOWN_WITHIN, "{loss:?}: {:?}", lost.elapsed());
    // No process fares better, so none is taken out, and reads go on.
    let page = call(shop.admin, "GET", "/readyz", &[], "").await;
    assert_eq!((page.status, &page.json()["status"]), (200, &"degraded".into()), "{loss:?}: {page:?}");
    assert_eq!(page.json()["duties"]["read"], "yes", "{loss:?}: {page:?}");
    let buy = page.json()["duties"]["buy"].as_str().expect("a verdict").to_owned();
    assert!(buy.starts_with("no: redis"), "{loss:?}: {buy}");

    world.restore();
    let restored = Instant::now();
    eventually("one can buy again", async || can_buy(&shop).await).await;
    assert!(restored.elapsed() <= KNOWN_WITHIN, "{loss:?}: {:?}", restored.elapsed());
    // A server that was started anew may have older data, so its bucket is rebuilt.
    eventually("the sale goes on", async || shop.buy(&names[0], "drop", "phone", "k").await.status < 300)
        .await;
    assert!(restored.elapsed() <= GOES_ON_WITHIN, "{loss:?}: {:?}", restored.elapsed());
    // Whatever the first try did, the same key finds or makes the buyer's one order.
    for answer in join_all(names.iter().map(|user| shop.buy(user, "drop", "phone", "k"))).await {
        assert!(answer.status < 300, "{loss:?}: {answer:?}");
    }
    let database = world.database();
    eventually("all orders are written", async || database.orders("awaiting_payment").await >= 220).await;
    assert_eq!(database.orders("awaiting_payment").await, 220);
    eventually("all units are counted", async || shop.stock("drop").await["phone"]["available"] == 780).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nothing_is_sold_it_is_said_within_300_ms_and_the_sale_goes_on_afterwards() {
    for loss in LOSSES {
        let mut world = World::new(&[("redis.response_timeout_ms", "140")]).await;
        sell_through(&mut world, loss).await;
        world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_for_a_moment_takes_no_front_out() {
    let mut world = World::new(&[("redis.response_timeout_ms", "140")]).await;
    let shop = world.shop().await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    for _ in 0..3 {
        let began = Instant::now();
        world.lose("redis", Loss::Frozen);
        while began.elapsed() < Duration::from_millis(600) {
            assert!(can_buy(&shop).await, "{:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.restore();
        let back = Instant::now();
        while back.elapsed() < Duration::from_millis(1500) {
            assert!(can_buy(&shop).await, "{:?} after it was back", back.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    shop.finish().await;
    world.finish().await;
}
