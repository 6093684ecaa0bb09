//! Tests of limits that all processes count together: what passes in all of them, whatever happens to one of them, to
//! Redis or to a clock. The limiter is asked as a request asks it, without HTTP.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::rule::{RuleChange, RuleChanged, RuleTerms, TokenRate, Way};
use seckill::domain::{Change, RuleId, UserId};
use seckill::memory::rulebook::{Asker, Rulebook};
use seckill::ports::{Ports, TokenWish};
use seckill::shop::traffic::Traffic;
use seckill::shutdown::Tasks;
use serde_json::{Value, json};

use crate::harness::{config, migrated, open, remove};
use crate::own_redis::OwnRedis;

/// How the traffic is divided, in percent.
const UNEVEN: [u32; 4] = [90, 5, 3, 2];

/// The least ratio of what passes to what is allowed. It is 0.99 on a machine that has the time; on one that has not,
/// requests come late, and tokens that nobody asks for are lost.
const LEAST: f64 = 0.85;

/// What passed, each with the time since the beginning.
type Passed = Arc<Mutex<Vec<Duration>>>;

async fn made(flags: &[(&str, &str)]) -> Config {
    let config = config(Mode::Distributed, flags);
    migrated(&config).await;
    config
}

async fn put(ports: &Ports, id: &str, mut terms: Value) {
    terms["reason"] = json!("a test");
    let terms = RuleTerms::read(&terms.to_string()).expect("a rule");
    let wish = RuleChange { id: RuleId::parse(id).expect("a slug"), terms: Some(terms), seen: None };
    let change = Change {
        actor: "a test".to_owned(),
        action: "rule_put",
        reason: "a test".to_owned(),
        request_id: "-".to_owned(),
    };
    let changed = ports.rules.change(&wish, &change).await.expect("changed");
    assert!(matches!(changed, RuleChanged::Done(_)), "{changed:?}");
}

/// The limiter of one process.
async fn front(ports: &Ports) -> Arc<Traffic> {
    let rulebook = Arc::new(Rulebook::new([(0, 0); 3], true, Arc::default()));
    rulebook.renew(ports.rules.as_ref(), Clock::System.now_ms()).await.expect("rules");
    let tasks = Tasks::on_current_runtime();
    Traffic::new(rulebook, ports.token_leases.clone(), Clock::System, tasks)
}

fn asker(way: Way) -> Asker<'static> {
    Asker { way, user: None, address: IpAddr::from([127, 0, 0, 1]), sale: None, device: None }
}

/// Asks so often a second, until the end, and notes what passes.
async fn demand(front: Arc<Traffic>, way: Way, per_s: u32, passed: Passed, ends: Arc<AtomicBool>) {
    let began = Instant::now();
    let mut asked = 0;
    let mut running = futures::stream::FuturesUnordered::new();
    while !ends.load(Ordering::Relaxed) {
        let due = u64::from(per_s) * u64::try_from(began.elapsed().as_millis()).expect("short") / 1000;
        while asked < due {
            asked += 1;
            let (front, passed) = (&front, &passed);
            running.push(async move {
                if front.pass(&asker(way)).await.is_ok() {
                    passed.lock().expect("no panic").push(began.elapsed());
                }
            });
        }
        let step = tokio::time::sleep(Duration::from_millis(2));
        tokio::pin!(step);
        loop {
            tokio::select! {
                () = &mut step => break,
                Some(()) = futures::StreamExt::next(&mut running) => {}
            }
        }
    }
}

/// Answers the least and the most that passed in a window of `window_s` seconds after the first second, as ratios to
/// what is allowed.
fn least_and_most(passed: &Passed, rate: u32, window_s: u32, run_s: u32) -> (f64, f64) {
    let mut times = passed.lock().expect("no panic").clone();
    times.sort();
    let allowed = f64::from(rate * window_s);
    let mut seen = (f64::MAX, 0.0_f64);
    for tenth in 10..=(run_s - window_s) * 10 {
        let from = Duration::from_millis(u64::from(tenth) * 100);
        let to = from + Duration::from_secs(u64::from(window_s));
        let count = times.partition_point(|time| *time < to) - times.partition_point(|time| *time < from);
        let ratio = f64::from(u32::try_from(count).expect("few")) / allowed;
        seen = (seen.0.min(ratio), seen.1.max(ratio));
    }
    seen
}

fn bucket(rate: u32, route: &str) -> Value {
    // A bucket of one token would be full while the next request is still on its way.
    let value = json!({ "rate": rate, "burst": (rate / 10).max(2), "cluster": true });
    json!({ "scope": "all", "match": { "route": route }, "kind": "token_bucket", "value": value })
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_passes_in_four_fronts_together_is_what_is_allowed_whatever_their_traffic() {
    let config = made(&[]).await;
    let ports = open(&config).await;
    let rates = [(Way::SaleList, 10, "sale_list"), (Way::SaleRead, 1000, "sale_read")];
    for (_, rate, route) in rates {
        put(&ports, &format!("r{rate}"), bucket(rate, route)).await;
    }
    let ends = Arc::new(AtomicBool::new(false));
    let passed: Vec<Passed> = rates.iter().map(|_| Passed::default()).collect();
    let mut running = Vec::new();
    for share in UNEVEN {
        let front = front(&ports).await;
        for ((way, rate, _), passed) in rates.iter().zip(&passed) {
            let work = demand(front.clone(), *way, rate * 5 * share / 100, passed.clone(), ends.clone());
            running.push(Tasks::on_current_runtime().spawn(work));
        }
    }
    tokio::time::sleep(Duration::from_secs(12)).await;
    ends.store(true, Ordering::Relaxed);
    for ended in futures::future::join_all(running).await {
        ended.expect("no panic");
    }
    for ((_, rate, _), passed) in rates.iter().zip(&passed) {
        let (least, most) = least_and_most(passed, *rate, 10, 12);
        println!("{rate}/s: {least:.3} to {most:.3} of what is allowed in 10 s");
        assert!(least >= LEAST && most <= 1.05, "{rate}/s: {least} to {most}");
    }
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_killed_front_and_a_redis_that_is_started_again_let_no_more_pass_and_not_much_less() {
    let mut redis = OwnRedis::start(&[]).await;
    let config = made(&[("redis.url", &redis.url()), ("redis.response_timeout_ms", "500")]).await;
    let ports = open(&config).await;
    put(&ports, "reads", bucket(1000, "sale_read")).await;
    let (passed, ends) = (Passed::default(), Arc::new(AtomicBool::new(false)));
    let mut running = Vec::new();
    for share in UNEVEN {
        let work = demand(front(&ports).await, Way::SaleRead, 50 * share, passed.clone(), ends.clone());
        running.push(Tasks::on_current_runtime().spawn(work));
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    running.remove(1).abort();
    tokio::time::sleep(Duration::from_secs(2)).await;
    redis.kill();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    redis.start_again().await;
    tokio::time::sleep(Duration::from_millis(4500)).await;
    ends.store(true, Ordering::Relaxed);
    for ended in futures::future::join_all(running).await {
        ended.expect("no panic");
    }
    let (least, most) = least_and_most(&passed, 1000, 10, 12);
    println!("with faults: {least:.3} to {most:.3} of what is allowed in 10 s");
    assert!(least >= LEAST && most <= 1.05, "{least} to {most}");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_clock_that_is_set_makes_a_shared_bucket_neither_shut_nor_larger() {
    let config = made(&[]).await;
    let ports = open(&config).await;
    let leases = ports.token_leases.clone().expect("shared buckets");
    let client = redis::Client::open(config.redis.url.as_str()).expect("an address");
    let mut redis = client.get_multiplexed_async_connection().await.expect("a connection");
    let key = format!("{}{{limits}}:one", config.redis.key_prefix);
    let wish = |tokens: u32| {
        let rate = TokenRate { rate: 1000, burst: 200, cluster: true };
        [TokenWish { bucket: "one".to_owned(), rate, tokens }]
    };
    let first = leases.lease(&wish(500)).await.expect("leased")[0];
    assert_eq!((first.tokens, first.given), (200, 200), "all that it holds");
    assert!(first.wait <= Duration::from_millis(1) && !first.wait.is_zero(), "{first:?}");
    // The clock was set back by an hour, so the bucket seems to be full in an hour.
    let now_us = Clock::System.now_ms() * 1000;
    let set = |us: i64| redis::cmd("SET").arg(&key).arg(format!("{us}.00|200")).to_owned();
    let () = set(now_us + 3_600_000_000).query_async(&mut redis).await.expect("set");
    let back = leases.lease(&wish(500)).await.expect("leased")[0];
    assert_eq!(back.tokens, 0, "it is as good as empty");
    assert!(back.wait <= Duration::from_millis(2), "{back:?}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = leases.lease(&wish(500)).await.expect("leased")[0];
    assert!((40..=200).contains(&again.tokens), "it fills as ever: {again:?}");
    // The clock was set ahead by an hour.
    let () = set(now_us - 3_600_000_000).query_async(&mut redis).await.expect("set");
    let ahead = leases.lease(&wish(500)).await.expect("leased")[0];
    assert_eq!((ahead.tokens, ahead.given), (200, 400), "it holds no more");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_bucket_gives_all_that_it_holds_at_every_rate_and_to_all_who_come_at_once() {
    let config = made(&[]).await;
    let ports = open(&config).await;
    let leases = ports.token_leases.clone().expect("shared buckets");
    let rates = (1..=200).chain([333, 700, 999, 3001, 99_991, 1_000_000]);
    let wish = |rate: u32| TokenWish {
        bucket: format!("b{rate}"),
        rate: TokenRate { rate, burst: rate.div_ceil(10), cluster: true },
        tokens: u32::MAX / 2,
    };
    let wishes: Vec<TokenWish> = rates.map(wish).collect();
    let granted = leases.lease(&wishes).await.expect("leased");
    for (wish, grant) in wishes.iter().zip(granted) {
        assert_eq!(grant.tokens, wish.rate.holds(), "{wish:?}");
    }
    put(
        &ports,
        "crowd",
        json!({ "kind": "token_bucket", "match": { "route": "sale_list" },
        "value": { "rate": 10, "burst": 100, "cluster": true } }),
    )
    .await;
    let front = front(&ports).await;
    let who = asker(Way::SaleList);
    let passed = futures::future::join_all((0..150).map(|_| front.pass(&who))).await;
    let passed = passed.into_iter().filter(Result::is_ok).count();
    assert!((95..=105).contains(&passed), "{passed} of 150 at once");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_leaky_bucket_of_all_processes_lets_its_rate_pass() {
    let config = made(&[]).await;
    let ports = open(&config).await;
    let value = json!({ "rate": 30, "queue_ms": 3000, "cluster": true });
    put(&ports, "even", json!({ "scope": "all", "kind": "leaky_bucket", "value": value })).await;
    let fronts = [front(&ports).await, front(&ports).await];
    let (began, who) = (Instant::now(), asker(Way::SaleList));
    let asked = (0..60).map(|turn| fronts[turn % 2].pass(&who));
    let passed = futures::future::join_all(asked).await.into_iter().filter(Result::is_ok).count();
    let took = began.elapsed();
    assert_eq!(passed, 60, "all have their turn");
    assert!(took >= Duration::from_millis(1700) && took <= Duration::from_millis(3000), "{took:?}");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn each_user_has_a_shared_bucket_of_their_own() {
    let config = made(&[]).await;
    let ports = open(&config).await;
    let value = json!({ "rate": 5, "burst": 5, "cluster": true });
    put(&ports, "users", json!({ "scope": "user", "kind": "token_bucket", "value": value })).await;
    let fronts = [front(&ports).await, front(&ports).await];
    for name in ["ada", "bob"] {
        let user = UserId::parse(name).expect("a user");
        let who = Asker { user: Some(&user), ..asker(Way::OrderList) };
        let mut passed = 0;
        for turn in 0..20u8 {
            let answer = fronts[usize::from(turn % 2)].pass(&who).await;
            if let (true, Ok(standing)) = (turn < 2, &answer) {
                let standing = standing.as_ref().expect("it is the caller's own");
                let told = (&*standing.policy.text, standing.remaining);
                assert_eq!(told, ("\"users\";q=5;w=1", u64::from(4 - turn)), "of both processes");
            }
            passed += u32::from(answer.is_ok());
        }
        assert!((5..=7).contains(&passed), "{name}: {passed} in both together");
    }
    let nobody = fronts[0].pass(&asker(Way::SaleList)).await;
    assert!(nobody.is_ok(), "who is no user is not counted");
    remove(&config).await;
}
