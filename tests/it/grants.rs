//! Tests of grants, by which units move between the pools of MySQL instances.

use seckill::config::Mode;

use crate::conformance::writer::{Bench, written};
use crate::harness::Servers;

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_may_sell_the_whole_stock() {
    let bench = Bench::new(Mode::Distributed, 9, 1).await;
    for round in 0..3 {
        let payloads = (0..3).map(|n| bench.record(&bench.user(0, round * 3 + n), "k", 1).encode()).collect();
        let start = i64::try_from(round * 3).expect("small");
        written(bench.write(&bench.batch(0, start, payloads)).await);
    }
    assert_eq!(bench.stage.orders("awaiting_payment").await, 9, "half of it was fetched from the other");
    let late = vec![bench.record(&bench.user(1, 0), "k", 1).encode()];
    written(bench.write(&bench.batch(1, 0, late)).await);
    assert_eq!(bench.stage.orders("rejected").await, 1);
    let unsettled = bench.stage.sum("SUM(NOT settled)", "grants").await;
    assert_eq!(unsettled, 0, "every grant stands on both sides");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_that_want_each_others_units_do_not_wait_for_each_other() {
    let bench = Bench::new(Mode::Distributed, 40, 1).await;
    let batches = |part: u16| {
        let payloads = (0..30).map(|n| bench.record(&bench.user(part, n), "k", 1).encode()).collect();
        bench.batch(part, 0, payloads)
    };
    // Each instance needs thirty units and has twenty. What one fetches, the other lacks.
    let (zero, one) = (batches(0), batches(1));
    let began = std::time::Instant::now();
    for _ in 0..2 {
        let (a, b) = tokio::join!(
            bench.backend.order_writes.write(&zero, &bench.sales),
            bench.backend.order_writes.write(&one, &bench.sales)
        );
        // A batch with a conflict is taken again, as the order writer does. A batch that was written answers that the
        // position has moved.
        if a.is_ok() && b.is_ok() {
            break;
        }
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(bench.stage.orders("awaiting_payment").await, 40);
    assert_eq!(bench.stage.orders("rejected").await, 20);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_taken_and_never_applied_is_applied_at_takeover() {
    let bench = Bench::new(Mode::Distributed, 5, 1).await;
    let servers = Servers::of(&bench.config);
    let home = bench.map.home_of(&bench.sale.items[0].sku_id).number();
    let taker = 1 - home;
    // This is what a writer leaves that died between the two commits.
    let (home_at, home_db) = servers.controls()[usize::from(home)].clone();
    let pool = format!("UPDATE {home_db}.pool SET granted = granted + 2");
    servers.execute(home_at, &pool).await;
    let grant = format!(
        "INSERT INTO {home_db}.grants (grant_id, sale_id, sku_id, taker, units, settled) \
         VALUES (REPEAT('g', 16), 'drop', 'phone', {taker}, 2, FALSE)"
    );
    servers.execute(home_at, &grant).await;
    let part = bench.map.all_parts().find(|p| bench.map.instance_of_part(*p).number() == taker);
    let part = part.expect("a partition of the taker");
    for _ in 0..3 {
        assert_eq!(bench.backend.order_writes.take_over(part).await.expect("position"), 0);
        assert_eq!(bench.stage.sum("SUM(allotted)", "ledger").await, 2, "once, however often");
    }
    let unsettled = format!("SELECT COUNT(*) FROM {home_db}.grants WHERE NOT settled");
    assert_eq!(servers.number(home_at, &unsettled).await, 0);
    bench.finish().await;
}
