//! The rules of traffic of one process, made ready for the path of a request.
//!
//! Invariant: whoever asks sees the rules of one version, whole. Asking takes no lock that all share, and allocates
//! nothing. A rule that is changed keeps what it has counted, because it counts under its id.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use metrics::{Counter, counter};

use super::token_buckets::{Bucket, Buckets, Rate};
use crate::clock::Moment;
use crate::domain::rule::{About, Caller, Limit, Rule, RuleMode, RuleSet, RuleTerms, Scope, TokenRate, Way};
use crate::domain::{RuleId, SaleId, UserId};
use crate::metrics::{RULE_DECISIONS, SHED};
use crate::ports::{Rules, StoreResult};

/// Users, and addresses, whose buckets are not full. They take some nine megabytes each.
const KEYS: usize = 1 << 19;
/// Sales of one rule whose buckets are not full.
const SALES: usize = 512;

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// What is asked for.
    pub way: Way,
    /// The user, from the verified token.
    pub user: Option<&'a UserId>,
    /// The address, as far as our own proxies say.
    pub address: IpAddr,
    /// The sale that the request is about.
    pub sale: Option<&'a SaleId>,
}

/// The refusal of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The rule lets nothing of this caller pass.
    Blocked(RuleId),
    /// The rule has let pass as many as it may.
    TooFast {
        /// The rule.
        rule: RuleId,
        /// After how long it would let one pass.
        retry_after: Duration,
    },
}

/// The rules of a process.
pub struct Rulebook {
    ready: ArcSwap<Ready>,
    reading: futures::lock::Mutex<()>,
    configured: Vec<Rule>,
    users: Buckets,
    addresses: Buckets,
    hasher: RandomState,
    /// Looked up by its labels only once.
    shed: Counter,
}

/// The rules of one version.
#[derive(Default)]
struct Ready {
    set: RuleSet,
    /// The rules of the configuration that hold, because no other rule has their scope.
    configured: Vec<Rule>,
    /// When the next rule ends, ms since 1970.
    ends_ms: Option<i64>,
    callers: Callers,
    /// The rules that count, by the index of the way.
    by_way: [Vec<Counted>; Way::ALL.len()],
    /// The buckets that more than one version uses.
    kept: HashMap<(RuleId, Option<Way>), Kept>,
}

impl Ready {
    /// Answers whether a rule that held has ended.
    fn is_over(&self, now_ms: i64) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms)
    }
}

/// A bucket, or the buckets of sales.
#[derive(Clone)]
enum Kept {
    One(Arc<Bucket>),
    OfSales(Arc<Buckets>),
}

/// A rule that counts.
struct Counted {
    id: RuleId,
    sale: Option<SaleId>,
    until_ms: i64,
    rate: Rate,
    counts: Counts,
    is_dry: bool,
    refused: Counter,
}

/// By what a rule counts. A number makes the keys of one rule differ from those of others.
enum Counts {
    Together(Arc<Bucket>),
    Sales(Arc<Buckets>),
    Users(u64),
    Addresses(u64),
}

/// The rules about single callers.
#[derive(Default)]
struct Callers {
    users: HashMap<UserId, Vec<Named>>,
    networks: HashMap<IpNet, Vec<Named>>,
    /// The lengths of the networks' prefixes, of IPv4 and of IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

/// A rule about one caller.
struct Named {
    id: RuleId,
    until_ms: i64,
    allows: bool,
    is_dry: bool,
    refused: Counter,
}

/// What the rules about single callers say of one.
#[derive(Default)]
struct Judged<'a> {
    is_allowed: bool,
    blocked: Option<&'a Named>,
}

impl Rulebook {
    /// Makes a rulebook that has the rules of the configuration alone: how many purchases pass a second, and at once,
    /// of a user, and of an address. A rate of 0 is no rule.
    pub fn new([users, addresses]: [(u32, u32); 2]) -> Self {
        let rule = |id: &str, scope, (rate, burst)| {
            let terms = RuleTerms {
                scope,
                about: About { route: Some(Way::Purchase), sale: None },
                limit: Limit::TokenBucket(TokenRate { rate, burst }),
                mode: RuleMode::Enforce,
                until_ms: None,
                reason: "the configuration".to_owned(),
            };
            (rate > 0).then(|| Rule { id: RuleId::parse(id).expect("a slug"), terms, version: 0 })
        };
        let configured = [rule("user", Scope::User, users), rule("address", Scope::Address, addresses)];
        let book = Self {
            ready: ArcSwap::default(),
            reading: futures::lock::Mutex::default(),
            configured: configured.into_iter().flatten().collect(),
            users: Buckets::new(KEYS),
            addresses: Buckets::new(KEYS),
            hasher: RandomState::new(),
            shed: counter!(SHED, "reason" => "rate_limited"),
        };
        let ready = book.made_ready(RuleSet::default(), &Ready::default(), i64::MIN);
        book.ready.store(Arc::new(ready));
        book
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
        let other = rules.other_than(self.version()).await?;
        let before = self.ready.load();
        if let Some(set) = other.or_else(|| before.is_over(now_ms).then(|| before.set.clone())) {
            self.take(set, now_ms);
        }
        Ok(())
    }

    /// Takes rules over. Rules whose time is over are left out.
    fn take(&self, set: RuleSet, now_ms: i64) {
        let before = self.ready.load_full();
        self.ready.store(Arc::new(self.made_ready(set, &before, now_ms)));
    }

    /// Asks all rules. Where one lets nothing pass, those before it have counted the request all the same.
    ///
    /// # Errors
    /// The refusal of the first rule that refuses.
    pub fn check(&self, asker: &Asker<'_>, now: Moment, now_ms: i64) -> Result<(), Refused> {
        let ready = self.ready.load();
        let judged = ready.callers.judge(asker, now_ms);
        if judged.is_allowed {
            return Ok(());
        }
        if let Some(named) = judged.blocked {
            named.refused.increment(1);
            return Err(Refused::Blocked(named.id.clone()));
        }
        for rule in &ready.by_way[asker.way.index()] {
            if now_ms >= rule.until_ms || rule.sale.as_ref().is_some_and(|sale| Some(sale) != asker.sale) {
                continue;
            }
            let Err(retry_after) = self.count(rule, asker, now) else { continue };
            rule.refused.increment(1);
            if !rule.is_dry {
                self.shed.increment(1);
                return Err(Refused::TooFast { rule: rule.id.clone(), retry_after });
            }
        }
        Ok(())
    }

    fn count(&self, rule: &Counted, asker: &Asker<'_>, now: Moment) -> Result<(), Duration> {
        let now_ns = now.ns();
        let of = |buckets: &Buckets, number: u64, key: u64| buckets.take(number ^ key, rule.rate, now_ns);
        match (&rule.counts, asker) {
            (Counts::Together(bucket), _) => bucket.take(rule.rate, now_ns),
            (Counts::Sales(buckets), Asker { sale: Some(sale), .. }) => of(buckets, 0, self.hash(sale)),
            (Counts::Users(number), Asker { user: Some(user), .. }) => {
                of(&self.users, *number, self.hash(user))
            }
            (Counts::Addresses(number), Asker { address, .. }) => {
                of(&self.addresses, *number, self.hash(&subscriber(*address)))
            }
            // Who has no such name is not counted by it.
            _ => Ok(()),
        }
    }

    fn hash(&self, key: &(impl Hash + ?Sized)) -> u64 {
        self.hasher.hash_one(key)
    }

    fn made_ready(&self, set: RuleSet, before: &Ready, now_ms: i64) -> Ready {
        let holding: Vec<&Rule> = set.rules.iter().filter(|rule| rule.terms.holds_at(now_ms)).collect();
        let has_scope = |configured: &Rule| {
            holding.iter().any(|rule| {
                let of_purchases = rule.terms.about.route.is_none_or(|way| way == Way::Purchase);
                let is_limit = matches!(rule.terms.limit, Limit::TokenBucket(_));
                let is_whole = rule.terms.mode == RuleMode::Enforce && rule.terms.about.sale.is_none();
                of_purchases && is_limit && is_whole && rule.terms.scope == configured.terms.scope
            })
        };
        let configured = self.configured.iter().filter(|rule| !has_scope(rule)).cloned().collect();
        let mut ready = Ready {
            ends_ms: holding.iter().filter_map(|rule| rule.terms.until_ms).min(),
            configured,
            ..Ready::default()
        };
        let all: Vec<&Rule> = ready.configured.iter().chain(holding).collect();
        let (mut callers, mut by_way) = (Callers::default(), <[Vec<Counted>; Way::ALL.len()]>::default());
        for rule in all {
            match &rule.terms.limit {
                Limit::TokenBucket(rate) => {
                    for way in
                        Way::ALL.into_iter().filter(|way| rule.terms.about.route.is_none_or(|of| of == *way))
                    {
                        by_way[way.index()].push(self.counted(rule, *rate, way, before, &mut ready.kept));
                    }
                }
                Limit::Block(caller) => callers.add(caller, named(rule, false)),
                Limit::Allow(caller) => callers.add(caller, named(rule, true)),
            }
        }
        (ready.callers, ready.by_way, ready.set) = (callers, by_way, set);
        ready
    }

    fn counted(
        &self,
        rule: &Rule,
        rate: TokenRate,
        way: Way,
        before: &Ready,
        kept: &mut HashMap<(RuleId, Option<Way>), Kept>,
    ) -> Counted {
        let mut keep = |of: Option<Way>, make: fn() -> Kept| {
            let key = (rule.id.clone(), of);
            kept.entry(key)
                .or_insert_with_key(|key| before.kept.get(key).cloned().unwrap_or_else(make))
                .clone()
        };
        let one = || Kept::One(Arc::default());
        let of_sales = || Kept::OfSales(Arc::new(Buckets::new(SALES)));
        let kept = match rule.terms.scope {
            Scope::All => Some(keep(None, one)),
            Scope::Route => Some(keep(Some(way), one)),
            Scope::Sale => Some(keep(None, of_sales)),
            Scope::User | Scope::Address => None,
        };
        let number = self.hash(rule.id.as_str());
        let counts = match (kept, rule.terms.scope) {
            (Some(Kept::One(bucket)), _) => Counts::Together(bucket),
            (Some(Kept::OfSales(buckets)), _) => Counts::Sales(buckets),
            (None, Scope::Address) => Counts::Addresses(number),
            (None, _) => Counts::Users(number),
        };
        Counted {
            id: rule.id.clone(),
            sale: rule.terms.about.sale.clone(),
            until_ms: rule.terms.until_ms.unwrap_or(i64::MAX),
            rate: Rate::new(rate.rate, rate.burst),
            counts,
            is_dry: rule.terms.mode == RuleMode::DryRun,
            refused: decisions(rule),
        }
    }
}

/// The count of what a rule has refused, or would have.
fn decisions(rule: &Rule) -> Counter {
    let decision = match rule.terms.mode {
        RuleMode::Enforce => "refused",
        RuleMode::DryRun => "would_refuse",
    };
    counter!(RULE_DECISIONS, "rule" => rule.id.to_string(), "decision" => decision)
}

fn named(rule: &Rule, allows: bool) -> Named {
    Named {
        id: rule.id.clone(),
        until_ms: rule.terms.until_ms.unwrap_or(i64::MAX),
        allows,
        is_dry: rule.terms.mode == RuleMode::DryRun,
        refused: decisions(rule),
    }
}

impl Callers {
    fn add(&mut self, caller: &Caller, named: Named) {
        let of = match caller {
            Caller::User(user) => self.users.entry(user.clone()).or_default(),
            Caller::Address(network) => {
                self.prefixes[usize::from(network.addr().is_ipv6())].insert(network.prefix_len());
                self.networks.entry(*network).or_default()
            }
        };
        of.push(named);
    }

    fn judge(&self, asker: &Asker<'_>, now_ms: i64) -> Judged<'_> {
        let mut judged = Judged::default();
        if let Some(user) = asker.user.filter(|_| !self.users.is_empty()) {
            judged.hear(self.users.get(user), now_ms);
        }
        let address = asker.address.to_canonical();
        for prefix in &self.prefixes[usize::from(address.is_ipv6())] {
            let network = IpNet::new(address, *prefix).map(|network| network.trunc());
            judged.hear(network.ok().and_then(|network| self.networks.get(&network)), now_ms);
        }
        judged
    }
}

impl<'a> Judged<'a> {
    fn hear(&mut self, rules: Option<&'a Vec<Named>>, now_ms: i64) {
        for named in rules.into_iter().flatten().filter(|named| now_ms < named.until_ms) {
            match (named.is_dry, named.allows) {
                (false, true) => self.is_allowed = true,
                (false, false) => self.blocked = self.blocked.or(Some(named)),
                (true, true) => {}
                (true, false) => named.refused.increment(1),
            }
        }
    }
}

/// Answers the network of one subscriber: an IPv4 address, or an IPv6 /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
