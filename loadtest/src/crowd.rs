//! The crowd. It sends every click of a schedule at its intended time, whatever became of the others.
//!
//! This is an open model. Latency counts from the intended time, so a slow server cannot slow the arrivals down and
//! hide its own queue. How late the generator itself was is kept apart as slip. Tokens, keys and bodies are made before
//! the start. During the run a click only puts shared handles together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;

use crate::client::{Client, NoReply, Reply};
use crate::journal::{Class, Entry};
use crate::progress::Counters;
use crate::schedule::{Click, Schedule};
use crate::token::Mint;

/// The shortest sleep of the scheduling thread. Clicks that fall due within one sleep are sent together, late by at
/// most this much.
const TICK: Duration = Duration::from_micros(200);
/// How long a buyer polls an order before giving up.
const POLLING_MAX: Duration = Duration::from_secs(30);
const POLL_FIRST: Duration = Duration::from_millis(200);

/// What everybody buys.
#[derive(Debug, Clone)]
pub struct Basket {
    /// The sale's id.
    pub sale: String,
    /// The SKU.
    pub sku: String,
    /// Units per order.
    pub quantity: u32,
}

/// A crowd that is ready to go.
pub struct Crowd {
    basket: Basket,
    schedule: Schedule,
    seed: u64,
    client: Arc<Client>,
    uri: Uri,
    body: Bytes,
    /// The `Authorization` headers, by user number.
    tokens: Vec<HeaderValue>,
    /// The idempotency keys, by key number.
    keys: Vec<HeaderValue>,
    /// Whether accepted buyers ask until their order is decided.
    polls: bool,
    /// Counts what was sent and answered, for the display.
    pub counters: Counters,
}

/// The outcome of one click.
#[derive(Debug)]
struct Outcome {
    click: usize,
    slip: Duration,
    waited: Duration,
    latency: Duration,
    answer: Answer,
}

/// The parts of an answer that matter.
#[derive(Debug)]
struct Answer {
    http_status: u16,
    class: Class,
    code: Option<String>,
    order_id: Option<String>,
    order_status: Option<String>,
    accepted_at: Option<String>,
    poll_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Body {
    id: Option<String>,
    /// The order's state, or the number of a problem's HTTP status.
    status: Option<Value>,
    code: Option<String>,
    accepted_at: Option<String>,
    poll_after_ms: Option<u64>,
}

enum Event {
    Answered(Outcome),
    Decided { after: Duration },
    Undecided,
}

/// What a run leaves.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Every click and its answer, in the order of the schedule.
    pub entries: Vec<Entry>,
    /// With polling: from the intended click until its buyer saw the order decided, in µs.
    pub decided_us: Vec<u64>,
    /// With polling: buyers who gave up asking.
    pub undecided: u64,
    /// From the start to the last answer.
    pub took: Duration,
}

/// Makes the name of a user.
pub fn user_name(seed: u64, user: u32) -> String {
    format!("u{seed}-{user}")
}

fn key_name(seed: u64, key: u32) -> String {
    format!("k{seed}-{key}")
}

impl Crowd {
    /// Makes the tokens, keys and bodies that the run will need. This takes some µs per user.
    ///
    /// # Errors
    /// When a token cannot be signed or the sale's id is not fit for a path.
    pub fn gather(
        basket: Basket,
        schedule: Schedule,
        seed: u64,
        client: Arc<Client>,
        mint: &Mint,
        polls: bool,
    ) -> anyhow::Result<Self> {
        let uri = format!("/api/v1/sales/{}/orders", basket.sale);
        let body = serde_json::json!({ "sku_id": basket.sku, "quantity": basket.quantity });
        let tokens = (0..schedule.users).map(|user| mint.bearer(&user_name(seed, user)));
        let keys =
            (0..schedule.keys).map(|key| HeaderValue::from_str(&key_name(seed, key)).map_err(Into::into));
        Ok(Self {
            uri: uri.parse().with_context(|| format!("{} is not a sale id", basket.sale))?,
            body: body.to_string().into(),
            tokens: tokens.collect::<anyhow::Result<_>>()?,
            keys: keys.collect::<anyhow::Result<_>>()?,
            counters: Counters::default(),
            basket,
            schedule,
            seed,
            client,
            polls,
        })
    }

    /// Returns the sale's id.
    pub fn sale(&self) -> &str {
        &self.basket.sale
    }

    /// Returns the schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Runs the schedule from `start` on and waits for every answer.
    ///
    /// # Errors
    /// When the scheduling thread died.
    pub async fn go(self: &Arc<Self>, start: Instant) -> anyhow::Result<Harvest> {
        let (events, mut inbox) = unbounded_channel();
        let tasks = TaskTracker::new();
        let runtime = tokio::runtime::Handle::current();
        let crowd = self.clone();
        // The clicks are scheduled on a thread of their own. The runtime's timer counts whole milliseconds, and it
        // would wait behind the runtime's work.
        let scheduling = tokio::task::spawn_blocking(move || {
            for (number, click) in crowd.schedule.clicks.iter().enumerate() {
                let due = start + Duration::from_micros(click.at_us);
                sleep_until(due);
                crowd.counters.sent.fetch_add(1, Ordering::Relaxed);
                tasks.spawn_on(crowd.clone().click(number, *click, due, events.clone()), &runtime);
            }
        });
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        outcomes.resize_with(self.schedule.clicks.len(), || None);
        let mut harvest = Harvest::default();
        while let Some(event) = inbox.recv().await {
            match event {
                Event::Answered(outcome) => {
                    harvest.took = start.elapsed();
                    let slot = outcome.click;
                    outcomes[slot] = Some(outcome);
                }
                Event::Decided { after } => harvest.decided_us.push(micros(after)),
                Event::Undecided => harvest.undecided += 1,
            }
        }
        scheduling.await.context("the scheduling thread died")?;
        let clicks = self.schedule.clicks.iter().zip(outcomes);
        harvest.entries = clicks.map(|(click, outcome)| self.entry(click, outcome)).collect();
        Ok(harvest)
    }

    async fn click(
        self: Arc<Self>,
        number: usize,
        click: Click,
        due: Instant,
        events: UnboundedSender<Event>,
    ) {
        let slip = due.elapsed();
        let (waited, answer) = match self.request(click) {
            Ok(request) => {
                let exchange = self.client.send(request).await;
                (exchange.waited, Answer::of(exchange.result))
            }
            Err(_) => (Duration::ZERO, Answer::of(Err(NoReply::NotSent("invalid_request")))),
        };
        self.counters.count(answer.class);
        let polling = (self.polls && answer.class == Class::Won)
            .then(|| (answer.order_id.clone(), answer.poll_after_ms));
        let outcome = Outcome { click: number, slip, waited, latency: due.elapsed(), answer };
        // The send cannot fail, because the receiver lives until the last sender is gone.
        let _ = events.send(Event::Answered(outcome));
        if let Some((Some(order), poll_after_ms)) = polling {
            let event = match self.poll(click, &order, poll_after_ms).await {
                true => Event::Decided { after: due.elapsed() },
                false => Event::Undecided,
            };
            let _ = events.send(event);
        }
    }

    fn request(&self, click: Click) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let [user, key] = [click.user, click.key].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Request::post(self.uri.clone())
            .header(HOST, self.client.host())
            .header(AUTHORIZATION, &self.tokens[user])
            .header("idempotency-key", &self.keys[key])
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(self.body.clone()))
    }

    /// Polls an order as often as the server says, until it is decided. Returns `false` when the buyer gives up.
    async fn poll(&self, click: Click, order: &str, first_ms: Option<u64>) -> bool {
        let user = usize::try_from(click.user).unwrap_or(usize::MAX);
        let path = format!("/api/v1/orders/{order}");
        let began = Instant::now();
        let mut pause = first_ms.map_or(POLL_FIRST, Duration::from_millis);
        while began.elapsed() < POLLING_MAX {
            tokio::time::sleep(pause).await;
            let answer = Answer::of(self.client.get(&path, Some(&self.tokens[user])).await.result);
            let is_pending = matches!(answer.order_status.as_deref(), Some("queued" | "reserved"));
            if answer.http_status == 200 && !is_pending {
                return true;
            }
            pause = answer.poll_after_ms.map_or(POLL_FIRST, Duration::from_millis);
        }
        false
    }

    fn entry(&self, click: &Click, outcome: Option<Outcome>) -> Entry {
        let (slip, waited, latency, answer) = match outcome {
            Some(outcome) => (outcome.slip, outcome.waited, outcome.latency, outcome.answer),
            // Only a panic leaves no outcome. The request may have been sent.
            None => {
                (Duration::ZERO, Duration::ZERO, Duration::ZERO, Answer::of(Err(NoReply::Unknown("lost"))))
            }
        };
        Entry {
            user: user_name(self.seed, click.user),
            sale: self.basket.sale.clone(),
            sku: self.basket.sku.clone(),
            quantity: self.basket.quantity,
            key: key_name(self.seed, click.key),
            kind: click.kind,
            at_us: click.at_us,
            slip_us: micros(slip),
            wait_us: micros(waited),
            latency_us: micros(latency),
            http_status: answer.http_status,
            code: answer.code,
            order_id: answer.order_id,
            order_status: answer.order_status,
            accepted_at: answer.accepted_at,
            class: answer.class,
        }
    }
}

impl Answer {
    fn of(result: Result<Reply, NoReply>) -> Self {
        let without = |class, why: &str| Self {
            http_status: 0,
            class,
            code: Some(why.to_owned()),
            order_id: None,
            order_status: None,
            accepted_at: None,
            poll_after_ms: None,
        };
        let reply = match result {
            Ok(reply) => reply,
            Err(NoReply::NotSent(why)) => return without(Class::Error, why),
            Err(NoReply::Unknown(why)) => return without(Class::Unknown, why),
        };
        let Ok(body) = serde_json::from_slice::<Body>(&reply.body) else {
            return Self { http_status: reply.status, ..without(Class::Error, "unreadable_body") };
        };
        Self {
            http_status: reply.status,
            class: Class::of_answer(reply.status, body.code.as_deref(), reply.replayed),
            code: body.code,
            order_id: body.id,
            order_status: body.status.and_then(|status| status.as_str().map(str::to_owned)),
            accepted_at: body.accepted_at,
            poll_after_ms: body.poll_after_ms,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn sleep_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.max(TICK));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::client::Target;
    use crate::client::fake::{Does, FakeShop};
    use crate::config::TokenConfig;
    use crate::schedule::{Shape, Wish};

    fn reply(status: u16, body: &'static str, replayed: bool) -> Answer {
        Answer::of(Ok(Reply { status, replayed, body: Bytes::from_static(body.as_bytes()) }))
    }

    #[test]
    fn an_accepted_answer_carries_its_order() {
        let answer =
            reply(202, r#"{"id":"ord_1","status":"queued","final":false,"poll_after_ms":40}"#, false);
        assert_eq!(answer.class, Class::Won);
        assert_eq!(answer.order_id.as_deref(), Some("ord_1"));
        assert_eq!((answer.order_status.as_deref(), answer.poll_after_ms), (Some("queued"), Some(40)));
    }

    #[test]
    fn a_problem_carries_its_code_and_a_broken_body_is_an_error() {
        let answer = reply(409, r#"{"status":409,"code":"sold_out"}"#, false);
        assert_eq!((answer.class, answer.code.as_deref()), (Class::SoldOut, Some("sold_out")));
        assert_eq!(answer.order_status, None);
        assert_eq!(reply(202, "<html>", false).class, Class::Error);
    }

    #[test]
    fn no_answer_is_an_error_only_when_nothing_was_sent() {
        assert_eq!(Answer::of(Err(NoReply::NotSent("connect_failed"))).class, Class::Error);
        assert_eq!(Answer::of(Err(NoReply::Unknown("timeout"))).class, Class::Unknown);
    }

    #[tokio::test]
    async fn every_click_of_the_schedule_has_its_entry_and_none_is_early() {
        let shop = FakeShop::open(Does::Answer(202, r#"{"id":"ord_1","status":"queued"}"#)).await;
        let target = Target { address: shop.address, host: HeaderValue::from_static("shop") };
        let client = Arc::new(Client::new(target, 20, 4, Duration::from_secs(5)));
        let wish = Wish {
            shape: Shape::Constant { per_s: 500, duration_s: 1 },
            users: 40,
            same_key_percent: 20.0,
            new_key_percent: 0.0,
            seed: 3,
        };
        let config = TokenConfig {
            secret: "s".repeat(32),
            kid: String::new(),
            audience: "seckill".to_owned(),
            issuer: String::new(),
        };
        let mint = Mint::new(&config, 0).expect("a secret");
        let basket = Basket { sale: "s".to_owned(), sku: "x".to_owned(), quantity: 2 };
        let crowd = Crowd::gather(basket, Schedule::new(&wish), 3, client, &mint, false).expect("gathers");
        let crowd = Arc::new(crowd);
        let harvest = crowd.go(Instant::now()).await.expect("runs");
        assert_eq!(harvest.entries.len(), crowd.schedule().clicks.len());
        assert!(harvest.entries.iter().all(|entry| entry.class == Class::Won && entry.quantity == 2));
        assert!(harvest.took >= Duration::from_micros(crowd.schedule().span_us()));
        let users: HashSet<&str> = harvest.entries.iter().map(|entry| entry.user.as_str()).collect();
        assert_eq!(users.len(), 40);
        assert!(harvest.entries.iter().all(|entry| entry.latency_us >= entry.slip_us + entry.wait_us));
    }
}
