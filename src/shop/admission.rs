//! What is decided of a purchase before any I/O: whether it comes too fast, whether too many are in flight, and whether
//! the process drains. All rules of traffic in the path of a request are here.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use metrics::{Counter, counter, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::settings::Settings;
use crate::domain::UserId;
use crate::metrics::{IN_FLIGHT, SHED};

/// The refusal of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// The limit that refused: `user` or `address`.
    pub policy: &'static str,
    /// After how long the limit would let a purchase pass.
    pub retry_after: Duration,
}

/// The limits of one process.
pub struct Admission {
    users: Option<DefaultKeyedRateLimiter<u64>>,
    addresses: Option<DefaultKeyedRateLimiter<IpAddr>>,
    hasher: RandomState,
    /// Made once, because making one asks the processor what it is. On a virtual machine that costs more than the whole
    /// refusal.
    clock: DefaultClock,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    draining: AtomicBool,
    /// Looked up by its labels only once.
    rate_limited: Counter,
}

/// Answers the quota of a rate and a burst; `None` without a limit. A burst of 0 is the rate.
fn quota(per_s: u32, burst: u32) -> Option<Quota> {
    let rate = NonZeroU32::new(per_s)?;
    Some(Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).unwrap_or(rate)))
}

impl Admission {
    /// Makes limits that have counted nobody yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            users: quota(settings.user_per_s, settings.user_burst).map(RateLimiter::keyed),
            addresses: quota(settings.address_per_s, settings.address_burst).map(RateLimiter::keyed),
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
            in_flight: Arc::new(Semaphore::new(settings.in_flight_max)),
            in_flight_max: settings.in_flight_max,
            draining: AtomicBool::new(false),
            rate_limited: counter!(SHED, "reason" => "rate_limited"),
        }
    }

    /// Takes a token of the user and one of the address. The user's token is gone also when the address has none left.
    ///
    /// # Errors
    /// [`TooFast`] with the policy that has none left.
    pub fn check_rate(&self, user: &UserId, address: IpAddr) -> Result<(), TooFast> {
        let too_fast = |policy| {
            move |refused: governor::NotUntil<governor::clock::QuantaInstant>| {
                self.rate_limited.increment(1);
                TooFast { policy, retry_after: refused.wait_time_from(self.clock.now()) }
            }
        };
        if let Some(users) = &self.users {
            users.check_key(&self.hasher.hash_one(user)).map_err(too_fast("user"))?;
        }
        if let Some(addresses) = &self.addresses {
            addresses.check_key(&network(address)).map_err(too_fast("address"))?;
        }
        Ok(())
    }

    /// Takes a place for one purchase between reservation and answer; `None` when all are taken. Dropping it frees it.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().ok()
    }

    /// Shows how many places are taken, as a metric.
    pub fn gauge_in_flight(&self) {
        let taken = self.in_flight_max.saturating_sub(self.in_flight.available_permits());
        gauge!(IN_FLIGHT).set(f64::from(u32::try_from(taken).unwrap_or(u32::MAX)));
    }

    /// Says that the process drains from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Answers whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Frees the memory of users and addresses whose token buckets are full again.
    pub fn forget_idle(&self) {
        if let Some(users) = &self.users {
            users.retain_recent();
        }
        if let Some(addresses) = &self.addresses {
            addresses.retain_recent();
        }
    }
}

/// Answers the network of one subscriber: an IPv4 address, or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
