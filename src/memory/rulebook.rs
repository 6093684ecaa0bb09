//! The rules of traffic of one process, made ready for the path of a request.
//!
//! Invariant: whoever asks sees the rules of one version, whole. Asking takes no lock that all share, and allocates
//! nothing. A rule that is changed keeps what it has counted, because it counts under its id.

mod asker;
mod callers;
mod greys;
mod ready;
mod recent;
mod standing;
mod switches;
mod tables;

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, counter};

use super::guards::Guards;
use super::leaky_bucket::{Entered, LeakyBucket, Waiter};
use super::token_buckets::Rate;
use super::token_leases::{LeaseOf, LeaseWish, Shared, Taken};
use crate::clock::Moment;
use crate::domain::rule::{About, Limit, Rule, RuleMode, RuleSet, RuleTerms, Scope, Switch, TokenRate, Way};
use crate::domain::{DeviceId, RuleId, SaleId, UserId};
use crate::metrics::SHED;
use crate::ports::{Rules, StoreResult};
pub use asker::{Asker, subscriber};
pub use greys::Given;
use ready::{Counted, Counts, Ready, bucket_of_all};
pub use recent::Trial;
use recent::{Recent, Seen};
pub use standing::{Policy, Standing};
use tables::Tables;

/// The refusal of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The rule lets nothing of this caller pass.
    Blocked(RuleId),
    /// The rule has let pass as many as it may.
    TooFast {
        /// The rule.
        policy: Arc<Policy>,
        /// After how long it would let one pass.
        retry_after: Duration,
    },
    /// An operator has switched it off.
    SwitchedOff(Switch),
    /// The rules were never read.
    NotRead,
}

/// What rules say of a request that none of them has refused.
#[derive(Default)]
pub struct Passes {
    /// What it has to wait for before the rest of them can be asked.
    pub pending: Option<Pending>,
    /// How much is left of the scarcest limit that is the caller's own.
    pub standing: Option<Standing>,
}

/// The rules of a process.
pub struct Rulebook {
    ready: ArcSwap<Ready>,
    reading: futures::lock::Mutex<()>,
    configured: Mutex<Vec<Rule>>,
    tables: Tables,
    recent: Recent,
    guards: Arc<Guards>,
    /// Whether the rules of the directory were ever read.
    is_read: AtomicBool,
    /// Looked up by its labels only once.
    shed: Counter,
}

/// A request that a rule does not answer yet. Whoever knows the answer goes on with [`Rulebook::go_on`].
pub struct Pending {
    /// Where to go on.
    pub stop: Stop,
    /// What it waits for.
    pub wait: Wait,
    /// Whether the rule only counts, so that nobody should wait for it.
    pub is_dry: bool,
}

/// A rule at which a request has stopped.
#[derive(Clone)]
pub struct Stop {
    ready: Arc<Ready>,
    index: usize,
}

/// What a request waits for.
pub enum Wait {
    /// For a token of a bucket that all processes share.
    Lease(LeaseWish),
    /// For its turn.
    Turn {
        /// Its place.
        waiter: Waiter,
        /// The bucket.
        bucket: Arc<LeakyBucket>,
        /// Whether somebody has to begin to call those who wait.
        calls: bool,
    },
}

/// What one rule says of a request.
enum Said {
    /// It passes, and the bucket that is the caller's own is full after so many ns.
    Passes(Option<(Rate, u64)>),
    Refused(Duration),
    Waits(Wait),
}

impl Rulebook {
    /// Makes a rulebook that has the rules of the configuration alone: how many purchases pass a second, and at once,
    /// of a user, and of an address, and how many purchase tokens a user gets. A rate of 0 is no rule. `is_shared` says
    /// whether there may be other processes, and `guards` follow what rules say of dependencies.
    pub fn new(rates: [(u32, u32); 3], is_shared: bool, guards: Arc<Guards>) -> Self {
        let (configured, tables) = (configured(rates), Tables::new(is_shared));
        let ready = Ready::new(RuleSet::default(), &configured, &Ready::default(), &tables, i64::MIN);
        Self {
            ready: ArcSwap::from_pointee(ready),
            reading: futures::lock::Mutex::default(),
            configured: Mutex::new(configured),
            tables,
            recent: Recent::default(),
            guards,
            is_read: AtomicBool::new(false),
            shed: counter!(SHED, "reason" => "rate_limited"),
        }
    }

    /// Takes other rates of the configuration, as [`Self::new`] has them. What they have counted stays.
    pub fn configure(&self, rates: [(u32, u32); 3], now_ms: i64) {
        let mut known = self.configured.lock().expect("no code panics while holding it");
        *known = configured(rates);
        self.hold(&known, self.ready.load().set.clone(), now_ms);
    }

    /// Answers the version of the rules that hold.
    pub fn version(&self) -> u64 {
        self.ready.load().set.version
    }

    /// Answers the rules that were taken over last, and those of the configuration that hold beside them.
    pub fn rules(&self) -> (RuleSet, Vec<Rule>) {
        let ready = self.ready.load();
        (ready.set.clone(), ready.configured.clone())
    }

    /// Reads the rules when they are others than those that hold, and takes them over.
    ///
    /// # Errors
    /// When they cannot be read, or one of them is not known to this version; those that hold stay.
    pub async fn renew(&self, rules: &dyn Rules, now_ms: i64) -> StoreResult<()> {
        // One after the other, so that what was read last is what holds.
        let _turn = self.reading.lock().await;
        // What has ended has ended, also while the directory cannot be read.
        let before = self.ready.load();
        if before.is_over(now_ms) {
            self.take(before.set.clone(), now_ms);
        }
        if let Some(set) = rules.other_than(self.version()).await? {
            self.take(set, now_ms);
        }
        self.is_read.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes rules over that were read. Those whose time is over are left out.
    pub fn take(&self, set: RuleSet, now_ms: i64) {
        self.hold(&self.configured.lock().expect("no code panics while holding it"), set, now_ms);
        self.is_read.store(true, Ordering::Release);
    }

    /// Makes the rules ready. Whoever holds those of the configuration is the only one who does.
    fn hold(&self, configured: &[Rule], set: RuleSet, now_ms: i64) {
        let before = self.ready.load_full();
        let ready = Ready::new(set, configured, &before, &self.tables, now_ms);
        let holding = ready.set.rules.iter().filter(|rule| rule.terms.holds_at(now_ms));
        self.guards.follow(holding);
        self.ready.store(Arc::new(ready));
    }

    /// Answers whether the rules of the directory were ever read. Before that nobody knows who is to be refused.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Acquire)
    }

    /// Answers whether an operator has switched something off.
    pub fn is_off(&self, switch: Switch, now_ms: i64) -> bool {
        self.ready.load().switches.holds(switch, now_ms)
    }

    /// Answers whether a sale is hidden from some.
    pub fn hides_sales(&self) -> bool {
        self.ready.load().greys.hides_any()
    }

    /// Answers whether somebody sees a sale. Who is not known sees none that is hidden from some.
    pub fn shows(&self, sale: &SaleId, who: Option<(&UserId, Option<&DeviceId>)>, now_ms: i64) -> bool {
        self.ready.load().greys.shows(sale, who, now_ms)
    }

    /// Answers what somebody gets beside what all get.
    pub fn given(&self, user: &UserId, device: Option<&DeviceId>, now_ms: i64) -> Given {
        self.ready.load().greys.given(user, device, now_ms)
    }

    /// Asks all rules, those first that count the caller alone. Where one lets nothing pass, those before it have
    /// counted the request all the same.
    ///
    /// # Errors
    /// The refusal of the first rule that refuses.
    pub fn check(&self, asker: &Asker<'_>, now: Moment, now_ms: i64) -> Result<Passes, Refused> {
        if !self.is_read() {
            return Err(Refused::NotRead);
        }
        let ready = self.ready.load();
        if let Some(switch) = ready.switches.refusing(asker.way, now_ms) {
            return Err(Refused::SwitchedOff(switch));
        }
        let judged = ready.callers.judge(asker, now_ms);
        if judged.is_allowed {
            return Ok(Passes::default());
        }
        let hashes = Hashes::default();
        self.recent.note(self.seen(asker, &hashes, now));
        if let Some(named) = judged.blocked {
            named.refused.increment(1);
            return Err(Refused::Blocked(named.id.clone()));
        }
        let Walked { waits, standing } =
            self.walk(&ready, (0, Scarcest::default()), (asker, &hashes), now, now_ms)?;
        Ok(Passes { pending: waits.map(|waits| pending(Arc::clone(&ready), asker, waits)), standing })
    }

    /// Goes on with a request that had to wait. `answer` is after how many ns all of the limit is there again, where
    /// the rule knows that, or the time after which the request may come again, when the rule refuses it.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn go_on(
        &self,
        Stop { ready, index }: Stop,
        answer: Result<Option<(Rate, u64)>, Duration>,
        asker: &Asker<'_>,
        now: Moment,
        now_ms: i64,
    ) -> Result<Passes, Refused> {
        let rule = &ready.by_way[asker.way.index()][index];
        let mut scarcest = Scarcest::default();
        match answer {
            Ok(Some((rate, full_in_ns))) => scarcest.note(index, rule, rate, full_in_ns),
            Ok(None) => {}
            Err(retry_after) => self.refuse(rule, retry_after)?,
        }
        let asked = (asker, &Hashes::default());
        let Walked { waits, standing } = self.walk(&ready, (index + 1, scarcest), asked, now, now_ms)?;
        Ok(Passes { pending: waits.map(|waits| pending(ready, asker, waits)), standing })
    }

    /// Counts that the rule at which a request had stopped would refuse it, or has.
    pub fn note_refused(&self, Stop { ready, index }: &Stop, way: Way) {
        ready.by_way[way.index()][*index].refused.increment(1);
    }

    fn walk(
        &self,
        ready: &Ready,
        (from, mut scarcest): (usize, Scarcest),
        (asker, hashes): (&Asker<'_>, &Hashes),
        now: Moment,
        now_ms: i64,
    ) -> Result<Walked, Refused> {
        let rules = &ready.by_way[asker.way.index()];
        let mut waits = None;
        for (index, rule) in rules.iter().enumerate().skip(from) {
            if !rule.holds(asker, now_ms) {
                continue;
            }
            match self.ask(rule, asker, hashes, now.ns()) {
                Said::Passes(Some((rate, full_in_ns))) => scarcest.note(index, rule, rate, full_in_ns),
                Said::Passes(None) => {}
                Said::Refused(retry_after) => self.refuse(rule, retry_after)?,
                Said::Waits(wait) => {
                    waits = Some((index, wait));
                    break;
                }
            }
        }
        let standing = scarcest.0.map(|(index, remaining, full_in_ns)| {
            let policy = rules[index].policy.clone();
            Standing { policy, remaining, full_in_ns }
        });
        Ok(Walked { waits, standing })
    }

    fn refuse(&self, rule: &Counted, retry_after: Duration) -> Result<(), Refused> {
        rule.refused.increment(1);
        if rule.is_dry {
            return Ok(());
        }
        self.shed.increment(1);
        Err(Refused::TooFast { policy: rule.policy.clone(), retry_after })
    }

    fn ask(&self, rule: &Counted, asker: &Asker<'_>, hashes: &Hashes, now_ns: u64) -> Said {
        let said = |taken: Result<u64, Duration>| taken.map_or_else(Said::Refused, |_| Said::Passes(None));
        let own = |rate: Rate, taken: Result<u64, Duration>| {
            taken.map_or_else(Said::Refused, |full_in_ns| Said::Passes(Some((rate, full_in_ns))))
        };
        let leased = |taken: Taken, lease: &dyn Fn() -> LeaseOf, shared: Shared| match taken {
            Taken::Given { left } => Said::Passes(Some((shared.all, shared.all.full_in_ns(left)))),
            Taken::Refused(wait) => Said::Refused(wait),
            Taken::Asks => asks(rule, asker, lease(), shared),
        };
        // Who has no such name is not counted by it.
        let key = || self.key(rule, asker, hashes);
        match &rule.counts {
            Counts::One(bucket, rate) => said(bucket.take(*rate, now_ns)),
            Counts::Keys(buckets, rate) => {
                key().map_or(Said::Passes(None), |key| own(*rate, buckets.take(key, *rate, now_ns)))
            }
            Counts::OneShared(lease, shared) => {
                leased(lease.take(shared, now_ns), &|| LeaseOf::One(lease.clone()), *shared)
            }
            Counts::KeysShared(leases, shared) => key().map_or(Said::Passes(None), |key| {
                leased(leases.take(key, shared, now_ns), &|| LeaseOf::Key(leases.clone(), key), *shared)
            }),
            Counts::Leaky(bucket) => match bucket.enter(now_ns) {
                Entered::Passed => Said::Passes(None),
                Entered::Waits { waiter, calls } => {
                    Said::Waits(Wait::Turn { waiter, bucket: bucket.clone(), calls })
                }
                Entered::Full => Said::Refused(bucket.patience()),
            },
        }
    }

    /// Answers the key under which the rule counts the request, if it has one.
    fn key(&self, rule: &Counted, asker: &Asker<'_>, hashes: &Hashes) -> Option<u64> {
        let key = match rule.scope {
            Scope::All | Scope::Route => None,
            Scope::User => hashes.user(asker, &self.tables),
            Scope::Address => Some(hashes.network(asker, &self.tables)),
            Scope::Device => {
                hashes.device(asker, &self.tables).or_else(|| Some(hashes.network(asker, &self.tables)))
            }
            Scope::Sale => hashes.sale(asker, &self.tables),
        };
        key.map(|key| rule.number ^ key)
    }

    fn seen(&self, asker: &Asker<'_>, hashes: &Hashes, now: Moment) -> Seen {
        Seen {
            at_ns: now.ns(),
            way: asker.way,
            address: asker.address,
            network: hashes.network(asker, &self.tables),
            user: hashes.user(asker, &self.tables),
            device: hashes.device(asker, &self.tables),
            sale: hashes.sale(asker, &self.tables),
        }
    }

    /// Says what a rule would have done to the requests of late. `None` for one that refuses no requests.
    pub fn try_rule(&self, terms: &RuleTerms, now: Moment) -> Option<Trial> {
        self.recent.try_rule(terms, now.ns(), &|name| self.tables.hash(name))
    }
}

/// How far the rules were asked.
struct Walked {
    /// The rule that has the request wait, and for what.
    waits: Option<(usize, Wait)>,
    standing: Option<Standing>,
}

/// The scarcest limit that is the caller's own: its place among the rules, how many may follow, and after how many ns
/// all of it is there again.
#[derive(Default)]
struct Scarcest(Option<(usize, u64, u64)>);

impl Scarcest {
    fn note(&mut self, index: usize, rule: &Counted, rate: Rate, full_in_ns: u64) {
        let is_own = !rule.is_dry && rule.scope.is_own();
        let left = rate.left(full_in_ns);
        if is_own && self.0.is_none_or(|(_, least, _)| left < least) {
            self.0 = Some((index, left, full_in_ns));
        }
    }
}

/// The hashes of one asker, each made once.
#[derive(Default)]
struct Hashes {
    user: OnceCell<u64>,
    network: OnceCell<u64>,
    device: OnceCell<u64>,
    sale: OnceCell<u64>,
}

impl Hashes {
    fn network(&self, asker: &Asker<'_>, tables: &Tables) -> u64 {
        *self.network.get_or_init(|| tables.hash(&subscriber(asker.address)))
    }

    fn user(&self, asker: &Asker<'_>, tables: &Tables) -> Option<u64> {
        asker.user.map(|user| *self.user.get_or_init(|| tables.hash(user.as_str())))
    }

    fn device(&self, asker: &Asker<'_>, tables: &Tables) -> Option<u64> {
        asker.device.map(|device| *self.device.get_or_init(|| tables.hash(device.as_str())))
    }

    fn sale(&self, asker: &Asker<'_>, tables: &Tables) -> Option<u64> {
        asker.sale.map(|sale| *self.sale.get_or_init(|| tables.hash(sale.as_str())))
    }
}

/// Makes the rules of the configuration.
fn configured([users, addresses, tokens]: [(u32, u32); 3]) -> Vec<Rule> {
    let rule = |id: &str, scope, way, (rate, burst)| {
        let terms = RuleTerms {
            scope,
            about: About { route: Some(way), sale: None },
            limit: Limit::TokenBucket(TokenRate { rate, burst, cluster: false }),
            mode: RuleMode::Enforce,
            until_ms: None,
            reason: "the configuration".to_owned(),
        };
        (rate > 0).then(|| Rule { id: RuleId::parse(id).expect("a slug"), terms, version: 0 })
    };
    let configured = [
        rule("user", Scope::User, Way::Purchase, users),
        rule("address", Scope::Address, Way::Purchase, addresses),
        rule("token", Scope::User, Way::Token, tokens),
    ];
    configured.into_iter().flatten().collect()
}

fn pending(ready: Arc<Ready>, asker: &Asker<'_>, (index, wait): (usize, Wait)) -> Pending {
    let is_dry = ready.by_way[asker.way.index()][index].is_dry;
    Pending { stop: Stop { ready, index }, wait, is_dry }
}

fn asks(rule: &Counted, asker: &Asker<'_>, lease: LeaseOf, shared: Shared) -> Said {
    Said::Waits(Wait::Lease(LeaseWish { bucket: bucket_name(rule, asker), lease, shared }))
}

/// Answers the name under which all processes share the bucket of a request.
fn bucket_name(rule: &Counted, asker: &Asker<'_>) -> String {
    let Counted { id, scope, .. } = rule;
    match (scope, asker) {
        (Scope::User, Asker { user: Some(user), .. }) => format!("{id}:user:{user}"),
        (Scope::Sale, Asker { sale: Some(sale), .. }) => format!("{id}:sale:{sale}"),
        (Scope::Device, Asker { device: Some(device), .. }) => format!("{id}:device:{device}"),
        (Scope::Address | Scope::Device, _) => format!("{id}:address:{}", subscriber(asker.address)),
        _ => bucket_of_all(id, *scope, asker.way),
    }
}

#[cfg(test)]
mod tests;
