//! Tests of grants, by which units move between the pools of MySQL instances.

use seckill::config::Mode;
use seckill::domain::{Instance, Part, SkuId};
use seckill::ports::ErrorKind;

use crate::conformance::writer::{Bench, written};
use crate::harness::{Servers, config};

/// Makes a bench of four or eight instances, which are databases on the two servers of the stack. (Instances divide the
/// partitions, whose number is a power of two, so there are no three.)
async fn bench_of(instances: u16, stock: &[(&str, u32)]) -> Bench {
    let two = config(Mode::Distributed, &[]).mysql.instances;
    let all: Vec<&str> = (0..instances).map(|n| two[usize::from(n % 2)].as_str()).collect();
    let (shards, all) = (instances.to_string(), all.join(","));
    let flags = [
        ("mysql.instances", all.as_str()),
        ("shards.shards", shards.as_str()),
        ("shards.partitions", shards.as_str()),
        ("mysql.pool_connections_max", "4"),
    ];
    Bench::of(config(Mode::Distributed, &flags), stock, 1).await
}

/// Lists a SKU's ring of instances: those that a writer of the first one asks, in their order.
fn ring(bench: &Bench, sku: &str) -> Vec<Instance> {
    bench.map.ring_of(&SkuId::parse(sku).expect("a slug")).collect()
}

/// Returns the partition of an instance that has one.
fn part_of(bench: &Bench, instance: Instance) -> Part {
    bench.map.all_parts().find(|part| bench.map.instance_of_part(*part) == instance).expect("a partition")
}

/// Writes orders of one unit of these SKUs on an instance, as the first batch of its partition.
async fn write(bench: &Bench, on: Instance, skus: &[&str]) {
    let part = part_of(bench, on).number();
    let payload = |(n, sku): (usize, &&str)| {
        let mut record = bench.record(&bench.user(part, n), "k", 1);
        record.sku_id = SkuId::parse(sku).expect("a slug");
        record.encode()
    };
    written(bench.write(&bench.batch(part, 0, skus.iter().enumerate().map(payload).collect())).await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
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

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn two_instances_that_want_each_others_units_do_not_wait_for_each_other() {
    let skus: Vec<String> = (0..10).map(|n| format!("phone-{n}")).collect();
    let stock: Vec<(&str, u32)> = skus.iter().map(|sku| (sku.as_str(), 40)).collect();
    let bench = Bench::of(config(Mode::Distributed, &[]), &stock, 10).await;
    let began = std::time::Instant::now();
    for (round, sku) in (0..).zip(&skus) {
        let batch = |part: u16| {
            let payload = |n| {
                let mut record = bench.record(&bench.user(part, n), sku, 1);
                record.sku_id = SkuId::parse(sku).expect("a slug");
                record.encode()
            };
            bench.batch(part, round * 30, (0..30).map(payload).collect())
        };
        // Each instance needs thirty units and has twenty. What one fetches, the other lacks, in the pools first and
        // then in the ledgers. A batch with a conflict is taken again, as the order writer does, and a batch that was
        // written answers that the position has moved.
        let (zero, one) = (batch(0), batch(1));
        let mut tries = 0;
        loop {
            let (a, b) = tokio::join!(
                bench.backend.order_writes.write(&zero, &bench.sales),
                bench.backend.order_writes.write(&one, &bench.sales)
            );
            tries += 1;
            if a.is_ok() && b.is_ok() {
                break;
            }

            assert!(tries < 3, "two writers take units from each other for ever");
        }
        assert_eq!(bench.stage.orders("awaiting_payment").await, 40 * (round + 1));
        assert_eq!(bench.stage.orders("rejected").await, 20 * (round + 1));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
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
        assert_eq!(
            bench.backend.order_writes.take_over(part).await.expect("position").position.next_offset,
            0
        );
        assert_eq!(bench.stage.sum("SUM(allotted)", "ledger").await, 2, "once, however often");
    }
    let unsettled = format!("SELECT COUNT(*) FROM {home_db}.grants WHERE NOT settled");
    assert_eq!(servers.number(home_at, &unsettled).await, 0);
    bench.finish().await;
}

/// Runs a statement in the control database of an instance. `{db}` stands for its name.
async fn control(bench: &Bench, instance: Instance, text: &str) {
    let servers = Servers::of(&bench.config);
    let (at, database) = servers.controls()[usize::from(instance.number())].clone();
    servers.execute(at, &text.replace("{db}", &database)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_sku_that_is_gone_everywhere_says_nothing_about_another_one() {
    for instances in [4, 8] {
        let bench = bench_of(instances, &[("bag", 1), ("phone", u32::from(instances))]).await;
        // Every instance has one phone, and all but the asker and the last one sell theirs.
        let phones = ring(&bench, "phone");
        let (asker, last) = (phones[0], *phones.last().expect("some"));
        for instance in phones.iter().filter(|instance| ![asker, last].contains(instance)) {
            write(&bench, *instance, &["phone"]).await;
        }
        write(&bench, asker, &["bag", "bag", "phone", "phone"]).await;
        assert_eq!(bench.stage.orders("rejected").await, 1, "the second bag");
        let sold = i64::from(instances) + 1;
        assert_eq!(
            bench.stage.orders("awaiting_payment").await,
            sold,
            "the last phone was the last instance's"
        );
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_another_ledger_does_not_hold_are_fetched_when_all_pools_are_empty() {
    for instances in [4, 8] {
        let bench = bench_of(instances, &[("phone", u32::from(instances))]).await;
        let ring = ring(&bench, "phone");
        let (asker, last) = (ring[0], *ring.last().expect("some"));
        // The last instance fetched the units of all, and its batch did not need them.
        for instance in &ring {
            control(&bench, *instance, "UPDATE {db}.pool SET granted = stock").await;
            let grant = format!(
                "INSERT INTO {{db}}.grants (grant_id, sale_id, sku_id, taker, units, settled) \
                 VALUES (REPEAT('{}', 16), 'drop', 'phone', {}, 1, TRUE)",
                instance.number(),
                last.number()
            );
            control(&bench, *instance, &grant).await;
            if *instance != last {
                control(&bench, last, &grant).await;
            }
        }
        control(&bench, last, &format!("UPDATE {{db}}.ledger SET allotted = {instances}")).await;
        let skus = vec!["phone"; usize::from(instances) + 1];
        write(&bench, asker, &skus).await;
        assert_eq!(bench.stage.orders("awaiting_payment").await, i64::from(instances));
        assert_eq!(bench.stage.orders("rejected").await, 1);
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_were_given_and_not_applied_are_not_asked_for_again() {
    let bench = bench_of(4, &[("phone", 20)]).await;
    let asker = ring(&bench, "phone")[0];
    // It has five units of its own, and has sold them.
    write(&bench, asker, &["phone"; 5]).await;
    control(&bench, asker, "RENAME TABLE {db}.ledger TO {db}.hidden").await;
    control(&bench, asker, "CREATE TABLE {db}.ledger LIKE {db}.hidden").await;
    let part = part_of(&bench, asker);
    let payload = |n| bench.record(&bench.user(part.number(), n), "k", 1).encode();
    let batch = bench.batch(part.number(), 5, (5..8).map(payload).collect());
    bench.backend.order_writes.write(&batch, &bench.sales).await.expect_err("a taker without a ledger row");
    assert_eq!(bench.stage.sum("SUM(granted)", "pool").await, 8, "asked for once");
    control(&bench, asker, "DROP TABLE {db}.ledger").await;
    control(&bench, asker, "RENAME TABLE {db}.hidden TO {db}.ledger").await;
    bench.backend.order_writes.take_over(part).await.expect("a position");
    written(bench.write(&batch).await);
    assert_eq!(bench.stage.orders("awaiting_payment").await, 8);
    assert_eq!(bench.stage.sum("SUM(granted)", "pool").await, 8);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_sku_is_not_called_sold_out_while_units_are_under_way_to_another_instance() {
    let bench = bench_of(4, &[("phone", 4)]).await;
    let ring = ring(&bench, "phone");
    // Each has one unit. A writer of the third was given that of the second, and died before it applied it.
    control(&bench, ring[1], "UPDATE {db}.pool SET granted = stock").await;
    let grant = format!(
        "INSERT INTO {{db}}.grants (grant_id, sale_id, sku_id, taker, units, settled) \
         VALUES (REPEAT('g', 16), 'drop', 'phone', {}, 1, FALSE)",
        ring[2].number()
    );
    control(&bench, ring[1], &grant).await;
    let part = part_of(&bench, ring[0]).number();
    let payload = |n| bench.record(&bench.user(part, n), "k", 1).encode();
    let batch = bench.batch(part, 0, (0..4).map(payload).collect());
    let waits = bench.backend.order_writes.write(&batch, &bench.sales).await.expect_err("it is asked again");
    assert_eq!(waits.kind, ErrorKind::Conflict);
    written(bench.write(&batch).await);
    assert_eq!(bench.stage.orders("awaiting_payment").await, 4);
    bench.finish().await;
}
