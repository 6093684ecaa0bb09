//! The requests of late about which rules were asked, so that a rule can be tried before it is put in place.
//!
//! Names are kept as hashes, in memory of a fixed size: when more requests come in a minute than there is room for, the
//! time over which a rule is tried gets shorter, and the answer says so.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::rule::{Caller, Limit, RuleTerms, Scope, Way};
use crate::memory::token_buckets::{Rate, SECOND_NS};

/// For how long requests are kept.
const KEPT_NS: u64 = 60 * SECOND_NS;
/// Places that are locked by themselves, so that no two requests wait for each other often.
const SHARDS: usize = 16;
/// Requests of a place: a quarter of a million in all, which take some twenty megabytes.
const SHARD_MAX: usize = 16_384;

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When it came, in ns of a clock that never goes back.
    pub at_ns: u64,
    /// What was asked for.
    pub way: Way,
    /// Where it came from.
    pub address: IpAddr,
    /// The hash of the subscriber's network.
    pub network: u64,
    /// The hash of the user, if it names one.
    pub user: Option<u64>,
    /// The hash of the device, if it names one.
    pub device: Option<u64>,
    /// The hash of the sale, if it is about one.
    pub sale: Option<u64>,
}

/// The requests of a process.
pub struct Recent {
    shards: [Mutex<VecDeque<Seen>>; SHARDS],
    /// From when on all of them are there, in ns.
    whole_since_ns: AtomicU64,
}

/// What a rule would have done to the requests of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The time over which it was tried, at most a minute.
    pub over: Duration,
    /// The requests that it is about.
    pub requests: u64,
    /// Those that it would have refused.
    pub refused: u64,
    /// How many callers would have been refused something; `None` when the rule counts no callers.
    pub callers: Option<u64>,
}

impl Seen {
    /// Answers what a scope counts it by, if it counts it.
    fn key(&self, scope: Scope) -> Option<u64> {
        match scope {
            Scope::All => Some(0),
            Scope::Route => Some(count(self.way.index())),
            Scope::User => self.user,
            Scope::Address => Some(self.network),
            Scope::Device => self.device.or(Some(self.network)),
            Scope::Sale => self.sale,
        }
    }
}

impl Default for Recent {
    fn default() -> Self {
        // All of the room is there from the beginning, so that noting allocates nothing. It takes no memory until it
        // is used.
        let shard = |_| Mutex::new(VecDeque::with_capacity(SHARD_MAX));
        Self { shards: std::array::from_fn(shard), whole_since_ns: AtomicU64::new(0) }
    }
}

impl Recent {
    /// Notes a request.
    pub fn note(&self, seen: Seen) {
        let shard = usize::try_from(seen.at_ns / 64).unwrap_or(0) % SHARDS;
        let mut shard = self.shards[shard].lock().expect("no code panics while holding it");
        let is_old = |oldest: &Seen| seen.at_ns.saturating_sub(oldest.at_ns) > KEPT_NS;
        if shard.front().is_some_and(is_old) {
            shard.pop_front();
        } else if shard.len() >= SHARD_MAX
            && let Some(oldest) = shard.pop_front()
        {
            self.whole_since_ns.fetch_max(oldest.at_ns + 1, Ordering::Relaxed);
        }
        shard.push_back(seen);
    }

    /// Says what a rule would have done if it had been there. `hash` is that of names. `None` for a rule that refuses
    /// no requests. It looks at all that are kept, which takes tens of ms.
    pub fn try_rule(&self, terms: &RuleTerms, now_ns: u64, hash: &dyn Fn(&str) -> u64) -> Option<Trial> {
        let judge = Judge::new(&terms.limit, hash)?;
        let since_ns = self.whole_since_ns.load(Ordering::Relaxed).max(now_ns.saturating_sub(KEPT_NS));
        let sale = terms.about.sale.as_ref().map(|sale| hash(sale.as_str()));
        let is_about = |seen: &Seen| {
            let of_route = terms.about.route.is_none_or(|way| way == seen.way);
            let of_sale = sale.is_none() || sale == seen.sale;
            seen.at_ns >= since_ns && of_route && of_sale && seen.key(terms.scope).is_some()
        };
        let mut requests: Vec<Seen> = Vec::new();
        for shard in &self.shards {
            // Whoever asks a rule waits for no more than a copy.
            let all = shard.lock().expect("no code panics while holding it").clone();
            requests.extend(all.into_iter().filter(is_about));
        }
        requests.sort_unstable_by_key(|seen| seen.at_ns);
        let (refused, callers) = judge.refuses(&requests, terms.scope);
        let of_callers = terms.scope.is_own();
        Some(Trial {
            over: Duration::from_nanos(now_ns.saturating_sub(since_ns)),
            requests: count(requests.len()),
            refused: count(refused),
            callers: of_callers.then_some(count(callers)),
        })
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What refuses requests.
enum Judge {
    /// A bucket, for each key.
    Bucket(Rate),
    /// All of those requests.
    Each(Box<dyn Fn(&Seen) -> bool>),
}

impl Judge {
    fn new(limit: &Limit, hash: &dyn Fn(&str) -> u64) -> Option<Self> {
        match limit.clone() {
            Limit::TokenBucket(rate) => Some(Self::Bucket(Rate::new(rate.rate, rate.burst))),
            Limit::LeakyBucket(rate) => {
                // Who waits passes, so the queue is a bucket that is as large.
                Some(Self::Bucket(Rate::new(rate.rate, rate.holds())))
            }
            Limit::Block(Caller::User(user)) => {
                let user = hash(user.as_str());
                Some(Self::Each(Box::new(move |seen| seen.user == Some(user))))
            }
            Limit::Block(Caller::Device(device)) => {
                let device = hash(device.as_str());
                Some(Self::Each(Box::new(move |seen| seen.device == Some(device))))
            }
            Limit::Block(Caller::Address(network)) => {
                Some(Self::Each(Box::new(move |seen| network.contains(&seen.address.to_canonical()))))
            }
            Limit::Switch(switch) => Some(Self::Each(Box::new(move |seen| switch.refuses(seen.way)))),
            Limit::Allow(_) | Limit::Grey(_) | Limit::Breaker(_) | Limit::Concurrency(_) => None,
        }
    }

    /// Answers how many of the requests are refused, which are ascending by time, and of how many keys they are.
    fn refuses(&self, requests: &[Seen], scope: Scope) -> (usize, usize) {
        let rate = match self {
            Self::Each(refuses) => return (requests.iter().filter(|seen| refuses(seen)).count(), 0),
            Self::Bucket(rate) => *rate,
        };
        let mut full_at_ns: HashMap<u64, u64> = HashMap::new();
        let (mut refused, mut keys) = (0, HashSet::new());
        for seen in requests {
            let Some(key) = seen.key(scope) else { continue };
            if rate.take(full_at_ns.entry(key).or_default(), seen.at_ns).is_err() {
                refused += 1;
                keys.insert(key);
            }
        }
        (refused, keys.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::{Value, json};

    use super::*;

    const START_NS: u64 = 7 * SECOND_NS;

    fn hash(name: &str) -> u64 {
        // Spread over all bits.
        name.bytes().fold(14_695_981_039_346_656_037, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        })
    }

    fn seen(at_ms: u64, user: &str, last: u8) -> Seen {
        let address = IpAddr::V4(Ipv4Addr::new(203, 0, 113, last));
        Seen {
            at_ns: START_NS + at_ms * SECOND_NS / 1000,
            way: Way::Purchase,
            address,
            network: hash(&address.to_string()),
            user: Some(hash(user)),
            device: None,
            sale: Some(hash("drop")),
        }
    }

    fn tried(recent: &Recent, mut terms: Value, now_ms: u64) -> Option<(u64, u64, Option<u64>)> {
        terms["reason"] = json!("a test");
        let terms = RuleTerms::read(&terms.to_string()).expect("a rule");
        let trial = recent.try_rule(&terms, START_NS + now_ms * SECOND_NS / 1000, &hash)?;
        Some((trial.requests, trial.refused, trial.callers))
    }

    #[test]
    fn a_rule_is_tried_on_what_came() {
        let recent = Recent::default();
        // Ada asks ten times a second, for ten seconds, and Bob once.
        for turn in 0..100 {
            recent.note(seen(turn * 100, "ada", 1));
            if turn % 10 == 0 {
                recent.note(seen(turn * 100, "bob", 2));
            }
        }
        let bucket = |scope: &str, rate: u32, burst: u32| {
            let value = json!({ "rate": rate, "burst": burst });
            json!({ "scope": scope, "kind": "token_bucket", "value": value })
        };
        let tries = |terms: Value| tried(&recent, terms, 10_000).expect("it refuses requests");
        // In 9.9 s a bucket of 2 a second gives its burst and 19.
        assert_eq!(tries(bucket("user", 2, 4)), (110, 100 - 4 - 19, Some(1)));
        assert_eq!(tries(bucket("address", 20, 20)), (110, 0, Some(0)));
        assert_eq!(tries(bucket("all", 5, 5)), (110, 110 - 5 - 49, None));
        let mut of_another = bucket("all", 5, 5);
        of_another["match"] = json!({ "sale": "other" });
        assert_eq!(tries(of_another.clone()), (0, 0, None));
        of_another["match"] = json!({ "route": "sale_read" });
        assert_eq!(tries(of_another), (0, 0, None));
        let block = |of: Value| json!({ "kind": "block", "value": of });
        assert_eq!(tries(block(json!({ "user": "bob" }))), (110, 10, None));
        assert_eq!(tries(block(json!({ "address": "203.0.113.0/31" }))), (110, 100, None));
        assert_eq!(tries(json!({ "kind": "switch", "value": "no_purchases" })), (110, 110, None));
        assert_eq!(
            tries(json!({ "kind": "leaky_bucket", "value": { "rate": 5, "queue_ms": 1000 } })).1,
            110 - 5 - 49
        );
        let grey = json!({ "kind": "allow", "value": { "user": "bob" } });
        assert_eq!(tried(&recent, grey, 10_000), None, "it refuses nothing");
        assert_eq!(tried(&recent, bucket("user", 1, 1), 200_000), Some((0, 0, Some(0))), "long ago");
    }

    #[test]
    fn more_requests_than_there_is_room_for_make_the_time_shorter() {
        let recent = Recent::default();
        // Twice as many as there is room for, 10,000 a second.
        let room = count(SHARD_MAX * SHARDS);
        for turn in 0..2 * room {
            recent.note(Seen { at_ns: START_NS + turn * 100_064, ..seen(0, "ada", 1) });
        }
        let terms =
            json!({ "kind": "token_bucket", "value": { "rate": 5_000, "burst": 1 }, "reason": "a test" });
        let terms = RuleTerms::read(&terms.to_string()).expect("a rule");
        let now_ns = START_NS + 2 * room * 100_064;
        let Trial { over, requests, refused, callers } =
            recent.try_rule(&terms, now_ns, &hash).expect("tried");
        assert!((25..27).contains(&over.as_secs()), "{over:?}");
        assert!((room * 99 / 100..=room).contains(&requests), "{requests} of {room}");
        assert!((requests * 49 / 100..=requests * 51 / 100).contains(&refused), "{refused} of {requests}");
        assert_eq!(callers, None);
    }
}
