//! The life of an order as the server's table says. It is read from `tests/vectors/order_life.json`, and a test of the
//! server compares this frozen copy with the server's own table. So a change of the table must change both.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Deserialize;

/// What is true of an order in a state.
#[derive(Debug, Deserialize)]
pub struct StateFacts {
    /// The state's word in rows.
    pub state: String,
    /// The state's letter in a hold in Redis.
    pub mark: char,
    /// The ledger's column in which the order's units stand; `None` when they stand in none.
    pub units: Option<String>,
    /// Whether no row exists yet.
    pub pending: bool,
}

#[derive(Debug, Deserialize)]
struct Arrow {
    from: Vec<String>,
    to: String,
    /// The kind of its row in `order_moves`; `None` when it has none.
    r#move: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Table {
    states: Vec<StateFacts>,
    arrows: Vec<Arrow>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let text = include_str!("../../tests/vectors/order_life.json");
    serde_json::from_str(text).expect("the frozen table is JSON of this form")
});

/// Returns the facts of a state.
///
/// # Panics
/// For a word that is no state.
pub fn facts(state: &str) -> &'static StateFacts {
    TABLE.states.iter().find(|facts| facts.state == state).expect("every state of a row is in the table")
}

/// Returns the facts of the state that a mark in Redis names. A letter that is no mark gives `None`.
pub fn of_mark(mark: char) -> Option<&'static StateFacts> {
    TABLE.states.iter().find(|facts| facts.mark == mark)
}

/// Returns whether arrows lead from one state to another. A state leads to itself without an arrow.
pub fn leads(from: &str, to: &str) -> bool {
    let arrows = TABLE.arrows.iter().filter(|arrow| arrow.from.iter().any(|state| state == from));
    from == to || arrows.into_iter().any(|arrow| leads(&arrow.to, to))
}

/// Returns whether an arrow whose move has this kind leads from one state to another.
pub fn goes(from: &str, kind: &str, to: &str) -> bool {
    let is_it = |arrow: &&Arrow| arrow.r#move.as_deref() == Some(kind) && arrow.to == to;
    TABLE.arrows.iter().filter(is_it).any(|arrow| arrow.from.iter().any(|state| state == from))
}

/// Lists the sets of moves that an order may have on its way to a state, one set for each way.
pub fn moves_to(state: &str) -> Vec<BTreeSet<&'static str>> {
    let mut ways = Vec::new();
    for arrow in TABLE.arrows.iter().filter(|arrow| arrow.to == state) {
        for from in &arrow.from {
            let mut before = moves_to(from);
            if before.is_empty() {
                before.push(BTreeSet::new());
            }
            for mut way in before {
                way.extend(arrow.r#move.as_deref());
                ways.push(way);
            }
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_moves_of_one_way_to_its_state() {
        let ways = |state| moves_to(state).into_iter().collect::<BTreeSet<_>>();
        assert_eq!(ways("awaiting_payment"), [BTreeSet::from(["persisted"])].into());
        assert_eq!(ways("paid"), [BTreeSet::from(["paid", "persisted"])].into());
        let tombstone = BTreeSet::from(["cancelled"]);
        assert_eq!(ways("cancelled"), [tombstone, BTreeSet::from(["cancelled", "persisted"])].into());
    }

    #[test]
    fn an_older_mark_may_stay_and_a_contradicting_one_may_not() {
        assert!(leads("queued", "paid") && leads("awaiting_payment", "expired") && leads("paid", "paid"));
        assert!(!leads("awaiting_payment", "rejected") && !leads("paid", "expired"));
        assert_eq!(of_mark('x').map(|facts| facts.state.as_str()), Some("rejected"));
    }
}
