//! Tests of the pool against a shop that misbehaves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::header::HeaderValue;

use super::fake::{Does, FakeShop};
use super::{Client, NoReply, Target};

fn client(shop: &FakeShop, connections_max: usize, timeout_ms: u64) -> Client {
    let target = Target { address: shop.address, host: HeaderValue::from_static("shop") };
    Client::new(target, connections_max, 5, Duration::from_millis(timeout_ms))
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let shop = FakeShop::open(Does::Answer(409, "{}")).await;
    let client = client(&shop, 3, 5000);
    client.warm(1).await.expect("opens");
    for _ in 0..10 {
        let reply = client.get("/x", None).await.result.expect("an answer");
        assert_eq!((reply.status, reply.replayed, &reply.body[..]), (409, false, &b"{}"[..]));
    }
    assert_eq!(shop.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced() {
    let shop = FakeShop::open(Does::AnswerAndClose(200, "{}")).await;
    let client = client(&shop, 1, 5000);
    for _ in 0..5 {
        let outcome = client.get("/x", None).await.result;
        // The pool saw the close in time, or the request had already left. Then nobody can know the outcome.
        assert!(matches!(outcome, Ok(_) | Err(NoReply::Unknown("connection_lost"))), "{outcome:?}");
    }
    assert!(shop.connections.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_connection_lost_after_sending_leaves_the_outcome_open() {
    let shop = FakeShop::open(Does::HangUp).await;
    let outcome = client(&shop, 1, 5000).get("/x", None).await.result;
    assert_eq!(outcome.expect_err("no answer"), NoReply::Unknown("connection_lost"));
}

#[tokio::test]
async fn no_answer_in_time_leaves_the_outcome_open_but_no_connection_does_not() {
    let shop = FakeShop::open(Does::Nothing).await;
    let client = client(&shop, 1, 200);
    let (first, second) = tokio::join!(client.get("/x", None), client.get("/x", None));
    assert_eq!(first.result.expect_err("no answer"), NoReply::Unknown("timeout"));
    assert_eq!(second.result.expect_err("no connection"), NoReply::NotSent("no_free_connection"));
}

#[tokio::test]
async fn a_shop_that_is_not_there_was_not_reached() {
    let shop = FakeShop::open(Does::Nothing).await;
    let mut away = client(&shop, 1, 5000);
    // Port 1 of loopback has no listener here.
    away.target.address.set_port(1);
    assert_eq!(away.get("/x", None).await.result.expect_err("refused"), NoReply::NotSent("connect_failed"));
}

#[tokio::test]
async fn only_loopback_is_flooded_without_being_told_to() {
    assert!(Target::resolve("http://192.0.2.1:80", false).await.is_err());
    assert!(Target::resolve("http://192.0.2.1:80", true).await.is_ok());
    assert!(Target::resolve("http://127.0.0.1:8080/", false).await.is_ok());
    assert!(Target::resolve("http://127.0.0.1:8080/path", false).await.is_err());
    assert!(Target::resolve("https://127.0.0.1:8080", false).await.is_err());
}
