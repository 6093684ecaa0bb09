//! What the events of an order tell of it, for a database that was set back and has lost some of its steps.
//!
//! Events are passed on within a second, and the topic of events is kept by Kafka. So what an instance has lost is read
//! there.

use serde::Deserialize;

use super::calendar::ms_of;
use super::decided::{Decided, TakenStep};
use super::ids::SaleId;
use super::journal::OrderMove;
use super::mover::Mover;
use super::order::RejectReason;
use super::order_life::{ARROWS, Arrow, OrderState};
use super::record::OrderRecord;
use super::sale::Sale;

/// An event as it is read from the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldEvent {
    /// Its number in its partition.
    pub number: i64,
    /// The step, with its time.
    pub step: OrderMove<'static>,
}

/// What [`super::StoredEvent::encode`] writes, as far as it is needed.
#[derive(Deserialize)]
struct Encoded {
    sequence: String,
    time: String,
    data: OrderMove<'static>,
}

impl ToldEvent {
    /// Reads an event of the topic.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(payload: &[u8]) -> Result<Self, String> {
        let Encoded { sequence, time, mut data } =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let number = sequence.parse().map_err(|_| format!("the sequence is {sequence}"))?;
        data.at_ms = Some(data.at_ms.or(ms_of(&time)).ok_or_else(|| format!("the time is {time}"))?);
        Ok(Self { number, step: data })
    }
}

/// The steps of one order that were read, ascending as they were taken, each once and with its time. There is at least
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldOrder(Vec<OrderMove<'static>>);

/// What of an order is not in its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The record that makes the order's row again, up to where money came in; `None` when it has one.
    pub row: Option<Box<OrderRecord>>,
    /// The steps that follow, ascending. The first of them may be that the provider has captured its money.
    pub steps: Vec<OrderMove<'static>>,
}

/// Finds the arrow of a step; `None` for a word that this version does not know.
pub fn arrow_of(step: &OrderMove<'_>) -> Option<&'static Arrow> {
    place(step).map(|place| &ARROWS[place])
}

fn place(step: &OrderMove<'_>) -> Option<usize> {
    ARROWS.iter().position(|arrow| arrow.move_word == Some(&*step.kind))
}

impl ToldOrder {
    /// Begins with a step.
    pub fn new(step: OrderMove<'static>) -> Self {
        Self(vec![step])
    }

    /// Takes note of another step of the same order. One that is known is left out: events come twice.
    pub fn add(&mut self, step: OrderMove<'static>) {
        if self.0.iter().all(|known| known.kind != step.kind) {
            self.0.push(step);
            self.0.sort_by_key(place);
        }
    }

    /// Answers the sale.
    pub fn sale(&self) -> &SaleId {
        &self.0[0].sale_id
    }

    /// Answers the word of the state to which the steps lead.
    pub fn ends(&self) -> &str {
        self.0.last().map_or("", |last| &*last.to)
    }

    /// Compares with the state of the order's row, `None` when it has none. `sale` is the order's. Answers `None` when
    /// nothing is lost. A row may know more than the events do.
    ///
    /// # Errors
    /// Why nobody but a person can bring both together.
    pub fn lost(&self, row: Option<OrderState>, sale: &Sale) -> Result<Option<Lost>, String> {
        let Some(state) = row else {
            // What the provider has, it tells itself: a payment is more than a state.
            let money = self.0.iter().position(|step| step.by == Mover::PAYMENT_PROVIDER.by);
            let (made, steps) = self.0.split_at(money.unwrap_or(self.0.len()));
            let row = Some(Box::new(record(made, sale)?));
            return Ok(Some(Lost { row, steps: steps.to_vec() }));
        };
        let is_next = |step: &OrderMove<'_>| step.from == state.as_str();
        if let Some(next) = self.0.iter().position(is_next) {
            return Ok(Some(Lost { row: None, steps: self.0[next..].to_vec() }));
        }
        let told = OrderState::parse(self.ends());
        if told.is_some_and(|told| told == state || told.leads_to(state)) {
            return Ok(None);
        }
        Err(format!("its row is {}, its events say {}", state.as_str(), self.ends()))
    }
}

/// Makes the record that makes an order again that has taken these steps.
fn record(steps: &[OrderMove<'static>], sale: &Sale) -> Result<OrderRecord, String> {
    let first = steps.first().ok_or("its events begin with money")?;
    if first.from != OrderState::Queued.as_str() {
        return Err(format!("its first event that is left says that it was {}", first.from));
    }
    let ends = steps.last().map_or("", |last| &*last.to);
    let state = OrderState::parse(ends).ok_or_else(|| format!("{ends} is no state"))?;
    let created_ms = first.at_ms.unwrap_or(first.accepted_ms);
    // Only the order writer gives an order time to be paid.
    let is_written = first.by == Mover::ORDER_WRITER.by;
    let window_ms = if is_written { sale.payment_window_ms } else { 0 };
    let reason = steps.iter().find_map(|step| step.reason.as_deref()).and_then(RejectReason::parse);
    let taken = steps.iter().map(|step| TakenStep {
        kind: step.kind.clone().into_owned(),
        by: Some(step.by.clone().into_owned()).filter(|by| *by != Mover::ORDER_WRITER.by),
        why: step.why.clone().map(std::borrow::Cow::into_owned),
        at_ms: step.at_ms.unwrap_or(created_ms),
        node: None,
    });
    let decided = Decided {
        state,
        rejected: reason.filter(|_| state == OrderState::Rejected),
        created_ms,
        expires_ms: created_ms.saturating_add(window_ms),
        steps: taken.collect(),
    };
    if !decided.is_possible() {
        return Err(format!("its events do not lead to {ends}"));
    }
    Ok(OrderRecord {
        v: OrderRecord::VERSION_DECIDED,
        order_id: first.order_id,
        sale_id: first.sale_id.clone().into_owned(),
        sku_id: first.sku_id.clone().into_owned(),
        user_id: first.user_id.clone().into_owned(),
        quantity: first.quantity,
        unit_price: first.unit_price.clone().into_owned(),
        reference: first.reference.clone().map(std::borrow::Cow::into_owned),
        epoch: sale.epoch,
        accepted_ms: first.accepted_ms,
        awaited: false,
        node: None,
        trace: None,
        decided: Some(Box::new(decided)),
    })
}

#[cfg(test)]
mod tests;
