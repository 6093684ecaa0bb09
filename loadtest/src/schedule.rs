//! The schedule: which user clicks at which time. It is made up front from a seed, so that a run can be repeated, and
//! nothing that the server does can change the arrivals.

use fastrand::Rng;

use crate::journal::Kind;

const SECOND_US: u64 = 1_000_000;
/// The share of a spike that comes within the first second, in percent. The rest comes within the next two seconds.
const SPIKE_HEAD_PERCENT: u64 = 80;
const SPIKE_TAIL_US: u64 = 2 * SECOND_US;
/// A double click comes at most this long after the first one.
const DOUBLE_CLICK_US: u64 = 5_000;
/// How long after the first click a second try with a new key comes.
const SECOND_TRY_US: std::ops::Range<u64> = 50_000..500_000;

/// How arrivals are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// 80 % of the buyers arrive within one second, and the rest over the following two.
    Spike { buyers: u32 },
    /// Arrivals are evenly spaced.
    Constant { per_s: u32, duration_s: u32 },
}

/// What a schedule is made of.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// How arrivals are spread over time.
    pub shape: Shape,
    /// Distinct users. Arrivals beyond them come from the same users with new keys. 0 means one user per arrival.
    pub users: u32,
    /// The share of arrivals that are double clicks, with the same key at once, in percent.
    pub same_key_percent: f64,
    /// The share of arrivals after which the buyer tries again with a new key, in percent.
    pub new_key_percent: f64,
    /// Users, keys and arrivals come from this number.
    pub seed: u64,
}

/// One click.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Click {
    /// The intended time, µs from the start.
    pub at_us: u64,
    /// The number of the user.
    pub user: u32,
    /// The number of the idempotency key. No two users share one.
    pub key: u32,
    /// Why the click is made.
    pub kind: Kind,
}

/// The schedule of a run.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// All clicks, ascending by time.
    pub clicks: Vec<Click>,
    /// Distinct users.
    pub users: u32,
    /// Distinct keys.
    pub keys: u32,
}

impl Schedule {
    /// Makes a schedule. The same wish makes the same schedule.
    pub fn new(wish: &Wish) -> Self {
        let mut dice = Rng::with_seed(wish.seed);
        let arrivals = arrivals(wish.shape, &mut dice);
        let count = u32::try_from(arrivals.len()).unwrap_or(u32::MAX);
        let users = if wish.users == 0 { count } else { wish.users.min(count) };
        let mut clicks = Vec::with_capacity(arrivals.len());
        let mut keys = count;
        for (number, at_us) in (0..count).zip(arrivals) {
            let user = number % users;
            clicks.push(Click { at_us, user, key: number, kind: Kind::First });
            if dice.f64() * 100.0 < wish.same_key_percent {
                let at_us = at_us + dice.u64(0..DOUBLE_CLICK_US);
                clicks.push(Click { at_us, user, key: number, kind: Kind::SameKey });
            }
            if dice.f64() * 100.0 < wish.new_key_percent {
                let at_us = at_us + dice.u64(SECOND_TRY_US);
                clicks.push(Click { at_us, user, key: keys, kind: Kind::NewKey });
                keys += 1;
            }
        }
        clicks.sort_by_key(|click| click.at_us);
        Self { clicks, users, keys }
    }

    /// Returns the time from the start to the last intended click, in µs.
    pub fn span_us(&self) -> u64 {
        self.clicks.last().map_or(0, |click| click.at_us)
    }
}

fn arrivals(shape: Shape, dice: &mut Rng) -> Vec<u64> {
    match shape {
        Shape::Spike { buyers } => {
            let head = u64::from(buyers) * SPIKE_HEAD_PERCENT / 100;
            let mut at = |number: u64| match number < head {
                true => dice.u64(0..SECOND_US),
                false => SECOND_US + dice.u64(0..SPIKE_TAIL_US),
            };
            let mut arrivals: Vec<u64> = (0..u64::from(buyers)).map(&mut at).collect();
            arrivals.sort_unstable();
            arrivals
        }
        Shape::Constant { per_s, duration_s } => {
            let count = u64::from(per_s) * u64::from(duration_s);
            (0..count).map(|number| number * SECOND_US / u64::from(per_s)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const WISH: Wish = Wish {
        shape: Shape::Spike { buyers: 1000 },
        users: 0,
        same_key_percent: 10.0,
        new_key_percent: 5.0,
        seed: 7,
    };

    #[test]
    fn four_fifths_of_a_spike_come_within_one_second() {
        let schedule = Schedule::new(&WISH);
        let first = schedule.clicks.iter().filter(|click| click.kind == Kind::First);
        assert_eq!(first.clone().count(), 1000);
        assert_eq!(first.filter(|click| click.at_us < SECOND_US).count(), 800);
        assert!(schedule.clicks.is_sorted_by_key(|click| click.at_us));
        assert_eq!(Schedule::new(&WISH).clicks, schedule.clicks);
    }

    #[test]
    fn a_double_click_has_the_key_of_the_first_and_a_second_try_its_own() {
        let schedule = Schedule::new(&WISH);
        let keys_of =
            |kind| schedule.clicks.iter().filter(move |click| click.kind == kind).map(|click| click.key);
        let first: HashSet<u32> = keys_of(Kind::First).collect();
        assert!(keys_of(Kind::SameKey).count() > 50);
        assert!(keys_of(Kind::SameKey).all(|key| first.contains(&key)));
        assert!(keys_of(Kind::NewKey).count() > 20);
        assert!(keys_of(Kind::NewKey).all(|key| !first.contains(&key) && key < schedule.keys));
    }

    #[test]
    fn a_constant_shape_keeps_its_rate_and_reuses_its_users() {
        let shape = Shape::Constant { per_s: 100, duration_s: 3 };
        let wish = Wish { shape, users: 50, same_key_percent: 0.0, new_key_percent: 0.0, ..WISH };
        let schedule = Schedule::new(&wish);
        assert_eq!((schedule.clicks.len(), schedule.users, schedule.keys), (300, 50, 300));
        assert_eq!(schedule.clicks[100].at_us, SECOND_US);
        assert_eq!(schedule.span_us(), 2_990_000);
    }
}
