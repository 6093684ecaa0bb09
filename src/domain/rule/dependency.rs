//! Rules about what the shop stands on: how many calls may be in flight, and when none is made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scope::{InvalidRule, fault};
use crate::domain::ids::DependencyId;

/// When calls to a dependency are refused at once, because they fail or take too long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerTerms {
    /// The dependency.
    pub dependency: DependencyId,
    /// Over which time calls are counted, in ms, 100 to 60,000.
    #[serde(default = "window_ms")]
    #[schema(minimum = 100, maximum = 60_000)]
    pub window_ms: u32,
    /// From how many calls in it on anything is decided, 1 to 100,000.
    #[serde(default = "calls_min")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub calls_min: u32,
    /// The share of failed calls that opens it, in percent, 1 to 100.
    #[serde(default = "error_percent")]
    #[schema(minimum = 1, maximum = 100)]
    pub error_percent: u8,
    /// From what time on a call is slow, in ms, 1 to 60,000; as [`Self::slow_ms`] says when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub slow_ms: Option<u32>,
    /// The share of slow calls that opens it, in percent, 1 to 100.
    #[serde(default = "slow_percent")]
    #[schema(minimum = 1, maximum = 100)]
    pub slow_percent: u8,
    /// How long it stays open before calls are tried again, in ms, 100 to 60,000.
    #[serde(default = "open_ms")]
    #[schema(minimum = 100, maximum = 60_000)]
    pub open_ms: u32,
    /// How many calls in a row have to be good before it closes, 1 to 100.
    #[serde(default = "probes")]
    #[schema(minimum = 1, maximum = 100)]
    pub probes: u32,
    /// What an operator says that it is, whatever calls do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
}

fn window_ms() -> u32 {
    1000
}

fn calls_min() -> u32 {
    10
}

fn error_percent() -> u8 {
    50
}

fn slow_percent() -> u8 {
    60
}

fn open_ms() -> u32 {
    1000
}

fn probes() -> u32 {
    3
}

/// What an operator says that a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Forced {
    /// No call is made.
    Open,
    /// Every call is made.
    Closed,
}

/// How many calls to a dependency may be in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// The dependency.
    pub dependency: DependencyId,
    /// The most, 1 to 100,000.
    #[schema(minimum = 1, maximum = 100_000)]
    pub ceiling: u32,
    /// As many may always be; as many as the ceiling when it is left out, and then the limit is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub floor: Option<u32>,
    /// From what time on a call says that there are too many, in ms, 1 to 60,000.
    #[serde(default = "latency_ms")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub latency_ms: u32,
}

fn latency_ms() -> u32 {
    100
}

impl BreakerTerms {
    /// Makes the breaker that a dependency has without a rule.
    pub fn of(dependency: DependencyId) -> Self {
        Self {
            dependency,
            window_ms: window_ms(),
            calls_min: calls_min(),
            error_percent: error_percent(),
            slow_ms: None,
            slow_percent: slow_percent(),
            open_ms: open_ms(),
            probes: probes(),
            forced: None,
        }
    }

    /// Answers from what time on a call is slow, in ms.
    pub fn slow_ms(&self) -> u32 {
        // Nobody waits for a slow order log, and what it is not given is known to the inventory alone.
        let usual = if self.dependency.as_str() == "kafka" { 2_000 } else { 500 };
        self.slow_ms.unwrap_or(usual)
    }

    /// Checks its numbers.
    pub(super) fn check(&self) -> Result<(), InvalidRule> {
        if !(100..=60_000).contains(&self.window_ms) {
            return fault("/value/window_ms", "must be from 100 to 60000");
        }
        if !(1..=100_000).contains(&self.calls_min) {
            return fault("/value/calls_min", "must be from 1 to 100000");
        }
        if !(1..=100).contains(&self.error_percent) {
            return fault("/value/error_percent", "must be from 1 to 100");
        }
        if !(1..=60_000).contains(&self.slow_ms()) {
            return fault("/value/slow_ms", "must be from 1 to 60000");
        }
        if !(1..=100).contains(&self.slow_percent) {
            return fault("/value/slow_percent", "must be from 1 to 100");
        }
        if !(100..=60_000).contains(&self.open_ms) {
            return fault("/value/open_ms", "must be from 100 to 60000");
        }
        if !(1..=100).contains(&self.probes) {
            return fault("/value/probes", "must be from 1 to 100");
        }
        Ok(())
    }
}

impl Concurrency {
    /// Answers how many may always be in flight.
    pub fn least(&self) -> u32 {
        self.floor.unwrap_or(self.ceiling)
    }

    /// Checks its numbers.
    pub(super) fn check(&self) -> Result<(), InvalidRule> {
        if !(1..=100_000).contains(&self.ceiling) {
            return fault("/value/ceiling", "must be from 1 to 100000");
        }
        if !(1..=self.ceiling).contains(&self.least()) {
            return fault("/value/floor", "must be from 1 to the ceiling");
        }
        if !(1..=60_000).contains(&self.latency_ms) {
            return fault("/value/latency_ms", "must be from 1 to 60000");
        }
        Ok(())
    }
}
