//! Many dead letters: ten thousand records can never become orders, and the order behind them is written.

use seckill::config::Mode;
use std::time::{Duration, Instant};

use seckill::domain::{
    IdempotencyKey, Money, Month, OrderId, OrderRecord, Part, Quantity, SaleId, SkuId, UserId,
};

use crate::harness::{TestShop, eventually};

in_both_modes!(ten_thousand_poison_records_in_a_row_hold_up_nobody,);

const POISON: usize = 10_000;
/// How soon the order must be written. A partition at full speed needs two or three seconds here.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);

/// Lists users whose orders are in this partition, without end.
pub fn users_of(shop: &TestShop, part: u16) -> impl Iterator<Item = UserId> {
    let map = shop.config.shard_map().expect("a map");
    let users = (0..).map(|n| UserId::parse(&format!("u{n}")).expect("a user"));
    users.filter(move |user| map.part_of(map.shard_of(user)) == Part::new(part))
}

/// Returns a user whose orders are in this partition.
fn user_of(shop: &TestShop, part: u16) -> UserId {
    users_of(shop, part).next().expect("endless")
}

/// Makes a record like those of this sale, for one unit.
pub fn record(shop: &TestShop, user: &UserId, month: Month, key: &str) -> OrderRecord {
    let map = shop.config.shard_map().expect("a map");
    let sale = SaleId::parse("drop").expect("a slug");
    let key = IdempotencyKey::parse(key).expect("a key");
    OrderRecord {
        v: OrderRecord::VERSION,
        order_id: OrderId::derive(map.shard_of(user), month, &sale, user, &key),
        sale_id: sale,
        sku_id: SkuId::parse("phone").expect("a slug"),
        user_id: user.clone(),
        quantity: Quantity::new(1).expect("a quantity"),
        unit_price: Money::new(19_900, "CNY").expect("money"),
        epoch: 1,
        accepted_ms: 0,
        reference: None,
        awaited: false,
        node: None,
        trace: None,
        decided: None,
    }
}

async fn ten_thousand_poison_records_in_a_row_hold_up_nobody(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let user = user_of(&shop, 0);
    let first = shop.buy(user.as_str(), "drop", "phone", "first").await.json();
    let id: OrderId = OrderId::parse(first["id"].as_str().expect("an id")).expect("ours");
    let good = record(&shop, &user, id.month(), "poison");
    let kinds: [Vec<u8>; 6] = [
        b"garbage".to_vec(),
        br#"{"v":9}"#.to_vec(),
        OrderRecord { sale_id: SaleId::parse("no-such").expect("a slug"), ..good.clone() }.encode(),
        OrderRecord { sku_id: SkuId::parse("no-such").expect("a slug"), ..good.clone() }.encode(),
        OrderRecord { quantity: Quantity::new(3).expect("a quantity"), ..good.clone() }.encode(),
        OrderRecord { user_id: user_of(&shop, 1), ..good.clone() }.encode(),
    ];
    let too_large = vec![b'x'; 100_000];
    let began = Instant::now();
    for chunk in (0..POISON).collect::<Vec<_>>().chunks(1000) {
        let payload =
            |n: usize| if n.is_multiple_of(500) { too_large.clone() } else { kinds[n % kinds.len()].clone() };
        shop.stage().append(id, chunk.iter().map(|n| payload(*n)).collect()).await;
    }
    let behind = shop.buy(user.as_str(), "drop", "phone", "behind").await.json();
    let order = shop.decided(user.as_str(), behind["id"].as_str().expect("an id")).await;
    let took = began.elapsed();
    assert_eq!(order["status"], "awaiting_payment");
    let database = shop.stage();
    let letters = i64::try_from(POISON).expect("small");
    assert_eq!(database.sum("COUNT(*)", "dead_letters").await, letters, "one for each, none twice");
    assert_eq!(database.sum("COUNT(DISTINCT reason)", "dead_letters").await, 7);
    assert_eq!(database.orders("awaiting_payment").await, 2);
    assert!(took < WRITTEN_WITHIN, "{took:?} for {POISON} records");
    // The other partition was not held up.
    let other = user_of(&shop, 1);
    let answer = shop.buy(other.as_str(), "drop", "phone", "k").await.json();
    shop.decided(other.as_str(), answer["id"].as_str().expect("an id")).await;
    eventually("three orders", async || database.orders("awaiting_payment").await == 3).await;
    shop.finish().await;
}
