//! The rules about single callers: who is refused everything, and who is refused nothing.

use std::collections::BTreeSet;

use foldhash::HashMap;
use ipnet::IpNet;
use metrics::{Counter, counter};

use super::asker::Asker;
use crate::domain::rule::{Caller, Rule, RuleMode};
use crate::domain::{DeviceId, RuleId, UserId};
use crate::metrics::RULE_DECISIONS;

/// The rules about single callers. Only operators put keys into its tables, so their hashes may be quick ones.
#[derive(Default)]
pub struct Callers {
    users: HashMap<UserId, Vec<Named>>,
    devices: HashMap<DeviceId, Vec<Named>>,
    networks: HashMap<IpNet, Vec<Named>>,
    /// The lengths of the networks' prefixes, of IPv4 and of IPv6.
    prefixes: [BTreeSet<u8>; 2],
}

/// A rule about one caller.
pub struct Named {
    /// The rule.
    pub id: RuleId,
    until_ms: i64,
    allows: bool,
    is_dry: bool,
    /// What it has refused.
    pub refused: Counter,
}

/// What the rules about single callers say of one.
#[derive(Default)]
pub struct Judged<'a> {
    /// Whether one says that everything of the caller passes.
    pub is_allowed: bool,
    /// The rule that says that nothing does.
    pub blocked: Option<&'a Named>,
}

/// Makes a rule ready.
pub fn named(rule: &Rule, allows: bool) -> Named {
    Named {
        id: rule.id.clone(),
        until_ms: rule.terms.until_ms.unwrap_or(i64::MAX),
        allows,
        is_dry: rule.terms.mode == RuleMode::DryRun,
        refused: decisions(rule),
    }
}

impl Callers {
    /// Adds a rule about a caller.
    pub fn add(&mut self, caller: &Caller, named: Named) {
        let of = match caller {
            Caller::User(user) => self.users.entry(user.clone()).or_default(),
            Caller::Device(device) => self.devices.entry(device.clone()).or_default(),
            Caller::Address(network) => {
                self.prefixes[usize::from(network.addr().is_ipv6())].insert(network.prefix_len());
                self.networks.entry(*network).or_default()
            }
        };
        of.push(named);
    }

    /// Says what all rules say of one.
    pub fn judge(&self, asker: &Asker<'_>, now_ms: i64) -> Judged<'_> {
        let mut judged = Judged::default();
        if let Some(user) = asker.user.filter(|_| !self.users.is_empty()) {
            judged.hear(self.users.get(user), now_ms);
        }
        if let Some(device) = asker.device.filter(|_| !self.devices.is_empty()) {
            judged.hear(self.devices.get(device), now_ms);
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

/// Answers the count of what a rule has refused, or would have.
pub fn decisions(rule: &Rule) -> Counter {
    let decision = match rule.terms.mode {
        RuleMode::Enforce => "refused",
        RuleMode::DryRun => "would_refuse",
    };
    counter!(RULE_DECISIONS, "rule" => rule.id.to_string(), "decision" => decision)
}
