//! The order writer's promises, one broken expectation at a time: what the log holds is not trusted.

use std::collections::HashMap;

use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::batch_plan::{LogBatch, LogRecord};
use seckill::domain::{
    Item, Money, OrderId, OrderRecord, Part, Quantity, Sale, SaleId, SaleState, ShardMap, SkuId, UserId,
};
use seckill::ports::{BatchOutcome, Ports};

use crate::harness::{Database, config, migrated, open, remove};

struct Bench {
    config: Config,
    backend: Ports,
    map: ShardMap,
    sale: Sale,
    sales: HashMap<SaleId, Sale>,
    database: Database,
}

impl Bench {
    /// A migrated backend with pools for one sale; batches are written by hand, no Kafka in between.
    async fn new(stock: u32, buyer_limit: u32) -> Self {
        let config = config(&[]);
        migrated(&config).await;
        let backend = open(&config).await;
        let now_ms = Clock::System.now_ms();
        let item = Item {
            sku_id: SkuId::parse("phone").expect("slug"),
            name: "Phone".to_owned(),
            stock,
            price: Money::new(100, "CNY").expect("money"),
        };
        let sale = Sale {
            id: SaleId::parse("drop").expect("slug"),
            name: "Drop".to_owned(),
            state: SaleState::Preheated,
            starts_ms: now_ms,
            ends_ms: now_ms + 1_000_000,
            buyer_limit,
            payment_window_ms: 60_000,
            buckets: 1,
            epoch: 1,
            version: 1,
            items: vec![item],
        };
        backend.ledger.open_pools(&sale).await.expect("pools");
        let map = config.shard_map().expect("a map");
        let sales = HashMap::from([(sale.id.clone(), sale.clone())]);
        let database = Database::of(&config);
        Self { config, backend, map, sale, sales, database }
    }

    /// The `n`th user whose shard belongs to a partition.
    fn user(&self, part: u16, n: usize) -> UserId {
        let users = (0..).map(|i| UserId::parse(&format!("u{i}")).expect("user"));
        let mut mine = users.filter(|user| self.map.part_of(self.map.shard_of(user)) == Part::new(part));
        mine.nth(n).expect("endless")
    }

    fn record(&self, user: &UserId, key: &str, quantity: u32) -> OrderRecord {
        let key = seckill::domain::IdempotencyKey::parse(key).expect("key");
        let shard = self.map.shard_of(user);
        OrderRecord {
            v: 1,
            order_id: OrderId::derive(shard, self.sale.month(), &self.sale.id, user, &key),
            sale_id: self.sale.id.clone(),
            sku_id: self.sale.items[0].sku_id.clone(),
            user_id: user.clone(),
            quantity: Quantity::new(quantity).expect("quantity"),
            unit_price: self.sale.items[0].price.clone(),
            epoch: 1,
            accepted_ms: self.sale.starts_ms,
            decided: None,
        }
    }

    fn batch(&self, part: u16, start_offset: i64, payloads: Vec<Vec<u8>>) -> LogBatch {
        let records = (start_offset..)
            .zip(payloads)
            .map(|(offset, payload)| {
                let order = OrderRecord::decode(&payload);
                LogRecord { offset, payload, order }
            })
            .collect();
        LogBatch { part: Part::new(part), start_offset, records }
    }

    async fn write(&self, batch: &LogBatch) -> BatchOutcome {
        self.backend.orders.write(batch, &self.sales).await.expect("written")
    }

    async fn finish(self) {
        // Whatever a test did: no SKU is oversold, and the ledger is what the rows say.
        let held = self.database.control_sum("SUM(held)", "ledger").await;
        let allotted = self.database.control_sum("SUM(allotted)", "ledger").await;
        let granted = self.database.control_sum("SUM(granted)", "pool").await;
        assert!(
            held <= allotted && allotted == granted,
            "held {held}, allotted {allotted}, granted {granted}"
        );
        assert!(granted <= i64::from(self.sale.items[0].stock));
        remove(&self.config).await;
    }
}

fn written(outcome: BatchOutcome) -> seckill::ports::Written {
    match outcome {
        BatchOutcome::Written(written) => written,
        BatchOutcome::PositionMoved { stored } => panic!("position moved to {stored}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_more_orders_than_stock_never_oversells() {
    let bench = Bench::new(5, 1).await;
    for part in [0, 1] {
        let payloads = (0..10).map(|n| bench.record(&bench.user(part, n), "k", 1).encode()).collect();
        written(bench.write(&bench.batch(part, 0, payloads)).await);
    }
    assert_eq!(bench.database.orders("awaiting_payment").await, 5);
    assert_eq!(bench.database.orders("rejected").await, 15);
    assert_eq!(bench.database.control_sum("SUM(held)", "ledger").await, 5);
    assert_eq!(bench.database.control_sum("COUNT(*)", "release_outbox").await, 15, "their stock is owed");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_may_sell_the_whole_stock() {
    let bench = Bench::new(9, 1).await;
    for round in 0..3 {
        let payloads = (0..3).map(|n| bench.record(&bench.user(0, round * 3 + n), "k", 1).encode()).collect();
        let start = i64::try_from(round * 3).expect("small");
        written(bench.write(&bench.batch(0, start, payloads)).await);
    }
    assert_eq!(bench.database.orders("awaiting_payment").await, 9, "half of it was fetched from the other");
    let late = vec![bench.record(&bench.user(1, 0), "k", 1).encode()];
    written(bench.write(&bench.batch(1, 0, late)).await);
    assert_eq!(bench.database.orders("rejected").await, 1);
    let unsettled = bench.database.control_sum("SUM(NOT settled)", "grants").await;
    assert_eq!(unsettled, 0, "every grant stands on both sides");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_that_want_each_others_units_do_not_wait_for_each_other() {
    let bench = Bench::new(40, 1).await;
    let batches = |part: u16| {
        let payloads = (0..30).map(|n| bench.record(&bench.user(part, n), "k", 1).encode()).collect();
        bench.batch(part, 0, payloads)
    };
    // Each wants thirty of its own twenty: what one fetches the other lacks.
    let (zero, one) = (batches(0), batches(1));
    let began = std::time::Instant::now();
    for _ in 0..2 {
        let (a, b) = tokio::join!(
            bench.backend.orders.write(&zero, &bench.sales),
            bench.backend.orders.write(&one, &bench.sales)
        );
        // A conflict is taken again, as the writer does; what was written answers that the position moved.
        if a.is_ok() && b.is_ok() {
            break;
        }
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(bench.database.orders("awaiting_payment").await, 40);
    assert_eq!(bench.database.orders("rejected").await, 20);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_orders_in_the_log_win_and_a_smaller_later_one_may_fit() {
    let bench = Bench::new(5, 4).await;
    let wants = [4, 3, 1];
    let payloads = (0..)
        .zip(wants)
        .map(|(n, quantity)| bench.record(&bench.user(0, n), "k", quantity).encode())
        .collect();
    let states: Vec<&str> = written(bench.write(&bench.batch(0, 0, payloads)).await)
        .orders
        .iter()
        .map(|(_, state)| state.as_str())
        .collect();
    assert_eq!(states, ["awaiting_payment", "rejected", "awaiting_payment"]);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_from_another_position_is_refused_whole() {
    let bench = Bench::new(5, 1).await;
    let first = bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()]);
    assert_eq!(written(bench.write(&first).await).next_offset, 1);
    let zombie = bench.batch(0, 0, vec![bench.record(&bench.user(0, 1), "k", 1).encode()]);
    assert!(matches!(bench.write(&zombie).await, BatchOutcome::PositionMoved { stored: 1 }));
    let gap = bench.batch(0, 7, vec![bench.record(&bench.user(0, 1), "k", 1).encode()]);
    assert!(matches!(bench.write(&gap).await, BatchOutcome::PositionMoved { stored: 1 }));
    assert_eq!(bench.database.orders("awaiting_payment").await, 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_partition_write_each_batch_once() {
    let bench = Bench::new(100, 1).await;
    let other = open(&bench.config).await;
    for round in 0..10 {
        let payloads: Vec<Vec<u8>> =
            (0..5).map(|n| bench.record(&bench.user(0, round * 5 + n), "k", 1).encode()).collect();
        let start = i64::try_from(round * 5).expect("small");
        let batch = bench.batch(0, start, payloads);
        let (a, b) = tokio::join!(bench.write(&batch), other.orders.write(&batch, &bench.sales));
        let wrote = [a, b.expect("written")].into_iter().filter(|o| matches!(o, BatchOutcome::Written(_)));
        assert_eq!(wrote.count(), 1, "round {round}");
    }
    assert_eq!(bench.database.orders("awaiting_payment").await, 50);
    assert_eq!(bench.database.control_sum("SUM(held)", "ledger").await, 50);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_there_already_is_skipped() {
    let bench = Bench::new(5, 1).await;
    let record = bench.record(&bench.user(0, 0), "k", 1).encode();
    written(bench.write(&bench.batch(0, 0, vec![record.clone(), record.clone()])).await);
    let again = written(bench.write(&bench.batch(0, 2, vec![record])).await);
    assert_eq!((again.skipped, again.orders.len()), (1, 0));
    assert_eq!(bench.database.orders("awaiting_payment").await, 1);
    assert_eq!(bench.database.control_sum("SUM(held)", "ledger").await, 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_row_of_an_order_or_a_claim_is_refused_by_its_key() {
    let bench = Bench::new(5, 1).await;
    written(bench.write(&bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()])).await);
    let shard = bench.map.shard_of(&bench.user(0, 0)).number();
    let (instance, shard) = bench.database.shards()[usize::from(shard)].clone();
    let orders = format!("{shard}.orders_{}", bench.sale.month().yyyymm());
    for table in [orders, format!("{shard}.claims"), format!("{shard}.order_moves")] {
        let copy = format!("INSERT INTO {table} SELECT * FROM {table}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(copy)).execute(bench.database.pool(instance)).await;
        let error = refused.expect_err("a second row must be refused");
        assert!(error.as_database_error().is_some_and(|e| e.is_unique_violation()), "{table}: {error}");
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buyer_limit_holds_across_batches_and_inside_one() {
    let bench = Bench::new(50, 3).await;
    let user = bench.user(0, 0);
    let orders = |keys: &[(&str, u32)]| {
        keys.iter().map(|(key, quantity)| bench.record(&user, key, *quantity).encode()).collect::<Vec<_>>()
    };
    written(bench.write(&bench.batch(0, 0, orders(&[("a", 2), ("b", 2)]))).await);
    written(bench.write(&bench.batch(0, 2, orders(&[("c", 1), ("d", 1)]))).await);
    assert_eq!(bench.database.orders("awaiting_payment").await, 2, "a and c");
    assert_eq!(bench.database.orders("rejected").await, 2, "b and d");
    let mut claims = 0;
    for (instance, shard) in bench.database.shards() {
        claims += bench.database.number(instance, &format!("SELECT COUNT(*) FROM {shard}.claims")).await;
    }
    assert_eq!(claims, 3);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_becomes_dead_letters_and_its_neighbours_become_orders() {
    let bench = Bench::new(5, 2).await;
    let user = bench.user(0, 0);
    let good = bench.record(&user, "k", 1);
    let unknown_sale = OrderRecord { sale_id: SaleId::parse("other").expect("slug"), ..good.clone() };
    let unknown_sku = OrderRecord { sku_id: SkuId::parse("other").expect("slug"), ..good.clone() };
    let over_limit = OrderRecord { quantity: Quantity::new(3).expect("quantity"), ..good.clone() };
    let stolen = OrderRecord { user_id: bench.user(1, 0), ..good.clone() };
    let payloads = vec![
        b"garbage".to_vec(),
        br#"{"v":9}"#.to_vec(),
        vec![b'x'; 100_000],
        unknown_sale.encode(),
        unknown_sku.encode(),
        over_limit.encode(),
        stolen.encode(),
        good.encode(),
    ];
    let outcome = written(bench.write(&bench.batch(0, 0, payloads)).await);
    let reasons = [
        "garbage",
        "unknown_version",
        "too_large",
        "unknown_sale",
        "unknown_sku",
        "over_limit",
        "wrong_place",
    ];
    assert_eq!(outcome.dead_letters, reasons);
    assert_eq!((outcome.orders.len(), outcome.next_offset), (1, 8));
    assert_eq!(bench.database.control_sum("COUNT(*)", "dead_letters").await, 7);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_taken_and_never_applied_is_applied_at_takeover() {
    let bench = Bench::new(5, 1).await;
    let home = bench.map.home_of(&bench.sale.items[0].sku_id).number();
    let taker = 1 - home;
    // What a writer leaves that died between the two commits.
    let (home_at, home_db) = bench.database.controls()[usize::from(home)].clone();
    let pool = format!("UPDATE {home_db}.pool SET granted = granted + 2");
    bench.database.execute(home_at, &pool).await;
    let grant = format!(
        "INSERT INTO {home_db}.grants (grant_id, sale_id, sku_id, taker, units, settled) \
         VALUES (REPEAT('g', 16), 'drop', 'phone', {taker}, 2, FALSE)"
    );
    bench.database.execute(home_at, &grant).await;
    let part = bench.map.all_parts().find(|p| bench.map.instance_of_part(*p).number() == taker);
    let part = part.expect("a partition of the taker");
    for _ in 0..3 {
        assert_eq!(bench.backend.orders.take_over(part).await.expect("position"), 0);
        assert_eq!(bench.database.control_sum("SUM(allotted)", "ledger").await, 2, "once, however often");
    }
    let unsettled = format!("SELECT COUNT(*) FROM {home_db}.grants WHERE NOT settled");
    assert_eq!(bench.database.number(home_at, &unsettled).await, 0);
    bench.finish().await;
}
