//! Tests of the requests that the payment client sends, against Stripe's own mock, which checks them against Stripe's
//! description of its API. `scripts/stack install stripe-mock` installs it.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use seckill::clock::Clock;
use seckill::config::Secret;
use seckill::domain::payment::{PaymentPage, PaymentState, RefundKey, RefundReason, RefundState};
use seckill::domain::{Money, Month, OrderId, Payment, PaymentId, PaymentRequest, Refund, Shard};
use seckill::ports::{PaymentProvider, ProviderBooks};
use seckill::provider::stripe::Stripe;

use crate::client::call;
use crate::harness::eventually;
use crate::harness::ports::free_address;

/// A running mock.
struct Mock {
    process: Child,
    address: SocketAddr,
    stripe: Stripe,
}

impl Drop for Mock {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn mock() -> Mock {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/dist/go/stripe-mock");
    assert!(path.exists(), "stripe-mock is missing: run `scripts/stack install stripe-mock`");
    let address = free_address();
    let mut command = Command::new(path);
    command.args(["-http-addr", &address.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().expect("started");
    eventually("the mock listens", async || {
        let ended = process.try_wait().expect("a state");
        assert!(ended.is_none(), "the mock has ended: {ended:?}");
        TcpStream::connect(address).is_ok()
    })
    .await;
    let api = (format!("http://{address}"), Secret::new("sk_test_123456789"));
    let stripe = Stripe::new((&api.0, &api.1), "shop", 10_000, Clock::System).expect("a client");
    Mock { process, address, stripe }
}

fn request() -> PaymentRequest {
    let now_ms = Clock::System.now_ms();
    let order = OrderId::first_of(Shard::new(1), Month::of_ms(now_ms));
    PaymentRequest {
        id: PaymentId { order, attempt: 1 },
        deployment: "shop".to_owned(),
        amount: Money::new(19_900, "CNY").expect("money"),
        description: "1 × phone-x (friday-drop)".to_owned(),
        created_ms: now_ms,
        due_ms: now_ms + 60_000,
        expires_ms: now_ms + 3_600_000,
        return_url: "https://shop.example/orders/1?a=b&c=d".to_owned(),
    }
}

#[tokio::test]
async fn stripe_takes_every_request_of_the_client() {
    let mock = mock().await;
    let page = PaymentPage { reference: "cs_test_1".to_owned(), url: "https://pay.example".to_owned() };
    let payment = Payment {
        state: PaymentState::Open,
        request: request(),
        page: Some(page),
        refund: None,
        notices: Vec::new(),
    };
    // The mock answers the same objects to everybody, so what they say is not looked at.
    let opened = mock.stripe.open(&payment.request).await;
    assert!(opened.is_ok() || is_about_the_answer(&opened), "{opened:?}");
    let standing = mock.stripe.standing(&payment).await;
    assert!(standing.is_ok() || is_about_the_answer(&standing), "{standing:?}");
    let closed = mock.stripe.close(&payment).await;
    assert!(closed.is_ok() || is_about_the_answer(&closed), "{closed:?}");
    for state in [RefundState::Owed, RefundState::Sent] {
        let refund = Refund {
            key: RefundKey::Payment(payment.request.id),
            amount: payment.request.amount.clone(),
            capture: "pi_1".to_owned(),
            reason: RefundReason::Operator,
            state,
            tries: 0,
        };
        let refunded = mock.stripe.refund(&refund).await.expect("a refund");
        assert_ne!(refunded, RefundState::Failed, "a request that Stripe refuses is a failed refund");
    }
    mock.stripe.captures(payment.request.created_ms - 86_400_000, None).await.expect("a list");
    mock.stripe.pages(payment.request.created_ms - 86_400_000, None).await.expect("a list");
}

/// Answers whether a failure is about what the mock said, and not about what it was asked.
fn is_about_the_answer<T>(result: &Result<T, seckill::ports::StoreError>) -> bool {
    result.as_ref().err().is_some_and(|error| {
        error.context == "read the payment provider's answer"
            || error.source.to_string().contains("no usable id or url")
    })
}

#[tokio::test]
async fn the_mock_refuses_what_stripe_does_not_know() {
    let mock = mock().await;
    let headers = [
        ("Authorization", "Bearer sk_test_123456789"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let refused = call(mock.address, "POST", "/v1/checkout/sessions", &headers, "moed=payment").await;
    assert_eq!(refused.status, 400, "{refused:?}");
}
