//! The life of an order: its states, its events, and what each event does to an order in each state.
//!
//! This is the only table of it. Both backends write rows by it, and marks in Redis are read and written by it. The
//! load tool's audit expects what it says, and `tests/vectors/order_life.json` is its frozen copy. An event that has no
//! arrow from an order's state changes nothing. Source: docs/protocol/steps.md, "States".

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of an order. `reserved` and `queued` exist only in Redis and the order log. All others are decided in
/// MySQL, and Redis has a mark of them at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Held in Redis; the order log has not acknowledged it yet. The loss of the Redis host may end it.
    Reserved,
    /// Acknowledged by the order log: it reaches a row or a dead letter, whatever fails (I3).
    Queued,
    /// Has a row, units and claims, and waits for its payment.
    AwaitingPayment,
    /// Its payment was captured, and its units are sold.
    Paid,
    /// Given up by its buyer or an operator.
    Cancelled,
    /// Not paid in time.
    Expired,
    /// Was paid, and its buyer got the money back.
    Refunded,
    /// Has a row and got nothing.
    Rejected,
}

/// What happens to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderEvent {
    /// The order log has the order's record.
    Acknowledge,
    /// The order writer made its row, and gave it units and claims.
    Persist,
    /// The order writer made its row and gave it nothing.
    Reject,
    /// The payment provider captured its amount.
    Pay,
    /// The buyer or an operator gave it up.
    Cancel,
    /// Its payment did not come in time.
    Expire,
    /// An operator gives its buyer the money back.
    Refund,
}

/// The column of the ledger that counts an order's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerColumn {
    /// Units of orders that wait for their payment.
    Held,
    /// Units of paid orders.
    Sold,
}

/// What is true of an order in a state.
#[derive(Debug, PartialEq, Eq)]
pub struct StateFacts {
    /// The state.
    pub state: OrderState,
    /// Its word in rows, JSON and metrics.
    pub word: &'static str,
    /// Its letter in a hold in Redis.
    pub mark: char,
    /// The column that counts its units; `None` when the ledger counts none. Each counted unit has a claim.
    pub units: Option<LedgerColumn>,
    /// Whether the order writer has not decided yet, so that no row exists.
    pub is_pending: bool,
    /// Whether nothing that its buyer can do changes the state any more.
    pub is_final: bool,
}

/// One arrow of the table: an event, the states that it may find, and what follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrow {
    /// What happens.
    pub event: OrderEvent,
    /// Its word, in the table's frozen copy.
    pub word: &'static str,
    /// The states that it may find, in the order of [`STATES`].
    pub from: &'static [OrderState],
    /// The state that it leads to.
    pub to: OrderState,
    /// The word of its row in `order_moves`; `None` when no row is written.
    pub move_word: Option<&'static str>,
}

/// What an event means to an order in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The order goes along this arrow.
    Follows(&'static Arrow),
    /// The event leads to this very state: nothing happens.
    Repeated,
    /// The event is not for this state: nothing may happen.
    Conflict,
}

use LedgerColumn::{Held, Sold};
use OrderState as S;

const fn facts(
    state: OrderState,
    (word, mark): (&'static str, char),
    units: Option<LedgerColumn>,
    (is_pending, is_final): (bool, bool),
) -> StateFacts {
    StateFacts { state, word, mark, units, is_pending, is_final }
}

/// All states, each at the index of its discriminant.
pub static STATES: [StateFacts; 8] = [
    facts(S::Reserved, ("reserved", 'r'), None, (true, false)),
    facts(S::Queued, ("queued", 'q'), None, (true, false)),
    facts(S::AwaitingPayment, ("awaiting_payment", 'a'), Some(Held), (false, false)),
    facts(S::Paid, ("paid", 'p'), Some(Sold), (false, true)),
    facts(S::Cancelled, ("cancelled", 'c'), None, (false, true)),
    facts(S::Expired, ("expired", 'e'), None, (false, true)),
    facts(S::Refunded, ("refunded", 'f'), None, (false, true)),
    facts(S::Rejected, ("rejected", 'x'), None, (false, true)),
];

const fn arrow(
    (event, word): (OrderEvent, &'static str),
    from: &'static [OrderState],
    to: OrderState,
    move_word: Option<&'static str>,
) -> Arrow {
    Arrow { event, word, from, to, move_word }
}

/// All arrows, one for each event.
pub static ARROWS: [Arrow; 7] = [
    arrow((OrderEvent::Acknowledge, "acknowledge"), &[S::Reserved], S::Queued, None),
    arrow((OrderEvent::Persist, "persist"), &[S::Reserved, S::Queued], S::AwaitingPayment, Some("persisted")),
    arrow((OrderEvent::Reject, "reject"), &[S::Reserved, S::Queued], S::Rejected, Some("rejected")),
    arrow((OrderEvent::Pay, "pay"), &[S::AwaitingPayment], S::Paid, Some("paid")),
    arrow(
        (OrderEvent::Cancel, "cancel"),
        &[S::Reserved, S::Queued, S::AwaitingPayment],
        S::Cancelled,
        Some("cancelled"),
    ),
    arrow((OrderEvent::Expire, "expire"), &[S::AwaitingPayment], S::Expired, Some("expired")),
    arrow((OrderEvent::Refund, "refund"), &[S::Paid], S::Refunded, Some("refunded")),
];

impl OrderEvent {
    /// Answers the event's arrow.
    pub fn arrow(self) -> &'static Arrow {
        ARROWS.iter().find(|arrow| arrow.event == self).expect("every event has an arrow")
    }
}

impl OrderState {
    /// All states, in the order of an order's life.
    pub const ALL: [Self; 8] = [
        Self::Reserved,
        Self::Queued,
        Self::AwaitingPayment,
        Self::Paid,
        Self::Cancelled,
        Self::Expired,
        Self::Refunded,
        Self::Rejected,
    ];

    /// Answers the state's row of the table.
    pub fn facts(self) -> &'static StateFacts {
        STATES.iter().find(|facts| facts.state == self).expect("every state has its facts")
    }

    /// Answers what an event means to an order in this state.
    pub fn on(self, event: OrderEvent) -> Step {
        let arrow = event.arrow();
        match self {
            state if arrow.from.contains(&state) => Step::Follows(arrow),
            state if state == arrow.to => Step::Repeated,
            _ => Step::Conflict,
        }
    }

    /// Answers the state's word in rows, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        self.facts().word
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(word: &str) -> Option<Self> {
        STATES.iter().find(|facts| facts.word == word).map(|facts| facts.state)
    }

    /// Reads a state's letter in a hold in Redis; `None` for a letter that this version does not know.
    pub fn of_mark(mark: char) -> Option<Self> {
        STATES.iter().find(|facts| facts.mark == mark).map(|facts| facts.state)
    }

    /// Answers whether the order writer has not decided yet.
    pub fn is_pending(self) -> bool {
        self.facts().is_pending
    }

    /// Answers whether nothing that its buyer can do changes the state any more.
    pub fn is_final(self) -> bool {
        self.facts().is_final
    }

    /// Answers whether an order in this state can still come to be in `later`, along one arrow or several.
    pub fn leads_to(self, later: Self) -> bool {
        let next = ARROWS.iter().filter(|arrow| arrow.from.contains(&self)).map(|arrow| arrow.to);
        next.into_iter().any(|to| to == later || to.leads_to(later))
    }

    /// Answers whether a row exists and holds no units, so that Redis is owed the stock that the order's hold took.
    pub fn holds_nothing(self) -> bool {
        !self.is_pending() && self.facts().units.is_none()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn column(units: Option<LedgerColumn>) -> Option<&'static str> {
        units.map(|column| match column {
            Held => "held",
            Sold => "sold",
        })
    }

    #[test]
    fn the_table_is_the_frozen_copy_that_the_audit_expects() {
        let states: Vec<Value> = STATES
            .iter()
            .map(|facts| {
                json!({
                    "state": facts.word, "mark": facts.mark, "units": column(facts.units),
                    "pending": facts.is_pending, "final": facts.is_final,
                })
            })
            .collect();
        let arrows: Vec<Value> = ARROWS
            .iter()
            .map(|arrow| {
                let from: Vec<&str> = arrow.from.iter().map(|state| state.as_str()).collect();
                json!({ "event": arrow.word, "from": from, "to": arrow.to.as_str(), "move": arrow.move_word })
            })
            .collect();
        let text = include_str!("../../tests/vectors/order_life.json");
        let frozen: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(json!({ "states": states, "arrows": arrows }), frozen);
    }

    #[test]
    fn every_state_and_event_has_one_answer_and_a_repetition_changes_nothing() {
        for state in OrderState::ALL {
            for arrow in &ARROWS {
                let expected = match (arrow.from.contains(&state), state == arrow.to) {
                    (true, _) => Step::Follows(arrow),
                    (false, true) => Step::Repeated,
                    (false, false) => Step::Conflict,
                };
                assert_eq!(state.on(arrow.event), expected, "{state:?} {:?}", arrow.event);
            }
        }
        assert_eq!(S::Paid.on(OrderEvent::Expire), Step::Conflict);
        assert_eq!(S::Queued.on(OrderEvent::Acknowledge), Step::Repeated);
    }

    #[test]
    fn nothing_leads_back() {
        let later = |from: S| S::ALL.into_iter().filter(move |to| from.leads_to(*to)).collect::<Vec<_>>();
        assert_eq!(later(S::Reserved), S::ALL[1..]);
        assert_eq!(later(S::Queued), S::ALL[2..]);
        assert_eq!(later(S::AwaitingPayment), [S::Paid, S::Cancelled, S::Expired, S::Refunded]);
        assert_eq!(later(S::Paid), [S::Refunded]);
        for last in [S::Cancelled, S::Expired, S::Refunded, S::Rejected] {
            assert!(later(last).is_empty(), "{last:?}");
        }
    }

    #[test]
    fn words_and_marks_name_one_state_each() {
        for facts in &STATES {
            assert_eq!(OrderState::parse(facts.word), Some(facts.state));
            assert_eq!(OrderState::of_mark(facts.mark), Some(facts.state));
        }
        assert_eq!((OrderState::parse("given_back"), OrderState::of_mark('?')), (None, None));
    }
}
