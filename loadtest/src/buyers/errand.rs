//! The calls of one buyer to the shop about one order. A call whose answer is retryable is repeated after the time that
//! the answer names, until the buyer gives up.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};

use super::ending::{Ending, Fault};
use super::told::Told;
use crate::client::{Client, NoReply};
use crate::opening::{self, ServerClock};

/// The pause before a call is repeated when the answer names none.
const PAUSE: Duration = Duration::from_millis(200);
/// The first pause between two looks at an order that shall be paid; each pause is twice the one before.
const WATCH_FIRST: Duration = Duration::from_millis(250);
/// The longest pause between two such looks.
const WATCH_LAST: Duration = Duration::from_secs(2);
/// How far the clocks may differ of those who say when an order is due, and who decide that it is overdue.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// An accepted order and its buyer.
#[derive(Debug)]
pub struct Purchase<'a> {
    /// The number of the user.
    pub user: u32,
    /// The user's `Authorization` header.
    pub token: &'a HeaderValue,
    /// The idempotency key with which the user bought.
    pub key: &'a str,
    /// The order's id.
    pub order: &'a str,
    /// After which time the shop wants to be asked about the order.
    pub first_pause: Option<Duration>,
}

/// A buyer who is about to do something with an order.
pub struct Errand<'a> {
    /// The connections to the shop.
    pub client: &'a Client,
    /// The shop's clock.
    pub clock: ServerClock,
    /// The order and its buyer.
    pub purchase: &'a Purchase<'a>,
    /// When the buyer gives up.
    pub until: Instant,
}

/// The answer to a buyer who wants to pay.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The payment page's address.
    Page(String),
    /// There is nothing to be paid.
    Ended(Ending),
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Read,
    Pay,
    Cancel,
}

impl Errand<'_> {
    /// Asks as often as the shop says, until the order is decided.
    ///
    /// # Errors
    /// When it is not decided before the buyer gives up.
    pub async fn decided(&self) -> Result<Told, Fault> {
        let mut pause = self.purchase.first_pause.unwrap_or(PAUSE);
        loop {
            tokio::time::sleep(pause).await;
            let told = self.call(Call::Read).await;
            if told.http_status == 200 && !told.is_pending() {
                return Ok(told);
            }
            pause = told.pause.unwrap_or(PAUSE);
            if !self.has_time(pause) {
                let why = if told.is_pending() { "not_in_time".to_owned() } else { told.why() };
                return Err(Fault::new("decide", why));
            }
        }
    }

    /// Opens a payment, or finds the one that is open.
    ///
    /// # Errors
    /// When the shop does not answer in time, or answers what it should not.
    pub async fn open(&self) -> Result<Opened, Fault> {
        let told = self.ask("pay", Call::Pay).await?;
        if told.is_problem("order_not_payable") {
            return self.not_payable().await.map(Opened::Ended);
        }
        if !matches!(told.http_status, 200 | 201) {
            return Err(Fault::new("pay", told.why()));
        }
        // An order that costs nothing is paid with this call, and has no page.
        let ending = told.ending().map(Opened::Ended);
        told.page.map(Opened::Page).or(ending).ok_or_else(|| Fault::new("pay", "no_page"))
    }

    /// Finds out why an order cannot be paid.
    async fn not_payable(&self) -> Result<Ending, Fault> {
        let told = self.ask("pay", Call::Read).await?;
        match told.ending() {
            Some(Ending::Expired | Ending::Cancelled) => Ok(Ending::TooLate),
            Some(ending) => Ok(ending),
            None if self.is_overdue(&told) => Ok(Ending::TooLate),
            None => Err(Fault::new("pay", "order_not_payable")),
        }
    }

    fn is_overdue(&self, told: &Told) -> bool {
        let expires_ms = told.expires_at.as_deref().and_then(|text| opening::ms_of(text).ok());
        expires_ms.is_some_and(|ms| self.clock.instant_of(ms) <= Instant::now() + CLOCKS_DIFFER)
    }

    /// Cancels the order.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn cancel(&self) -> Result<Ending, Fault> {
        let mut told = self.ask("cancel", Call::Cancel).await?;
        if told.is_problem("order_not_cancellable") {
            told = self.ask("cancel", Call::Read).await?;
        }
        told.ending().ok_or_else(|| Fault::new("cancel", told.why()))
    }

    /// Looks at the order until it has ended.
    ///
    /// # Errors
    /// As [`Self::open`], and when the order has not ended before the buyer gives up.
    pub async fn ended(&self) -> Result<Ending, Fault> {
        let mut pause = WATCH_FIRST;
        loop {
            let told = self.ask("watch", Call::Read).await?;
            if told.http_status != 200 {
                return Err(Fault::new("watch", told.why()));
            }
            if let Some(ending) = told.ending() {
                return Ok(ending);
            }
            if !self.has_time(pause) {
                return Err(Fault::new("watch", "not_in_time"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WATCH_LAST);
        }
    }

    /// Calls again and again, until the answer is not a retryable one.
    async fn ask(&self, step: &'static str, call: Call) -> Result<Told, Fault> {
        loop {
            let told = self.call(call).await;
            if !told.is_retryable() {
                return Ok(told);
            }
            let pause = told.pause.unwrap_or(PAUSE);
            if !self.has_time(pause) {
                return Err(Fault::new(step, told.why()));
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn has_time(&self, pause: Duration) -> bool {
        Instant::now() + pause < self.until
    }

    async fn call(&self, call: Call) -> Told {
        match self.request(call) {
            Ok(request) => Told::of(self.client.send(request).await.result),
            Err(_) => Told::of(Err(NoReply::NotSent("invalid_request"))),
        }
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let Purchase { token, key, order, .. } = self.purchase;
        let path = format!("/api/v1/orders/{order}");
        let request = match call {
            Call::Read => Request::get(path),
            Call::Pay => Request::post(path + "/pay").header("idempotency-key", format!("{key}-pay")),
            Call::Cancel => {
                Request::post(path + "/cancel").header("idempotency-key", format!("{key}-cancel"))
            }
        };
        request.header(HOST, self.client.host()).header(AUTHORIZATION, *token).body(Full::default())
    }
}
