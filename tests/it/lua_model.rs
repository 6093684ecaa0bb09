//! Compares the scripts of `lua/` on a real Redis with their specification, `domain::inventory_model`. Random histories
//! are played, and every answer and the whole state are compared. In the middle scripts are forgotten and servers
//! killed.
//!
//! A failure names its seed. `SECKILL_MODEL_SEED=<seed> cargo test --test it lua_model` plays it again.

mod contents;
mod history;

use std::time::Duration;

use futures::future::join_all;
use seckill::backend::distributed::{self, RedisPorts};
use seckill::clock::Clock;
use seckill::config::Mode;

use self::history::{Cut, History, Line, Scripts, Tally};
use crate::harness::{config, eventually};
use crate::own_redis::OwnRedis;
use crate::wishes;

/// The seeds of every run. One from the clock joins them.
const SEEDS: [u64; 3] = [1, 7, 20_240_611];

/// The histories that run side by side, each on a bucket of its own.
const HISTORIES: u64 = 16;
const CALLS: u32 = 200;

/// Every kind of call, and the answer that only Redis gives. A run in which one of them is rare has tested little.
const KINDS: [&str; 20] = [
    "gate_shut",
    "keys_lost",
    "calls",
    "reserve calls",
    "acknowledge calls",
    "entries removed",
    "no entry removed",
    "mark_decided calls",
    "release calls",
    "no release",
    "nothing to release",
    "units that came back",
    "gate calls",
    "preheat calls",
    "malformed calls",
    "renew calls",
    "books calls",
    "rebuild calls",
    "no rebuild",
    "rebuilt",
];

struct Server {
    redis: OwnRedis,
    line: Line,
    /// The product with a time limit so short that it gives up on a server that stands still.
    hasty: RedisPorts,
}

impl Server {
    async fn start(args: &[&str]) -> Self {
        let redis = OwnRedis::start(args).await;
        let url = redis.url();
        let mut config =
            config(Mode::Distributed, &[("redis.url", &url), ("redis.response_timeout_ms", "10000")]).redis;
        let ports = distributed::open_redis(&config, Clock::System).expect("an address");
        config.response_timeout_ms = 50;
        let hasty = distributed::open_redis(&config, Clock::System).expect("an address");
        let raw = redis.connection().await;
        let line = Line { ports, raw, prefix: config.key_prefix, scripts: Scripts::new() };
        Self { redis, line, hasty }
    }

    /// Starts the server that was killed, and waits until the product has found it again.
    async fn start_again(&mut self) {
        self.redis.start_again().await;
        self.line.raw = self.redis.connection().await;
        self.serving().await;
        reached(&self.line.ports).await;
    }

    /// Waits until a cluster's node serves its slots, which it does not do at once after a restart.
    async fn serving(&self) {
        eventually("the server serves keys", async || {
            let answer = redis::cmd("EXISTS").arg("any").query_async::<i64>(&mut self.line.raw.clone()).await;
            answer.is_ok()
        })
        .await;
    }

    /// Counts the connections that the server has, ours and the product's.
    async fn clients(&self) -> usize {
        let list = redis::cmd("CLIENT").arg("LIST").query_async::<String>(&mut self.line.raw.clone()).await;
        list.expect("a list").lines().count()
    }

    async fn forget_scripts(&self) {
        let flushed = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut self.line.raw.clone()).await;
        let () = flushed.expect("flushed");
    }
}

async fn reached(ports: &RedisPorts) {
    eventually("the product reaches Redis", async || ports.probe.check().await.is_ok()).await;
}

async fn run(line: &Line, histories: &mut [History], calls: u32) {
    join_all(histories.iter_mut().map(|history| history.run(line, calls))).await;
}

async fn verify(line: &Line, histories: &mut [History]) {
    join_all(histories.iter_mut().map(|history| history.verify(line))).await;
}

/// Kills the server under one call of every history, after `delay`.
async fn cut_short(server: &mut Server, histories: &mut [History], delay: Duration) {
    let Server { redis, line, .. } = server;
    let calls = join_all(histories.iter_mut().map(|history| history.ask_cut(&line.ports)));
    let kill = async {
        tokio::time::sleep(delay).await;
        redis.kill();
    };
    let (cuts, ()): (Vec<Cut>, ()) = tokio::join!(calls, kill);
    server.start_again().await;
    resolve(&server.line, histories, cuts, true).await;
}

/// Calls a server that is paused. The calls run when it is resumed, and nobody sees the answers.
async fn stand_still(server: &Server, histories: &mut [History]) {
    let before = server.clients().await;
    reached(&server.hasty).await;
    server.redis.pause();
    let cuts = join_all(histories.iter_mut().map(|history| history.ask_cut(&server.hasty))).await;
    server.redis.resume();
    // The server closes a connection only after it has run what came over it.
    eventually("what was asked is done", async || server.clients().await <= before).await;
    resolve(&server.line, histories, cuts, false).await;
}

/// Finds out what became of calls that were cut short, `anew` when the server was started again meanwhile.
async fn resolve(line: &Line, histories: &mut [History], cuts: Vec<Cut>, anew: bool) {
    let resolving = histories.iter_mut().zip(cuts).map(|(history, cut)| history.resolve_cut(line, cut, anew));
    join_all(resolving).await;
}

/// Disturbs a round in its middle; most rounds are left alone. Returns how many restarts it took.
async fn strike(server: &mut Server, histories: &mut [History], round: u64) -> u64 {
    match round % 16 {
        1 | 9 | 13 => {
            verify(&server.line, histories).await;
            server.forget_scripts().await;
            verify(&server.line, histories).await;
        }
        3 | 11 | 15 => {
            // The scripts are forgotten under running calls. The first half of the round has loaded them all.
            let (line, flush) = (&server.line, server.forget_scripts());
            tokio::join!(run(line, histories, 20), flush);
        }
        5 => {
            verify(&server.line, histories).await;
            server.redis.kill();
            server.start_again().await;
            histories.iter_mut().for_each(History::leave_run);
            verify(&server.line, histories).await;
            return 1;
        }
        6 => {
            for delay_ms in 0..2 {
                cut_short(server, histories, Duration::from_millis(delay_ms)).await;
            }
            return 2;
        }
        7 => {
            // Few calls change anything. Among so many there is surely one that does.
            for _ in 0..6 {
                stand_still(server, histories).await;
            }
        }
        _ => {}
    }
    0
}

/// Plays a number of rounds of histories. A failure panics with its seed.
async fn play(server: &mut Server, rounds: u64) -> Tally {
    let seeds = wishes::seeds(&SEEDS);
    let mut tally = Tally::new();
    for (round, seed) in (0..rounds).zip(seeds.iter().cycle()) {
        let numbers = round * HISTORIES..(round + 1) * HISTORIES;
        let mut histories: Vec<History> = numbers.map(|number| History::new(*seed, number)).collect();
        run(&server.line, &mut histories, CALLS / 2).await;
        *tally.entry("restarts").or_default() += strike(server, &mut histories, round).await;
        run(&server.line, &mut histories, CALLS / 2).await;
        verify(&server.line, &mut histories).await;
        for (what, times) in histories.iter().flat_map(|history| &history.tally) {
            *tally.entry(what).or_default() += times;
        }
    }
    tally
}

#[track_caller]
fn assert_wide(tally: &Tally, calls_min: u64) {
    let times = |what: &str| tally.get(what).copied().unwrap_or(0);
    let rare: Vec<&str> =
        wishes::ANSWERS.into_iter().chain(KINDS).filter(|what| times(what) < calls_min / 1000).collect();
    assert!(rare.is_empty(), "rare: {rare:?} in {tally:#?}");
    assert!(times("reserve calls") >= calls_min, "{tally:#?}");
    assert!(times("restarts") >= 3, "{tally:#?}");
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_scripts_do_what_the_model_says() {
    let mut server = Server::start(&[]).await;
    let tally = play(&mut server, 52).await;
    println!("{tally:#?}");
    assert_wide(&tally, 100_000);
    assert!(tally.contains_key("cut: applied unseen"), "{tally:#?}");
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_scripts_stay_in_one_slot_of_a_cluster() {
    let mut server = Server::start(&["--cluster-enabled", "yes"]).await;
    let line = &mut server.line;
    let slots =
        redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).query_async(&mut line.raw).await;
    let () = slots.expect("all slots");
    server.serving().await;

    // This shows that the server would refuse a call that touches two slots.
    let mut call = server.line.scripts.preheat.prepare_invoke();
    call.key("{h.0}:gate").key("{h.1}:stock").key("{h.1}:orders").key("{h.1}:unpaid").key("{h.1}:references");
    call.key("{h.1}:rebuild").arg(1).arg(1).arg(2).arg(1).arg(0).arg(0).arg("pad").arg(5);
    let refused = call.invoke_async::<String>(&mut server.line.raw).await.expect_err("two slots in one call");
    assert_eq!(refused.code(), Some("CROSSSLOT"), "{refused}");
    let keys: i64 = redis::cmd("DBSIZE").query_async(&mut server.line.raw).await.expect("a number");
    assert_eq!(keys, 0);

    let tally = play(&mut server, 11).await;
    println!("{tally:#?}");
    assert_wide(&tally, 20_000);
}
