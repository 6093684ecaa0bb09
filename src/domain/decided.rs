//! What became of an order in the backend that it was exported from.

use serde::{Deserialize, Serialize};

use super::mover::Mover;
use super::node::NodeMark;
use super::order::RejectReason;
use super::order_life::{ARROWS, Arrow, OrderEvent, OrderState};

/// What became of an order in the backend that it was exported from. The order writer keeps an end, the steps and the
/// times. It gives a live order units and claims under the same conditions as any other record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Read")]
pub struct Decided {
    /// The state that it had.
    pub state: OrderState,
    /// Why it was rejected; `None` in every other state.
    pub rejected: Option<RejectReason>,
    /// When its row was made, ms since 1970.
    pub created_ms: i64,
    /// When its payment was due, ms since 1970.
    pub expires_ms: i64,
    /// The steps that it took, in their order. Files of version 1 have none.
    pub steps: Vec<TakenStep>,
}

/// [`Decided`] as it is read. A file of version 1 names no state: its orders wait for their payment or were rejected.
#[derive(Deserialize)]
struct Read {
    state: Option<OrderState>,
    rejected: Option<RejectReason>,
    created_ms: i64,
    expires_ms: i64,
    #[serde(default)]
    steps: Vec<TakenStep>,
}

impl From<Read> for Decided {
    fn from(read: Read) -> Self {
        let Read { state, rejected, created_ms, expires_ms, steps } = read;
        let first = if rejected.is_some() { OrderState::Rejected } else { OrderState::AwaitingPayment };
        Self { state: state.unwrap_or(first), rejected, created_ms, expires_ms, steps }
    }
}

/// A step that an order took, as its row in `order_moves`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenStep {
    /// The word of the step.
    pub kind: String,
    /// Who moved it, as [`Mover::by`]; `None` for the order writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, as [`Mover::why`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When, ms since 1970.
    pub at_ms: i64,
    /// The process that took it, if that is known. No export has it.
    #[serde(skip)]
    pub node: Option<NodeMark>,
}

impl TakenStep {
    /// Most steps of one order.
    pub const MOST: usize = 4;

    /// Answers the first step of an order that the order writer wrote: its row says it, so it has no row in
    /// `order_moves`. `None` when `steps` has the first one, or when the order ended before the order writer came: then
    /// its payment was never due, and its time is that of its row.
    pub fn unnoted(state: OrderState, (created_ms, expires_ms): (i64, i64), steps: &[Self]) -> Option<Self> {
        let is_first = |step: &Self| {
            [OrderEvent::Persist, OrderEvent::Reject]
                .iter()
                .any(|event| event.arrow().move_word == Some(&step.kind))
        };
        if created_ms == expires_ms || steps.iter().any(is_first) {
            return None;
        }
        let event = if state == OrderState::Rejected { OrderEvent::Reject } else { OrderEvent::Persist };
        let kind = event.arrow().move_word.unwrap_or_default().to_owned();
        Some(Self { kind, by: None, why: None, at_ms: created_ms, node: None })
    }

    fn place(&self) -> Option<usize> {
        ARROWS.iter().position(|arrow| arrow.move_word == Some(self.kind.as_str()))
    }

    /// Puts the steps of one order, which were read in any order, into the order in which they were taken: that of the
    /// arrows, which none goes back. Their times may say otherwise, when a server's clock was set back.
    pub fn sort(steps: &mut [Self]) {
        steps.sort_by_key(Self::place);
    }
}

impl Decided {
    /// Answers whether the steps lead along the arrows of an order's life to the state, and only a rejected order has a
    /// reason. Steps of a file of version 1 are missing, and so are their states.
    pub fn is_possible(&self) -> bool {
        if (self.state == OrderState::Rejected) != self.rejected.is_some() || self.state.is_pending() {
            return false;
        }
        if self.steps.is_empty() {
            return matches!(self.state, OrderState::AwaitingPayment | OrderState::Rejected);
        }
        let is_short = |step: &TakenStep| {
            let by = step.by.as_ref().map_or(0, String::len);
            let why = step.why.as_ref().map_or(0, |why| why.chars().count());
            by <= Mover::BYTES_MAX && why <= Mover::WHY_MAX
        };
        let follow = self.arrows().try_fold(OrderState::Queued, |before, arrow| {
            arrow.filter(|arrow| arrow.from.contains(&before)).map(|arrow| arrow.to)
        });
        self.steps.len() <= TakenStep::MOST && self.steps.iter().all(is_short) && follow == Some(self.state)
    }

    /// Answers the arrow of each step; `None` for a word that this version does not know.
    pub fn arrows(&self) -> impl Iterator<Item = Option<&'static Arrow>> {
        self.steps.iter().map(|step| step.place().map(|place| &ARROWS[place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(state: OrderState, rejected: Option<RejectReason>, kinds: &[&str]) -> Decided {
        let step = |(nth, kind): (i64, &&str)| TakenStep {
            kind: (*kind).to_owned(),
            by: None,
            why: None,
            at_ms: -nth,
            node: None,
        };
        let steps = (0..).zip(kinds).map(step).collect();
        Decided { state, rejected, created_ms: 1, expires_ms: 2, steps }
    }

    #[test]
    fn only_steps_along_the_arrows_of_an_orders_life_lead_to_a_state() {
        use OrderState::{AwaitingPayment, Cancelled, Expired, Paid, Queued, Refunded, Rejected};
        let limit = Some(RejectReason::Limit);
        for (state, rejected, kinds) in [
            (AwaitingPayment, None, &["persisted"][..]),
            (AwaitingPayment, None, &[]),
            (Rejected, limit, &[]),
            (Rejected, limit, &["rejected"]),
            (Cancelled, None, &["cancelled"]),
            (Cancelled, None, &["persisted", "cancelled"]),
            (Expired, None, &["persisted", "expired"]),
            (Paid, None, &["persisted", "paid"]),
            (Refunded, None, &["persisted", "paid", "refunded"]),
        ] {
            assert!(decided(state, rejected, kinds).is_possible(), "{state:?} by {kinds:?}");
        }
        for (state, rejected, kinds) in [
            (Paid, None, &[][..]),
            (Paid, None, &["paid"]),
            (Paid, None, &["persisted", "paid", "refunded"]),
            (Refunded, None, &["persisted", "refunded"]),
            (Rejected, None, &["rejected"]),
            (AwaitingPayment, limit, &["persisted"]),
            (Queued, None, &[]),
            (Paid, None, &["persisted", "melted"]),
        ] {
            assert!(!decided(state, rejected, kinds).is_possible(), "{state:?} by {kinds:?}");
        }
    }

    #[test]
    fn a_record_of_the_first_version_names_no_state() {
        let text = r#"{"rejected":null,"created_ms":1,"expires_ms":2}"#;
        let read: Decided = serde_json::from_str(text).expect("readable");
        assert_eq!(read, decided(OrderState::AwaitingPayment, None, &[]));
        let text = r#"{"rejected":"limit","created_ms":1,"expires_ms":2}"#;
        let read: Decided = serde_json::from_str(text).expect("readable");
        assert_eq!(read, decided(OrderState::Rejected, Some(RejectReason::Limit), &[]));
    }

    #[test]
    fn steps_are_sorted_as_they_must_have_been_taken_whatever_their_times() {
        let mut all = decided(OrderState::Refunded, None, &["refunded", "persisted", "paid"]);
        TakenStep::sort(&mut all.steps);
        assert!(all.is_possible(), "{all:?}");
    }
}
