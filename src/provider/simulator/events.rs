//! Sends the simulator's events to the shop, signed as Stripe signs them, and as badly as it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::books::Books;
use crate::chance::Chance;
use crate::clock::{Clock, Moment};
use crate::config::Secret;

/// How often events that are due are looked for.
const ROUND: Duration = Duration::from_millis(50);
/// How long the shop may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an event is sent again until the shop takes it.
const RETRIED_FOR: Duration = Duration::from_secs(3_600);
/// The longest pause between two tries.
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Most events that wait. The oldest are forgotten first, as if they were lost.
const WAITING_MAX: usize = 100_000;

/// What goes wrong with events, in per cent of them and in ms. Without faults each is sent once and at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// How many are never sent.
    pub lost_percent: u8,
    /// How many are sent twice.
    pub repeated_percent: u8,
    /// How many are accompanied by one with a wrong signature.
    pub forged_percent: u8,
    /// Each waits for a random time up to this, so that they come in another order.
    pub delay_ms_max: u64,
}

/// Sends the events of the books to one address.
pub struct Events {
    books: Arc<Books>,
    http: reqwest::Client,
    url: String,
    secret: Secret,
    clock: Clock,
    chance: Chance,
    faults: Mutex<Faults>,
    waiting: Mutex<Vec<Waiting>>,
}

#[derive(Clone)]
struct Waiting {
    body: String,
    is_forged: bool,
    first: Moment,
    due: Moment,
    tries: u32,
}

impl Events {
    /// Makes the sender to `url`. It sends nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        books: Arc<Books>,
        (url, secret): (&str, &Secret),
        clock: Clock,
        chance: Chance,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()?;
        let (url, secret) = (url.to_owned(), secret.clone());
        Ok(Self {
            books,
            http,
            url,
            secret,
            clock,
            chance,
            faults: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().expect("no code panics while holding it") = faults;
    }

    /// Sends events until the future is dropped.
    pub async fn run(&self) {
        loop {
            self.run_once().await;
            self.clock.sleep(ROUND).await;
        }
    }

    /// Sends what is due. Answers how many events the shop has taken.
    pub async fn run_once(&self) -> usize {
        self.take_new();
        let now = self.clock.monotonic();
        let due: Vec<Waiting> = {
            let mut waiting = self.waiting.lock().expect("no code panics while holding it");
            let (due, later) = waiting.drain(..).partition(|event| event.due <= now);
            *waiting = later;
            due
        };
        let sent = futures::future::join_all(due.iter().map(|event| self.send(event))).await;
        let mut taken = 0;
        for (event, is_taken) in due.into_iter().zip(sent) {
            taken += usize::from(is_taken);
            if !is_taken && !event.is_forged && now.since(event.first) < RETRIED_FOR {
                let pause = Duration::from_secs(1 << event.tries.min(6)).min(RETRY_LAST);
                self.wait(Waiting { tries: event.tries + 1, due: now + pause, ..event });
            }
        }
        taken
    }

    fn wait(&self, event: Waiting) {
        let mut waiting = self.waiting.lock().expect("no code panics while holding it");
        if waiting.len() == WAITING_MAX {
            waiting.remove(0);
        }
        waiting.push(event);
    }

    fn take_new(&self) {
        let faults = *self.faults.lock().expect("no code panics while holding it");
        let now = self.clock.monotonic();
        let hits = |percent: u8| self.chance.number() % 100 < u64::from(percent);
        for event in self.books.take_events() {
            let copies =
                if hits(faults.lost_percent) { 0 } else { 1 + u32::from(hits(faults.repeated_percent)) };
            let body = event.to_string();
            for _ in 0..copies {
                let delay = Duration::from_millis(self.chance.number() % (faults.delay_ms_max + 1));
                let due = now + delay;
                self.wait(Waiting { body: body.clone(), is_forged: false, first: now, due, tries: 0 });
            }
            if hits(faults.forged_percent) {
                let body = forged(event);
                self.wait(Waiting { body, is_forged: true, first: now, due: now, tries: 0 });
            }
        }
    }

    async fn send(&self, event: &Waiting) -> bool {
        let forger = Secret::new("whsec_of_somebody_else");
        let secret = if event.is_forged { &forger } else { &self.secret };
        let signature = sign(secret, self.clock.now_ms() / 1000, event.body.as_bytes());
        let request = self.http.post(&self.url).header("Content-Type", "application/json");
        let request = request.header("Stripe-Signature", signature).body(event.body.clone());
        match request.send().await {
            Ok(answer) => answer.status().is_success(),
            Err(error) => {
                tracing::debug!(%error, "an event was not taken");
                false
            }
        }
    }
}

/// Makes an event that claims a payment of one unit of money more.
fn forged(mut event: Value) -> String {
    event["id"] = format!("{}_forged", event["id"].as_str().unwrap_or_default()).into();
    let amount = event["data"]["object"]["amount_total"].as_i64().unwrap_or(0);
    event["data"]["object"]["amount_total"] = (amount + 1).into();
    event.to_string()
}

/// Makes the header of a body: `t=…,v1=…`. Source: Stripe, "Verify webhook signatures manually".
pub fn sign(secret: &Secret, at_s: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length");
    mac.update(format!("{at_s}.").as_bytes());
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at_s},v1={hex}")
}
