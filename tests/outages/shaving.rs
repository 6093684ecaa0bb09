//! Peak shaving: while the order writers are slowed to a tenth of the arrivals, shoppers notice nothing but the wait
//! that they are promised. The test writes `.stack/shaving.csv`, from which the picture of docs/benchmarks.md is made.

#![expect(clippy::disallowed_methods, reason = "an arrival's task ends with its test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use seckill::config::Config;
use seckill::domain::{Part, UserId};
use seckill::ports::Ports;
use tokio::time::{Instant, sleep_until};

use crate::binary::{Process, add_key};
use crate::harness::{Books, assert_kept, eventually, open, open_sale, place, sale_body};
use crate::proxy::Weather;
use crate::world::World;

/// The arrivals of a block, which lasts two seconds, and of the run of the picture, which lasts three.
const BLOCK: u32 = 300;
const ARRIVALS: u32 = 450;
/// The number of pairs of blocks. A pair has a block with quick writers and one with slow ones.
const PAIRS: usize = 7;
/// The time between two arrivals: there are 150 a second.
const GAP: Duration = Duration::from_micros(6667);
const PARTS: u16 = 4;
/// The delay of every answer of MySQL. With batches of one record, the writers then manage about a tenth of the
/// arrivals.
const SLOW: Duration = Duration::from_millis(35);
const BODY: &str = r#"{"sku_id":"phone","quantity":1}"#;

/// Sends the arrivals, and returns the p99 from an arrival's intended time to its answer. This is an open model:
/// arrivals come at their time, whatever became of those before.
async fn rush(shopper: SocketAddr, sale: &str, arrivals: u32, accepted: Arc<AtomicU32>) -> Duration {
    let began = Instant::now() + Duration::from_millis(100);
    let arrivals = (0..arrivals).map(|n| {
        let at = began + GAP * n;
        let (sale, accepted) = (sale.to_owned(), accepted.clone());
        tokio::spawn(async move {
            sleep_until(at).await;
            let answer = place(shopper, &format!("u{n}"), &sale, ("k", BODY), &[]).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            accepted.fetch_add(1, Ordering::Relaxed);
            at.elapsed()
        })
    });
    let mut took: Vec<Duration> =
        join_all(arrivals).await.into_iter().map(|took| took.expect("an answer")).collect();
    took.sort();
    took[took.len() * 99 / 100]
}

/// Measures the p99 of two blocks, one with quick writers and one with slow ones. Each begins with nothing left to
/// write.
async fn pair(world: &World, front: &Process, backend: &Ports, number: usize) -> [Duration; 2] {
    let weathers = [Weather::Fair, Weather::Slow(SLOW)];
    let mut p99s = [Duration::ZERO; 2];
    // The order is A B B A B A A B, so that what comes at regular times meets both kinds, as Kafka's garbage collector
    // does.
    for at in if number.count_ones().is_multiple_of(2) { [0, 1] } else { [1, 0] } {
        let sale = format!("pair{number}-{at}");
        open_sale(front.admin, sale_body(&sale, 1, &[("phone", 100_000)])).await;
        world.mysql_weather(weathers[at]);
        p99s[at] = rush(front.shopper, &sale, BLOCK, Arc::default()).await;
        world.mysql_weather(Weather::Fair);
        drained(backend).await;
    }
    p99s
}

/// Returns the lower quartile of the blocks. What slow writers cost shoppers shows in every block. Kafka's garbage
/// collector stops the broker for longer than a hundredth of a block, and the machine may be busy for a moment: these
/// costs show in some blocks only.
fn lower_quartile(p99s: impl Iterator<Item = Duration>) -> Duration {
    let mut p99s: Vec<Duration> = p99s.collect();
    p99s.sort();
    p99s[p99s.len() / 4]
}

async fn drained(backend: &Ports) {
    eventually("the writers keep up", async || lag(backend).await.iter().sum::<i64>() == 0).await;
}

async fn lag(backend: &Ports) -> Vec<i64> {
    let parts: Vec<Part> = (0..PARTS).map(Part::new).collect();
    let offsets = backend.order_log.offsets(&parts).await.expect("Kafka");
    let positions = backend.positions.positions().await;
    parts
        .iter()
        .map(|part| offsets[part].end - positions.get(part).map_or(0, |position| position.next_offset))
        .collect()
}

/// Reads the resident memory of a process, in KiB.
fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads the lag of every partition every 100 ms until all is drained, and writes a CSV file of it.
async fn watch(backend: Ports, accepted: Arc<AtomicU32>) -> Vec<(Instant, Vec<i64>)> {
    let began = Instant::now();
    let mut seen = Vec::new();
    let mut text = "ms,arrivals,accepted,lag,persisted\n".to_owned();
    loop {
        let lags = lag(&backend).await;
        let behind: i64 = lags.iter().sum();
        let accepts = accepted.load(Ordering::Relaxed);
        let persisted = (i64::from(accepts) - behind).max(0);
        let arrivals = began.elapsed().div_duration_f64(GAP).min(f64::from(ARRIVALS));
        let ms = began.elapsed().as_millis();
        text.push_str(&format!("{ms},{arrivals:.0},{accepts},{behind},{persisted}\n"));
        seen.push((Instant::now(), lags));
        if accepts == ARRIVALS && behind == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/.stack/shaving.csv"), text).expect("written");
    seen
}

/// Reads which wait a buyer of each partition is promised now, in seconds.
async fn promises(front: &Process, config: &Config, sale: &str) -> Vec<f64> {
    let map = config.shard_map().expect("a map");
    let mut promised = Vec::new();
    for part in 0..PARTS {
        let mut newest = (0..ARRIVALS).rev().map(|n| format!("u{n}"));
        let of_part = |user: &String| {
            map.part_of(map.shard_of(&UserId::parse(user).expect("a user"))) == Part::new(part)
        };
        let user = newest.find(of_part).expect("one of so many");
        let answer = place(front.shopper, &user, sale, ("k", BODY), &[]).await;
        promised.push(answer.json()["poll_after_ms"].as_f64().unwrap_or(0.0) / 1000.0);
    }
    promised
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_writers_cost_shoppers_only_the_wait_they_are_promised() {
    let world = World::new(&[
        ("shards.shards", "8"),
        ("shards.partitions", "4"),
        ("writer.batch_records_max", "1"),
        ("writer.buffer_records_max", "100"),
    ])
    .await;
    add_key(&world.config).await;
    let front = Process::start(&world.config, "api").await;
    let worker = Process::start(&world.config, "worker").await;
    let backend = open(&world.config).await;
    open_sale(front.admin, sale_body("warm", 1, &[("phone", 100_000)])).await;
    rush(front.shopper, "warm", BLOCK, Arc::default()).await;
    drained(&backend).await;
    let mut pairs = Vec::new();
    for number in 0..PAIRS {
        pairs.push(pair(&world, &front, &backend, number).await);
    }
    println!("p99 with quick writers and with slow ones {pairs:.1?}");
    let [quick, slow] = [0, 1].map(|at| lower_quartile(pairs.iter().map(|pair| pair[at])));
    let ratio = slow.div_duration_f64(quick);
    println!("lower quartiles {quick:.1?} and {slow:.1?}, ratio {ratio:.2}");
    assert!(ratio <= 1.5, "p99 {slow:?}, {quick:?} with quick writers");

    open_sale(front.admin, sale_body("shaved", 1, &[("phone", 100_000)])).await;
    world.mysql_weather(Weather::Slow(SLOW));
    let resident = [&front, &worker].map(resident_kib);
    let accepted = Arc::new(AtomicU32::new(0));
    let watching = tokio::spawn(watch(backend.clone(), accepted.clone()));
    rush(front.shopper, "shaved", ARRIVALS, accepted).await;
    let ended = Instant::now();
    // The front measures the pace over the last five seconds, twice a second. All of these seconds shall be alike.
    sleep_until(ended + Duration::from_secs(6)).await;
    let asked = Instant::now();
    let promised = promises(&front, &world.config, "shaved").await;
    let resident_at_peak = [&front, &worker].map(resident_kib);
    let seen = watching.await.expect("watched");
    world.mysql_weather(Weather::Fair);

    let peak = seen.iter().map(|(_, lags)| lags.iter().sum::<i64>()).max().expect("some");
    let drain = seen.last().expect("some").0 - ended;
    let written = f64::from(u32::try_from(peak).expect("small")) / drain.as_secs_f64();
    println!("lag up to {peak}; {written:.0} rows/s; drained {drain:.1?} after the last arrival");
    println!("KiB {resident:?}, at the peak {resident_at_peak:?}");
    assert!(written < 1.2 * 0.1 / GAP.as_secs_f64(), "{written} rows/s are not a tenth of the arrivals");
    let waited = |part: usize| {
        let empty = seen.iter().find(|(at, lags)| *at > asked && lags[part] == 0).expect("drained");
        (empty.0 - asked).as_secs_f64()
    };
    let took: Vec<f64> = (0..promised.len()).map(waited).collect();
    println!("promised {promised:.1?} s, took {took:.1?} s");
    for (promised, took) in promised.into_iter().zip(took) {
        assert!((0.7..=1.3).contains(&(took / promised)), "{took} s instead of {promised} s");
    }
    for (before, at_peak) in resident.into_iter().zip(resident_at_peak) {
        assert!(at_peak < before + 16 * 1024, "memory grew from {before} to {at_peak} KiB");
    }
    assert_kept(&world.config, Some(front.shopper), Books::LeftAlone).await;
    drop((front, worker));
    world.finish().await;
}
