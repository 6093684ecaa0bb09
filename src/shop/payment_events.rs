//! Hearing what the payment provider tells by itself, and taking what was captured: step 14 of docs/protocol/steps.md.

use std::time::Duration;

use metrics::counter;

use super::till::Till;
use super::{Failure, Shop};
use crate::domain::payment::{RefundKey, RefundState};
use crate::domain::signature::is_signed;
use crate::domain::{Capture, Payment, PaymentId};
use crate::metrics::{ORDERS, PAYMENT_EVENTS, REFUNDS_OWED};
use crate::ports::{Booked, News, PaymentStep, ProviderEvent, RefundStep, Standing, StoreResult, Taken};

/// Why an event of the payment provider is not heard. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheard {
    /// This shop takes no money.
    NoTill,
    /// Nobody who has a secret has signed it in the last five minutes.
    NotSigned,
    /// It is signed, and it is no event.
    Malformed,
}

impl Shop {
    /// Hears an event. `signature` is the header that came with `body`. Idempotent, by the event's id and by the
    /// payment. When it is heard, all that follows is durable.
    ///
    /// # Errors
    /// When a component failed, so that the provider has to tell it again.
    pub async fn hear(&self, signature: &str, body: &[u8]) -> Result<Result<(), Unheard>, Failure> {
        let Some(till) = &self.till else { return Ok(Err(Unheard::NoTill)) };
        let secrets: Vec<&[u8]> = till.secrets.iter().map(Vec::as_slice).collect();
        let count = |outcome: &'static str| counter!(PAYMENT_EVENTS, "outcome" => outcome).increment(1);
        if !is_signed(signature, body, &secrets, self.clock.now_ms() / 1000) {
            count("not_signed");
            return Ok(Err(Unheard::NotSigned));
        }
        let Some(event) = till.provider.read_event(body) else {
            count("malformed");
            return Ok(Err(Unheard::Malformed));
        };
        count(self.hear_event(till, event).await?);
        Ok(Ok(()))
    }

    /// Does what an event asks for, and answers what came of it in a word.
    async fn hear_event(&self, till: &Till, event: ProviderEvent) -> Result<&'static str, Failure> {
        if event.is_live != till.is_live {
            return Ok("other_mode");
        }
        let is_ours = event.deployment.as_ref().is_some_and(|name| *name == till.terms.deployment);
        match event.news {
            News::Other => Ok("other"),
            News::Attention { kind, capture } => {
                self.take_notice(till, &event.id, kind, capture.as_deref()).await
            }
            _ if !is_ours => Ok("other_deployment"),
            News::Captured(capture) => self.take_capture(Some(&event.id), &capture).await,
            News::Closed(payment) => match PaymentId::parse(&payment) {
                Ok(id) if self.map.holds(id.order.shard()) => {
                    let closed = self.ports.payments.advance(id, &PaymentStep::Closed).await?;
                    Ok(if closed { "closed" } else { "repeated" })
                }
                _ => Ok("unknown"),
            },
            News::Refund { key, kind, capture } => {
                if self.hear_of_refund(&RefundKey::parse(&key)).await? {
                    return Ok("refund");
                }
                self.take_notice(till, &event.id, kind, capture.as_deref()).await
            }
        }
    }

    /// Asks the provider about a refund of which it tells: events may come in another order than they happened in. One
    /// that is owed stays owed, because the event may be of a try before, and one that was settled is over. Answers
    /// whether there is such a refund.
    async fn hear_of_refund(&self, key: &RefundKey) -> Result<bool, Failure> {
        if matches!(key, RefundKey::Payment(id) if !self.map.holds(id.order.shard())) {
            return Ok(false);
        }
        let told = [RefundState::Sent, RefundState::Done, RefundState::Failed];
        let now = Some(Duration::ZERO);
        for (from, to, again_in) in [
            (&told[..], RefundState::Sent, now),
            (&[RefundState::Owed], RefundState::Owed, now),
            (&[RefundState::Settled], RefundState::Settled, None),
        ] {
            let step = RefundStep { key, capture: None, from, to, again_in };
            if self.ports.refunds.advance(&step).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps with its payment what somebody did at the provider itself, and calls a person. A dispute names neither our
    /// payment nor a deployment, so the provider is asked whose capture it is about.
    async fn take_notice(
        &self,
        till: &Till,
        event: &str,
        kind: String,
        capture: Option<&str>,
    ) -> Result<&'static str, Failure> {
        let booked = match capture {
            Some(capture) => till.provider.booked(capture).await?,
            None => None,
        };
        let Some(booked) = booked else {
            tracing::error!(event, kind, "somebody has acted at the payment provider: look there");
            return Ok("attention");
        };
        if booked.deployment.as_ref() != Some(&till.terms.deployment) {
            return Ok("other_deployment");
        }
        self.compare_refunds(&booked).await?;
        self.keep_notice(&booked, event, &kind).await
    }

    /// Keeps with the payment of an entry of the books what somebody did at the provider itself, and calls a person
    /// when that is new.
    pub(super) async fn keep_notice(
        &self,
        booked: &Booked,
        event: &str,
        kind: &str,
    ) -> Result<&'static str, Failure> {
        let payment = &booked.capture.payment;
        if let Some(id) = self.payment_of(booked) {
            let step = PaymentStep::Noticed { event: event.to_owned(), kind: kind.to_owned() };
            if !self.ports.payments.advance(id, &step).await? {
                let payments = self.ports.payments.of(id.order).await?;
                if payments.iter().any(|payment| payment.request.id == id) {
                    return Ok("repeated");
                }
            }
        }
        tracing::error!(event, kind, payment, "somebody has acted at the payment provider: look there");
        Ok("attention")
    }

    /// Answers the payment of ours that an entry of the books names.
    pub(super) fn payment_of(&self, booked: &Booked) -> Option<PaymentId> {
        PaymentId::parse(&booked.capture.payment).ok().filter(|id| self.map.holds(id.order.shard()))
    }

    /// Lets the provider be asked about refunds that its books contradict: one that has failed may have been made by a
    /// person meanwhile, and one that was done may have failed.
    pub(super) async fn compare_refunds(&self, booked: &Booked) -> StoreResult<()> {
        let reference = &booked.capture.reference;
        let from = if booked.is_refunded() { [RefundState::Failed] } else { [RefundState::Done] };
        let of_payment = self.payment_of(booked).map(RefundKey::Payment);
        for key in of_payment.into_iter().chain([RefundKey::Orphan(reference.clone())]) {
            let (capture, to) = (Some(reference.as_str()), RefundState::Sent);
            let again_in = Some(Duration::ZERO);
            self.ports.refunds.advance(&RefundStep { key: &key, capture, from: &from, to, again_in }).await?;
        }
        Ok(())
    }

    /// Takes a capture: it pays its order, or it is owed back, or it is kept until its payment is found. Answers what
    /// came of it in a word. Idempotent.
    pub(super) async fn take_capture(
        &self,
        event: Option<&str>,
        capture: &Capture,
    ) -> Result<&'static str, Failure> {
        match self.take_known(event, capture).await? {
            Some(word) => Ok(word),
            None => {
                self.ports.captures.keep_orphan(capture).await?;
                Ok("unknown")
            }
        }
    }

    /// As [`Self::take_capture`], and answers `None` for a capture that no payment explains: nothing was changed.
    pub(super) async fn take_known(
        &self,
        event: Option<&str>,
        capture: &Capture,
    ) -> Result<Option<&'static str>, Failure> {
        let taken = match PaymentId::parse(&capture.payment) {
            Ok(payment) => self.ports.captures.take(event, payment, capture).await?,
            Err(_) => Taken::Unknown,
        };
        match taken {
            Taken::Paid { order, decision } => {
                counter!(ORDERS, "status" => order.state.as_str()).increment(1);
                self.mark(&order, decision).await;
                Ok(Some("paid"))
            }
            Taken::Repeated => Ok(Some("repeated")),
            Taken::Owed(reason) => {
                counter!(REFUNDS_OWED, "reason" => reason.as_str()).increment(1);
                let (payment, amount) = (&capture.payment, capture.amount.amount());
                tracing::error!(payment, amount, reason = reason.as_str(), "a capture is paid back");
                Ok(Some("refund_owed"))
            }
            Taken::Unknown => Ok(None),
        }
    }

    /// Does what the provider's final answer about a payment asks for. Answers whether there was one.
    pub(super) async fn settle_payment(
        &self,
        payment: &Payment,
        standing: Standing,
    ) -> Result<bool, Failure> {
        match standing {
            Standing::Open => Ok(false),
            Standing::Closed => {
                self.ports.payments.advance(payment.request.id, &PaymentStep::Closed).await?;
                Ok(true)
            }
            Standing::Captured(capture) => {
                self.take_capture(None, &capture).await?;
                Ok(true)
            }
        }
    }
}
