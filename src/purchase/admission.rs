//! What is decided before any I/O: too fast, too many, draining, outbox full. The place where all traffic
//! governance stands in the path of a request.

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

use super::Settings;
use crate::domain::UserId;
use crate::metrics::{IN_FLIGHT, SHED};

/// Which policy refused, and after how long it would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    pub policy: &'static str,
    pub retry_after: Duration,
}

pub struct Admission {
    users: Option<DefaultKeyedRateLimiter<u64>>,
    addresses: Option<DefaultKeyedRateLimiter<IpAddr>>,
    hasher: RandomState,
    /// Made once: making one asks the processor what it is, and that costs more than the whole refusal on a
    /// virtual machine.
    clock: DefaultClock,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    outbox_full: AtomicBool,
    draining: AtomicBool,
    /// Found by its labels only once.
    rate_limited: Counter,
}

fn quota(per_s: u32, burst: u32) -> Option<Quota> {
    let rate = NonZeroU32::new(per_s)?;
    Some(Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).unwrap_or(rate)))
}

impl Admission {
    pub fn new(settings: &Settings) -> Self {
        Self {
            users: quota(settings.user_per_s, settings.user_burst).map(RateLimiter::keyed),
            addresses: quota(settings.address_per_s, settings.address_burst).map(RateLimiter::keyed),
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
            in_flight: Arc::new(Semaphore::new(settings.in_flight_max)),
            in_flight_max: settings.in_flight_max,
            outbox_full: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            rate_limited: counter!(SHED, "reason" => "rate_limited"),
        }
    }

    /// Takes a token of the user and one of the address.
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

    /// A place for one purchase between reservation and answer; `None` when all are taken.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().ok()
    }

    pub fn gauge_in_flight(&self) {
        let taken = self.in_flight_max.saturating_sub(self.in_flight.available_permits());
        gauge!(IN_FLIGHT).set(f64::from(u32::try_from(taken).unwrap_or(u32::MAX)));
    }

    pub fn note_outbox(&self, orders: u64, orders_max: u64) {
        self.outbox_full.store(orders >= orders_max, Ordering::Relaxed);
    }

    pub fn is_outbox_full(&self) -> bool {
        self.outbox_full.load(Ordering::Relaxed)
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Frees the memory of users and addresses whose buckets are full again.
    pub fn forget_idle(&self) {
        if let Some(users) = &self.users {
            users.retain_recent();
        }
        if let Some(addresses) = &self.addresses {
            addresses.retain_recent();
        }
    }
}

/// One subscriber: an IPv4 address, or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
