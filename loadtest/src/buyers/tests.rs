//! Tests of buyers against a shop and a payment provider that are told what to answer.

use hyper::header::HeaderValue;

use super::*;
use crate::client::Target;
use crate::client::fake::{HANG_UP, ScriptedShop};

const READ: &str = "GET /api/v1/orders/ord_1";
const PAY: &str = "POST /api/v1/orders/ord_1/pay";
const CANCEL: &str = "POST /api/v1/orders/ord_1/cancel";
const PRESS: &str = "POST /pay/x";
/// How long buyers try who are to have their answer.
const LONG: Duration = Duration::from_secs(20);
/// What the shop's clock shows. The time of [`waiting`] is over by then, and long past.
const NOW_MS: i64 = 10_000;

fn order(status: &str) -> (u16, String) {
    (200, format!(r#"{{"id":"ord_1","status":"{status}","expires_at":"1970-01-01T00:00:05.000Z"}}"#))
}

fn waiting() -> (u16, String) {
    order("awaiting_payment")
}

fn problem(status: u16, code: &str) -> (u16, String) {
    (status, format!(r#"{{"status":{status},"code":"{code}","retry_after_ms":1}}"#))
}

fn opened(page: &str) -> (u16, String) {
    (201, format!(r#"{{"order_id":"ord_1","payment":{{"status":"open","redirect_url":"{page}"}}}}"#))
}

/// Opens a provider whose page answers a press with a redirect, and shows a title afterwards.
async fn provider(title: &'static str) -> (ScriptedShop, String) {
    let provider = ScriptedShop::open(move |asked, _| match asked {
        PRESS => (303, String::new()),
        _ => (200, format!("<html><h1>{title}</h1></html>")),
    })
    .await;
    let page = format!("http://{}/pay/x", provider.address);
    (provider, page)
}

/// Lets a buyer act on an order, and returns how that ended.
async fn ended(shop: &ScriptedShop, behaviour: Behaviour, patience: Duration) -> Result<Ending, Fault> {
    let target = Target { address: shop.address, host: HeaderValue::from_static("shop") };
    let timeout = Duration::from_secs(5);
    let client = Arc::new(Client::new(target, 4, 2, timeout));
    let pages = Pages::new(Reach { allow_remote: false, connections_max: 4, sources: 2, timeout });
    let clock = ServerClock::new(Instant::now(), NOW_MS);
    let buyers = Buyers::new(client, pages, clock, vec![behaviour], patience);
    let token = HeaderValue::from_static("Bearer t");
    let first_pause = Some(Duration::ZERO);
    let purchase = Purchase { user: 0, token: &token, key: "k", order: "ord_1", first_pause };
    let told = buyers.decided(&purchase).await?;
    buyers.act(&purchase, &told).await
}

#[tokio::test]
async fn a_late_buyer_who_finds_the_page_closed_came_too_late() {
    let (provider, page) = provider("Closed").await;
    let shop = ScriptedShop::open(move |asked, _| match asked {
        PAY => opened(&page),
        _ => waiting(),
    })
    .await;
    assert_eq!(ended(&shop, Behaviour::PayLate, LONG).await, Ok(Ending::TooLate));
    assert_eq!(provider.counts()[PRESS], 1);
}

#[tokio::test]
async fn a_late_buyer_whose_payment_still_counts_has_paid() {
    let (_provider, page) = provider("Paid").await;
    let shop = ScriptedShop::open(move |asked, before| match (asked, before) {
        (PAY, _) => opened(&page),
        (_, 0..=1) => waiting(),
        _ => order("paid"),
    })
    .await;
    assert_eq!(ended(&shop, Behaviour::PayLate, LONG).await, Ok(Ending::Paid));
}

#[tokio::test]
async fn retryable_answers_and_lost_ones_are_repeated() {
    let provider = ScriptedShop::open(|asked, before| match (asked, before) {
        (PRESS, 0) => (503, String::new()),
        (PRESS, 1) => (HANG_UP, String::new()),
        (PRESS, _) => (303, String::new()),
        _ => (200, "<h1>Paid</h1>".to_owned()),
    })
    .await;
    let page = format!("http://{}/pay/x", provider.address);
    let shop = ScriptedShop::open(move |asked, before| match (asked, before) {
        (READ, 0) => problem(503, "dependency_unavailable"),
        (READ, 1) => order("queued"),
        (READ, 2) => waiting(),
        (READ, 3) => (HANG_UP, String::new()),
        (READ, _) => order("paid"),
        (PAY, 0) => problem(503, "draining"),
        (PAY, 1) => problem(504, "outcome_unknown"),
        (PAY, 2) => problem(409, "order_not_decided"),
        (PAY, 3) => problem(429, "rate_limited"),
        (PAY, 4) => (HANG_UP, String::new()),
        _ => opened(&page),
    })
    .await;
    assert_eq!(ended(&shop, Behaviour::Pay, LONG).await, Ok(Ending::Paid));
    assert_eq!((shop.counts()[PAY], shop.counts()[READ]), (6, 5));
    assert_eq!(provider.counts()[PRESS], 3);
}

#[tokio::test]
async fn who_gets_no_answer_in_time_gives_up_with_a_fault() {
    let shop = ScriptedShop::open(|asked, _| match asked {
        PAY => problem(503, "dependency_unavailable"),
        _ => waiting(),
    })
    .await;
    let fault = Fault::new("pay", "dependency_unavailable");
    assert_eq!(ended(&shop, Behaviour::Pay, Duration::from_millis(100)).await, Err(fault));
    let shop = ScriptedShop::open(|_, _| order("queued")).await;
    let fault = Fault::new("decide", "not_in_time");
    assert_eq!(ended(&shop, Behaviour::Pay, Duration::from_millis(100)).await, Err(fault));
}

#[tokio::test]
async fn who_pays_twice_opens_one_payment_and_presses_twice() {
    let (provider, page) = provider("Paid").await;
    let shop = ScriptedShop::open(move |asked, before| match (asked, before) {
        (PAY, _) => opened(&page),
        (_, 0) => waiting(),
        _ => order("paid"),
    })
    .await;
    assert_eq!(ended(&shop, Behaviour::PayTwice, LONG).await, Ok(Ending::Paid));
    assert_eq!((shop.counts()[PAY], provider.counts()[PRESS]), (2, 2));
}

#[tokio::test]
async fn two_pages_for_one_order_are_a_fault() {
    let shop = ScriptedShop::open(|asked, before| match asked {
        PAY => opened(&format!("http://127.0.0.1:1/pay/{before}")),
        _ => waiting(),
    })
    .await;
    let fault = Fault::new("pay", "two_pages");
    assert_eq!(ended(&shop, Behaviour::PayTwice, LONG).await, Err(fault));
}

#[tokio::test]
async fn an_order_that_cannot_be_paid_any_more_is_too_late_and_one_that_should_be_payable_a_fault() {
    let refused = || problem(409, "order_not_payable");
    let expired = ScriptedShop::open(move |asked, before| match (asked, before) {
        (PAY, _) => refused(),
        (_, 0) => waiting(),
        _ => order("expired"),
    })
    .await;
    assert_eq!(ended(&expired, Behaviour::Pay, LONG).await, Ok(Ending::TooLate));
    let overdue = ScriptedShop::open(move |asked, _| if asked == PAY { refused() } else { waiting() }).await;
    assert_eq!(ended(&overdue, Behaviour::Pay, LONG).await, Ok(Ending::TooLate));
    let in_time = r#"{"id":"ord_1","status":"awaiting_payment","expires_at":"1970-01-01T01:00:00.000Z"}"#;
    let payable = ScriptedShop::open(move |asked, _| match asked {
        PAY => refused(),
        _ => (200, in_time.to_owned()),
    })
    .await;
    let fault = Fault::new("pay", "order_not_payable");
    assert_eq!(ended(&payable, Behaviour::Pay, LONG).await, Err(fault));
}

#[tokio::test]
async fn a_cancellation_is_repeated_and_ends_as_the_order_does() {
    let shop = ScriptedShop::open(|asked, before| match (asked, before) {
        (CANCEL, 0) => problem(504, "outcome_unknown"),
        (CANCEL, _) => order("cancelled"),
        _ => waiting(),
    })
    .await;
    assert_eq!(ended(&shop, Behaviour::Cancel, LONG).await, Ok(Ending::Cancelled));
    let late = ScriptedShop::open(|asked, before| match (asked, before) {
        (CANCEL, _) => problem(409, "order_not_cancellable"),
        (_, 0) => waiting(),
        _ => order("expired"),
    })
    .await;
    assert_eq!(ended(&late, Behaviour::Cancel, LONG).await, Ok(Ending::Expired));
}

#[tokio::test]
async fn who_abandons_asks_for_nothing_and_a_rejected_order_is_left() {
    let shop = ScriptedShop::open(|_, _| waiting()).await;
    assert_eq!(ended(&shop, Behaviour::Abandon, LONG).await, Ok(Ending::Abandoned));
    assert_eq!((shop.counts().len(), shop.counts()[READ]), (1, 1));
    let rejected = ScriptedShop::open(|_, _| order("rejected")).await;
    assert_eq!(ended(&rejected, Behaviour::Pay, LONG).await, Ok(Ending::Rejected));
    assert_eq!(rejected.counts().len(), 1);
}
