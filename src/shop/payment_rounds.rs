//! What is asked of the payment provider again and again, until there is a final answer: step 14 of
//! docs/protocol/steps.md. Tasks of the process call it.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use metrics::{counter, gauge};

use super::till::Till;
use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::payment::{PaymentState, RefundReason, RefundState};
use crate::domain::{Change, Instance, Payment, PaymentId, Refund};
use crate::metrics::{PAYMENT_EVENTS, REFUNDS, REFUNDS_OWED, REFUNDS_STUCK};
use crate::ports::{Booked, Effect, ErrorKind, Orphan, RefundStep, StoreError, StoreResult};

/// Most payments, refunds or orphans of an instance that one round takes.
const ROUND_MAX: usize = 200;
/// Most questions to the provider at once.
const AT_ONCE: usize = 16;
/// How long until a refund is asked about again that the provider has accepted.
const SENT_AGAIN: Duration = Duration::from_secs(60);

const DAY_MS: i64 = 24 * 3_600_000;

/// What a comparison with the provider's books has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Captures of this deployment.
    pub captures: usize,
    /// Captures that had not been taken, and are now.
    pub found: usize,
    /// Captures that no payment explains. They are paid back after `payment.orphan_ms`.
    pub unknown: usize,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// How many got their final answer.
    pub done: usize,
    /// Whether more may be due at once.
    pub is_full: bool,
}

impl Shop {
    /// Asks the provider about the payments that are due.
    ///
    /// # Errors
    /// The first failure. All others were asked about all the same, and are again later.
    pub async fn ask_about_payments(&self) -> StoreResult<Round> {
        let Some(till) = &self.till else { return Ok(Round::default()) };
        self.everywhere(|at| async move {
            let due = self.ports.payments.due(at, ROUND_MAX).await?;
            Ok(each(due, |payment| self.ask_about(till, payment)).await)
        })
        .await
    }

    async fn ask_about(&self, till: &Till, payment: Payment) -> StoreResult<bool> {
        let standing = if payment.state == PaymentState::Closing {
            till.provider.close(&payment).await?
        } else {
            till.provider.standing(&payment).await?
        };
        self.settle_payment(&payment, standing).await.map_err(unsettled)
    }

    /// Pays back what is due.
    ///
    /// # Errors
    /// As [`Self::ask_about_payments`].
    pub async fn pay_back(&self) -> StoreResult<Round> {
        let Some(till) = &self.till else { return Ok(Round::default()) };
        self.everywhere(|at| async move {
            let due = self.ports.refunds.due(at, ROUND_MAX).await?;
            Ok(each(due, |refund| self.pay_back_one(till, refund)).await)
        })
        .await
    }

    /// Does the same on all instances at once, so that none waits for one that hangs.
    async fn everywhere<F>(&self, work: impl Fn(Instance) -> F) -> StoreResult<Round>
    where
        F: Future<Output = StoreResult<Tally>>,
    {
        let all = self.ports.payments.instances().into_iter().map(work);
        let mut sum = Tally::default();
        for tally in join_all(all).await {
            match tally {
                Ok(tally) => sum.add(tally),
                Err(error) => sum.fail(error),
            }
        }
        sum.result()
    }

    async fn pay_back_one(&self, till: &Till, refund: Refund) -> StoreResult<bool> {
        let state = till.provider.refund(&refund).await?;
        let again_in = (state == RefundState::Sent).then_some(SENT_AGAIN);
        let from = [RefundState::Owed, RefundState::Sent];
        let step = RefundStep { key: &refund.key, capture: None, from: &from, to: state, again_in };
        let is_found = self.ports.refunds.advance(&step).await?;
        if is_found && state != refund.state {
            counter!(REFUNDS, "state" => state.as_str()).increment(1);
        }
        if state == RefundState::Failed {
            tracing::error!(refund = %refund.key, "a refund has failed: a person has to pay it back");
        }
        Ok(again_in.is_none())
    }

    /// Counts the refunds that wait for a person, instance by instance.
    ///
    /// # Errors
    /// When an instance did not answer. Its gauge keeps what it said.
    pub async fn watch_refunds(&self) -> StoreResult<Round> {
        if self.till.is_none() {
            return Ok(Round::default());
        }
        self.everywhere(|at| async move {
            let stuck = u32::try_from(self.ports.refunds.stuck(at).await?).unwrap_or(u32::MAX);
            gauge!(REFUNDS_STUCK, "database" => at.number().to_string()).set(f64::from(stuck));
            Ok(Tally::default())
        })
        .await
    }

    /// Tries the captures again that no payment explains, and owes back those that nobody explains for too long.
    ///
    /// # Errors
    /// As [`Self::ask_about_payments`].
    pub async fn retry_orphans(&self) -> StoreResult<Round> {
        let Some(till) = &self.till else { return Ok(Round::default()) };
        let due = self.ports.captures.orphans_due(ROUND_MAX).await?;
        each(due, |orphan| self.retry_orphan(till, orphan)).await.result()
    }

    async fn retry_orphan(&self, till: &Till, orphan: Orphan) -> StoreResult<bool> {
        let capture = &orphan.capture;
        if self.take_capture(None, capture).await.map_err(unsettled)? != "unknown" {
            self.ports.captures.forget_orphan(capture).await?;
            return Ok(true);
        }
        if orphan.age_ms >= till.orphan_ms {
            let reason = RefundReason::UnknownOrder.as_str();
            counter!(REFUNDS_OWED, "reason" => reason).increment(1);
            let (payment, reference) = (&capture.payment, &capture.reference);
            tracing::error!(capture = reference, payment, reason, "a capture is paid back");
            self.ports.captures.owe_orphan(capture).await?;
        }
        Ok(false)
    }

    /// Compares the provider's captures of the last days with ours, as an operator wants it. Every call is noted in the
    /// audit log.
    ///
    /// # Errors
    /// As [`Self::reconcile_payments`].
    pub async fn reconcile_as_operator(&self, days: u32, change: &Change) -> Result<Reconciled, Failure> {
        self.ports.audit_log.note(change, &Subject::Books { days }).await?;
        let since_ms = self.clock.now_ms().saturating_sub(i64::from(days) * DAY_MS);
        Ok(self.reconcile_payments(since_ms).await?)
    }

    /// Compares the provider's captures since a time, in ms since 1970, with ours, and takes those that were missed.
    ///
    /// # Errors
    /// When the provider failed, or the first failure of a component. All other captures were compared all the same.
    pub async fn reconcile_payments(&self, since_ms: i64) -> StoreResult<Reconciled> {
        let Some(till) = &self.till else { return Ok(Reconciled::default()) };
        let (mut done, mut after, mut failure) = (Reconciled::default(), None, None);
        loop {
            let (page, next) = till.provider.captures(since_ms, after).await?;
            for booked in page {
                let reference = booked.capture.reference.clone();
                if let Err(error) = self.reconcile_one(till, booked, &mut done).await {
                    tracing::error!(%error, capture = reference, "a capture could not be compared with the books");
                    failure.get_or_insert(error);
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return failure.map_or(Ok(done), Err),
            }
        }
    }

    async fn reconcile_one(&self, till: &Till, booked: Booked, done: &mut Reconciled) -> StoreResult<()> {
        if booked.deployment.as_ref() != Some(&till.terms.deployment) {
            return Ok(());
        }
        done.captures += 1;
        let taken = if booked.is_refunded() {
            // Nothing is left to be owed back when no payment explains it.
            self.take_known(None, &booked.capture).await.map_err(unsettled)?
        } else {
            self.take_capture(None, &booked.capture).await.map(Some).map_err(unsettled)?
        };
        match taken {
            None | Some("repeated") => {}
            Some("unknown") => done.unknown += 1,
            Some(_) => done.found += 1,
        }
        self.compare_refunds(&booked).await?;
        match self.payment_of(&booked) {
            Some(id) if booked.refunded > 0 && !matches!(taken, None | Some("unknown")) => {
                self.note_unasked(&booked, id).await
            }
            _ => Ok(()),
        }
    }

    /// Calls a person when money of a payment was paid back at the provider and we did not ask for it.
    async fn note_unasked(&self, booked: &Booked, id: PaymentId) -> StoreResult<()> {
        let payments = self.ports.payments.of(id.order).await?;
        if payments.iter().any(|payment| payment.request.id == id && payment.refund.is_none()) {
            let event = format!("books_{}", booked.capture.reference);
            let outcome = self.keep_notice(booked, &event, "refund.unasked").await.map_err(unsettled)?;
            counter!(PAYMENT_EVENTS, "outcome" => outcome).increment(1);
        }
        Ok(())
    }
}

/// Does something to each of many, a few at once.
async fn each<T, F>(all: Vec<T>, work: impl Fn(T) -> F) -> Tally
where
    F: Future<Output = StoreResult<bool>>,
{
    let mut tally = Tally { is_full: all.len() >= ROUND_MAX, ..Tally::default() };
    let mut results = futures::stream::iter(all.into_iter().map(work)).buffer_unordered(AT_ONCE);
    while let Some(result) = results.next().await {
        match result {
            Ok(is_done) => tally.done += usize::from(is_done),
            Err(error) => tally.fail(error),
        }
    }
    tally
}

/// What a round did, and its first failure.
#[derive(Default)]
struct Tally {
    done: usize,
    is_full: bool,
    failure: Option<StoreError>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.is_full |= other.is_full;
        if let Some(error) = other.failure {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: StoreError) {
        self.failure.get_or_insert(error);
    }

    fn result(self) -> StoreResult<Round> {
        self.failure.map_or(Ok(Round { done: self.done, is_full: self.is_full }), Err)
    }
}

/// Makes the error of a task of what a use case failed with. The cause was logged there.
fn unsettled(failure: Failure) -> StoreError {
    let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
    StoreError { kind, effect, context: "settle a payment", source: format!("{failure:?}").into() }
}
