//! Tests of the order writer's promises, one broken expectation at a time: what the log holds is not trusted.

use std::sync::Arc;

use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::batch_plan::{LogBatch, LogRecord};
use seckill::domain::{
    Change, Halt, Item, LogId, Money, OrderId, OrderRecord, Part, Position, Quantity, Sale, SaleId,
    SaleState, Sales, ShardMap, SkuId, UserId,
};
use seckill::ports::{BatchOutcome, Ports};

use crate::harness::{Stage, assert_rows_kept, config, migrated, open, remove, stage};

in_both_modes!(
    a_log_with_more_orders_than_stock_never_oversells,
    the_first_orders_in_the_log_win_and_a_smaller_later_one_may_fit,
    a_batch_from_another_position_is_refused_whole,
    a_halted_partition_writes_nothing_until_its_position_is_moved,
    a_dead_letter_that_is_read_again_is_one_dead_letter,
    two_writers_of_one_partition_write_each_batch_once,
    an_order_that_is_there_already_is_skipped,
    a_second_row_of_an_order_or_a_claim_is_refused_by_its_key,
    the_buyer_limit_holds_across_batches_and_inside_one,
    poison_becomes_dead_letters_and_its_neighbours_become_orders,
    a_record_of_a_newer_version_says_whose_order_it_was,
);

pub struct Bench {
    pub config: Config,
    pub backend: Ports,
    pub map: ShardMap,
    pub log: LogId,
    pub sale: Sale,
    pub sales: Sales,
    pub stage: Box<dyn Stage>,
}

impl Bench {
    /// Makes a migrated backend with pools for one sale. The tests write batches by hand, without Kafka.
    pub async fn new(mode: Mode, stock: u32, buyer_limit: u32) -> Self {
        Self::of(config(mode, &[]), &[("phone", stock)], buyer_limit).await
    }

    /// Makes the same over a configuration, with a stock of each SKU.
    pub async fn of(config: Config, stock: &[(&str, u32)], buyer_limit: u32) -> Self {
        migrated(&config).await;
        let backend = open(&config).await;
        let now_ms = Clock::System.now_ms();
        let item = |(sku, stock): &(&str, u32)| Item {
            sku_id: SkuId::parse(sku).expect("slug"),
            name: (*sku).to_owned(),
            stock: *stock,
            price: Money::new(100, "CNY").expect("money"),
        };
        let sale = Sale {
            id: SaleId::parse("drop").expect("slug"),
            name: "Drop".to_owned(),
            state: SaleState::Preheated,
            starts_ms: now_ms,
            ends_ms: now_ms + 1_000_000,
            buyer_limit,
            unpaid_max: 3,
            access: seckill::domain::Access::default(),
            payment_window_ms: 60_000,
            buckets: 1,
            epoch: 1,
            in_place: true,
            version: 1,
            items: stock.iter().map(item).collect(),
        };
        let change = Change {
            actor: "tester".to_owned(),
            action: "create",
            reason: "a test".to_owned(),
            request_id: "none".to_owned(),
        };
        assert!(backend.sales.create(&sale, &change).await.expect("a directory"), "a fresh directory");
        backend.ledger.open_pools(&sale).await.expect("pools");
        let map = config.shard_map().expect("a map");
        for part in map.all_parts() {
            assert_eq!(
                backend.order_writes.take_over(part).await.expect("a position").position.next_offset,
                0
            );
        }
        let log = backend.order_log.identity().await.expect("a log").id;
        let sales = Sales::from([(sale.id.clone(), sale.clone())]);
        let stage = stage(&config);
        Self { config, backend, map, log, sale, sales, stage }
    }

    /// Returns the `n`th user whose shard belongs to a partition.
    pub fn user(&self, part: u16, n: usize) -> UserId {
        let users = (0..).map(|i| UserId::parse(&format!("u{i}")).expect("user"));
        let mut mine = users.filter(|user| self.map.part_of(self.map.shard_of(user)) == Part::new(part));
        mine.nth(n).expect("endless")
    }

    pub fn record(&self, user: &UserId, key: &str, quantity: u32) -> OrderRecord {
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
            reference: None,
            awaited: false,
            node: None,
            trace: None,
            decided: None,
        }
    }

    pub fn batch(&self, part: u16, start_offset: i64, payloads: Vec<Vec<u8>>) -> LogBatch {
        let records = (start_offset..)
            .zip(payloads)
            .map(|(offset, payload)| {
                let order = OrderRecord::decode(&payload);
                LogRecord { offset, payload, order }
            })
            .collect();
        LogBatch { part: Part::new(part), log: self.log, start_offset, fences: Arc::default(), records }
    }

    /// Opens the same stores as another process would. The embedded mode has one process, and two tasks share it.
    async fn second(&self) -> Ports {
        match self.config.backend.mode {
            Mode::Distributed => open(&self.config).await,
            Mode::Embedded => self.backend.clone(),
        }
    }

    pub async fn write(&self, batch: &LogBatch) -> BatchOutcome {
        self.backend.order_writes.write(batch, &self.sales).await.expect("written")
    }

    pub async fn finish(self) {
        // Whatever a test did, no SKU is oversold, and the ledger agrees with the rows.
        assert_rows_kept(&self.config, self.sale.id.as_str()).await;
        remove(&self.config).await;
    }
}

pub fn written(outcome: BatchOutcome) -> seckill::ports::Written {
    match outcome {
        BatchOutcome::Written(written) => written,
        BatchOutcome::PositionMoved { stored } => panic!("position moved to {stored:?}"),
    }
}

async fn a_log_with_more_orders_than_stock_never_oversells(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    for part in [0, 1] {
        let payloads = (0..10).map(|n| bench.record(&bench.user(part, n), "k", 1).encode()).collect();
        written(bench.write(&bench.batch(part, 0, payloads)).await);
    }
    assert_eq!(bench.stage.orders("awaiting_payment").await, 5);
    assert_eq!(bench.stage.orders("rejected").await, 15);
    assert_eq!(bench.stage.sum("SUM(held)", "ledger").await, 5);
    bench.finish().await;
}

async fn the_first_orders_in_the_log_win_and_a_smaller_later_one_may_fit(mode: Mode) {
    let bench = Bench::new(mode, 5, 4).await;
    let wants = [4, 3, 1];
    let payloads = (0..)
        .zip(wants)
        .map(|(n, quantity)| bench.record(&bench.user(0, n), "k", quantity).encode())
        .collect();
    let states: Vec<&str> = written(bench.write(&bench.batch(0, 0, payloads)).await)
        .orders
        .iter()
        .map(|order| order.decision.state.as_str())
        .collect();
    assert_eq!(states, ["awaiting_payment", "rejected", "awaiting_payment"]);
    bench.finish().await;
}

async fn a_batch_from_another_position_is_refused_whole(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    let first = bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()]);
    assert_eq!(written(bench.write(&first).await).next_offset, 1);
    let zombie = bench.batch(0, 0, vec![bench.record(&bench.user(0, 1), "k", 1).encode()]);
    assert!(matches!(
        bench.write(&zombie).await,
        BatchOutcome::PositionMoved { stored: Position { next_offset: 1, .. } }
    ));
    let gap = bench.batch(0, 7, vec![bench.record(&bench.user(0, 1), "k", 1).encode()]);
    assert!(matches!(
        bench.write(&gap).await,
        BatchOutcome::PositionMoved { stored: Position { next_offset: 1, .. } }
    ));
    assert_eq!(bench.stage.orders("awaiting_payment").await, 1);
    bench.finish().await;
}

async fn a_halted_partition_writes_nothing_until_its_position_is_moved(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    let part = Part::new(0);
    let batch = bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()]);
    let stored = bench.backend.order_writes.take_over(part).await.expect("a position").position;
    let halted = stored.halted(Halt::OutOfRange);
    let positions = &bench.backend.positions;
    assert!(positions.replace(part, &stored, &halted).await.expect("stored"));
    assert!(!positions.replace(part, &stored, &halted).await.expect("stored"), "it is another one by now");
    let BatchOutcome::PositionMoved { stored } = bench.write(&batch).await else { panic!("written") };
    assert_eq!((stored, positions.positions().await[&part]), (halted, halted));
    assert_eq!(bench.stage.orders("awaiting_payment").await, 0);
    let moved = Position { halt: None, ..halted };
    assert!(positions.replace(part, &halted, &moved).await.expect("stored"));
    written(bench.write(&batch).await);
    assert_eq!(bench.stage.orders("awaiting_payment").await, 1);
    bench.finish().await;
}

async fn a_dead_letter_that_is_read_again_is_one_dead_letter(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    let part = Part::new(0);
    let good = bench.record(&bench.user(0, 0), "k", 1).encode();
    let batch = bench.batch(0, 0, vec![b"garbage".to_vec(), good]);
    written(bench.write(&batch).await);
    let stored = bench.backend.order_writes.take_over(part).await.expect("a position").position;
    let back = Position { next_offset: 0, ..stored };
    assert!(bench.backend.positions.replace(part, &stored, &back).await.expect("moved back"));
    assert_eq!(written(bench.write(&batch).await).skipped, 1);
    assert_eq!(bench.stage.sum("COUNT(*)", "dead_letters").await, 1);
    assert_eq!(bench.stage.orders("awaiting_payment").await, 1);
    bench.finish().await;
}

async fn two_writers_of_one_partition_write_each_batch_once(mode: Mode) {
    let bench = Bench::new(mode, 100, 1).await;
    let other = bench.second().await;
    for round in 0..10 {
        let payloads: Vec<Vec<u8>> =
            (0..5).map(|n| bench.record(&bench.user(0, round * 5 + n), "k", 1).encode()).collect();
        let start = i64::try_from(round * 5).expect("small");
        let batch = bench.batch(0, start, payloads);
        let (a, b) = tokio::join!(bench.write(&batch), other.order_writes.write(&batch, &bench.sales));
        let wrote = [a, b.expect("written")].into_iter().filter(|o| matches!(o, BatchOutcome::Written(_)));
        assert_eq!(wrote.count(), 1, "round {round}");
    }
    assert_eq!(bench.stage.orders("awaiting_payment").await, 50);
    assert_eq!(bench.stage.sum("SUM(held)", "ledger").await, 50);
    bench.finish().await;
}

async fn an_order_that_is_there_already_is_skipped(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    let record = bench.record(&bench.user(0, 0), "k", 1).encode();
    written(bench.write(&bench.batch(0, 0, vec![record.clone(), record.clone()])).await);
    let again = written(bench.write(&bench.batch(0, 2, vec![record])).await);
    assert_eq!((again.skipped, again.orders.len()), (1, 0));
    assert_eq!(bench.stage.orders("awaiting_payment").await, 1);
    assert_eq!(bench.stage.sum("SUM(held)", "ledger").await, 1);
    bench.finish().await;
}

async fn a_second_row_of_an_order_or_a_claim_is_refused_by_its_key(mode: Mode) {
    let bench = Bench::new(mode, 5, 1).await;
    written(bench.write(&bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()])).await);
    assert_eq!(bench.stage.refused_copies().await, ["orders", "claims"]);
    bench.finish().await;
}

async fn the_buyer_limit_holds_across_batches_and_inside_one(mode: Mode) {
    let bench = Bench::new(mode, 50, 3).await;
    let user = bench.user(0, 0);
    let orders = |keys: &[(&str, u32)]| {
        keys.iter().map(|(key, quantity)| bench.record(&user, key, *quantity).encode()).collect::<Vec<_>>()
    };
    written(bench.write(&bench.batch(0, 0, orders(&[("a", 2), ("b", 2)]))).await);
    written(bench.write(&bench.batch(0, 2, orders(&[("c", 1), ("d", 1)]))).await);
    assert_eq!(bench.stage.orders("awaiting_payment").await, 2, "a and c");
    assert_eq!(bench.stage.orders("rejected").await, 2, "b and d");
    assert_eq!(bench.stage.sum("COUNT(*)", "claims").await, 3);
    bench.finish().await;
}

async fn poison_becomes_dead_letters_and_its_neighbours_become_orders(mode: Mode) {
    let bench = Bench::new(mode, 5, 2).await;
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
    assert_eq!(bench.stage.sum("COUNT(*)", "dead_letters").await, 7);
    assert!(bench.backend.orders.is_dead_letter(good.order_id).await.expect("asked"), "some name its order");
    let other = bench.record(&user, "other", 1).order_id;
    assert!(!bench.backend.orders.is_dead_letter(other).await.expect("asked"));
    bench.finish().await;
}

async fn a_record_of_a_newer_version_says_whose_order_it_was(mode: Mode) {
    let bench = Bench::new(mode, 5, 2).await;
    let order = bench.record(&bench.user(0, 0), "k", 1).order_id;
    let newer = format!(r#"{{"v":2,"order_id":"{order}","more":[1]}}"#);
    written(bench.write(&bench.batch(0, 0, vec![newer.into_bytes()])).await);
    assert!(bench.backend.orders.is_dead_letter(order).await.expect("asked"));
    bench.finish().await;
}
