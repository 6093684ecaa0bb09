//! Dead letters: what operators do about records that could not become orders.
//!
//! A decision is two steps, the order and then the letter. Each finds what stands already, so a decision that was cut
//! off is finished by repeating it.

use metrics::counter;

use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::record::Poison;
use crate::domain::{
    Change, DeadLetter, DeadLetterId, LetterQuery, LetterState, Mover, Order, OrderRecord, OrderState,
    RejectReason, Sale, Sales,
};
use crate::metrics::ORDERS;
use crate::ports::{Ending, Moved, Redecided};

/// What an operator wants of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterAction {
    /// Its order is decided again, with the sale as it is today.
    Retry,
    /// Its order is rejected, and its units go back.
    GiveBack,
}

/// What came of a decision, or would come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterOutcome {
    /// Its order has a row now, in this state.
    Retried(OrderState),
    /// Its order is rejected, and its units go back.
    GivenBack,
    /// Nothing is known of an order, so nothing was owed.
    Dismissed,
    /// It was decided before, and came to this: nothing was changed.
    Decided(LetterState),
    /// It can still not become an order: nothing was changed.
    NotRetryable(Poison),
    /// Its order was decided in another way, and has this state: nothing was changed. Retrying it closes the letter.
    OrderDecided(OrderState),
}

/// What became of one letter of several.
#[derive(Debug)]
pub struct LetterDone {
    /// The letter.
    pub id: DeadLetterId,
    /// What came of it, or would come of it; the failure of one leaves the others alone.
    pub outcome: Result<LetterOutcome, Failure>,
}

/// Which dead letters are decided together.
#[derive(Debug, Clone, Default)]
pub struct LetterSelection {
    /// These. Without any, all that are open.
    pub ids: Vec<DeadLetterId>,
    /// Of all that are open, only those that could not become orders for this reason.
    pub reason: Option<String>,
    /// Of all that are open, only those after this one.
    pub after: Option<DeadLetterId>,
    /// Of all that are open, at most so many.
    pub limit: u32,
}

impl Shop {
    /// Reads dead letters, ascending by id.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn dead_letters(&self, query: &LetterQuery) -> Result<Vec<DeadLetter>, Failure> {
        self.ports.dead_letters.list(query).await.map_err(Failure::of_read)
    }

    /// Reads one dead letter; `None` when there is none of this id.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn dead_letter(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Failure> {
        self.ports.dead_letters.read(id).await.map_err(Failure::of_read)
    }

    /// Decides one dead letter; `None` when there is none of this id. With `is_dry_run` it only says what would come of
    /// it. Idempotent; every decision is noted in the audit log.
    ///
    /// # Errors
    /// When a component failed. Some of it may stand, and repeating it finishes it.
    pub async fn decide_letter(
        &self,
        id: DeadLetterId,
        action: LetterAction,
        (change, is_dry_run): (&Change, bool),
    ) -> Result<Option<LetterOutcome>, Failure> {
        let Some(letter) = self.dead_letter(id).await? else { return Ok(None) };
        self.decide_read(&letter, action, (change, is_dry_run)).await.map(Some)
    }

    /// Decides several dead letters, one after the other.
    ///
    /// # Errors
    /// When they could not be read. What fails of one letter is told with it.
    pub async fn decide_letters(
        &self,
        selection: &LetterSelection,
        action: LetterAction,
        (change, is_dry_run): (&Change, bool),
    ) -> Result<Vec<LetterDone>, Failure> {
        let letters = if selection.ids.is_empty() {
            let query = LetterQuery {
                state: Some(LetterState::Open),
                reason: selection.reason.clone(),
                after: selection.after,
                limit: selection.limit,
            };
            self.dead_letters(&query).await?
        } else {
            let mut letters = Vec::new();
            for id in &selection.ids {
                letters.extend(self.dead_letter(*id).await?);
            }
            letters
        };
        let mut done = Vec::with_capacity(letters.len());
        for letter in &letters {
            let outcome = self.decide_read(letter, action, (change, is_dry_run)).await;
            done.push(LetterDone { id: letter.id, outcome });
        }
        Ok(done)
    }

    async fn decide_read(
        &self,
        letter: &DeadLetter,
        action: LetterAction,
        (change, is_dry_run): (&Change, bool),
    ) -> Result<LetterOutcome, Failure> {
        if letter.state != LetterState::Open {
            return Ok(LetterOutcome::Decided(letter.state));
        }
        let found = self.order_of_letter(letter).await?;
        if is_dry_run {
            return Ok(Self::foresee(action, found));
        }
        self.ports.audit_log.note(change, &Subject::DeadLetter { dead_letter: letter.id }).await?;
        let outcome = match (action, found) {
            (LetterAction::Retry, Found::Row(order)) => LetterOutcome::Retried(order.state),
            (LetterAction::GiveBack, Found::Row(order)) if is_given_back(&order) => LetterOutcome::GivenBack,
            (LetterAction::GiveBack, Found::Row(order)) => LetterOutcome::OrderDecided(order.state),
            (LetterAction::Retry, Found::Record { record, sale }) => self.redecide(&record, *sale).await?,
            // What another backend had decided may have been paid: it is only written as it was.
            (LetterAction::GiveBack, Found::Record { record, .. }) => match &record.decided {
                Some(decided) => LetterOutcome::OrderDecided(decided.state),
                None => self.give_back(&record, &Mover::operator(change)).await?,
            },
            (LetterAction::Retry, Found::Nothing(poison)) => LetterOutcome::NotRetryable(poison),
            (LetterAction::GiveBack, Found::Nothing(_)) => LetterOutcome::Dismissed,
        };
        let state = match outcome {
            LetterOutcome::Retried(_) => LetterState::Retried,
            LetterOutcome::GivenBack => LetterState::GivenBack,
            LetterOutcome::Dismissed => LetterState::Dismissed,
            _ => return Ok(outcome),
        };
        self.ports.dead_letters.decide(letter.id, state).await?;
        Ok(outcome)
    }

    /// Answers what would come of a decision.
    fn foresee(action: LetterAction, found: Found) -> LetterOutcome {
        match (action, found) {
            (LetterAction::Retry, Found::Row(order)) => LetterOutcome::Retried(order.state),
            (LetterAction::GiveBack, Found::Row(order)) if is_given_back(&order) => LetterOutcome::GivenBack,
            (LetterAction::GiveBack, Found::Row(order)) => LetterOutcome::OrderDecided(order.state),
            (LetterAction::Retry, Found::Record { record, sale }) => {
                if record.quantity.units() > sale.buyer_limit {
                    LetterOutcome::NotRetryable(Poison::OverLimit)
                } else {
                    // Whether units are left is known when they are taken.
                    LetterOutcome::Retried(OrderState::AwaitingPayment)
                }
            }
            (LetterAction::GiveBack, Found::Record { record, .. }) => match &record.decided {
                Some(decided) => LetterOutcome::OrderDecided(decided.state),
                None => LetterOutcome::GivenBack,
            },
            (LetterAction::Retry, Found::Nothing(poison)) => LetterOutcome::NotRetryable(poison),
            (LetterAction::GiveBack, Found::Nothing(_)) => LetterOutcome::Dismissed,
        }
    }

    /// Finds the order of a dead letter: its row, or what a row would be made of. That is the record, or else the hold
    /// of the order that the letter names.
    async fn order_of_letter(&self, letter: &DeadLetter) -> Result<Found, Failure> {
        let decoded = OrderRecord::decode(&letter.payload);
        let order = decoded.as_ref().ok().map(|record| record.order_id).or(letter.order);
        if let Some(order) = order.filter(|order| self.map.holds(order.shard()))
            && let Some(row) = self.ports.orders.order(order).await.map_err(Failure::of_read)?
        {
            return Ok(Found::Row(Box::new(row)));
        }
        let poison = match decoded {
            Ok(record) => match self.in_place(&record).await? {
                Ok(sale) => return Ok(Found::Record { record: Box::new(record), sale: Box::new(sale) }),
                Err(poison) => poison,
            },
            Err(poison) => poison,
        };
        let Some(order) = letter.order else { return Ok(Found::Nothing(poison)) };
        match self.unwritten(order).await? {
            Some(record) => match self.in_place(&record).await? {
                Ok(sale) => Ok(Found::Record { record: Box::new(record), sale: Box::new(sale) }),
                Err(poison) => Ok(Found::Nothing(poison)),
            },
            None => Ok(Found::Nothing(poison)),
        }
    }

    /// Answers the sale of a record that stands where its buyer's orders are, as the directory has it now; otherwise
    /// why nothing may be written of it.
    async fn in_place(&self, record: &OrderRecord) -> Result<Result<Sale, Poison>, Failure> {
        let sale = self.sale(&record.sale_id).await?.filter(|sale| !sale.state.is_editable());
        let Some(sale) = sale else { return Ok(Err(Poison::UnknownSale)) };
        if sale.item(&record.sku_id).is_none() {
            return Ok(Err(Poison::UnknownSku));
        }
        let is_in_place = self.map.shard_of(&record.user_id) == record.order_id.shard()
            && record.order_id.month() == sale.month();
        Ok(if is_in_place { Ok(sale) } else { Err(Poison::WrongPlace) })
    }

    async fn redecide(&self, record: &OrderRecord, sale: Sale) -> Result<LetterOutcome, Failure> {
        let sales = Sales::from([(sale.id.clone(), sale)]);
        let decision = match self.ports.dead_letters.write_apart(record, &sales).await? {
            Redecided::Written(decision) => {
                counter!(ORDERS, "status" => decision.state.as_str()).increment(1);
                Some(decision)
            }
            Redecided::Known => None,
            Redecided::Poison(poison) => return Ok(LetterOutcome::NotRetryable(poison)),
        };
        let row = self.ports.orders.order(record.order_id).await.map_err(Failure::of_read)?;
        // The row was written, and perhaps a replica does not know it yet.
        let Some(order) = row else { return Err(Failure::OutcomeUnknown) };
        if let Some(decision) = decision {
            self.mark(&order, decision).await;
        }
        Ok(LetterOutcome::Retried(order.state))
    }

    async fn give_back(&self, record: &OrderRecord, mover: &Mover<'_>) -> Result<LetterOutcome, Failure> {
        match self.ports.order_changes.end_unwritten(record, Ending::GivenUp, mover).await? {
            Moved::Done { order, decision } => {
                counter!(ORDERS, "status" => order.state.as_str()).increment(1);
                self.mark(&order, decision).await;
                Ok(LetterOutcome::GivenBack)
            }
            Moved::Repeated(order) if is_given_back(&order) => Ok(LetterOutcome::GivenBack),
            Moved::Repeated(order) | Moved::Refused(order) | Moved::PaymentOpen(order) => {
                Ok(LetterOutcome::OrderDecided(order.state))
            }
            Moved::Absent => Err(Failure::OutcomeUnknown),
        }
    }
}

/// What is known of a dead letter's order.
enum Found {
    /// Its row.
    Row(Box<Order>),
    /// What its row would be made of, and its sale as it is now.
    Record {
        /// The record.
        record: Box<OrderRecord>,
        /// The sale.
        sale: Box<Sale>,
    },
    /// Nothing, and why.
    Nothing(Poison),
}

/// Answers whether a row says that its dead letter was given back.
fn is_given_back(order: &Order) -> bool {
    order.reason == Some(RejectReason::GivenUp)
}
