//! Kills the shop (kill -9) at random moments under load. In part of the rounds the log is torn too, as if the machine
//! had crashed. After the next start the audit is clean, every order that a buyer was told of is there, and nothing is
//! oversold.
//!
//! `SECKILL_KILLS=200 cargo test --test embedded kills` runs longer. `SECKILL_KILL_SEED=<seed>` repeats the random
//! numbers of a run, but not its scheduling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seckill::clock::Clock;

use crate::audit::{assert_clean, orders};
use crate::binary::{Folder, Process, SERVE, command, make_key};
use crate::harness::operate;
use crate::load::{Crowd, Told, click, open_sale};
use crate::wal::{self, TEARS, Tear};

const KILLS: u64 = 20;
/// The rounds after which a fresh folder is taken, so that first starts are killed too and audits stay short.
const ROUNDS_OF_A_FOLDER: u64 = 10;
const BUYERS: usize = 8;
/// The longest a shop lives under load.
const LIFE_MS: u64 = 600;

#[expect(clippy::disallowed_methods, reason = "a test's own switch is no configuration of the product")]
fn switch(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    kills_at_start: u64,
    told: usize,
    refused: usize,
    orders: i64,
    torn: BTreeMap<Tear, u64>,
    starts: Duration,
    longest_start: Duration,
}

struct Rounds {
    dice: StdRng,
    folder: Folder,
    key: String,
    told: Vec<Told>,
    tally: Tally,
}

impl Rounds {
    fn new(seed: u64) -> Self {
        let folder = Folder::new();
        let key = make_key(folder.path());
        let dice = StdRng::seed_from_u64(seed);
        Self { dice, folder, key, told: Vec::new(), tally: Tally::default() }
    }

    async fn start(&mut self) -> Process {
        let began = Instant::now();
        let process = Process::serve(self.folder.path()).await;
        self.tally.starts += began.elapsed();
        self.tally.longest_start = self.tally.longest_start.max(began.elapsed());
        process
    }

    /// Runs a shop under load and kills it. The sale sells out in some of the rounds.
    async fn live_and_die(&mut self, round: u64) {
        let process = self.start().await;
        assert_clean(self.folder.path(), &self.told).await;
        self.ask_again(&process).await;
        let sale = format!("sale-{round}");
        let stock = self.dice.random_range(20..2000);
        open_sale(process.admin, &self.key, &sale, stock).await;
        let crowd = Crowd::start(process.shopper, &format!("u{round}"), &sale, BUYERS);
        // The random moment of the kill is what this test is about. The sleep waits for nothing else.
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..LIFE_MS))).await;
        process.kill();
        let heard = crowd.heard().await;
        self.tally.kills += 1;
        self.tally.told += heard.told.len();
        self.tally.refused += heard.refused;
        self.told.extend(heard.told);
        self.damage();
        if self.dice.random_range(0..4) == 0 {
            self.die_at_start();
        }
    }

    /// Damages the folder as a crash of the machine does, beyond a crash of the process.
    fn damage(&mut self) {
        let chance = self.dice.random_range(0..10);
        if chance < 6 {
            let how = TEARS[self.dice.random_range(0..TEARS.len())];
            if wal::tear(self.folder.path(), how, &mut self.dice) {
                *self.tally.torn.entry(how).or_default() += 1;
            }
        }
        if chance < 8 {
            wal::lose_index(self.folder.path());
        }
    }

    /// Starts a shop and kills it while it recovers, or before.
    fn die_at_start(&mut self) {
        let mut child = command(self.folder.path(), &SERVE).spawn().expect("the binary starts");
        std::thread::sleep(Duration::from_micros(self.dice.random_range(0..40_000)));
        child.kill().expect("killed");
        child.wait().expect("ended");
        self.tally.kills_at_start += 1;
    }

    /// Asserts that the same click still finds the same order.
    async fn ask_again(&mut self, process: &Process) {
        let mut line = crate::client::Line::open(process.shopper).await.expect("a connection");
        for Told { user, sale, id } in self.told.iter().rev().take(20) {
            let again = click(&mut line, user, sale, "wait=0").await.expect("an answer");
            assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(id.as_str())), "{again:?}");
        }
        if let Some(Told { sale, .. }) = self.told.last() {
            let path = format!("/sales/{sale}/stock");
            let stock = operate(process.admin, &self.key, "GET", &path, serde_json::Value::Null).await;
            assert_eq!(stock.status, 200, "{stock:?}");
        }
    }

    /// Audits a folder for the last time.
    async fn end(mut self) -> Tally {
        let process = self.start().await;
        assert_clean(self.folder.path(), &self.told).await;
        self.tally.orders = orders(self.folder.path()).await;
        assert!(process.stop().success());
        self.tally
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_at_any_moment_loses_no_answered_order_and_sells_nothing_twice() {
    let kills = switch("SECKILL_KILLS").unwrap_or(KILLS);
    let of_the_clock = u64::try_from(Clock::System.now_ms()).expect("after 1970");
    let seed = switch("SECKILL_KILL_SEED").unwrap_or(of_the_clock);
    println!("SECKILL_KILL_SEED={seed}");
    let mut all = Tally::default();
    for first in (0..kills).step_by(usize::try_from(ROUNDS_OF_A_FOLDER).expect("small")) {
        let mut rounds = Rounds::new(seed.wrapping_add(first));
        for round in first..kills.min(first + ROUNDS_OF_A_FOLDER) {
            rounds.live_and_die(round).await;
        }
        let tally = rounds.end().await;
        all.kills += tally.kills;
        all.kills_at_start += tally.kills_at_start;
        all.told += tally.told;
        all.refused += tally.refused;
        all.orders += tally.orders;
        all.starts += tally.starts;
        all.longest_start = all.longest_start.max(tally.longest_start);
        for (how, times) in tally.torn {
            *all.torn.entry(how).or_default() += times;
        }
    }
    println!("{all:#?}");
    assert!(all.told > 10, "hardly a load: {all:?}");
    assert!(kills < KILLS || all.torn.values().sum::<u64>() * 5 > kills, "few torn logs: {all:?}");
}
