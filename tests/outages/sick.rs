//! What the shop stands on is slow, silent or failing in turn, under load on every path. Who needs it is told what
//! docs/api.md says, and soon; everybody else notices nothing; it is asked no more than when it is well; and soon after
//! it is well again, all is.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::client::try_call;
use crate::harness::{TestShop, token};
use crate::provider::{paying, simulator};
use crate::proxy::{Proxy, Weather};
use crate::world::{Loss, World};

/// Requests of every path, per second.
const RATE: u32 = 40;
/// How long the shop is watched while all is well, and while something is not.
const WATCHED: Duration = Duration::from_millis(2000);
/// Buyers of each instance who want to pay: more than do while the provider is watched.
const PAYERS: usize = 1_000;
/// Orders of each instance that are read: more than are remembered for long.
const READ: usize = 200;
/// Most faults of one illness that are shown.
const FAULTS_SHOWN: usize = 6;
/// How long breakers take until they know: after that the answers come at once.
const KNOWN_AFTER: Duration = Duration::from_millis(1200);
/// How soon all is well again.
const WELL_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer takes at most while nobody knows yet that something is ill: the time limit of MySQL and, here, of
/// the provider, and what the machine may add.
const ANSWERED_WITHIN: Duration = Duration::from_millis(2000 + 500);

/// What the shop stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Redis,
    Kafka,
    Mysql(usize),
    Provider,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Illness {
    /// Its answers come a second late.
    Slow,
    /// It takes everything in, and answers nothing.
    Silent,
    /// Its connections are cut.
    Failing,
}

/// What somebody asks for. The number is the MySQL instance of the buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Sale,
    Buy,
    List(usize),
    /// An order.
    Read(usize),
    /// A payment that is not open yet.
    Pay(usize),
}

const PATHS: [Path; 8] = [
    Path::Sale,
    Path::Buy,
    Path::List(0),
    Path::List(1),
    Path::Read(0),
    Path::Read(1),
    Path::Pay(0),
    Path::Pay(1),
];

impl Path {
    /// Answers whether it is served without a part as it is with it.
    fn is_free_of(self, part: Part) -> bool {
        // These wait for a moment, and are answered without it: the log of a purchase, the copy of an order.
        let waits = match self {
            Self::Buy => part == Part::Kafka,
            Self::Read(_) => part == Part::Redis,
            Self::Sale | Self::List(_) | Self::Pay(_) => false,
        };
        !(self.needs(part) || waits)
    }

    /// Answers whether it cannot be served without a part.
    fn needs(self, part: Part) -> bool {
        match part {
            Part::Redis => self == Self::Buy,
            // An order that the log does not take waits in the outbox.
            Part::Kafka => false,
            Part::Mysql(at) => [Self::List(at), Self::Read(at), Self::Pay(at)].contains(&self),
            Part::Provider => matches!(self, Self::Pay(_)),
        }
    }
}

/// One answer.
struct Sample {
    path: Path,
    began: Instant,
    took: Duration,
    status: u16,
    code: String,
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {} after {:?}", self.path, self.status, self.code, self.took)
    }
}

impl Sample {
    fn is_served(&self) -> bool {
        self.status < 300
    }
}

/// The shop under load.
struct Watch {
    shop: TestShop,
    /// Buyers of each instance, each with an order that waits for its payment.
    buyers: [Vec<(String, String)>; 2],
    /// How many of them have wanted to pay.
    payers: [AtomicUsize; 2],
    customers: AtomicUsize,
    looks: AtomicUsize,
}

impl Watch {
    async fn new(world: &World, payers: usize) -> Self {
        let shop = world.shop().await;
        shop.open_sale("drop", 1, &[("phone", 100_000)]).await;
        let buyers = join_all([0, 1].map(async |at| {
            let mut bought = Vec::new();
            for users in world.users_of(at, payers).chunks(50) {
                bought.extend(
                    join_all(users.iter().map(async |user| (user.clone(), shop.unpaid(user, "k").await)))
                        .await,
                );
            }
            bought
        }))
        .await;
        let buyers: [_; 2] = buyers.try_into().expect("two instances");
        Self {
            shop,
            buyers,
            payers: Default::default(),
            customers: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
        }
    }

    async fn ask(&self, path: Path) -> Sample {
        let shopper = self.shop.shopper;
        let send = async |method: &str, target: String, user: &str, body: &str| {
            let bearer = format!("Bearer {}", token(user));
            let headers = [
                ("Authorization", bearer.as_str()),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", "k"),
            ];
            try_call(shopper, method, &target, &headers, body.to_owned()).await
        };
        let began = Instant::now();
        let answer = match path {
            Path::Sale => send("GET", "/api/v1/sales/drop".to_owned(), "anybody", "").await,
            Path::Buy => {
                let user = format!("customer-{}", self.customers.fetch_add(1, Ordering::Relaxed));
                let body = r#"{"sku_id":"phone","quantity":1}"#;
                send("POST", "/api/v1/sales/drop/orders".to_owned(), &user, body).await
            }
            Path::Read(at) => {
                let (user, order) = &self.buyers[at][self.looks.fetch_add(1, Ordering::Relaxed) % READ];
                send("GET", format!("/api/v1/orders/{order}"), user, "").await
            }
            Path::List(at) => send("GET", "/api/v1/orders".to_owned(), &self.buyers[at][0].0, "").await,
            Path::Pay(at) => {
                let next = self.payers[at].fetch_add(1, Ordering::Relaxed);
                let (user, order) = &self.buyers[at][next % self.buyers[at].len()];
                send("POST", format!("/api/v1/orders/{order}/pay"), user, "").await
            }
        };
        let took = began.elapsed();
        let (status, code) = answer.map_or((0, String::new()), |answer| answer.problem());
        Sample { path, began, took, status, code }
    }

    /// Asks on every path, each time whether or not the time before was answered.
    async fn watch(&self, duration: Duration) -> Vec<Sample> {
        let began = tokio::time::Instant::now();
        let asked = (0..).map(|number| Duration::from_secs(1) * number / RATE);
        let asked = asked.take_while(|at| *at < duration);
        let asked = asked.flat_map(|at| PATHS.map(|path| (at, path)));
        join_all(asked.map(async |(at, path)| {
            tokio::time::sleep_until(began + at).await;
            self.ask(path).await
        }))
        .await
    }
}

fn p99(samples: &[Sample], path: Path) -> Duration {
    let mut took: Vec<Duration> = samples.iter().filter(|at| at.path == path).map(|at| at.took).collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

async fn falls_ill(world: &mut World, provider: &Proxy, part: Part, illness: Illness) {
    let slow = Weather::Slow(Duration::from_secs(1));
    let name = match part {
        Part::Redis => "redis",
        Part::Kafka => "kafka",
        Part::Mysql(0) => "mysql-a",
        Part::Mysql(_) => "mysql-b",
        Part::Provider => {
            // It runs in this process, which cannot be stopped.
            let silent = Weather::Slow(Duration::from_secs(3600));
            provider.set(match illness {
                Illness::Slow => slow,
                Illness::Silent => silent,
                Illness::Failing => Weather::Cut,
            });
            return;
        }
    };
    match illness {
        Illness::Slow => world.proxy(name).set(slow),
        Illness::Silent => world.lose(name, Loss::Frozen),
        Illness::Failing => world.lose(name, Loss::Cut),
    }
}

fn heals(world: &mut World, provider: &Proxy) {
    world.restore();
    for proxy in [&world.redis, &world.kafka, &world.mysql[0], &world.mysql[1], provider] {
        proxy.set(Weather::Fair);
    }
}

fn calls(world: &World, provider: &Proxy, part: Part) -> usize {
    match part {
        Part::Redis => world.redis.calls(),
        Part::Kafka => world.kafka.calls(),
        Part::Mysql(at) => world.mysql[at].calls(),
        Part::Provider => provider.calls(),
    }
}

/// Answers what is wrong with the answers while a part is ill since `since`.
fn wrong(part: Part, since: Instant, samples: &[Sample]) -> Vec<String> {
    let mut found = Vec::new();
    for sample in samples {
        if !sample.path.needs(part) {
            if !sample.is_served() {
                found.push(format!("{sample:?}, which needs nothing of it"));
            }
            continue;
        }
        let is_documented = sample.is_served()
            || matches!(
                (sample.status, sample.code.as_str()),
                (503, "dependency_unavailable") | (504, "outcome_unknown")
            );
        if !is_documented || sample.took > ANSWERED_WITHIN {
            found.push(format!("{sample:?}"));
        }
    }
    // What is known to be ill is not asked, and nobody waits for it.
    let mut late: Vec<Duration> = samples
        .iter()
        .filter(|sample| sample.path.needs(part) && sample.began > since + KNOWN_AFTER)
        .map(|sample| sample.took)
        .collect();
    late.sort_unstable();
    if let Some(median) = late.get(late.len() / 2).filter(|median| **median > Duration::from_millis(100)) {
        found.push(format!("half of the late ones wait for {median:?}"));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_what_is_ill_is_told_so_and_nobody_else_notices() {
    const ILLNESSES: [Illness; 3] = [Illness::Slow, Illness::Silent, Illness::Failing];
    // The provider comes first: there are enough payments that it has not opened yet.
    let parts = [Part::Provider, Part::Redis, Part::Kafka, Part::Mysql(0), Part::Mysql(1)];
    let simulator = simulator();
    let provider = Proxy::start(0, simulator.address).await;
    let url = format!("http://{}", provider.address);
    let mut flags = paying(&url);
    flags.extend([("redis.response_timeout_ms", "140"), ("payment.timeout_ms", "2000")]);
    let mut world = World::new(&flags).await;
    let watch = Watch::new(&world, PAYERS).await;
    let (mut report, mut wrongs) = (Vec::new(), 0);
    for part in parts {
        let before = calls(&world, &provider, part);
        let well = watch.watch(WATCHED).await;
        let asked_well = calls(&world, &provider, part) - before;
        assert!(well.iter().all(Sample::is_served), "before {part:?} is ill: {well:?}");
        for illness in ILLNESSES {
            let before = calls(&world, &provider, part);
            let since = Instant::now();
            falls_ill(&mut world, &provider, part, illness).await;
            let ill = watch.watch(WATCHED).await;
            let asked_ill = calls(&world, &provider, part) - before;
            heals(&mut world, &provider);
            let healed = Instant::now();
            let after = watch.watch(WELL_WITHIN + Duration::from_secs(1)).await;
            let mut faults = wrong(part, since, &ill);
            let worst = PATHS.into_iter().filter(|path| path.is_free_of(part)).map(|path| {
                let (with, without) = (p99(&ill, path), p99(&well, path));
                (with.as_secs_f64() / without.as_secs_f64(), path, with, without)
            });
            let worst = worst.max_by(|a, b| a.0.total_cmp(&b.0)).expect("the sale's page needs nothing");
            let failed = after.iter().filter(|sample| !sample.is_served()).map(|sample| sample.began);
            let well_after = failed.max().map_or(Duration::ZERO, |last| last - healed);
            if well_after > WELL_WITHIN {
                faults.push(format!("it is well again after {well_after:?}"));
            }
            // The margin is for what stands on other clocks: beats, leases, the rounds of the workers.
            if asked_ill > asked_well * 11 / 10 + 50 {
                faults.push(format!("it is asked {asked_ill} times, and {asked_well} times when it is well"));
            }
            wrongs += faults.len();
            faults.truncate(FAULTS_SHOWN);
            report.push(format!(
                "{part:?} {illness:?}: asked {asked_ill} times, {asked_well} when well; healthy p99 {:.2} ({:?} {:?} : {:?}); \
                 well after {well_after:?}; {faults:#?}",
                worst.0, worst.1, worst.2, worst.3
            ));
        }
    }
    println!("{}", report.join("\n"));
    assert_eq!(wrongs, 0, "{}", report.join("\n"));
    watch.shop.finish().await;
    world.finish().await;
}
