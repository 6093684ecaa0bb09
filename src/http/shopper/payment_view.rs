//! Payments as their buyers see them.

use serde::Serialize;

use super::rfc3339;
use crate::domain::payment::PaymentState;
use crate::domain::{Money, Payment};
use utoipa::ToSchema;

/// A payment as its buyer sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Payment)]
pub struct PaymentView<'a> {
    /// The payment.
    id: String,
    /// How it stands: opening, open, closing, closed or captured.
    status: &'static str,
    /// What is to be paid.
    amount: &'a Money,
    /// Where the buyer pays, while that is possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_url: Option<&'a str>,
    /// Until when it can be paid.
    #[schema(value_type = String, format = DateTime)]
    expires_at: String,
    /// What is paid back of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<RefundView<'a>>,
    /// What somebody did at the provider itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<NoticeView<'a>>,
}

/// What somebody did at the provider itself.
#[derive(Serialize, ToSchema)]
#[schema(as = PaymentNotice)]
struct NoticeView<'a> {
    /// The provider's word.
    kind: &'a str,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    at: String,
}

/// A refund as its buyer sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Refund)]
struct RefundView<'a> {
    /// What is paid back.
    amount: &'a Money,
    /// How it stands: owed, sent, done, failed or settled.
    status: &'static str,
    /// Why: order_ended, paid_before, other_amount or operator.
    reason: &'static str,
}

/// Makes a payment's view.
pub fn payment_view(payment: &Payment) -> PaymentView<'_> {
    let page = payment.page.as_ref().filter(|_| payment.state == PaymentState::Open);
    PaymentView {
        id: payment.request.id.to_string(),
        status: payment.state.as_str(),
        amount: &payment.request.amount,
        redirect_url: page.map(|page| page.url.as_str()),
        // The page may be open for longer than the order waits.
        expires_at: rfc3339(payment.request.expires_ms.min(payment.request.due_ms)),
        refund: payment.refund.as_ref().map(|refund| RefundView {
            amount: &refund.amount,
            status: refund.state.as_str(),
            reason: refund.reason.as_str(),
        }),
        notices: payment
            .notices
            .iter()
            .map(|notice| NoticeView { kind: &notice.kind, at: rfc3339(notice.at_ms) })
            .collect(),
    }
}
