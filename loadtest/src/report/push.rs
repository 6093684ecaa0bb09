//! What listeners were told, beside what stands.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::figures::{self, Quantiles};
use crate::evidence::Evidence;
use crate::listeners::{Heard, Told};

/// What listeners were told.
#[derive(Debug, Serialize)]
pub struct Push {
    /// Buyers who listened.
    pub listeners: u32,
    /// Streams that were opened, those included that took the place of others.
    pub opened: u64,
    /// The last events of streams, by reason.
    pub byes: BTreeMap<String, u64>,
    /// Streams that ended without a last event or could not be opened, by why.
    pub faults: BTreeMap<String, u64>,
    /// Events of any kind.
    pub events: u64,
    /// Orders of listeners that are decided.
    pub orders: u64,
    /// Those of them whose state nobody told.
    pub lost: u64,
    /// Steps of which their buyer was told more than a second later.
    pub late: u64,
    /// From the stamp of a step, which is taken before its commit, to its arrival: whole milliseconds of one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_commit: Option<Quantiles>,
}

/// How long after its step an order is told late, in ms. Who was not told at once hears it from the next stream.
const LATE_MS: i64 = 1000;

/// Returns how the orders of this run stand, of the users who are asked for.
pub fn standing(evidence: &Evidence, users: &HashSet<String>) -> Vec<Told> {
    let rows =
        evidence.rows.iter().filter(|row| !evidence.before.contains(&row.id) && users.contains(&row.user));
    let told = rows.map(|row| Told {
        user: row.user.clone(),
        order: row.id.to_string(),
        state: row.state.as_str().to_owned(),
    });
    told.collect()
}

impl Push {
    /// Holds what was told against what stands.
    pub fn new(listeners: u32, standing: &[Told], heard: &Heard, evidence: &Evidence) -> Self {
        let lost = standing.iter().filter(|one| !heard.told.contains_key(*one)).count();
        let took = evidence.events.events.iter().filter_map(|event| {
            let told =
                Told { user: event.user.clone(), order: event.order.to_string(), state: event.to.clone() };
            Some((heard.told.get(&told)? - event.at_ms).max(0))
        });
        let took: Vec<i64> = took.collect();
        Self {
            listeners,
            opened: heard.opened,
            byes: heard.byes.clone(),
            faults: heard.faults.clone(),
            events: heard.events,
            orders: figures::count(standing.len()),
            lost: figures::count(lost),
            late: figures::count(took.iter().filter(|ms| **ms > LATE_MS).count()),
            from_commit: Quantiles::of_micros(took.iter().filter_map(|ms| u64::try_from(ms * 1000).ok())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::world::of_rows;
    use crate::audit::world::row;
    use crate::evidence::RowState;

    #[test]
    fn an_order_whose_state_nobody_told_is_lost_and_others_users_do_not_count() {
        let rows = vec![
            row("ada", "k", "phone", 1, RowState::AwaitingPayment),
            row("bob", "k", "phone", 1, RowState::Cancelled),
            row("cyd", "k", "phone", 1, RowState::AwaitingPayment),
        ];
        let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        let evidence = of_rows(rows);
        let users = ["ada", "bob"].map(str::to_owned).into();
        let standing = standing(&evidence, &users);
        assert_eq!(standing.len(), 2);
        let first =
            evidence.events.events.iter().find(|event| event.to == "awaiting_payment").expect("a step");
        let told = |user: &str, order: &str, at_ms| {
            (
                Told { user: user.to_owned(), order: order.to_owned(), state: "awaiting_payment".to_owned() },
                at_ms,
            )
        };
        // What somebody else is told of an order counts for nothing.
        let to_bob = told("bob", &ids[1], first.at_ms + 1001);
        let heard = Heard {
            told: [told("ada", &ids[0], first.at_ms + 7), to_bob, told("eve", &ids[2], 0)].into(),
            ..Heard::default()
        };
        let push = Push::new(2, &standing, &heard, &evidence);
        assert_eq!(
            (push.orders, push.lost, push.late),
            (2, 1, 1),
            "bob was never told that it was cancelled"
        );
        assert_eq!(push.from_commit.expect("two steps").count, 2);
    }
}
