//! Reads Stripe's objects. Only the members that are needed are read, so that others may come and go.

use serde_json::Value;

use crate::domain::payment::{PaymentPage, REFERENCE_MAX, RefundState, URL_MAX};
use crate::domain::{Capture, Money};
use crate::ports::{Booked, News, OpenPage, ProviderEvent, Standing, StoreError, StoreResult};

/// The name under which an object carries our payment's id.
pub const PAYMENT: &str = "seckill_payment";
/// The name under which an object carries our deployment's name.
pub const DEPLOYMENT: &str = "seckill_deployment";
/// Most bytes of the words for what somebody did at the provider.
const KIND_MAX: usize = 32;
const CONTEXT: &str = "read the payment provider's answer";

/// Reads a member that is a text.
pub fn text<'a>(object: &'a Value, member: &str) -> Option<&'a str> {
    object[member].as_str()
}

fn broken(detail: &str) -> StoreError {
    StoreError::broken(CONTEXT, detail)
}

fn money(object: &Value, amount: &str) -> StoreResult<Money> {
    let currency = text(object, "currency").unwrap_or_default().to_ascii_uppercase();
    let amount = object[amount].as_i64().ok_or_else(|| broken("an object without an amount"))?;
    Money::new(amount, &currency).map_err(|error| StoreError::broken(CONTEXT, error.to_string()))
}

fn is_reference(id: &str) -> bool {
    (1..=REFERENCE_MAX).contains(&id.len())
}

fn named<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"][name].as_str().filter(|text| text.len() <= REFERENCE_MAX)
}

/// Answers the deployment that an object names.
pub fn deployment_of(object: &Value) -> Option<String> {
    named(object, DEPLOYMENT).map(str::to_owned)
}

/// Reads what a Checkout session says of its payment. A session that is complete may be unpaid: then the money may
/// still come, or not.
///
/// # Errors
/// When a paid session does not say what was paid.
pub fn standing(session: &Value) -> StoreResult<Standing> {
    match (text(session, "status"), text(session, "payment_status")) {
        (Some("expired"), _) => Ok(Standing::Closed),
        (Some("complete"), Some("paid")) => capture(session).map(Standing::Captured),
        (Some("open" | "complete"), _) => Ok(Standing::Open),
        _ => Err(broken("a session without a status")),
    }
}

fn capture(session: &Value) -> StoreResult<Capture> {
    let intent = &session["payment_intent"];
    // It is an object when it was expanded.
    let reference = intent.as_str().or_else(|| intent["id"].as_str()).filter(|id| is_reference(id));
    Ok(Capture {
        payment: named(session, PAYMENT).unwrap_or_default().to_owned(),
        amount: money(session, "amount_total")?,
        reference: reference.ok_or_else(|| broken("a paid session without a payment intent"))?.to_owned(),
    })
}

/// Reads where a refund is.
///
/// # Errors
/// When it does not say.
pub fn refund_state(refund: &Value) -> StoreResult<RefundState> {
    match text(refund, "status") {
        Some("succeeded") => Ok(RefundState::Done),
        Some("pending" | "requires_action") => Ok(RefundState::Sent),
        Some("failed" | "canceled") => Ok(RefundState::Failed),
        _ => Err(broken("a refund without a status")),
    }
}

/// Reads a captured payment intent as an entry of the provider's books.
///
/// # Errors
/// When it does not say what was captured.
pub fn booked(intent: &Value) -> StoreResult<Booked> {
    let reference = text(intent, "id").filter(|id| is_reference(id));
    Ok(Booked {
        capture: Capture {
            payment: named(intent, PAYMENT).unwrap_or_default().to_owned(),
            amount: money(intent, "amount_received")?,
            reference: reference.ok_or_else(|| broken("a payment intent without an id"))?.to_owned(),
        },
        deployment: deployment_of(intent),
        refunded: intent["latest_charge"]["amount_refunded"].as_i64().unwrap_or(0),
    })
}

/// Reads an open session as a page on which a payment can be made; `None` for any other, and for one without an
/// address.
pub fn open_page(session: &Value) -> Option<OpenPage> {
    if text(session, "status") != Some("open") {
        return None;
    }
    let reference = text(session, "id").filter(|id| is_reference(id))?;
    let url = text(session, "url").filter(|url| url.len() <= URL_MAX)?;
    Some(OpenPage {
        payment: named(session, PAYMENT)?.to_owned(),
        deployment: deployment_of(session),
        page: PaymentPage { reference: reference.to_owned(), url: url.to_owned() },
    })
}

/// Reads an event; `None` for an object that is none.
pub fn event(event: &Value) -> Option<ProviderEvent> {
    let id = text(event, "id").filter(|id| is_reference(id))?;
    let (kind, object) = (text(event, "type")?, &event["data"]["object"]);
    let news = match kind {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            match standing(object).ok()? {
                Standing::Captured(capture) => News::Captured(capture),
                Standing::Open | Standing::Closed => News::Other,
            }
        }
        "checkout.session.expired" | "checkout.session.async_payment_failed" => {
            News::Closed(named(object, PAYMENT).unwrap_or_default().to_owned())
        }
        "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
            match named(object, PAYMENT) {
                Some(key) => {
                    News::Refund { key: key.to_owned(), kind: word(kind), capture: capture_of(object) }
                }
                None => News::Attention { kind: word(kind), capture: capture_of(object) },
            }
        }
        kind if kind.starts_with("charge.dispute.") => {
            News::Attention { kind: word(kind), capture: capture_of(object) }
        }
        _ => News::Other,
    };
    Some(ProviderEvent {
        id: id.to_owned(),
        is_live: event["livemode"].as_bool()?,
        deployment: deployment_of(object),
        news,
    })
}

/// Answers the words for what was done, cut to what a row can hold.
fn word(kind: &str) -> String {
    kind.chars().filter(char::is_ascii).take(KIND_MAX).collect()
}

/// Answers the capture that an object is about. It goes into an address, so it is only what an id is made of.
fn capture_of(object: &Value) -> Option<String> {
    let is_id = |id: &&str| is_reference(id) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    text(object, "payment_intent").filter(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(status: &str, payment_status: &str) -> Value {
        json!({
            "id": "cs_1", "status": status, "payment_status": payment_status, "amount_total": 19_900,
            "currency": "cny", "payment_intent": "pi_1", "metadata": { PAYMENT: "pay_x_1", DEPLOYMENT: "shop" },
        })
    }

    #[test]
    fn a_complete_session_that_is_not_paid_is_no_capture() {
        assert_eq!(standing(&session("complete", "unpaid")).expect("read"), Standing::Open);
        assert_eq!(standing(&session("open", "unpaid")).expect("read"), Standing::Open);
        assert_eq!(standing(&session("expired", "unpaid")).expect("read"), Standing::Closed);
        let Standing::Captured(capture) = standing(&session("complete", "paid")).expect("read") else {
            panic!("a paid session is a capture")
        };
        assert_eq!((capture.payment.as_str(), capture.reference.as_str()), ("pay_x_1", "pi_1"));
        assert_eq!(capture.amount, Money::new(19_900, "CNY").expect("money"));
    }

    #[test]
    fn an_event_tells_only_what_it_says() {
        let of = |kind: &str, object: Value| {
            event(&json!({ "id": "evt_1", "type": kind, "livemode": false, "data": { "object": object } }))
        };
        let news = |kind: &str, object: Value| of(kind, object).expect("an event").news;
        assert_eq!(news("checkout.session.completed", session("complete", "unpaid")), News::Other);
        assert!(matches!(news("checkout.session.completed", session("complete", "paid")), News::Captured(_)));
        assert_eq!(
            news("checkout.session.expired", session("expired", "unpaid")),
            News::Closed("pay_x_1".to_owned())
        );
        let refund = |status: &str| json!({ "status": status, "metadata": { PAYMENT: "pay_x_1" } });
        let (key, kind) = ("pay_x_1".to_owned(), "refund.failed".to_owned());
        assert_eq!(news("refund.failed", refund("failed")), News::Refund { key, kind, capture: None });
        let by_hand = json!({ "status": "succeeded", "metadata": {}, "payment_intent": "pi_1" });
        let attention = |kind: &str, capture: Option<&str>| News::Attention {
            kind: kind.to_owned(),
            capture: capture.map(str::to_owned),
        };
        assert_eq!(news("refund.created", by_hand), attention("refund.created", Some("pi_1")));
        let dispute = json!({ "payment_intent": "../../v1/accounts" });
        assert_eq!(news("charge.dispute.created", dispute), attention("charge.dispute.created", None));
        assert_eq!(news("invoice.paid", json!({})), News::Other);
        assert_eq!(of("checkout.session.completed", json!({})), None, "a session that says nothing");
        assert_eq!(event(&json!({ "id": "evt_1" })), None);
        assert_eq!(event(&json!([])), None);
    }
}
