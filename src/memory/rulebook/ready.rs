//! The rules of one version, made ready to be asked.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::Counter;

use super::asker::Asker;
use super::callers::{Callers, decisions, named};
use super::greys::Greys;
use super::standing::Policy;
use super::switches::Switches;
use super::tables::Tables;
use crate::domain::rule::{LeakyRate, Limit, Rule, RuleMode, RuleSet, Scope, TokenRate, Way};
use crate::domain::{RuleId, SaleId};
use crate::memory::leaky_bucket::LeakyBucket;
use crate::memory::token_buckets::{Bucket, Buckets, Rate};
use crate::memory::token_leases::{Leases, OneLease, Shared};

/// Sales of one rule whose buckets are not full.
const SALES: usize = 512;

/// The rules of one version.
#[derive(Default)]
pub struct Ready {
    /// The rules of the directory.
    pub set: RuleSet,
    /// The rules of the configuration that hold, because no other rule has their scope.
    pub configured: Vec<Rule>,
    /// When the next rule ends, ms since 1970.
    ends_ms: Option<i64>,
    /// Those about single callers.
    pub callers: Callers,
    /// What is off.
    pub switches: Switches,
    /// What some users see or get.
    pub greys: Greys,
    /// Those that count, by the index of the way.
    pub by_way: [Vec<Counted>; Way::ALL.len()],
    /// What more than one version uses.
    kept: HashMap<Key, Kept>,
}

/// A rule that counts.
pub struct Counted {
    /// The rule.
    pub id: RuleId,
    sale: Option<SaleId>,
    until_ms: i64,
    /// Whether it only counts what it would refuse.
    pub is_dry: bool,
    /// What it has refused, or would have.
    pub refused: Counter,
    /// How it is told to clients.
    pub policy: Arc<Policy>,
    /// Whose requests it counts together.
    pub scope: Scope,
    /// Makes the keys of one rule differ from those of others.
    pub number: u64,
    /// By what it counts.
    pub counts: Counts,
}

/// By what a rule counts.
pub enum Counts {
    /// All requests, in this process.
    One(Arc<Bucket>, Rate),
    /// The requests of each key, in this process.
    Keys(Arc<Buckets>, Rate),
    /// All requests, in all processes.
    OneShared(Arc<OneLease>, Shared),
    /// The requests of each key, in all processes.
    KeysShared(Arc<Leases>, Shared),
    /// All requests, which leave one after the other.
    Leaky(Arc<LeakyBucket>),
}

/// A rule, and one of its ways when each way counts by itself.
type Key = (RuleId, Option<Way>);

/// What a rule keeps when it is changed.
enum Kept {
    Bucket(Arc<Bucket>),
    Sales(Arc<Buckets>),
    Lease(Arc<OneLease>),
    Leaky(Arc<LeakyBucket>),
}

/// Makes a method that answers what is kept, when it is of that kind.
macro_rules! of_kind {
    ($name:ident, $kind:ident, $type:ty) => {
        fn $name(&self) -> Option<&Arc<$type>> {
            match self {
                Self::$kind(value) => Some(value),
                _ => None,
            }
        }
    };
}

impl Kept {
    of_kind!(as_bucket, Bucket, Bucket);
    of_kind!(as_sales, Sales, Buckets);
    of_kind!(as_lease, Lease, OneLease);
    of_kind!(as_leaky, Leaky, LeakyBucket);
}

impl Ready {
    /// Answers whether a rule that held has ended.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms)
    }

    /// Makes the rules of a set ready that hold now. Those of the configuration hold for a scope that none of them has.
    pub fn new(set: RuleSet, of_configuration: &[Rule], before: &Self, tables: &Tables, now_ms: i64) -> Self {
        let holding: Vec<&Rule> = set.rules.iter().filter(|rule| rule.terms.holds_at(now_ms)).collect();
        let has_scope = |configured: &Rule| holding.iter().any(|rule| replaces(rule, configured));
        let configured = of_configuration.iter().filter(|rule| !has_scope(rule)).cloned().collect();
        let mut ready = Self {
            ends_ms: holding.iter().filter_map(|rule| rule.terms.until_ms).min(),
            configured,
            ..Self::default()
        };
        let all: Vec<Rule> = ready.configured.iter().chain(holding).cloned().collect();
        for rule in &all {
            match &rule.terms.limit {
                Limit::Block(caller) => ready.callers.add(caller, named(rule, false)),
                Limit::Allow(caller) => ready.callers.add(caller, named(rule, true)),
                Limit::TokenBucket(_) | Limit::LeakyBucket(_) => ready.count(rule, before, tables),
                Limit::Grey(grey) => ready.greys.add(rule, grey),
                Limit::Switch(switch) => ready.switches.add(rule, *switch),
                // The guards follow them.
                Limit::Breaker(_) | Limit::Concurrency(_) => {}
            }
        }
        ready.order();
        ready.set = set;
        ready
    }

    /// Adds a rule that counts to all ways that it is about.
    fn count(&mut self, rule: &Rule, before: &Self, tables: &Tables) {
        let about = &rule.terms.about;
        for way in Way::ALL.into_iter().filter(|way| about.route.is_none_or(|of| of == *way)) {
            let (counts, policy) = match rule.terms.limit {
                Limit::TokenBucket(rate) => (
                    self.tokens(rule, rate, way, before, tables),
                    Policy::new(&rule.id, rate.rate, rate.holds()),
                ),
                Limit::LeakyBucket(rate) => {
                    let holds = u32::try_from(rate.queue_max()).unwrap_or(u32::MAX);
                    (self.turns(rule, rate, way, before, tables), Policy::new(&rule.id, rate.rate, holds))
                }
                _ => return,
            };
            self.by_way[way.index()].push(Counted {
                id: rule.id.clone(),
                sale: about.sale.clone(),
                until_ms: rule.terms.until_ms.unwrap_or(i64::MAX),
                is_dry: rule.terms.mode == RuleMode::DryRun,
                refused: decisions(rule),
                policy,
                scope: rule.terms.scope,
                // A rule of the configuration may have the name of another one, and counts by itself.
                number: tables.hash(&(rule.version == 0, rule.id.as_str())),
                counts,
            });
        }
    }

    /// Has limits that are a caller's own asked before those that many share: who is too fast takes no tokens of
    /// others.
    fn order(&mut self) {
        for rules in &mut self.by_way {
            rules.sort_by_key(|rule| !rule.scope.is_own());
        }
    }

    fn tokens(&mut self, rule: &Rule, rate: TokenRate, way: Way, before: &Self, tables: &Tables) -> Counts {
        let own = Rate::new(rate.rate, rate.burst);
        let shared = (rate.cluster && tables.is_shared).then(|| Shared::new(rate, rate.lease_max()));
        let key = key(rule, way);
        match (shared, rule.terms.scope) {
            (None, Scope::All | Scope::Route) => {
                Counts::One(self.keep(key, before, Kept::as_bucket, Kept::Bucket, Bucket::default), own)
            }
            (None, Scope::Sale) => {
                let make = || Buckets::new(SALES);
                Counts::Keys(self.keep(key, before, Kept::as_sales, Kept::Sales, make), own)
            }
            (None, Scope::User) => Counts::Keys(tables.users.clone(), own),
            (None, Scope::Address | Scope::Device) => Counts::Keys(tables.addresses.clone(), own),
            (Some(shared), Scope::All | Scope::Route) => {
                let lease = self.keep(key, before, Kept::as_lease, Kept::Lease, OneLease::default);
                Counts::OneShared(lease, shared)
            }
            (Some(shared), Scope::Sale | Scope::User | Scope::Address | Scope::Device) => {
                Counts::KeysShared(tables.leases().clone(), shared)
            }
        }
    }

    fn turns(&mut self, rule: &Rule, rate: LeakyRate, way: Way, before: &Self, tables: &Tables) -> Counts {
        if rule.terms.mode == RuleMode::DryRun {
            // Nobody waits, so the queue is a bucket that is as large.
            let bucket = self.keep(key(rule, way), before, Kept::as_bucket, Kept::Bucket, Bucket::default);
            return Counts::One(bucket, Rate::new(rate.rate, rate.holds()));
        }
        let shared =
            (rate.cluster && tables.is_shared).then(|| bucket_of_all(&rule.id, rule.terms.scope, way));
        let make = || LeakyBucket::new(rate, shared.clone());
        let bucket = self.keep(key(rule, way), before, Kept::as_leaky, Kept::Leaky, make);
        bucket.change(rate, shared);
        Counts::Leaky(bucket)
    }

    /// Answers what the rule had before, or makes it.
    fn keep<T>(
        &mut self,
        key: Key,
        before: &Self,
        of: fn(&Kept) -> Option<&Arc<T>>,
        keep: fn(Arc<T>) -> Kept,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let known = self.kept.get(&key).and_then(of).or_else(|| before.kept.get(&key).and_then(of));
        let value = known.cloned().unwrap_or_else(|| Arc::new(make()));
        self.kept.insert(key, keep(value.clone()));
        value
    }
}

impl Counted {
    /// Answers whether it holds for a request.
    pub fn holds(&self, asker: &Asker<'_>, now_ms: i64) -> bool {
        now_ms < self.until_ms && self.sale.as_ref().is_none_or(|sale| Some(sale) == asker.sale)
    }
}

fn key(rule: &Rule, way: Way) -> Key {
    (rule.id.clone(), (rule.terms.scope == Scope::Route).then_some(way))
}

/// Answers the name under which all processes share the bucket of all requests.
pub fn bucket_of_all(rule: &RuleId, scope: Scope, way: Way) -> String {
    match scope {
        Scope::Route => format!("{rule}:route:{}", way.as_str()),
        _ => rule.to_string(),
    }
}

/// Answers whether a rule takes the place of one of the configuration: it limits all requests of its route by its
/// scope.
fn replaces(rule: &Rule, configured: &Rule) -> bool {
    let of_route = rule.terms.about.route.is_none_or(|way| Some(way) == configured.terms.about.route);
    let is_limit = matches!(rule.terms.limit, Limit::TokenBucket(_));
    let is_whole = rule.terms.mode == RuleMode::Enforce && rule.terms.about.sale.is_none();
    of_route && is_limit && is_whole && rule.terms.scope == configured.terms.scope
}
