//! Order writers and fronts die, freeze and come back, under load.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use seckill::config::Config;
use seckill::domain::{Part, Position};

use crate::binary::{Load, Process, add_key, assert_all_written};
use crate::harness::{eventually, open, open_sale, sale_body};
use crate::proxy::Weather;
use crate::world::World;

/// Four partitions, so that each of three writers has one.
const SHARDS: [(&str, &str); 2] = [("shards.shards", "8"), ("shards.partitions", "4")];

struct Works {
    world: World,
    front: Process,
    writers: Vec<Process>,
}

impl Works {
    /// Starts a front and `writers` order writers, and opens a sale.
    async fn start(writers: usize, flags: &[(&str, &str)]) -> Self {
        let world = World::new(&[SHARDS.as_slice(), flags].concat()).await;
        add_key(&world.config).await;
        let front = Process::start(&world.config, "api").await;
        let mut works = Self { world, front, writers: Vec::new() };
        for _ in 0..writers {
            works.writers.push(Process::start(&works.world.config, "worker").await);
        }
        open_sale(works.front.admin, sale_body("drop", 1, &[("phone", 1_000_000)])).await;
        works
    }

    fn config(&self) -> &Config {
        &self.world.config
    }

    async fn positions(&self) -> HashMap<Part, Position> {
        open(self.config()).await.positions.positions().await
    }

    /// Waits until the position of every partition has moved on. Returns how long that took.
    async fn all_move_on(&self) -> Duration {
        let began = Instant::now();
        let backend = open(self.config()).await;
        let before = self.positions().await;
        assert_eq!(before.len(), 4);
        eventually("every partition moves on", async || {
            let now = backend.positions.positions().await;
            let moved = |part, position: &Position| {
                now.get(part).is_some_and(|moved| moved.next_offset > position.next_offset)
            };
            before.iter().all(|(part, position)| moved(part, position))
        })
        .await;
        began.elapsed()
    }

    async fn finish(self, load: Load) {
        let accepted = load.stop().await;
        assert!(accepted.len() > 100, "only {} orders: hardly a load", accepted.len());
        assert_all_written(self.config(), &accepted).await;
        drop((self.front, self.writers));
        self.world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_killed_writer_are_taken_over_within_ten_seconds() {
    // Unlike other tests, this one has the session times of config/default.toml.
    let times = [("kafka.session_timeout_ms", "6000"), ("kafka.heartbeat_interval_ms", "1000")];
    let mut works = Works::start(3, &times).await;
    let load = Load::start(works.front.shopper, "u", 8);
    works.all_move_on().await;
    let dead = works.writers.remove(0);
    dead.signal("-KILL");
    let killed = works.all_move_on().await;
    let mut leaving = works.writers.remove(0);
    leaving.signal("-TERM");
    let left = works.all_move_on().await;
    assert!(leaving.ended(Duration::from_secs(20)).await.success());
    println!("taken over {killed:.1?} after kill -9 and {left:.1?} after SIGTERM");
    assert!(killed < Duration::from_secs(10), "{killed:?} after kill -9");
    assert!(left < Duration::from_secs(10), "{left:?} after SIGTERM");
    works.finish(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_frozen_past_its_session_writes_nothing_twice_when_it_wakes() {
    let works = Works::start(3, &[]).await;
    // MySQL is so slow that the writer is frozen in the middle of a batch.
    works.world.mysql_weather(Weather::Slow(Duration::from_millis(30)));
    let load = Load::start(works.front.shopper, "u", 8);
    works.all_move_on().await;
    for zombie in &works.writers {
        zombie.signal("-STOP");
        works.all_move_on().await;
        zombie.signal("-CONT");
        works.all_move_on().await;
    }
    works.world.mysql_weather(Weather::Fair);
    works.finish(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_change_hands_in_the_middle_of_batches_lose_nothing() {
    let mut works = Works::start(1, &[]).await;
    works.world.mysql_weather(Weather::Slow(Duration::from_millis(30)));
    let load = Load::start(works.front.shopper, "u", 8);
    for _ in 0..4 {
        works.writers.push(Process::start(works.config(), "worker").await);
        works.all_move_on().await;
        let mut leaving = works.writers.remove(0);
        leaving.signal("-TERM");
        works.all_move_on().await;
        assert!(leaving.ended(Duration::from_secs(20)).await.success());
    }
    works.world.mysql_weather(Weather::Fair);
    works.finish(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_of_front_and_writer_alone_and_together_loses_no_accepted_order() {
    let mut works = Works::start(1, &[]).await;
    let mut accepted = Vec::new();
    for (round, (front, writer)) in [(true, false), (false, true), (true, true)].into_iter().enumerate() {
        let load = Load::start(works.front.shopper, &format!("u{round}-"), 8);
        works.all_move_on().await;
        let began = Instant::now();
        let mut leaving = Vec::new();
        if front {
            let next = Process::start(works.config(), "api").await;
            leaving.push(std::mem::replace(&mut works.front, next));
        }
        if writer {
            let next = Process::start(works.config(), "worker").await;
            leaving.push(works.writers.remove(0));
            works.writers.push(next);
        }
        leaving.iter().for_each(|process| process.signal("-TERM"));
        for process in &mut leaving {
            let status = process.ended(Duration::from_secs(20)).await;
            assert!(status.success(), "round {round}: {status} after {:?}", began.elapsed());
        }
        accepted.extend(load.stop().await);
    }
    let load = Load::start(works.front.shopper, "last-", 2);
    works.all_move_on().await;
    accepted.extend(load.stop().await);
    assert!(accepted.len() > 100);
    assert_all_written(works.config(), &accepted).await;
    drop((works.front, works.writers));
    works.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_front_and_writer_at_once_loses_no_accepted_order() {
    let mut works = Works::start(1, &[]).await;
    let load = Load::start(works.front.shopper, "u", 16);
    works.all_move_on().await;
    let mut dead = works.writers.remove(0);
    dead.signal("-KILL");
    works.front.signal("-KILL");
    assert!(!dead.ended(Duration::from_secs(5)).await.success());
    assert!(!works.front.ended(Duration::from_secs(5)).await.success());
    works.writers.push(Process::start(works.config(), "worker").await);
    works.finish(load).await;
}
