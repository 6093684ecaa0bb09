//! What is asked of the payment provider again and again, until there is a final answer: step 14 of
//! docs/protocol/steps.md. Tasks of the process call it.

use std::time::Duration;

use futures::StreamExt;
use metrics::counter;

use super::till::Till;
use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::payment::{PaymentState, RefundKey, RefundReason, RefundState};
use crate::domain::{Change, Payment, Refund};
use crate::metrics::{REFUNDS, REFUNDS_OWED};
use crate::ports::{Booked, Effect, ErrorKind, Orphan, StoreError, StoreResult};

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

impl Shop {
    /// Asks the provider about the payments that are due. Answers how many got their final answer.
    ///
    /// # Errors
    /// The first failure. All others were asked about all the same, and are again later.
    pub async fn ask_about_payments(&self) -> StoreResult<usize> {
        let Some(till) = &self.till else { return Ok(0) };
        let mut done = Done::default();
        for at in self.ports.payments.instances() {
            match self.ports.payments.due(at, ROUND_MAX).await {
                Ok(due) => done.add(each(due, |payment| self.ask_about(till, payment)).await),
                Err(error) => done.fail(error),
            }
        }
        done.result()
    }

    async fn ask_about(&self, till: &Till, payment: Payment) -> StoreResult<bool> {
        let standing = if payment.state == PaymentState::Closing {
            till.provider.close(&payment).await?
        } else {
            till.provider.standing(&payment).await?
        };
        self.settle_payment(&payment, standing).await.map_err(unsettled)
    }

    /// Pays back what is due. Answers how many refunds got their final answer.
    ///
    /// # Errors
    /// As [`Self::ask_about_payments`].
    pub async fn pay_back(&self) -> StoreResult<usize> {
        let Some(till) = &self.till else { return Ok(0) };
        let mut done = Done::default();
        for at in self.ports.payments.instances() {
            match self.ports.refunds.due(at, ROUND_MAX).await {
                Ok(due) => done.add(each(due, |refund| self.pay_back_one(till, refund)).await),
                Err(error) => done.fail(error),
            }
        }
        done.result()
    }

    async fn pay_back_one(&self, till: &Till, refund: Refund) -> StoreResult<bool> {
        let state = till.provider.refund(&refund).await?;
        let again_in = (state == RefundState::Sent).then_some(SENT_AGAIN);
        self.ports.refunds.set(&refund.key, state, again_in).await?;
        if state != refund.state {
            counter!(REFUNDS, "state" => state.as_str()).increment(1);
        }
        if state == RefundState::Failed {
            tracing::error!(refund = %refund.key, "a refund has failed: a person has to pay it back");
        }
        Ok(again_in.is_none())
    }

    /// Tries the captures again that no payment explains, and owes back those that nobody explains for too long.
    /// Answers how many are explained now.
    ///
    /// # Errors
    /// As [`Self::ask_about_payments`].
    pub async fn retry_orphans(&self) -> StoreResult<usize> {
        let Some(till) = &self.till else { return Ok(0) };
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
            let (payment, capture) = (&capture.payment, &capture.reference);
            tracing::error!(capture, payment, reason, "a capture is paid back");
            let key = RefundKey::Orphan(capture.clone());
            self.ports.refunds.set(&key, RefundState::Owed, Some(Duration::ZERO)).await?;
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
    /// When the provider or a component failed. What was taken before stands.
    pub async fn reconcile_payments(&self, since_ms: i64) -> StoreResult<Reconciled> {
        let Some(till) = &self.till else { return Ok(Reconciled::default()) };
        let (mut done, mut after) = (Reconciled::default(), None);
        loop {
            let (page, next) = till.provider.captures(since_ms, after).await?;
            for booked in page {
                self.reconcile_one(till, booked, &mut done).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(done),
            }
        }
    }

    async fn reconcile_one(&self, till: &Till, booked: Booked, done: &mut Reconciled) -> StoreResult<()> {
        if booked.deployment.as_ref() != Some(&till.terms.deployment) {
            return Ok(());
        }
        done.captures += 1;
        if booked.refunded >= booked.capture.amount.amount() {
            return Ok(());
        }
        match self.take_capture(None, &booked.capture).await.map_err(unsettled)? {
            "repeated" => {}
            "unknown" => done.unknown += 1,
            _ => done.found += 1,
        }
        Ok(())
    }
}

/// Does something to each of many, a few at once.
async fn each<T, F>(all: Vec<T>, work: impl Fn(T) -> F) -> Done
where
    F: Future<Output = StoreResult<bool>>,
{
    let mut results = futures::stream::iter(all.into_iter().map(work)).buffer_unordered(AT_ONCE);
    let mut done = Done::default();
    while let Some(result) = results.next().await {
        match result {
            Ok(is_done) => done.count += usize::from(is_done),
            Err(error) => done.fail(error),
        }
    }
    done
}

/// How many were done, and the first failure.
#[derive(Default)]
struct Done {
    count: usize,
    failure: Option<StoreError>,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        if let Some(error) = other.failure {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: StoreError) {
        self.failure.get_or_insert(error);
    }

    fn result(self) -> StoreResult<usize> {
        self.failure.map_or(Ok(self.count), Err)
    }
}

/// Makes the error of a task of what a use case failed with. The cause was logged there.
fn unsettled(failure: Failure) -> StoreError {
    let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
    StoreError { kind, effect, context: "settle a payment", source: format!("{failure:?}").into() }
}
