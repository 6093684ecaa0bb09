//! Grey releases: what some users see or get, and the others do not.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::scope::{InvalidRule, fault};
use crate::domain::ids::{DeviceId, FlagId, RuleId, SaleId, UserId};

/// What some users see or get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grey {
    /// What it is.
    pub gives: Gives,
    /// The share of all users, 0 to 100. Whoever is in a share is in every larger one of the same rule.
    #[serde(default)]
    #[schema(maximum = 100)]
    pub percent: u8,
    /// Users who are in whatever the share is, at most [`Grey::USERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserId>,
    /// By what the share is drawn.
    #[serde(default)]
    pub by: DrawnBy,
}

/// What a grey rule gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gives {
    /// A sale, which nobody else sees.
    Sale(SaleId),
    /// A feature, which the shop's pages look for in the header `x-seckill-flags`.
    Flag(FlagId),
    /// A place among those whom a proxy sends to the canary, by the header `x-seckill-canary`.
    Canary,
}

/// By what a share of users is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrawnBy {
    /// By the user.
    #[default]
    User,
    /// By the device; who names none is in no share.
    Device,
}

impl Grey {
    /// The most users that a rule names.
    pub const USERS_MAX: usize = 1000;

    /// Answers whether a rule of this name gives to somebody. Every process answers the same, at any time.
    pub fn admits(&self, rule: &RuleId, user: &UserId, device: Option<&DeviceId>) -> bool {
        let drawn = match self.by {
            DrawnBy::User => Some(user.as_str()),
            DrawnBy::Device => device.map(DeviceId::as_str),
        };
        drawn.is_some_and(|key| place(rule, key) < u32::from(self.percent)) || self.users.contains(user)
    }

    /// Checks its numbers.
    pub(super) fn check(&self) -> Result<(), InvalidRule> {
        if self.percent > 100 {
            return fault("/value/percent", "must be from 0 to 100");
        }
        if self.users.len() > Self::USERS_MAX {
            return fault("/value/users", "must be 1000 users at most");
        }
        Ok(())
    }
}

/// Answers the place of somebody among a hundred, which each rule draws by itself.
fn place(rule: &RuleId, key: &str) -> u32 {
    let digest = Sha256::new().chain_update(rule.as_str()).chain_update("\n").chain_update(key).finalize();
    let word = digest.iter().take(4).fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
    word / (u32::MAX / 100 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(percent: u8) -> Grey {
        let users = vec![UserId::parse("friend").expect("a user")];
        Grey { gives: Gives::Canary, percent, users, by: DrawnBy::User }
    }

    #[test]
    fn a_share_is_as_large_as_it_says_and_nobody_drops_out_of_a_larger_one() {
        let rule = RuleId::parse("early").expect("a slug");
        let users: Vec<UserId> =
            (0..20_000).map(|n| UserId::parse(&format!("u{n}")).expect("a user")).collect();
        let admitted = |percent: u8, rule: &RuleId| {
            let of_share = |user: &&UserId| grey(percent).admits(rule, user, None);
            users.iter().filter(of_share).cloned().collect::<std::collections::BTreeSet<_>>()
        };
        let (five, fifty) = (admitted(5, &rule), admitted(50, &rule));
        assert!((900..1100).contains(&five.len()), "{}", five.len());
        assert!((9700..10_300).contains(&fifty.len()), "{}", fifty.len());
        assert!(five.is_subset(&fifty));
        assert_eq!((admitted(0, &rule).len(), admitted(100, &rule).len()), (0, 20_000));
        let other = RuleId::parse("other").expect("a slug");
        assert!(admitted(5, &other).intersection(&five).count() < 150, "each rule draws by itself");
    }

    #[test]
    fn a_draw_is_the_same_in_every_version() {
        let places: Vec<u32> =
            ["ada", "bob", "愿"].map(|key| place(&RuleId::parse("early").expect("a slug"), key)).into();
        assert_eq!(places, [68, 26, 38]);
    }

    #[test]
    fn named_users_are_in_and_devices_are_drawn_by_themselves() {
        let rule = RuleId::parse("early").expect("a slug");
        let (friend, device) =
            (UserId::parse("friend").expect("a user"), DeviceId::parse("d").expect("a device"));
        assert!(grey(0).admits(&rule, &friend, None));
        let by_device = Grey { by: DrawnBy::Device, users: Vec::new(), ..grey(100) };
        assert!(by_device.admits(&rule, &friend, Some(&device)) && !by_device.admits(&rule, &friend, None));
    }
}
