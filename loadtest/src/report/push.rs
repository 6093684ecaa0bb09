//! What listeners were told, beside what stands.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::figures::{self, Quantiles};
use crate::evidence::Evidence;
use crate::listeners::Heard;

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
    /// From the stamp of a step, which is taken before its commit, to its arrival: whole milliseconds of one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_commit: Option<Quantiles>,
}

/// Returns the orders of this run and the states in which they stand, of the users who are asked for.
pub fn standing(evidence: &Evidence, users: &HashSet<String>) -> Vec<(String, String)> {
    let rows =
        evidence.rows.iter().filter(|row| !evidence.before.contains(&row.id) && users.contains(&row.user));
    rows.map(|row| (row.id.to_string(), row.state.as_str().to_owned())).collect()
}

impl Push {
    /// Holds what was told against what stands.
    pub fn new(listeners: u32, standing: &[(String, String)], heard: &Heard, evidence: &Evidence) -> Self {
        let lost = standing.iter().filter(|one| !heard.told.contains_key(*one)).count();
        let steps = evidence.events.events.iter().filter_map(|event| {
            let told_ms = heard.told.get(&(event.order.to_string(), event.to.clone()))?;
            u64::try_from((told_ms - event.at_ms).max(0) * 1000).ok()
        });
        Self {
            listeners,
            opened: heard.opened,
            byes: heard.byes.clone(),
            faults: heard.faults.clone(),
            events: heard.events,
            orders: figures::count(standing.len()),
            lost: figures::count(lost),
            from_commit: Quantiles::of_micros(steps),
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
        let told = |order: &str, state: &str, at_ms| ((order.to_owned(), state.to_owned()), at_ms);
        let heard = Heard {
            told: [told(&ids[0], "awaiting_payment", first.at_ms + 7), told(&ids[1], "awaiting_payment", 0)]
                .into(),
            ..Heard::default()
        };
        let push = Push::new(2, &standing, &heard, &evidence);
        assert_eq!((push.orders, push.lost), (2, 1), "bob was never told that it was cancelled");
        let times = push.from_commit.expect("two steps");
        assert!(times.count == 2 && (times.max_ms - 7.0).abs() < 0.1, "{times:?}");
    }
}
