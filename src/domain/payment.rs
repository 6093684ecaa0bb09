//! Payments of orders, and refunds of what was captured for nothing. Source: docs/protocol/steps.md, step 14.
//!
//! An order has one payment for each attempt to pay it. The next attempt begins when the provider has given its final
//! answer about the one before, so an order never has two that could both be captured by an honest provider.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::InvalidId;
use super::money::Money;
use super::order::Order;
use super::order_id::OrderId;

/// A payment's identity: its order and the number of the attempt. It tells where its row is, and the same attempt has
/// the same id in every process, so that the provider knows a repeated request by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PaymentId {
    /// The order that it pays.
    pub order: OrderId,
    /// The attempt, 1 to [`Self::ATTEMPT_MAX`].
    pub attempt: u8,
}

impl PaymentId {
    /// Most attempts to pay one order.
    pub const ATTEMPT_MAX: u8 = 99;

    /// Reads `pay_`, the digits of the order's id, `_` and the attempt.
    ///
    /// # Errors
    /// [`InvalidId`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let invalid =
            InvalidId { what: "payment id", rule: "pay_, the digits of an order id, _ and 1 to 99" };
        let parts = text.strip_prefix("pay_").and_then(|rest| rest.split_once('_'));
        let (digits, attempt) = parts.ok_or_else(|| invalid.clone())?;
        let order = OrderId::parse(&format!("ord_{digits}")).map_err(|_| invalid.clone())?;
        let attempt = attempt.parse().ok().filter(|attempt| (1..=Self::ATTEMPT_MAX).contains(attempt));
        let id = attempt.map(|attempt| Self { order, attempt });
        id.filter(|id| id.to_string() == text).ok_or(invalid)
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.order.to_string();
        write!(f, "pay_{}_{}", order.strip_prefix("ord_").unwrap_or(&order), self.attempt)
    }
}

impl TryFrom<String> for PaymentId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<PaymentId> for String {
    fn from(id: PaymentId) -> String {
        id.to_string()
    }
}

/// Where a payment is in its life: opening → open → closing → closed, and captured from each of the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// It has a row, and the provider may not know it yet.
    Opening,
    /// The provider has a page on which it can be paid.
    Open,
    /// It shall not be paid any more, and the provider has not said yet whether it was.
    Closing,
    /// It was not captured and never will be.
    Closed,
    /// The provider has the money.
    Captured,
}

impl PaymentState {
    /// All states, in the order of a payment's life.
    pub const ALL: [Self; 5] = [Self::Opening, Self::Open, Self::Closing, Self::Closed, Self::Captured];

    /// Answers the state's word in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Captured => "captured",
        }
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Answers whether the provider has given its final answer.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Captured)
    }

    /// When the provider is asked for the first time what became of a payment, in ms after its row was made.
    pub const FIRST_ASKED_MS: i64 = 60_000;

    /// How often a payment was taken to ask the provider to close it before its order expires without an answer. Time
    /// alone does not count: the shop may have stood still, or have had too much to ask.
    pub const ASKS_LEAST: u32 = 3;

    /// Answers how long after a question the provider is asked again, in ms, when it was asked `asks` times before. The
    /// time doubles. Who waits for a payment to be closed waits less.
    pub fn asked_again_ms(self, asks: u32) -> i64 {
        let (first, last) =
            if self == Self::Closing { (1_000, 60_000) } else { (Self::FIRST_ASKED_MS, 600_000) };
        doubled(first, asks, last)
    }
}

/// Doubles a time `times` times, up to `last`.
fn doubled(first: i64, times: u32, last: i64) -> i64 {
    first.saturating_mul(1_i64.checked_shl(times.min(40)).unwrap_or(i64::MAX)).min(last)
}

/// What the shop decides of its payments beyond the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentTerms {
    /// The name of this deployment. One account of a provider often serves several.
    pub deployment: String,
    /// The address to which the provider sends a buyer who has paid, or has not. `{order}` stands for the order's id.
    pub return_url: String,
    /// The shortest life of a payment page that the provider allows, in ms.
    pub page_ms_min: i64,
    /// The longest one, in ms.
    pub page_ms_max: i64,
}

/// All that the provider is asked for. It is stored before it is sent, and a repetition says the same, because a
/// provider refuses another request under the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRequest {
    /// The payment.
    pub id: PaymentId,
    /// The deployment that asks.
    pub deployment: String,
    /// What is to be paid.
    pub amount: Money,
    /// What is bought, as the payment page shows it.
    pub description: String,
    /// When the row was made, ms since 1970.
    pub created_ms: i64,
    /// When the payment of the order is due, ms since 1970.
    pub due_ms: i64,
    /// When the payment page closes by itself, ms since 1970. That may be later than the order's own time.
    pub expires_ms: i64,
    /// The address to which the provider sends the buyer.
    pub return_url: String,
}

impl PaymentRequest {
    /// Makes the request of the attempt after `last`, which is 0 before the first one. `None` when the order cannot be
    /// paid: it does not wait for a payment, its time is over, or its amount is more than [`Money::AMOUNT_MAX`].
    pub fn next(order: &Order, last: u8, now_ms: i64, terms: &PaymentTerms) -> Option<Self> {
        if !order.is_payable(now_ms) || last >= PaymentId::ATTEMPT_MAX {
            return None;
        }
        let page_ends_ms = |ms: i64| now_ms.saturating_add(ms);
        let due_ms = order.expires_ms.unwrap_or(now_ms);
        Some(Self {
            id: PaymentId { order: order.id, attempt: last + 1 },
            deployment: terms.deployment.clone(),
            amount: order.amount()?,
            description: Self::description(order),
            created_ms: now_ms,
            due_ms,
            expires_ms: due_ms.clamp(page_ends_ms(terms.page_ms_min), page_ends_ms(terms.page_ms_max)),
            return_url: terms.return_url.replace("{order}", &order.id.to_string()),
        })
    }

    /// Answers what is bought, as the payment page shows it.
    pub fn description(order: &Order) -> String {
        format!("{} × {} ({})", order.quantity.units(), order.sku, order.sale)
    }
}

/// A payment page at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentPage {
    /// The provider's id of it, at most [`REFERENCE_MAX`] bytes.
    pub reference: String,
    /// Where the buyer pays, at most [`URL_MAX`] bytes.
    pub url: String,
}

/// Most bytes of an id that a provider gives.
pub const REFERENCE_MAX: usize = 255;
/// Most bytes of the address of a payment page.
pub const URL_MAX: usize = 4096;

/// One attempt to pay an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Where it is in its life.
    pub state: PaymentState,
    /// What the provider is asked for.
    pub request: PaymentRequest,
    /// The page; `None` until the provider has answered.
    pub page: Option<PaymentPage>,
    /// The refund of what was captured, if one is owed or was made.
    pub refund: Option<Refund>,
    /// What somebody did at the provider itself, ascending by time.
    pub notices: Vec<Notice>,
}

/// Something that somebody did at the provider itself: a dispute, or a refund that the shop did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What was done: the provider's words, or `refund.unasked` for what only its books show.
    pub kind: String,
    /// When the shop heard of it, ms since 1970.
    pub at_ms: i64,
}

/// Money that a provider has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Our reference, as the provider tells it: a [`PaymentId`] if it is ours, at most [`REFERENCE_MAX`] bytes.
    pub payment: String,
    /// The amount that was captured.
    pub amount: Money,
    /// The provider's id of the capture, which a refund names.
    pub reference: String,
}

/// Why a capture is paid back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundReason {
    /// The order had come to another end before.
    OrderEnded,
    /// The order was paid before.
    PaidBefore,
    /// Amount or currency are not those of the payment.
    OtherAmount,
    /// There is no such order.
    UnknownOrder,
    /// An operator decided so.
    Operator,
}

impl RefundReason {
    /// All reasons.
    pub const ALL: [Self; 5] =
        [Self::OrderEnded, Self::PaidBefore, Self::OtherAmount, Self::UnknownOrder, Self::Operator];

    /// Answers the reason's word in rows, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderEnded => "order_ended",
            Self::PaidBefore => "paid_before",
            Self::OtherAmount => "other_amount",
            Self::UnknownOrder => "unknown_order",
            Self::Operator => "operator",
        }
    }

    /// Reads a reason's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Where a refund is: owed → sent → done, and failed. A refund that was done may fail later, and one that has failed
/// may be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// The provider has not accepted it yet.
    Owed,
    /// The provider has accepted it.
    Sent,
    /// The buyer has the money.
    Done,
    /// The provider could not pay it back. A person has to act.
    Failed,
    /// It had failed, and the buyer has the money in another way, as an operator says. The provider's books do not show
    /// it.
    Settled,
}

impl RefundState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Owed, Self::Sent, Self::Done, Self::Failed, Self::Settled];

    /// Answers the state's word in rows, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Sent => "sent",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Settled => "settled",
        }
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What a refund is keyed by, at the provider too: nothing is paid back twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefundKey {
    /// A payment of ours.
    Payment(PaymentId),
    /// A capture that no payment of ours explains, by the provider's id of it.
    Orphan(String),
}

impl RefundKey {
    /// Reads the text of a key.
    pub fn parse(text: &str) -> Self {
        PaymentId::parse(text).map_or_else(|_| Self::Orphan(text.to_owned()), Self::Payment)
    }

    /// Answers whether it is the key of a payment of ours.
    pub fn is_of(&self, payment: PaymentId) -> bool {
        *self == Self::Payment(payment)
    }
}

impl fmt::Display for RefundKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payment(payment) => payment.fmt(f),
            Self::Orphan(reference) => f.write_str(reference),
        }
    }
}

/// A capture that is paid back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// What it is keyed by.
    pub key: RefundKey,
    /// The amount that was captured.
    pub amount: Money,
    /// The provider's id of the capture.
    pub capture: String,
    /// Why it is paid back.
    pub reason: RefundReason,
    /// Where it is.
    pub state: RefundState,
    /// How often the provider was asked.
    pub tries: u32,
}

impl Refund {
    /// How long after it was owed a refund without an end waits for a person, in ms.
    pub const OVERDUE_MS: i64 = 3_600_000;

    /// Answers how long after a question the provider is asked again, in ms, when it was asked `tries` times before.
    pub fn asked_again_ms(tries: u32) -> i64 {
        doubled(1_000, tries, 600_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Month, Shard};

    #[test]
    fn a_payment_id_is_read_as_it_is_written_and_no_other_text_is_one() {
        let order = OrderId::first_of(Shard::new(3), Month::of_ms(1_767_225_600_000));
        let id = PaymentId { order, attempt: 7 };
        let text = id.to_string();
        assert_eq!(PaymentId::parse(&text), Ok(id));
        let digits = &order.to_string()["ord_".len()..];
        for bad in [
            "",
            "pay_",
            digits,
            &format!("pay_{digits}"),
            &format!("pay_{digits}_0"),
            &format!("pay_{digits}_07"),
            &format!("pay_{digits}_100"),
            &format!("pay_{}_7", digits.to_uppercase()),
            &format!("ord_{digits}_7"),
        ] {
            assert!(PaymentId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_name_one_thing_each() {
        for state in PaymentState::ALL {
            assert_eq!(PaymentState::parse(state.as_str()), Some(state));
        }
        for state in RefundState::ALL {
            assert_eq!(RefundState::parse(state.as_str()), Some(state));
        }
        for reason in RefundReason::ALL {
            assert_eq!(RefundReason::parse(reason.as_str()), Some(reason));
        }
    }
}
