//! Answers what this process can do for others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Shop;
use super::ladder::Step;
use crate::domain::SaleId;
use crate::memory::health::{Ability, Component, ability};
pub use crate::ports::Duty;

/// What this process can do.
#[derive(Debug)]
pub struct Readiness {
    /// Whether it should get traffic.
    pub status: Status,
    /// Every duty.
    pub duties: BTreeMap<Duty, Ability>,
    /// Every component by name: what is wrong with it, or `None` while it is up.
    pub components: BTreeMap<String, Option<String>>,
    /// What is left out now.
    pub degraded: Vec<Step>,
}

/// Whether a process should get traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It should, and it can do everything.
    Ready,
    /// It should, and it cannot do everything. Other processes are no better off.
    Degraded,
    /// It should not, because something that belongs to it alone is missing.
    NotReady,
    /// It should not, because it goes away.
    Draining,
}

impl Shop {
    /// Answers what this process can do now. Costs no I/O, because the components are probed in the background.
    pub fn readiness(&self) -> Readiness {
        let now = self.clock.monotonic();
        let down_after = Duration::from_millis(self.settings.down_after_ms);
        let health = self.memory.health.components();
        let duties: BTreeMap<Duty, Ability> =
            Duty::ALL.into_iter().map(|duty| (duty, ability(duty, &health, now, down_after))).collect();
        let down: BTreeSet<&str> = health
            .iter()
            .filter(|(_, component)| component.down(now, down_after).is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        let is_missing_own =
            health.values().any(|component| component.is_own && component.down(now, down_after).is_some());
        let catalog = self.catalog();
        let duties: BTreeMap<Duty, Ability> =
            duties.into_iter().map(|(duty, able)| (duty, self.with_own_reasons(duty, able, &down))).collect();
        let status = match () {
            () if self.is_leaving() => Status::Draining,
            () if !catalog.is_read || !self.memory.rules.is_read() || is_missing_own => Status::NotReady,
            () if duties.values().all(|able| *able == Ability::Yes) => Status::Ready,
            () => Status::Degraded,
        };
        let why = |component: &Component| component.down(now, down_after).map(str::to_owned);
        let components = health.iter().map(|(name, component)| (name.clone(), why(component))).collect();
        let degraded = Step::ALL.into_iter().filter(|step| self.is_degraded(*step)).collect();
        Readiness { status, duties, components, degraded }
    }

    /// Adds what keeps this process from a duty, beside the components, of which some are down.
    fn with_own_reasons(&self, duty: Duty, able: Ability, down: &BTreeSet<&str>) -> Ability {
        let catalog = self.catalog();
        if !catalog.is_read {
            return Ability::No("the directory of sales was not read yet".to_owned());
        }
        if !self.memory.rules.is_read() {
            return Ability::No("the rules of traffic were not read yet: the log says why".to_owned());
        }
        if self.is_leaving() {
            return Ability::No("this process goes away".to_owned());
        }
        if duty == Duty::Read && able == Ability::Yes && self.is_degraded(Step::Lists) {
            return Ability::InPart("lists of orders are left out".to_owned());
        }
        if duty != Duty::Buy {
            return able;
        }
        if catalog.stock.outbox_orders >= self.settings.outbox_orders_max {
            return Ability::No("the outbox is full".to_owned());
        }
        let lost = catalog.stock.losses.iter().flat_map(|(sale, buckets)| {
            buckets.iter().map(move |(bucket, keys)| {
                let waits = self.waits_for(sale, *bucket, down);
                let waits = waits.map_or(String::new(), |name| format!(" and waits for {name}"));
                format!(
                    "bucket {bucket} of {sale} is closed until it is rebuilt ({}){waits}",
                    keys.join(", ")
                )
            })
        });
        let late = catalog.stock.delayed.iter().map(|sale| format!("{sale} is not in place"));
        let pressed = self.is_degraded(Step::Purchases);
        let pressed =
            pressed.then(|| "purchases are refused: too many come, or they are switched off".to_owned());
        let reasons: Vec<String> = lost.chain(late).chain(pressed).collect();
        match able {
            able if reasons.is_empty() => able,
            Ability::Yes => Ability::InPart(reasons.join("; ")),
            Ability::InPart(words) => Ability::InPart(format!("{words}; {}", reasons.join("; "))),
            Ability::No(words) => Ability::No(words),
        }
    }

    /// Answers the component that is down and without which a bucket cannot be rebuilt.
    fn waits_for(&self, sale: &SaleId, bucket: u16, down: &BTreeSet<&str>) -> Option<String> {
        let catalog = self.catalog();
        let sale = catalog.sales.get(sale)?;
        let parts = self.map.parts_of_bucket(bucket, sale.buckets);
        let instances = parts.into_iter().map(|part| self.map.instance_of_part(part).number());
        let needed = [0].into_iter().chain(instances).map(|number| format!("mysql-{number}"));
        needed.chain(["kafka".to_owned()]).find(|name| down.contains(name.as_str()))
    }
}
