//! Workers and the broker die while events are passed on.

use std::time::Duration;

use seckill::worker::event_publisher::EventPublisher;

use crate::binary::{Load, Process, add_key, assert_all_written};
use crate::harness::topic::told;
use crate::harness::{eventually, open, open_sale, sale_body};
use crate::world::{Loss, World};

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_workers_and_the_broker_are_killed() {
    let mut world = World::new(&[("shards.shards", "8"), ("shards.partitions", "4")]).await;
    add_key(&world.config).await;
    let front = Process::start(&world.config, "api").await;
    let mut worker = Process::start(&world.config, "worker").await;
    open_sale(front.admin, sale_body("drop", 1, &[("phone", 1_000_000)])).await;
    let load = Load::start(front.shopper, "u", 4);
    let backend = open(&world.config).await;
    let published = async || {
        let mut published = 0;
        for at in backend.events.instances() {
            let backlog = backend.events.backlog(at, EventPublisher::READER).await.expect("MySQL");
            published += backlog.next.values().map(|next| next - 1).sum::<i64>();
        }
        published
    };
    for round in 1..=4 {
        let before = published().await;
        eventually("events are passed on", async || published().await > before + 20).await;
        // Not at a moment that suits the worker.
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        worker.signal("-KILL");
        worker = Process::start(&world.config, "worker").await;
    }
    let accepted = load.stop().await;
    assert!(accepted.len() > 100, "only {} orders: hardly a load", accepted.len());
    // Events that wait while the broker is away are passed on when it is back.
    world.lose("kafka", Loss::Killed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.restore();
    assert_all_written(&world.config, &accepted).await;
    eventually("all events are passed on", async || {
        let mut unread = 0;
        for at in backend.events.instances() {
            unread += backend.events.backlog(at, EventPublisher::READER).await.expect("MySQL").len();
        }
        unread == 0
    })
    .await;
    let topic = told(&world.config).await;
    for order in &accepted {
        assert!(
            topic.first.contains(&format!("{order}.persisted")),
            "nobody told that {order} was persisted"
        );
    }
    println!("{} events, {} records", topic.first.len(), topic.all);
    drop((front, worker));
    world.finish().await;
}
