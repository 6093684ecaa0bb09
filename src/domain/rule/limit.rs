//! What rules do to requests, one kind after the other.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dependency::{BreakerTerms, Concurrency};
use super::grey::Grey;
use super::scope::{About, InvalidRule, Scope, fault};
use super::switch::Switch;
use crate::domain::ids::{DeviceId, UserId};

/// What happens to the requests that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Limit {
    /// So many pass, counted by [`Scope`].
    TokenBucket(TokenRate),
    /// So many pass, evenly: the others wait for their turn.
    LeakyBucket(LeakyRate),
    /// None of a caller's passes.
    Block(Caller),
    /// All of a caller's pass, whatever other rules say.
    Allow(Caller),
    /// Some users see or get what the others do not.
    Grey(Grey),
    /// Calls to a dependency are refused while they fail or take too long.
    Breaker(BreakerTerms),
    /// So many calls to a dependency may be in flight.
    Concurrency(Concurrency),
    /// Something is off.
    Switch(Switch),
}

impl Limit {
    /// The word of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TokenBucket(_) => "token_bucket",
            Self::LeakyBucket(_) => "leaky_bucket",
            Self::Block(_) => "block",
            Self::Allow(_) => "allow",
            Self::Grey(_) => "grey",
            Self::Breaker(_) => "breaker",
            Self::Concurrency(_) => "concurrency",
            Self::Switch(_) => "switch",
        }
    }

    /// Checks its numbers, and whether it can hold for those requests.
    pub(super) fn check(&self, scope: Scope, about: &About) -> Result<(), InvalidRule> {
        match self {
            Self::TokenBucket(rate) => rate.check(),
            Self::LeakyBucket(rate) => rate.check(scope),
            _ if scope != Scope::All => fault("/scope", "a rule of this kind counts nobody: leave it out"),
            _ if !about.is_all() => {
                fault("/match", "a rule of this kind is about no single route or sale: leave it out")
            }
            Self::Grey(grey) => grey.check(),
            Self::Breaker(breaker) => breaker.check(),
            Self::Concurrency(concurrency) => concurrency.check(),
            Self::Block(_) | Self::Allow(_) | Self::Switch(_) => Ok(()),
        }
    }
}

/// The highest rate and burst.
const RATE_MAX: u32 = 1_000_000;

/// The numbers of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRate {
    /// Requests a second, 1 to a million.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate: u32,
    /// Requests at once, 0 (as many as a second has) to a million. When all processes count together, at least a tenth
    /// of a second has, because that is what a process may have in hand.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    pub burst: u32,
    /// Whether all processes count together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
}

impl TokenRate {
    /// Answers how many tokens the bucket holds.
    pub fn holds(&self) -> u32 {
        if self.burst == 0 { self.rate } else { self.burst }
    }

    /// Answers how many tokens a process may have in hand, when all count together.
    pub fn lease_max(&self) -> u32 {
        (self.rate / 10).max(1)
    }

    fn check(&self) -> Result<(), InvalidRule> {
        if !(1..=RATE_MAX).contains(&self.rate) {
            return fault("/value/rate", "must be from 1 to 1000000");
        }
        if self.burst > RATE_MAX {
            return fault("/value/burst", "must be from 0 to 1000000");
        }
        if self.cluster && self.holds() < self.lease_max() {
            return fault(
                "/value/burst",
                "must be a tenth of the rate at least, when all processes count together",
            );
        }
        Ok(())
    }
}

/// The numbers of a leaky bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeakyRate {
    /// Requests a second, 1 to a million.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate: u32,
    /// How long a request waits for its turn at most, in ms, 1 to 10,000.
    #[schema(minimum = 1, maximum = 10_000)]
    pub queue_ms: u32,
    /// Whether all processes together let so many pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
}

impl LeakyRate {
    /// How late a turn may come, in ms, because timers are no finer.
    const LATE_MS: u32 = 10;

    /// Answers how many requests wait in a process at most: so many that the last one still has its turn in time.
    pub fn queue_max(&self) -> usize {
        let queue_ms = self.queue_ms.saturating_sub(Self::LATE_MS);
        let requests = u64::from(self.rate) * u64::from(queue_ms) / 1000;
        usize::try_from(requests).unwrap_or(usize::MAX).max(1)
    }

    /// Answers what a bucket holds that lets pass what this lets pass or wait: those who wait, and one.
    pub fn holds(&self) -> u32 {
        u32::try_from(self.queue_max()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn check(&self, scope: Scope) -> Result<(), InvalidRule> {
        if !(1..=RATE_MAX).contains(&self.rate) {
            return fault("/value/rate", "must be from 1 to 1000000");
        }
        if !(1..=10_000).contains(&self.queue_ms) {
            return fault("/value/queue_ms", "must be from 1 to 10000");
        }
        match scope {
            Scope::All | Scope::Route => Ok(()),
            Scope::User | Scope::Address | Scope::Device | Scope::Sale => {
                fault("/scope", "must be all or route: everybody waits in one queue; match selects a sale")
            }
        }
    }
}

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A user.
    User(UserId),
    /// All addresses of a network; a single address is the network of it alone.
    #[schema(value_type = String)]
    Address(#[serde(with = "network")] IpNet),
    /// A device.
    Device(DeviceId),
}

/// Reads and writes a network: `203.0.113.0/24`, or an address alone.
mod network {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(network: &IpNet, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(network)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<IpNet, D::Error> {
        let text = String::deserialize(input)?;
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network
            .map_err(|_| de::Error::custom("must be an address or a network such as 203.0.113.0/24"))?;
        // A network is named by any of its addresses, and kept by its first one. Callers are known by their IPv4
        // address, also where it is written as an IPv6 one.
        let network = match network {
            IpNet::V6(mapped) if mapped.prefix_len() >= 96 => match mapped.addr().to_ipv4_mapped() {
                Some(address) => IpNet::new(address.into(), mapped.prefix_len() - 96).unwrap_or(network),
                None => network,
            },
            network => network,
        };
        Ok(network.trunc())
    }
}
