//! The streams of this process: who listens, and what waits to be sent to each of them.
//!
//! A stream keeps the latest of a sale and of its stock, and every order until it is sent: whoever takes nothing for
//! too long is cut, and goes on with what it has not seen. Nothing here does I/O.

mod open;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use metrics::{counter, gauge};

use crate::clock::{Clock, Moment};
use crate::domain::stream::{End, Seen};
use crate::domain::{Order, SaleId, UserId};
use crate::memory::rulebook::subscriber;
use crate::metrics::{STREAM_EVENTS, STREAMS, STREAMS_ENDED};

use open::Open;
pub use open::{Listener, Message, SaleTopics, Topic};

/// A stream that was told nothing for so long gives its place to a new one when there are too many.
const IDLE_LEAST: Duration = Duration::from_secs(30);
/// How often [`Streams::sweep`] looks at all streams.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many streams there may be, and how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most streams of this process.
    pub streams_max: usize,
    /// Most streams of a buyer. The oldest gives its place to a new one.
    pub user_max: usize,
    /// Most streams of an address: an IPv4 address, or an IPv6 /64.
    pub address_max: usize,
    /// How long nothing is sent before a heartbeat is.
    pub heartbeat: Duration,
    /// How long a stream is kept on which nothing happens.
    pub idle_max: Duration,
}

/// There are too many streams, and none of them is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of this process.
    Process,
    /// Of the client's address.
    Address,
}

type Group<K> = HashMap<K, BTreeMap<u64, Arc<Open>>>;

#[derive(Default)]
struct Registry {
    opened: u64,
    all: BTreeMap<u64, Arc<Open>>,
    of_users: Group<UserId>,
    of_sales: Group<SaleId>,
    of_addresses: Group<IpAddr>,
    /// Until when none of them is idle, as far as is known.
    none_idle_until: Option<Moment>,
    /// When all of them are looked at next.
    sweep_at: Option<Moment>,
}

/// All streams of a process.
pub struct Streams {
    limits: Limits,
    clock: Clock,
    registry: Mutex<Registry>,
    /// Whether this process hears what others announce, so that it may promise to tell of orders.
    hears: AtomicBool,
}

/// An open stream. It is closed when this is dropped.
pub struct Stream {
    open: Arc<Open>,
    streams: Arc<Streams>,
}

impl Streams {
    /// Makes the streams of a process, of which there are none yet.
    pub fn new(limits: Limits, hears: bool, clock: Clock) -> Self {
        Self { limits, clock, registry: Mutex::default(), hears: AtomicBool::new(hears) }
    }

    /// Makes those of a process that serves nobody.
    pub fn of_nobody(clock: Clock) -> Self {
        let (heartbeat, idle_max) = (Duration::MAX, Duration::MAX);
        Self::new(Limits { streams_max: 0, user_max: 0, address_max: 0, heartbeat, idle_max }, true, clock)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no code panics while holding it")
    }

    /// Answers whether this process is told of orders that others have changed.
    pub fn hears(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// Notes whether this process hears what others announce. When it does no more, or may have missed something,
    /// streams of orders end.
    pub fn set_hears(&self, hears: bool) {
        if self.hears.swap(hears, Ordering::Relaxed) && !hears {
            self.miss();
        }
    }

    /// Ends the streams of orders, because something may have been missed. Whoever comes again is told how all stand.
    pub fn miss(&self) {
        self.end_if(End::Missed, |listener| listener.user.is_some());
    }

    /// Opens a stream. When its buyer has too many, the oldest of them ends; when its address or the process has, one
    /// that is idle.
    ///
    /// # Errors
    /// When none is idle.
    pub fn open(self: &Arc<Self>, mut listener: Listener) -> Result<Stream, Full> {
        listener.address = subscriber(listener.address);
        let now = self.clock.monotonic();
        let mut registry = self.registry();
        let evicted = match self.evicted_for(&listener, &registry, now) {
            Ok(evicted) => evicted,
            Err((full, until)) => {
                // Nobody need look before one can be idle for long enough.
                registry.none_idle_until = until.or(registry.none_idle_until);
                return Err(full);
            }
        };
        for open in evicted {
            registry.remove(&open);
            end(&open, End::Evicted);
        }
        registry.opened += 1;
        let open = Arc::new(Open::new(registry.opened, listener, now));
        registry.insert(&open);
        registry.gauge();
        Ok(Stream { open, streams: self.clone() })
    }

    /// Answers the streams that give their places to a new one.
    ///
    /// # Errors
    /// When none is idle; with the moment before which none of the process's is.
    fn evicted_for(
        &self,
        listener: &Listener,
        registry: &Registry,
        now: Moment,
    ) -> Result<Vec<Arc<Open>>, (Full, Option<Moment>)> {
        let mut evicted: Vec<Arc<Open>> = Vec::new();
        let of_user = listener.user.as_ref().and_then(|user| registry.of_users.get(user));
        if let Some(streams) = of_user.filter(|streams| streams.len() >= self.limits.user_max) {
            evicted.extend(streams.values().next().cloned());
        }
        let caps = [
            (registry.of_addresses.get(&listener.address), self.limits.address_max, Full::Address),
            (Some(&registry.all), self.limits.streams_max, Full::Process),
        ];
        for (streams, most, full) in caps {
            let Some(streams) = streams else { continue };
            // What leaves already makes room in every group that it is of.
            let leaving = evicted.iter().filter(|open| streams.contains_key(&open.id)).count();
            if streams.len() - leaving < most {
                continue;
            }
            let is_of_process = full == Full::Process;
            if is_of_process && registry.none_idle_until.is_some_and(|until| now < until) {
                return Err((full, None));
            }
            let longest = streams.values().max_by_key(|open| open.idle_for(now)).ok_or((full, None))?;
            let idle_for = longest.idle_for(now);
            if idle_for < IDLE_LEAST {
                return Err((full, is_of_process.then_some(now + (IDLE_LEAST - idle_for))));
            }
            evicted.push(longest.clone());
        }
        Ok(evicted)
    }

    /// Lists the sales that somebody listens to.
    pub fn sales(&self) -> Vec<SaleId> {
        self.registry().of_sales.keys().cloned().collect()
    }

    /// Tells those who listen to a sale, and may see it, how it stands, unless they know. Answers whether all may.
    pub fn tell_sale(&self, sale: &SaleId, topics: &SaleTopics, may_see: impl Fn(&Listener) -> bool) -> bool {
        let of_sale = self.registry().of_sales.get(sale).map(|streams| streams.values().cloned().collect());
        let of_sale: Vec<Arc<Open>> = of_sale.unwrap_or_default();
        let now = self.clock.monotonic();
        let (may, may_not): (Vec<_>, Vec<_>) = of_sale.into_iter().partition(|open| may_see(&open.listener));
        may.iter().for_each(|open| open.offer(topics, now));
        may_not.is_empty()
    }

    /// Tells a buyer's streams how an order stands. `data` makes the event's data, and only when somebody listens.
    /// Answers how many streams there are.
    pub fn tell_order(&self, order: &Order, data: impl FnOnce(&Order) -> Arc<str>) -> usize {
        let of_user = {
            let registry = self.registry();
            let streams = registry.of_users.get(&order.user).map(|streams| streams.values().cloned());
            streams.map(Iterator::collect::<Vec<_>>)
        };
        let Some(of_user) = of_user else { return 0 };
        let (data, now) = (data(order), self.clock.monotonic());
        for open in &of_user {
            if !open.offer_order(order, &data, now) {
                end(open, End::Slow);
            }
        }
        of_user.len()
    }

    /// Sends heartbeats, and ends what is over. Looks at most once a second, and answers whether it has.
    pub fn sweep(&self) -> bool {
        let (now, now_ms) = (self.clock.monotonic(), self.clock.now_ms());
        let all: Vec<Arc<Open>> = {
            let mut registry = self.registry();
            if registry.sweep_at.is_some_and(|at| now < at) {
                return false;
            }
            registry.sweep_at = Some(now + SWEEP_EVERY);
            registry.all.values().cloned().collect()
        };
        for open in all {
            if open.listener.until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                end(&open, End::Token);
            } else if open.idle_for(now) > self.limits.idle_max {
                end(&open, End::Idle);
            } else if !open.beat(now, self.limits.heartbeat) {
                end(&open, End::Slow);
            }
        }
        true
    }

    /// Ends the streams of whoever `is_meant`.
    pub fn end_if(&self, why: End, is_meant: impl Fn(&Listener) -> bool) {
        let all: Vec<Arc<Open>> = self.registry().all.values().cloned().collect();
        all.iter().filter(|open| is_meant(&open.listener)).for_each(|open| end(open, why));
    }
}

/// Ends a stream, once.
fn end(open: &Open, why: End) {
    if open.end(why) {
        counter!(STREAMS_ENDED, "reason" => why.as_str()).increment(1);
    }
}

/// Counts an event that is sent.
fn sent(event: &'static str) {
    counter!(STREAM_EVENTS, "event" => event).increment(1);
}

impl Registry {
    fn insert(&mut self, open: &Arc<Open>) {
        fn add<K: Hash + Eq + Clone>(group: &mut Group<K>, key: &K, open: &Arc<Open>) {
            group.entry(key.clone()).or_default().insert(open.id, open.clone());
        }
        let Listener { sale, user, address, .. } = &open.listener;
        self.all.insert(open.id, open.clone());
        sale.iter().for_each(|sale| add(&mut self.of_sales, sale, open));
        user.iter().for_each(|user| add(&mut self.of_users, user, open));
        add(&mut self.of_addresses, address, open);
    }

    fn remove(&mut self, open: &Open) {
        fn take<K: Hash + Eq>(group: &mut Group<K>, key: &K, id: u64) {
            if let Some(streams) = group.get_mut(key) {
                streams.remove(&id);
                if streams.is_empty() {
                    group.remove(key);
                }
            }
        }
        let Listener { sale, user, address, .. } = &open.listener;
        self.all.remove(&open.id);
        sale.iter().for_each(|sale| take(&mut self.of_sales, sale, open.id));
        user.iter().for_each(|user| take(&mut self.of_users, user, open.id));
        take(&mut self.of_addresses, address, open.id);
    }

    fn gauge(&self) {
        gauge!(STREAMS).set(f64::from(u32::try_from(self.all.len()).unwrap_or(u32::MAX)));
    }
}

impl Stream {
    /// Tells it how its sale stands when it begins, unless it has seen that, or was told something newer meanwhile.
    pub fn begin(&self, topics: &SaleTopics) {
        self.open.begin(topics, self.streams.clock.monotonic());
    }

    /// Tells it how all orders of its buyer stand that are recent, unless it has seen them so. Of one that was told of
    /// meanwhile the newer state stays.
    pub fn offer_orders(&self, orders: &[Order], data: impl Fn(&Order) -> Arc<str>) {
        if self.open.knows(orders) {
            return;
        }
        let now = self.streams.clock.monotonic();
        // The oldest is told of first.
        for order in orders.iter().rev() {
            if !self.open.offer_order(order, &data(order), now) {
                end(&self.open, End::Slow);
            }
        }
    }

    /// Ends it.
    pub fn end(&self, why: End) {
        end(&self.open, why);
    }

    /// Takes what is to be sent next, with what its client has seen then; `None` after the end. Wakes `context` when
    /// there is more.
    pub fn poll(&self, context: &std::task::Context<'_>) -> std::task::Poll<Option<(Message, Seen)>> {
        let message = self.open.poll(context, self.streams.clock.monotonic());
        if let std::task::Poll::Ready(Some((message, _))) = &message {
            sent(message.name());
        }
        message
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut registry = self.streams.registry();
        registry.remove(&self.open);
        registry.gauge();
    }
}

#[cfg(test)]
mod tests;
