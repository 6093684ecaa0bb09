//! Reads payments and refunds as both modes keep them: the request to the provider in JSON, and the words of states.

use anyhow::Context;
use serde::Deserialize;

use crate::evidence::{PaymentRow, PaymentState, Place, RefundState};
use crate::ids::OrderId;

/// The word for an orphan that waits for its payment.
const WAITING: &str = "waiting";

#[derive(Deserialize)]
struct Money {
    amount: i64,
    currency: String,
}

#[derive(Deserialize)]
struct Request {
    id: String,
    deployment: String,
    amount: Money,
}

/// Makes a payment of its row: its key, its state and its request as texts, and the provider's ids of its page and of
/// its capture.
pub fn payment(
    place: Place,
    (order, attempt): (OrderId, i64),
    (state, request): (&str, &str),
    (reference, capture): (Option<String>, Option<String>),
) -> anyhow::Result<PaymentRow> {
    let request: Request = serde_json::from_str(request)
        .with_context(|| format!("the request of {} is damaged", order.payment(attempt)))?;
    Ok(PaymentRow {
        place,
        order,
        attempt,
        state: PaymentState::parse(state).with_context(|| format!("unknown payment state {state:?}"))?,
        id: request.id,
        deployment: request.deployment,
        amount: request.amount.amount,
        currency: request.amount.currency,
        reference,
        capture,
    })
}

/// Reads the state of a refund.
pub fn refund_state(word: &str) -> anyhow::Result<RefundState> {
    RefundState::parse(word).with_context(|| format!("unknown refund state {word:?}"))
}

/// Reads the state of an orphan. `None` means that it waits for its payment.
pub fn orphan_state(word: &str) -> anyhow::Result<Option<RefundState>> {
    if word == WAITING { Ok(None) } else { refund_state(word).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_is_read_as_the_shop_keeps_it() {
        let place = Place { server: "a".into(), shard: 1 };
        let order = OrderId::derive(1, 676, "friday", "u-1", "k");
        let request = serde_json::json!({
            "id": order.payment(1), "deployment": "shop", "amount": { "amount": 39_800, "currency": "CNY" },
            "description": "2 × case (friday)", "created_ms": 5, "expires_ms": 9, "return_url": "https://shop.example/",
        })
        .to_string();
        let read = |state, request: &str| payment(place.clone(), (order, 1), (state, request), (None, None));
        let row = read("open", &request).expect("a payment");
        assert_eq!((row.state, row.id.as_str()), (PaymentState::Open, order.payment(1).as_str()));
        assert_eq!((row.amount, row.currency.as_str(), row.deployment.as_str()), (39_800, "CNY", "shop"));
        assert!(read("lost", &request).is_err());
        assert!(read("open", "{}").is_err());
    }

    #[test]
    fn an_orphan_waits_or_is_refunded() {
        assert_eq!(orphan_state("waiting").expect("a word"), None);
        assert_eq!(orphan_state("sent").expect("a word"), Some(RefundState::Sent));
        assert!(orphan_state("gone").is_err());
    }
}
