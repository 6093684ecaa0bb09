//! Asks the rules of traffic about requests, and has requests wait where a rule says so: for a token of a bucket that
//! all processes share, or for their turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, counter};

use super::batching::{Batcher, Tempo};
use crate::clock::Clock;
use crate::domain::rule::Switch;
use crate::domain::{DeviceId, SaleId, UserId};
use crate::memory::leaky_bucket::{Called, LeakyBucket};
use crate::memory::rulebook::{Asker, Given, Passes, Pending, Refused, Rulebook, Standing, Wait};
use crate::memory::token_leases::LeaseWish;
use crate::metrics::{TOKEN_LEASES, TOKENS_LEASED};
use crate::ports::{TokenGrant, TokenLeases, TokenWish};
use crate::shutdown::Tasks;

/// How long a request waits for a token of a bucket that all processes share. Then this process goes on alone.
const LEASE_WAIT: Duration = Duration::from_millis(50);

/// Requests of one call for tokens.
const LEASES_MAX: usize = 256;

/// Requests that wait for tokens at the same time. More of them are answered by this process alone.
const WAITING_MAX: usize = 16 * LEASES_MAX;

/// Whether a request has a token, and after how long it may come again when it has none.
type Leased = Result<(), Duration>;

/// The rules of traffic in the path of requests.
pub struct Traffic {
    rulebook: Arc<Rulebook>,
    token_leases: Option<Arc<dyn TokenLeases>>,
    /// Requests that wait for tokens of buckets that all processes share.
    leases: Arc<Batcher<LeaseWish, Leased>>,
    /// How many wishes were not asked for yet, also those of requests that have gone.
    waiting: AtomicUsize,
    clock: Clock,
    tasks: Tasks,
    counts: Counts,
}

/// Looked up by their labels only once.
struct Counts {
    given: Counter,
    short: Counter,
    failed: Counter,
    tokens: Counter,
}

impl Counts {
    fn new() -> Self {
        let leases = |result| counter!(TOKEN_LEASES, "result" => result);
        let tokens = counter!(TOKENS_LEASED);
        Self { given: leases("given"), short: leases("short"), failed: leases("failed"), tokens }
    }

    fn note(&self, wished: &TokenWish, grant: TokenGrant) {
        if grant.tokens < wished.tokens { &self.short } else { &self.given }.increment(1);
        self.tokens.increment(u64::from(grant.tokens));
    }
}

impl Traffic {
    /// Makes it over the rules of this process. `token_leases` shares buckets with other processes, where there are
    /// any, and `tasks` own what waits.
    pub fn new(
        rulebook: Arc<Rulebook>,
        token_leases: Option<Arc<dyn TokenLeases>>,
        clock: Clock,
        tasks: Tasks,
    ) -> Arc<Self> {
        let leases = Batcher::new(Tempo::without_distance(LEASES_MAX), clock.clone());
        Arc::new(Self {
            rulebook,
            token_leases,
            leases,
            waiting: AtomicUsize::new(0),
            clock,
            tasks,
            counts: Counts::new(),
        })
    }

    /// Asks the rules about a request of the public listener. It may have to wait: see [`Self::wait`].
    ///
    /// # Errors
    /// The refusal of a rule.
    pub fn ask(&self, asker: &Asker<'_>) -> Result<Passes, Refused> {
        self.rulebook.check(asker, self.clock.monotonic(), self.clock.now_ms())
    }

    /// Asks the rules about a request of the public listener, and waits as long as they say. Answers how much is left
    /// of the caller's scarcest limit.
    ///
    /// # Errors
    /// The refusal of a rule.
    pub async fn pass(self: &Arc<Self>, asker: &Asker<'_>) -> Result<Option<Standing>, Refused> {
        let passes = self.ask(asker)?;
        if passes.pending.is_none() {
            return Ok(passes.standing);
        }
        Box::pin(self.wait(passes, asker)).await
    }

    /// Answers whether an operator has switched something off.
    pub fn is_off(&self, switch: Switch) -> bool {
        self.rulebook.is_off(switch, self.clock.now_ms())
    }

    /// Answers whether a sale is hidden from some.
    pub fn hides_sales(&self) -> bool {
        self.rulebook.hides_sales()
    }

    /// Answers whether somebody sees a sale. Who is not known sees none that is hidden from some.
    pub fn shows(&self, sale: &SaleId, who: Option<(&UserId, Option<&DeviceId>)>) -> bool {
        // Most often nothing is hidden, and nobody need know the time.
        !self.rulebook.hides_sales() || self.rulebook.shows(sale, who, self.clock.now_ms())
    }

    /// Answers what somebody gets beside what all get.
    pub fn given(&self, user: &UserId, device: Option<&DeviceId>) -> Given {
        self.rulebook.given(user, device, self.clock.now_ms())
    }

    /// Waits for what a rule has said, and asks the rules after it. Answers as [`Self::pass`].
    ///
    /// # Errors
    /// The refusal of a rule.
    pub async fn wait(
        self: &Arc<Self>,
        mut passes: Passes,
        asker: &Asker<'_>,
    ) -> Result<Option<Standing>, Refused> {
        while let Some(Pending { stop, wait, is_dry }) = passes.pending.take() {
            let answer = match wait {
                Wait::Lease(wish) if is_dry => {
                    let (traffic, stop, way) = (self.clone(), stop.clone(), asker.way);
                    self.tasks.spawn_here(async move {
                        if traffic.lease(wish).await.is_err() {
                            traffic.rulebook.note_refused(&stop, way);
                        }
                    });
                    Ok(None)
                }
                Wait::Lease(wish) => {
                    let (lease, all) = (wish.lease.clone(), wish.shared.all);
                    self.lease(wish).await.map(|()| Some((all, all.full_in_ns(lease.left()))))
                }
                Wait::Turn { waiter, bucket, calls } => {
                    let patience = bucket.patience();
                    if calls {
                        self.tasks.spawn_here(self.clone().call_waiters(bucket));
                    }
                    self.clock.timeout(patience, waiter).await.map(|_| None).map_err(|_| patience)
                }
            };
            let (now, now_ms) = (self.clock.monotonic(), self.clock.now_ms());
            let next = self.rulebook.go_on(stop, answer, asker, now, now_ms)?;
            passes.standing = Standing::scarcer(passes.standing, next.standing);
            passes.pending = next.pending;
        }
        Ok(passes.standing)
    }

    /// Asks for a token of a shared bucket, together with the requests that wait at the same time.
    async fn lease(self: &Arc<Self>, wish: LeaseWish) -> Leased {
        let LeaseWish { lease, shared, .. } = wish.clone();
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return lease.take_alone(&shared, self.clock.monotonic().ns());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let answer = self.leases.ask(&self.tasks, wish, self.lease_call());
        match self.clock.timeout(LEASE_WAIT, answer).await {
            Ok(Ok(leased)) => leased,
            Ok(Err(_)) | Err(_) => lease.take_alone(&shared, self.clock.monotonic().ns()),
        }
    }

    fn lease_call(
        self: &Arc<Self>,
    ) -> impl Fn(Vec<LeaseWish>) -> futures::future::BoxFuture<'static, Vec<Leased>> + Send + 'static {
        let traffic = self.clone();
        move |batch| Box::pin(traffic.clone().lease_for(batch))
    }

    /// Asks for the tokens of all requests of a call. The first ones of each bucket have those that there are.
    async fn lease_for(self: Arc<Self>, batch: Vec<LeaseWish>) -> Vec<Leased> {
        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let mut waiting: HashMap<&str, u32> = HashMap::new();
        for wish in &batch {
            *waiting.entry(&wish.bucket).or_default() += 1;
        }
        let now_ns = self.clock.monotonic().ns();
        let mut served: HashMap<String, (u32, Option<Duration>)> = HashMap::with_capacity(waiting.len());
        let mut wishes: Vec<(LeaseWish, u32)> = Vec::new();
        for wish in &batch {
            let Some(waiting) = waiting.remove(wish.bucket.as_str()) else { continue };
            let at_once = wish.lease.serve(waiting, now_ns);
            served.insert(wish.bucket.clone(), (at_once, None));
            if at_once < waiting {
                wishes.push((wish.clone(), waiting - at_once));
            }
        }
        for ((wish, _), granted) in wishes.iter().zip(self.lease_tokens(&wishes).await.unwrap_or_default()) {
            let (has, wait) = served.entry(wish.bucket.clone()).or_default();
            (*has, *wait) = (*has + granted.0, Some(granted.1));
        }
        let now_ns = self.clock.monotonic().ns();
        let answer = |wish: LeaseWish| match served.get_mut(&wish.bucket) {
            Some((has, _)) if *has > 0 => {
                *has -= 1;
                Ok(())
            }
            Some((_, Some(wait))) => Err(*wait),
            _ => wish.lease.take_alone(&wish.shared, now_ns),
        };
        batch.into_iter().map(answer).collect()
    }

    /// Asks for tokens of shared buckets, for so many requests that wait for each. Answers how many of them have one,
    /// and after what time there is another one; `None` when the buckets could not be asked.
    async fn lease_tokens(&self, wishes: &[(LeaseWish, u32)]) -> Option<Vec<(u32, Duration)>> {
        let asked_ns = self.clock.monotonic().ns();
        if wishes.is_empty() {
            return None;
        }
        let wished = wishes.iter().map(|(wish, waiting)| TokenWish {
            bucket: wish.bucket.clone(),
            rate: wish.shared.rate,
            tokens: wish.lease.wish(&wish.shared, *waiting, asked_ns),
        });
        let wished: Vec<TokenWish> = wished.collect();
        let granted = match self.token_leases.as_ref()?.lease(&wished).await {
            Ok(granted) => granted,
            Err(error) => {
                tracing::debug!(%error, "this process counts alone for a while");
                self.counts.failed.increment(1);
                return None;
            }
        };
        let granted = wishes.iter().zip(wished).zip(granted).map(|(((wish, waiting), wished), grant)| {
            self.counts.note(&wished, grant);
            let served = wish.lease.grant(&wish.shared, (wished.tokens, *waiting), grant, asked_ns);
            (served, grant.wait)
        });
        Some(granted.collect())
    }

    /// Calls those who wait at a leaky bucket, until nobody does.
    async fn call_waiters(self: Arc<Self>, bucket: Arc<LeakyBucket>) {
        loop {
            match bucket.call(self.clock.monotonic().ns()) {
                Called::Nobody => return,
                Called::Rest(wait) => self.clock.sleep(wait).await,
                Called::Ask(wish) => {
                    let (lease, shared) = (wish.lease.clone(), wish.shared);
                    if self.lease_tokens(&[(wish, 0)]).await.is_none() {
                        lease.fail(&shared, self.clock.monotonic().ns());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::RuleId;
    use crate::domain::rule::{Rule, RuleSet, RuleTerms, Way};

    /// The rules of one process that is alone, and a clock that the test moves.
    fn traffic(mut terms: Value) -> (Arc<Traffic>, Clock) {
        terms["reason"] = json!("a test");
        let terms = RuleTerms::read(&terms.to_string()).expect("a rule");
        let rule = Rule { id: RuleId::parse("one").expect("a slug"), terms, version: 1 };
        let (rulebook, clock) =
            (Arc::new(Rulebook::new([(0, 0); 3], false, Arc::default())), Clock::manual(1));
        rulebook.take(RuleSet { version: 1, rules: vec![rule] }, 0);
        (Traffic::new(rulebook, None, clock.clone(), Tasks::on_current_runtime()), clock)
    }

    fn asker() -> Asker<'static> {
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        Asker { way: Way::SaleList, user: None, address, sale: None, device: None }
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn leaky(rate: u32, queue_ms: u32) -> Value {
        json!({ "kind": "leaky_bucket", "value": { "rate": rate, "queue_ms": queue_ms } })
    }

    #[tokio::test]
    async fn a_burst_leaves_evenly_and_nobody_waits_longer_than_the_rule_says() {
        let (traffic, clock) = traffic(leaky(100, 1000));
        let (passed, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..1000 {
            let (traffic, passed, refused) = (traffic.clone(), passed.clone(), refused.clone());
            traffic.tasks.clone().spawn_here(async move {
                let count = if traffic.pass(&asker()).await.is_ok() { passed } else { refused };
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        settle().await;
        let counts = || (passed.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        assert_eq!(counts(), (1, 900), "one passes at once, 99 wait, and there is no room for more");
        for tenth in 1..=9_usize {
            for _ in 0..10 {
                clock.advance_ms(10);
                settle().await;
            }
            let even = counts().0.abs_diff(1 + tenth * 10);
            assert!(even <= 1, "{counts:?} after {tenth} tenths", counts = counts());
        }
        for _ in 0..20 {
            clock.advance_ms(10);
            settle().await;
        }
        assert_eq!(counts(), (100, 900));
        assert!(traffic.pass(&asker()).await.is_ok(), "the queue is empty");
    }

    #[tokio::test]
    async fn who_goes_away_frees_the_place_and_takes_no_turn() {
        let (traffic, clock) = traffic(leaky(10, 1000));
        let who = asker();
        assert!(traffic.pass(&who).await.is_ok());
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(traffic.pass(&who))).collect();
        for waiter in &mut waiting {
            assert!(futures::poll!(waiter.as_mut()).is_pending());
        }
        assert!(traffic.pass(&who).await.is_err(), "there is no room");
        drop(waiting);
        let mut next = Box::pin(traffic.pass(&who));
        assert!(futures::poll!(next.as_mut()).is_pending(), "there is room");
        settle().await;
        clock.advance_ms(100);
        settle().await;
        assert!(futures::poll!(next.as_mut()).is_ready(), "no turn went to those that are gone");
    }

    #[tokio::test]
    async fn a_dry_run_of_a_leaky_bucket_has_nobody_wait() {
        let mut terms = leaky(10, 1000);
        terms["mode"] = json!("dry_run");
        let (traffic, _clock) = traffic(terms);
        for _ in 0..100 {
            assert!(traffic.ask(&asker()).is_ok_and(|passes| passes.pending.is_none()));
        }
    }
}
