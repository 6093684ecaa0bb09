//! The crowd. It sends every click of a schedule at its intended time, whatever became of the others.
//!
//! This is an open model. Latency counts from the intended time, so a slow server cannot slow the arrivals down and
//! hide its own queue. How late the generator itself was is kept apart as slip. Tokens, keys and bodies are made before
//! the start. During the run a click only puts shared handles together.
//!
//! What buyers do afterwards is no open model. They wait for what the shop answers, as buyers do, and their calls are
//! no part of the latencies.

mod answer;
mod harvest;
mod second_chance;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;

pub use harvest::{Aftermath, Harvest};
pub use second_chance::{CLICKS_MAX, SecondChance};

use crate::buyers::{Buyers, Ending, Fault, Purchase};
use crate::client::{Client, NoReply};
use crate::ids::{key_name, user_name};
use crate::journal::{Class, Entry, Kind};
use crate::progress::Counters;
use crate::purchase_tokens::PurchaseTokens;
use crate::schedule::{Click, Schedule};
use crate::token::Mint;
use answer::Answer;
use harvest::Happened;
use second_chance::Turn;

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
    /// The shop's own name for each order.
    pub reference: Option<String>,
}

/// What buyers do beside the clicks of the schedule.
#[derive(Default)]
pub struct Conduct {
    /// Whether accepted buyers ask until their order is decided.
    pub polls: bool,
    /// What accepted buyers do with their orders. `None` means that they do nothing.
    pub buyers: Option<Buyers>,
    /// Until when refused buyers come again. `None` means that they do not.
    pub second_chance: Option<SecondChance>,
}

/// A crowd that is ready to go.
pub struct Crowd {
    basket: Basket,
    schedule: Schedule,
    seed: u64,
    client: Arc<Client>,
    uri: Uri,
    body: Bytes,
    /// The purchase tokens, when the sale asks for them.
    purchase_tokens: Option<PurchaseTokens>,
    /// The `Authorization` headers, by user number.
    tokens: Vec<HeaderValue>,
    /// The idempotency keys, by key number.
    keys: Vec<HeaderValue>,
    conduct: Conduct,
    /// Whether one of the clicks of a key goes on after its answer, by key number.
    taken: Vec<AtomicBool>,
    /// Counts what was sent and answered, for the display.
    pub counters: Counters,
}

/// The outcome of one click.
#[derive(Debug)]
struct Outcome {
    slip: Duration,
    waited: Duration,
    latency: Duration,
    answer: Answer,
}

/// An order that was accepted.
#[derive(Debug)]
struct Accepted {
    /// The order's id; `None` when the answer did not name it.
    order: Option<String>,
    first_pause: Option<Duration>,
}

/// What the buyer of a click does after its answer.
#[derive(Debug)]
enum Next {
    Poll(Accepted),
    Act(Accepted),
    ComeAgain,
    Leave,
}

enum Event {
    Answered { click: usize, outcome: Outcome },
    Decided { after: Duration },
    Undecided,
    After(Happened),
}

/// The way on which the tasks of a run tell what happened.
type Events = UnboundedSender<Event>;

/// Makes a position of a number of the schedule.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Conduct {
    /// Returns whether buyers do anything beside polling.
    fn goes_on(&self) -> bool {
        self.buyers.is_some() || self.second_chance.is_some()
    }
}

impl Accepted {
    fn of(answer: &Answer) -> Self {
        let first_pause = answer.poll_after_ms.map(Duration::from_millis);
        Self { order: answer.order_id.clone(), first_pause }
    }
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
        conduct: Conduct,
    ) -> anyhow::Result<Self> {
        let uri = format!("/api/v1/sales/{}/orders", basket.sale);
        let mut body = serde_json::json!({ "sku_id": basket.sku, "quantity": basket.quantity });
        if let Some(reference) = &basket.reference {
            body["reference"] = reference.as_str().into();
        }
        let tokens = (0..schedule.users).map(|user| mint.bearer(&user_name(seed, user)));
        let keys =
            (0..schedule.keys).map(|key| HeaderValue::from_str(&key_name(seed, key)).map_err(Into::into));
        Ok(Self {
            uri: uri.parse().with_context(|| format!("{} is not a sale id", basket.sale))?,
            body: body.to_string().into(),
            purchase_tokens: None,
            tokens: tokens.collect::<anyhow::Result<_>>()?,
            keys: keys.collect::<anyhow::Result<_>>()?,
            taken: (0..schedule.keys).map(|_| AtomicBool::new(false)).collect(),
            counters: Counters::default(),
            basket,
            schedule,
            seed,
            client,
            conduct,
        })
    }

    /// Gets a purchase token for each buyer.
    ///
    /// # Errors
    /// When one gets none.
    pub async fn fetch_tokens(&mut self) -> anyhow::Result<()> {
        let tokens = PurchaseTokens::fetch(&self.client, &self.basket.sale, &self.tokens).await?;
        self.purchase_tokens = Some(tokens);
        Ok(())
    }

    /// Returns the names and `Authorization` headers of the first users, as many as there are.
    pub fn first_users(&self, count: u32) -> Vec<(String, HeaderValue)> {
        let users = (0..count).zip(&self.tokens);
        users.map(|(user, token)| (user_name(self.seed, user), token.clone())).collect()
    }

    /// Returns the sale's id.
    pub fn sale(&self) -> &str {
        &self.basket.sale
    }

    /// Returns the schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Returns whether second chances ended early, because there were too many clicks.
    pub fn is_cut_off(&self) -> bool {
        self.conduct.second_chance.as_ref().is_some_and(SecondChance::is_cut_off)
    }

    /// Runs the schedule from `start` on, waits for every answer, and for what buyers do afterwards.
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
                tasks.spawn_on(crowd.clone().click(number, *click, start, events.clone()), &runtime);
            }
        });
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        outcomes.resize_with(self.schedule.clicks.len(), || None);
        let after = self.conduct.goes_on().then(Aftermath::default);
        let mut harvest = Harvest { after, ..Harvest::default() };
        while let Some(event) = inbox.recv().await {
            match event {
                Event::Answered { click, outcome } => {
                    harvest.took = start.elapsed();
                    outcomes[click] = Some(outcome);
                }
                Event::Decided { after } => harvest.decided_us.push(micros(after)),
                Event::Undecided => harvest.undecided += 1,
                Event::After(happened) => {
                    harvest.after.get_or_insert_default().note(happened, start.elapsed());
                }
            }
        }
        scheduling.await.context("the scheduling thread died")?;
        let clicks = self.schedule.clicks.iter().zip(outcomes);
        harvest.entries = clicks.map(|(click, outcome)| self.entry(click, outcome)).collect();
        Ok(harvest)
    }

    async fn click(self: Arc<Self>, number: usize, click: Click, start: Instant, events: Events) {
        let due = start + Duration::from_micros(click.at_us);
        let slip = due.elapsed();
        let (waited, answer) = self.send(click).await;
        self.counters.count(answer.class);
        let next = self.next(click, &answer);
        let outcome = Outcome { slip, waited, latency: due.elapsed(), answer };
        // The send cannot fail, because the receiver lives until the last sender is gone.
        let _ = events.send(Event::Answered { click: number, outcome });
        // What few buyers do stands in a box, so that the others do not carry room for it.
        match next {
            Next::Poll(accepted) => {
                let event = match self.poll(click, &accepted).await {
                    true => Event::Decided { after: due.elapsed() },
                    false => Event::Undecided,
                };
                let _ = events.send(event);
            }
            Next::Act(accepted) => Box::pin(self.act(click, accepted, Some(due), &events)).await,
            Next::ComeAgain => Box::pin(self.come_again(click, start, &events)).await,
            Next::Leave => {}
        }
    }

    async fn send(&self, click: Click) -> (Duration, Answer) {
        let (waited, answer) = self.send_once(click).await;
        let Some(tokens) = self.purchase_tokens.as_ref() else { return (waited, answer) };
        let user = index(click.user);
        let is_over = answer.code.as_deref() == Some("purchase_token_invalid");
        // A buyer whose token has expired gets another one, and clicks again with the same key.
        if is_over && tokens.renew(&self.client, user, &self.tokens[user]).await.is_ok() {
            return self.send_once(click).await;
        }
        (waited, answer)
    }

    async fn send_once(&self, click: Click) -> (Duration, Answer) {
        match self.request(click) {
            Ok(request) => {
                let exchange = self.client.send(request).await;
                (exchange.waited, Answer::of(exchange.result))
            }
            Err(_) => (Duration::ZERO, Answer::of(Err(NoReply::NotSent("invalid_request")))),
        }
    }

    fn request(&self, click: Click) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        Request::post(self.uri.clone())
            .header(HOST, self.client.host())
            .header(AUTHORIZATION, &self.tokens[index(click.user)])
            .header("idempotency-key", &self.keys[index(click.key)])
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(match &self.purchase_tokens {
                Some(tokens) => tokens.body(&self.body, index(click.user)),
                None => self.body.clone(),
            }))
    }

    /// Decides what the buyer of a click does after its answer. Of the clicks of a key one goes on, because a key is
    /// one order.
    fn next(&self, click: Click, answer: &Answer) -> Next {
        let Conduct { polls, buyers, second_chance } = &self.conduct;
        let takes_it = || !self.taken[index(click.key)].swap(true, Ordering::Relaxed);
        if answer.class.is_accepted() && self.conduct.goes_on() {
            let is_first = takes_it();
            if buyers.is_some() {
                return if is_first { Next::Act(Accepted::of(answer)) } else { Next::Leave };
            }
        }
        if second_chance.is_some() && answer.class == Class::SoldOut && takes_it() {
            return Next::ComeAgain;
        }
        if *polls && answer.class == Class::Won && answer.order_id.is_some() {
            return Next::Poll(Accepted::of(answer));
        }
        Next::Leave
    }

    /// Polls an order as often as the server says, until it is decided. Returns `false` when the buyer gives up.
    async fn poll(&self, click: Click, accepted: &Accepted) -> bool {
        let path = format!("/api/v1/orders/{}", accepted.order.as_deref().unwrap_or_default());
        let began = Instant::now();
        let mut pause = accepted.first_pause.unwrap_or(POLL_FIRST);
        while began.elapsed() < POLLING_MAX {
            tokio::time::sleep(pause).await;
            let token = &self.tokens[index(click.user)];
            let answer = Answer::of(self.client.get(&path, Some(token)).await.result);
            let is_pending = matches!(answer.order_status.as_deref(), Some("queued" | "reserved"));
            if answer.http_status == 200 && !is_pending {
                return true;
            }
            pause = answer.poll_after_ms.map_or(POLL_FIRST, Duration::from_millis);
        }
        false
    }

    /// Waits until an order is decided, and does what its buyer does. `due` is the time of the click that is measured.
    async fn act(&self, click: Click, accepted: Accepted, due: Option<Instant>, events: &Events) {
        let Some(buyers) = &self.conduct.buyers else { return };
        let Some(order) = accepted.order.as_deref() else {
            return self.end(Err(Fault::new("decide", "no_order_id")), events);
        };
        let key = key_name(self.seed, click.key);
        let purchase = Purchase {
            user: click.user,
            token: &self.tokens[index(click.user)],
            key: &key,
            order,
            first_pause: accepted.first_pause,
        };
        let acting = &self.counters.after.acting;
        acting.fetch_add(1, Ordering::Relaxed);
        let decided = buyers.decided(&purchase).await;
        if let Some(due) = due.filter(|_| self.conduct.polls) {
            let event = match decided.is_ok() {
                true => Event::Decided { after: due.elapsed() },
                false => Event::Undecided,
            };
            let _ = events.send(event);
        }
        let ended = match decided {
            Ok(told) => buyers.act(&purchase, &told).await,
            Err(fault) => Err(fault),
        };
        acting.fetch_sub(1, Ordering::Relaxed);
        self.end(ended, events);
    }

    /// Notes that a buyer is done.
    fn end(&self, ended: Result<Ending, Fault>, events: &Events) {
        self.counters.after.count(&ended);
        if let (Ok(Ending::Paid), Some(chance)) = (&ended, &self.conduct.second_chance) {
            chance.note_paid(self.basket.quantity);
        }
        let _ = events.send(Event::After(Happened::Ended(ended)));
    }

    /// Comes again until the buyer has an order or second chances are over, and then does what buyers do.
    async fn come_again(&self, click: Click, start: Instant, events: &Events) {
        let Some(chance) = &self.conduct.second_chance else { return };
        let coming_back = &self.counters.after.coming_back;
        coming_back.fetch_add(1, Ordering::Relaxed);
        let accepted = self.accepted_later(click, start, chance, events).await;
        coming_back.fetch_sub(1, Ordering::Relaxed);
        if let Some(accepted) = accepted {
            let _ = events.send(Event::After(Happened::CameBack));
            self.act(click, accepted, None, events).await;
        }
    }

    async fn accepted_later(
        &self,
        click: Click,
        start: Instant,
        chance: &SecondChance,
        events: &Events,
    ) -> Option<Accepted> {
        let until = start + Duration::from_micros(self.schedule.span_us()) + chance.lasts();
        let mut pause = second_chance::PAUSE;
        while Instant::now() + pause < until {
            tokio::time::sleep(pause).await;
            if !chance.take_click() {
                return None;
            }
            let answer = self.click_again(click, start, events).await;
            match Turn::of(&answer) {
                Turn::Again(next) => pause = next,
                Turn::Accepted => return Some(Accepted::of(&answer)),
                Turn::Leaves => return None,
                Turn::Fails => {
                    let why = answer.code.unwrap_or_else(|| format!("http_{}", answer.http_status));
                    self.end(Err(Fault::new("come again", why)), events);
                    return None;
                }
            }
        }
        None
    }

    /// Sends a click of a second chance, which is sent when it is meant to be.
    async fn click_again(&self, click: Click, start: Instant, events: &Events) -> Answer {
        let sent = Instant::now();
        let at_us = micros(sent.saturating_duration_since(start));
        let (waited, answer) = self.send(click).await;
        let entry = (!answer.is_unsent()).then(|| {
            let outcome =
                Outcome { slip: Duration::ZERO, waited, latency: sent.elapsed(), answer: answer.clone() };
            Box::new(self.entry(&Click { at_us, kind: Kind::SecondChance, ..click }, Some(outcome)))
        });
        let _ = events.send(Event::After(Happened::CameAgain(entry)));
        answer
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
            reference: self.basket.reference.clone(),
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
