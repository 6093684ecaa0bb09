//! Asks a limit that four processes share, as requests ask it, with uneven traffic. The four are in this process, each
//! with rules and leases of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::rule::{Rule, RuleSet, RuleTerms, Way};
use seckill::domain::{DeviceId, RuleId, UserId};
use seckill::memory::rulebook::{Asker, Rulebook};
use seckill::ports::Ports;
use seckill::shop::traffic::Traffic;
use seckill::shutdown::Tasks;
use serde_json::{Value, json};

use crate::{fixture, slices};

/// How the traffic is divided, in percent.
const UNEVEN: [u64; 4] = [90, 5, 3, 2];
/// What is counted together, of what passed.
const STEP: Duration = Duration::from_millis(100);

/// Serves slices: `prepare RULE`, then `go SECONDS`. The demand is half as much again as `rate`, per second.
pub fn run(config: &Config, rate: u32) -> anyhow::Result<()> {
    let runtime = slices::runtime()?;
    let ports = runtime.block_on(fixture::open(config))?;
    let mut fronts = None;
    slices::serve(|word, argument| match word {
        "prepare" => {
            let terms = json!({ "kind": "token_bucket", "reason": "bench",
                "value": { "rate": rate, "burst": rate / 10, "cluster": true } });
            let terms = RuleTerms::read(&terms.to_string()).map_err(anyhow::Error::msg)?;
            let rule = Rule { id: RuleId::parse(argument)?, terms, version: 1 };
            let set = RuleSet { version: 1, rules: vec![rule] };
            fronts = Some(runtime.block_on(async { UNEVEN.map(|_| front(&ports, &set)) }));
            Ok(json!({}))
        }
        "go" => {
            let fronts = fronts.take().context("prepare first")?;
            runtime.block_on(ask(fronts, u64::from(rate), Duration::from_secs_f64(argument.parse()?)))
        }
        _ => anyhow::bail!("unknown word"),
    })
}

/// Asks rules about users, addresses and devices, in this process and in all, as often as it is told, each time with
/// keys that were never seen. Says how much memory the process has before and afterwards, in bytes.
pub fn fresh_keys(requests: u32) -> anyhow::Result<()> {
    let book = Rulebook::new([(5, 10), (200, 400), (1, 5)], true, Arc::default());
    let scopes = ["user", "address", "device"].into_iter().flat_map(|scope| [(scope, false), (scope, true)]);
    let rules = scopes.map(|(scope, cluster)| {
        let value = json!({ "rate": 5, "burst": 10, "cluster": cluster });
        let terms = json!({ "scope": scope, "kind": "token_bucket", "value": value, "reason": "bench" });
        let terms = RuleTerms::read(&terms.to_string()).map_err(anyhow::Error::msg)?;
        anyhow::Ok(Rule { id: RuleId::parse(&format!("{scope}-{cluster}"))?, terms, version: 1 })
    });
    book.take(RuleSet { version: 1, rules: rules.collect::<Result<_, _>>()? }, 0);
    let ask = |number: u32| {
        let user = UserId::parse(&format!("fresh-{number}"))?;
        let device = DeviceId::parse(&format!("device-{number}"))?;
        let (address, way) = (IpAddr::from(number.to_be_bytes()), Way::OrderList);
        let asker = Asker { way, user: Some(&user), address, sale: None, device: Some(&device) };
        anyhow::Ok(book.check(&asker, Clock::System.monotonic(), 0).is_ok())
    };
    // The tables are there from the first request on, and their pages from the first keys on.
    (0..2_000_000).map(ask).collect::<Result<Vec<bool>, _>>()?;
    let before = resident()?;
    let passed =
        (2_000_000..2_000_000 + requests).map(ask).filter(|passed| matches!(passed, Ok(true))).count();
    slices::say(&json!({ "asked": requests, "passed": passed, "before": before, "after": resident()? }))
}

/// Reads how much memory this process has.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

fn front(ports: &Ports, set: &RuleSet) -> Arc<Traffic> {
    let rulebook = Arc::new(Rulebook::new([(0, 0); 3], true, Arc::default()));
    rulebook.take(set.clone(), Clock::System.now_ms());
    let tasks = Tasks::on_current_runtime();
    Traffic::new(rulebook, ports.token_leases.clone(), Clock::System, tasks)
}

async fn ask(fronts: [Arc<Traffic>; 4], rate: u64, duration: Duration) -> anyhow::Result<Value> {
    let tasks = Tasks::on_current_runtime();
    let demands = fronts.into_iter().zip(UNEVEN).map(|(front, share)| {
        let per_s = rate * 3 / 2 * share / 100;
        tasks.spawn(demand(front, per_s, duration))
    });
    let (mut asked, mut passed) = (0, Vec::new());
    for found in futures::future::try_join_all(demands).await? {
        asked += found.0;
        passed.resize(found.1.len().max(passed.len()), 0);
        passed.iter_mut().zip(found.1).for_each(|(all, of_one): (&mut u64, u64)| *all += of_one);
    }
    Ok(json!({ "asked": asked, "passed": passed.iter().sum::<u64>(), "steps": passed }))
}

/// Asks so often a second. Answers how often it did, and how much passed in each step.
async fn demand(front: Arc<Traffic>, per_s: u64, duration: Duration) -> (u64, Vec<u64>) {
    let asker = Asker {
        way: Way::Purchase,
        user: None,
        address: IpAddr::from([127, 0, 0, 1]),
        sale: None,
        device: None,
    };
    let (began, mut asked, mut passed) = (Instant::now(), 0, Vec::new());
    let mut waiting = FuturesUnordered::new();
    let mut note = |has_passed: bool| {
        let step = usize::try_from(began.elapsed().as_millis() / STEP.as_millis()).unwrap_or(usize::MAX);
        passed.resize((step + 1).max(passed.len()), 0);
        passed[step] += u64::from(has_passed);
    };
    while began.elapsed() < duration {
        let due = per_s * u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) / 1_000_000;
        for _ in asked..due {
            match front.ask(&asker) {
                Ok(passes) if passes.pending.is_none() => note(true),
                Ok(passes) => waiting.push(front.wait(passes, &asker)),
                Err(_) => note(false),
            }
        }
        asked = asked.max(due);
        let rest = Clock::System.sleep(Duration::from_millis(1));
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => break,
                Some(answer) = waiting.next() => note(answer.is_ok()),
            }
        }
    }
    (asked, passed)
}
