//! Guards of what the shop stands on. Each refuses calls at once while they fail or take too long (a circuit breaker),
//! and bounds how many are in flight. Source of the breaker: M. Nygard, Release It!, 2nd edition, ch. 5; of the bound
//! that follows the latency: additive increase and multiplicative decrease, RFC 5681 §3.1.
//!
//! Invariant: a call that a guard refuses was not made, so nothing was changed by it.

mod phase;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, counter, gauge};

pub use phase::Phase;

use super::token_buckets::SECOND_NS;
use crate::domain::DependencyId;
use crate::domain::rule::{BreakerTerms, Concurrency, Forced, Limit, Rule, RuleMode};
use crate::metrics::{BREAKER_STATE, BREAKER_TRANSITIONS, CALLS_REFUSED, CONCURRENCY_LIMIT};

const MS: u64 = SECOND_NS / 1000;
/// Parts of a window.
const PARTS: usize = 10;
const PARTS_IN_WINDOW: u64 = 10;
/// The least time between two cuts of a limit, so that one hiccup is one cut.
const CUT_NS: u64 = 100 * MS;
/// After so long without a call that somebody wanted to make, a breaker knows nothing any more.
const OLD_NS: u64 = 60 * SECOND_NS;
/// Calls that are made again may be so many of a hundred calls.
const RETRIES_PERCENT: u64 = 10;
/// Calls that may be made again at once, after a time without any.
const RETRIES_AT_ONCE: u64 = 10;

/// The guards of a process. Without any, nothing is guarded.
#[derive(Default)]
pub struct Guards {
    roles: Roles,
    all: BTreeMap<DependencyId, Arc<Guard>>,
}

/// Which dependency is what to the shop. One may be several.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    /// Has the units.
    pub inventory: Option<DependencyId>,
    /// Has the accepted orders.
    pub order_log: Option<DependencyId>,
    /// Have the orders' rows, by the number of the instance.
    pub databases: Vec<DependencyId>,
    /// Takes the money.
    pub provider: Option<DependencyId>,
}

/// The guard of one dependency.
pub struct Guard {
    /// Its name.
    pub name: DependencyId,
    terms: ArcSwap<Terms>,
    state: Mutex<State>,
    shown: Shown,
}

/// Looked up by their labels only once.
struct Shown {
    state: Gauge,
    limit: Gauge,
    opened: Counter,
    closed: Counter,
    half_opened: Counter,
    open: Counter,
    busy: Counter,
}

struct Terms {
    breaker: BreakerTerms,
    /// Whether the breaker only counts.
    is_dry: bool,
    limit: Option<Concurrency>,
}

struct State {
    phase: Phase,
    since_ns: u64,
    /// When somebody wanted to make a call last.
    asked_ns: u64,
    /// Calls that are tried now, and good ones in a row, while half open.
    tried: u32,
    good: u32,
    parts: [Part; PARTS],
    /// The number of the part that is counted into.
    part: u64,
    in_flight: u32,
    /// The most that may be in flight, in thousandths.
    limit: u64,
    cut_ns: u64,
    /// What may be made again, in hundredths of a call.
    retries: u64,
}

/// Calls of a part of the window.
#[derive(Clone, Copy, Default)]
struct Part {
    calls: u32,
    failed: u32,
    slow: u32,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The breaker is open.
    #[error("calls have failed, so none is made for a moment")]
    Open,
    /// As many are in flight as may be.
    #[error("too many calls are in flight")]
    Busy,
}

/// How a guard stands.
#[derive(Debug, Clone)]
pub struct GuardStanding {
    /// The dependency.
    pub dependency: DependencyId,
    /// What its breaker is.
    pub phase: Phase,
    /// What an operator says that it is.
    pub forced: Option<Forced>,
    /// Calls in flight.
    pub in_flight: u32,
    /// The most that may be, when that is limited.
    pub limit: Option<u32>,
    /// Calls of the window, of them those that have failed, and those that were slow.
    pub calls: [u32; 3],
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It failed, because the dependency could not do it.
    Failed,
}

/// A call in flight.
pub struct Permit {
    guard: Arc<Guard>,
    began_ns: u64,
    is_tried: bool,
    /// Whether it was counted as slow already.
    is_counted: bool,
    is_over: bool,
}

impl Guards {
    /// Makes the guards of these dependencies, without rules.
    pub fn new(roles: Roles) -> Self {
        let Roles { inventory, order_log, databases, provider } = &roles;
        let all = [inventory, order_log, provider].into_iter().flatten().chain(databases);
        let guard = |name: &DependencyId| (name.clone(), Arc::new(Guard::new(name.clone())));
        Self { all: all.map(guard).collect(), roles }
    }

    fn of(&self, name: Option<&DependencyId>) -> Option<Arc<Guard>> {
        name.and_then(|name| self.all.get(name)).cloned()
    }

    /// Answers the guard of the inventory.
    pub fn inventory(&self) -> Option<Arc<Guard>> {
        self.of(self.roles.inventory.as_ref())
    }

    /// Answers the guard of the order log.
    pub fn order_log(&self) -> Option<Arc<Guard>> {
        self.of(self.roles.order_log.as_ref())
    }

    /// Answers the guard of an instance.
    pub fn database(&self, number: u16) -> Option<Arc<Guard>> {
        self.of(self.roles.databases.get(usize::from(number)))
    }

    /// Answers the guard of the payment provider.
    pub fn provider(&self) -> Option<Arc<Guard>> {
        self.of(self.roles.provider.as_ref())
    }

    /// Closes the breakers that nobody has asked for a while: what they know of their dependencies is old, and an alarm
    /// would stand as long as no buyer comes.
    pub fn tidy(&self, now_ns: u64) {
        for guard in self.all.values() {
            let mut state = guard.lock();
            if state.phase != Phase::Closed && now_ns.saturating_sub(state.asked_ns) >= OLD_NS {
                guard.go(&mut state, Phase::Closed, now_ns);
            }
        }
    }

    /// Answers how all stand, ascending by name.
    pub fn standings(&self, now_ns: u64) -> Vec<GuardStanding> {
        self.all.values().map(|guard| guard.standing(now_ns)).collect()
    }

    /// Takes over what rules say, the last one of those that speak of a dependency. One that forces its breaker leaves
    /// the numbers to the others. A dependency of which none speaks has the breaker that all have, and no limit.
    pub fn follow<'a>(&self, rules: impl Iterator<Item = &'a Rule> + Clone) {
        for (name, guard) in &self.all {
            let mut terms = Terms { breaker: BreakerTerms::of(name.clone()), is_dry: false, limit: None };
            let (mut forced, mut has_numbers) = (None, false);
            for rule in rules.clone() {
                let is_dry = rule.terms.mode == RuleMode::DryRun;
                match &rule.terms.limit {
                    Limit::Breaker(breaker) if breaker.dependency == *name => {
                        let forces = breaker.forced.filter(|_| !is_dry);
                        forced = forces.or(forced);
                        if forces.is_none() || !has_numbers {
                            (terms.breaker, terms.is_dry) = (breaker.clone(), is_dry);
                        }
                        has_numbers |= forces.is_none();
                    }
                    Limit::Concurrency(limit) if limit.dependency == *name && !is_dry => {
                        terms.limit = Some(limit.clone());
                    }
                    _ => {}
                }
            }
            terms.breaker.forced = forced;
            terms.is_dry &= forced.is_none();
            guard.follow(terms);
        }
    }
}

impl Guard {
    fn new(name: DependencyId) -> Self {
        let to = |to| counter!(BREAKER_TRANSITIONS, "dependency" => name.to_string(), "to" => to);
        let refused = |why| counter!(CALLS_REFUSED, "dependency" => name.to_string(), "reason" => why);
        let shown = Shown {
            state: gauge!(BREAKER_STATE, "dependency" => name.to_string()),
            limit: gauge!(CONCURRENCY_LIMIT, "dependency" => name.to_string()),
            opened: to("open"),
            closed: to("closed"),
            half_opened: to("half_open"),
            open: refused("open"),
            busy: refused("busy"),
        };
        let terms = Terms { breaker: BreakerTerms::of(name.clone()), is_dry: false, limit: None };
        let state = State {
            phase: Phase::Closed,
            since_ns: 0,
            asked_ns: 0,
            tried: 0,
            good: 0,
            parts: [Part::default(); PARTS],
            part: 0,
            in_flight: 0,
            limit: 1000,
            cut_ns: 0,
            retries: RETRIES_AT_ONCE * 100,
        };
        Self { name, terms: ArcSwap::from_pointee(terms), state: Mutex::new(state), shown }
    }

    fn follow(&self, terms: Terms) {
        let mut state = self.lock();
        if let Some(limit) = &terms.limit {
            let [least, most] = [limit.least(), limit.ceiling].map(|calls| u64::from(calls) * 1000);
            let is_new = self.terms.load().limit.is_none();
            state.limit = if is_new { most } else { state.limit.clamp(least, most) };
        }
        self.terms.store(Arc::new(terms));
        self.show(&state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding it")
    }

    fn standing(&self, now_ns: u64) -> GuardStanding {
        let terms = self.terms.load();
        let mut state = self.lock();
        state.turn(&terms.breaker, now_ns);
        let sum = |of: fn(&Part) -> u32| state.parts.iter().map(of).sum();
        GuardStanding {
            dependency: self.name.clone(),
            phase: state.phase,
            forced: terms.breaker.forced,
            in_flight: state.in_flight,
            limit: terms.limit.as_ref().map(|_| state.may_be_in_flight()),
            calls: [sum(|part| part.calls), sum(|part| part.failed), sum(|part| part.slow)],
        }
    }

    /// Answers from what time on a call is slow.
    pub fn slow_after(&self) -> Duration {
        Duration::from_millis(self.terms.load().breaker.slow_ms().into())
    }

    /// Lets a call be made.
    ///
    /// # Errors
    /// Why it is not made.
    pub fn enter(self: &Arc<Self>, now_ns: u64) -> Result<Permit, Refused> {
        let terms = self.terms.load();
        let mut state = self.lock();
        state.asked_ns = now_ns;
        let mut is_tried = false;
        match (terms.breaker.forced, state.phase) {
            (Some(Forced::Closed), _) | (None, Phase::Closed) => {}
            (Some(Forced::Open), _) if terms.is_dry => {}
            (Some(Forced::Open), _) => return Err(self.refused(Refused::Open)),
            (None, Phase::Open) => {
                let is_over = now_ns.saturating_sub(state.since_ns) >= u64::from(terms.breaker.open_ms) * MS;
                if is_over {
                    self.go(&mut state, Phase::HalfOpen, now_ns);
                    is_tried = true;
                } else if !terms.is_dry {
                    return Err(self.refused(Refused::Open));
                }
            }
            (None, Phase::HalfOpen) if state.tried + state.good < terms.breaker.probes => is_tried = true,
            (None, Phase::HalfOpen) if terms.is_dry => {}
            (None, Phase::HalfOpen) => return Err(self.refused(Refused::Open)),
        }
        if terms.limit.is_some() && state.in_flight >= state.may_be_in_flight() {
            return Err(self.refused(Refused::Busy));
        }
        state.tried += u32::from(is_tried);
        state.in_flight += 1;
        state.retries = (state.retries + RETRIES_PERCENT).min(RETRIES_AT_ONCE * 100);
        Ok(Permit { guard: self.clone(), began_ns: now_ns, is_tried, is_counted: false, is_over: false })
    }

    /// Answers whether a call that has failed may be made again, and takes it from what may be.
    pub fn may_retry(&self) -> bool {
        let mut state = self.lock();
        let may = state.phase == Phase::Closed && state.retries >= 100;
        if may {
            state.retries -= 100;
        }
        may
    }

    fn refused(&self, why: Refused) -> Refused {
        match why {
            Refused::Open => self.shown.open.increment(1),
            Refused::Busy => self.shown.busy.increment(1),
        }
        why
    }

    fn go(&self, state: &mut State, phase: Phase, now_ns: u64) {
        tracing::info!(dependency = %self.name, phase = phase.as_str(), "breaker");
        (state.phase, state.since_ns, state.tried, state.good) = (phase, now_ns, 0, 0);
        state.parts = [Part::default(); PARTS];
        match phase {
            Phase::Closed => &self.shown.closed,
            Phase::Open => &self.shown.opened,
            Phase::HalfOpen => &self.shown.half_opened,
        }
        .increment(1);
        self.show(state);
    }

    /// Counts a call, and decides.
    fn count(&self, state: &mut State, permit: &Permit, outcome: Outcome, is_slow: bool, now_ns: u64) {
        let terms = self.terms.load();
        let breaker = &terms.breaker;
        state.turn(breaker, now_ns);
        let is_bad = outcome == Outcome::Failed || is_slow;
        match state.phase {
            Phase::Closed => {
                let part = &mut state.parts[usize::try_from(state.part).unwrap_or(0) % PARTS];
                part.calls += 1;
                part.failed += u32::from(outcome == Outcome::Failed);
                part.slow += u32::from(is_slow);
                if is_bad && state.has_to_open(breaker) {
                    self.go(state, Phase::Open, now_ns);
                }
            }
            Phase::HalfOpen if permit.is_tried && is_bad => self.go(state, Phase::Open, now_ns),
            Phase::HalfOpen if permit.is_tried => {
                state.good += 1;
                if state.good >= breaker.probes {
                    self.go(state, Phase::Closed, now_ns);
                }
            }
            Phase::Open | Phase::HalfOpen => {}
        }
    }

    fn adapt(&self, state: &mut State, took_ns: u64, outcome: Outcome, now_ns: u64) {
        let terms = self.terms.load();
        let Some(limit) = &terms.limit else { return };
        let [least, most] = [limit.least(), limit.ceiling].map(|calls| u64::from(calls) * 1000);
        if outcome == Outcome::Failed || took_ns > u64::from(limit.latency_ms) * MS {
            if now_ns.saturating_sub(state.cut_ns) >= CUT_NS {
                (state.limit, state.cut_ns) = ((state.limit * 3 / 4).max(least), now_ns);
            }
        } else if u64::from(state.in_flight + 1) * 2000 >= state.limit {
            // One more after as many good calls as are let in flight.
            state.limit = (state.limit + 1_000_000 / state.limit).min(most);
        }
        self.show(state);
    }

    /// Shows what is done with calls: a breaker that is forced does what an operator says, and a dry run refuses none.
    fn show(&self, state: &State) {
        let terms = self.terms.load();
        self.shown.state.set(match (terms.breaker.forced, state.phase) {
            _ if terms.is_dry => 0.0,
            (Some(Forced::Closed), _) | (None, Phase::Closed) => 0.0,
            (Some(Forced::Open), _) | (None, Phase::Open) => 1.0,
            (None, Phase::HalfOpen) => 2.0,
        });
        let limit = terms.limit.as_ref().map_or(0, |_| state.may_be_in_flight());
        self.shown.limit.set(f64::from(limit));
    }
}

impl State {
    fn may_be_in_flight(&self) -> u32 {
        u32::try_from(self.limit / 1000).unwrap_or(u32::MAX).max(1)
    }

    /// Forgets the parts of the window that are over.
    fn turn(&mut self, breaker: &BreakerTerms, now_ns: u64) {
        let part = now_ns / (u64::from(breaker.window_ms) * MS / PARTS_IN_WINDOW).max(1);
        let passed = part.saturating_sub(self.part).min(PARTS_IN_WINDOW);
        for past in 0..passed {
            self.parts[usize::try_from((part - past) % PARTS_IN_WINDOW).unwrap_or(0)] = Part::default();
        }
        self.part = self.part.max(part);
    }

    fn has_to_open(&self, breaker: &BreakerTerms) -> bool {
        let sum = |of: fn(&Part) -> u32| u64::from(self.parts.iter().map(of).sum::<u32>());
        let calls = sum(|part| part.calls);
        let is_share = |some: u64, percent: u8| some * 100 >= calls * u64::from(percent);
        calls >= u64::from(breaker.calls_min)
            && (is_share(sum(|part| part.failed), breaker.error_percent)
                || is_share(sum(|part| part.slow), breaker.slow_percent))
    }
}

impl Permit {
    /// Says that the call is slow, while it goes on. It is counted now.
    pub fn slow(&mut self, now_ns: u64) {
        if !std::mem::replace(&mut self.is_counted, true) {
            let mut state = self.guard.lock();
            self.guard.count(&mut state, self, Outcome::Answered, true, now_ns);
        }
    }

    /// Says what became of the call.
    pub fn done(mut self, outcome: Outcome, now_ns: u64) {
        self.is_over = true;
        let took_ns = now_ns.saturating_sub(self.began_ns);
        let is_slow = took_ns >= u64::from(self.guard.terms.load().breaker.slow_ms()) * MS;
        let mut state = self.guard.lock();
        state.in_flight -= 1;
        // A breaker that went on meanwhile has nothing to do with this call any more.
        state.tried = state.tried.saturating_sub(u32::from(self.is_tried));
        if !self.is_counted {
            self.guard.count(&mut state, &self, outcome, is_slow, now_ns);
        }
        self.guard.adapt(&mut state, took_ns, outcome, now_ns);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Whoever asked went away: nothing is known of the call.
        if !self.is_over {
            let mut state = self.guard.lock();
            state.in_flight -= 1;
            state.tried = state.tried.saturating_sub(u32::from(self.is_tried));
        }
    }
}

#[cfg(test)]
mod tests;
