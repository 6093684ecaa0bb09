//! Buyers who listen: each has a stream of its own orders from before the start until what stands was read.
//!
//! A listener does what a page does. When its stream ends, it comes again after the time that the shop names, with a
//! new ticket, and says what it has seen last. What it was told is held against what stands in the stores: an order
//! whose state nobody told is lost, and a time counts from the step's own stamp to the arrival here.

mod event_source;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::clock;
use event_source::{EventSource, Message};

/// How many streams are being opened at the same time before the start.
const OPENING_MAX: usize = 64;
/// How long a stream may take to be there before the start.
const OPENING: Duration = Duration::from_secs(30);
/// The pause before a listener comes again when the shop names none. The half of it is by chance.
const PAUSE_MS: u64 = 1000;
/// How long is waited at the end for what was not told yet.
const LATE: Duration = Duration::from_secs(10);

/// That an order is in a state, as its buyer is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// The name of the user who was told.
    pub user: String,
    /// The order's id.
    pub order: String,
    /// The word of the state.
    pub state: String,
}

/// What listeners were told.
#[derive(Debug, Default)]
pub struct Heard {
    /// Streams that were opened, those included that took the place of others.
    pub opened: u64,
    /// The last events of streams, by reason.
    pub byes: BTreeMap<String, u64>,
    /// Streams that ended without a last event, or could not be opened, by why.
    pub faults: BTreeMap<String, u64>,
    /// Events of any kind.
    pub events: u64,
    /// When something was told for the first time, in ms since 1970.
    pub told: HashMap<Told, i64>,
}

/// The listeners of a run.
pub struct Listeners {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: watch::Sender<bool>,
    /// How many there are. They are the first users.
    count: u32,
}

struct Shared {
    client: Arc<Client>,
    sale: String,
    heard: Mutex<Heard>,
}

/// A listener, from one stream to the next.
struct Listener {
    shared: Arc<Shared>,
    user: String,
    bearer: HeaderValue,
    /// The id of the last event; empty before the first one.
    seen: String,
    /// Whether a stream was ever open.
    is_heard: watch::Sender<bool>,
}

impl Listeners {
    /// Opens a stream for each of `users`, who have a name and an `Authorization` header, and waits until all are open.
    ///
    /// # Errors
    /// When one cannot be opened in time.
    pub async fn open(
        client: Arc<Client>,
        sale: &str,
        users: &[(String, HeaderValue)],
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { client, sale: sale.to_owned(), heard: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        let this = Self {
            shared: shared.clone(),
            tasks: TaskTracker::new(),
            stop,
            count: u32::try_from(users.len()).unwrap_or(u32::MAX),
        };
        let until = Instant::now() + OPENING;
        let opening = users.iter().map(async |(user, bearer)| {
            let (is_heard, mut opened) = watch::channel(false);
            let (shared, user, bearer) = (shared.clone(), user.clone(), bearer.clone());
            let mut listener = Listener { shared, user, bearer, seen: String::new(), is_heard };
            let mut stopped = stopped.clone();
            this.tasks.spawn(async move {
                tokio::select! {
                    () = listener.listen() => {}
                    _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
                }
            });
            let is_open = tokio::time::timeout_at(until.into(), opened.wait_for(|is_open| *is_open)).await;
            is_open.is_ok_and(|open| open.is_ok())
        });
        let open: Vec<bool> = futures::stream::iter(opening).buffer_unordered(OPENING_MAX).collect().await;
        let missing = open.iter().filter(|is_open| !**is_open).count();
        if missing > 0 {
            let faults = shared.heard().faults.clone();
            bail!(
                "{missing} of {} streams are not open after {} s: {faults:?}",
                open.len(),
                OPENING.as_secs()
            );
        }
        Ok(this)
    }

    /// Returns how many listeners there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Waits until everything of `wanted` was told, or ten seconds are over. Ends all streams.
    pub async fn finish(self, wanted: &[Told]) -> Heard {
        let until = Instant::now() + LATE;
        while Instant::now() < until && !wanted.iter().all(|one| self.shared.heard().told.contains_key(one)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.stop.send_replace(true);
        self.tasks.close();
        self.tasks.wait().await;
        std::mem::take(&mut *self.shared.heard())
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no code panics while holding it")
    }
}

impl Listener {
    /// Listens for ever.
    async fn listen(&mut self) {
        loop {
            let pause_ms = match self.one_stream().await {
                Ok(retry_ms) => retry_ms,
                Err(fault) => {
                    *self.shared.heard().faults.entry(fault).or_default() += 1;
                    None
                }
            };
            let pause_ms = pause_ms.unwrap_or_else(|| fastrand::u64(PAUSE_MS / 2..=PAUSE_MS));
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// Opens a stream and reads it to its end. Returns after what time the shop wants to be asked again.
    async fn one_stream(&mut self) -> Result<Option<u64>, String> {
        let ticket = self.ticket().await?;
        let Shared { client, sale, .. } = &*self.shared;
        let path = format!("/api/v1/stream?ticket={ticket}&sale={sale}&last_event_id={}", self.seen);
        let request = Request::get(path).header(HOST, client.host()).body(Full::default());
        let mut sender = client.connect().await.map_err(|_| "connect_failed".to_owned())?;
        let sent = sender.send_request(request.map_err(|error| error.to_string())?).await;
        let mut response = sent.map_err(|_| "connection_lost".to_owned())?;
        if response.status() != 200 {
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(code(&body));
        }
        self.shared.heard().opened += 1;
        self.is_heard.send_replace(true);
        let mut source = EventSource::default();
        while let Some(frame) = response.frame().await {
            let frame = frame.map_err(|_| "stream_cut".to_owned())?;
            for message in source.read(frame.data_ref().map_or(&[][..], |data| data)) {
                if let Some(retry_ms) = self.take(message) {
                    return Ok(Some(retry_ms));
                }
            }
        }
        Err("stream_ended".to_owned())
    }

    async fn ticket(&self) -> Result<String, String> {
        let request = Request::post("/api/v1/stream-tickets")
            .header(HOST, self.shared.client.host())
            .header(AUTHORIZATION, &self.bearer)
            .body(Full::default());
        let exchange = self.shared.client.send(request.map_err(|error| error.to_string())?).await;
        let reply = exchange.result.map_err(|_| "no_ticket".to_owned())?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        body["ticket"].as_str().map(str::to_owned).ok_or_else(|| code(&reply.body))
    }

    /// Notes what was told. Returns after what time to come again when this was the last event.
    fn take(&mut self, message: Message) -> Option<u64> {
        let now_ms = clock::now_ms();
        if !message.id.is_empty() {
            self.seen = message.id;
        }
        let data: Value = serde_json::from_str(&message.data).unwrap_or_default();
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let mut heard = self.shared.heard();
        heard.events += 1;
        match message.event.as_str() {
            "order" => {
                let told = Told { user: self.user.clone(), order: text("id"), state: text("status") };
                heard.told.entry(told).or_insert(now_ms);
                None
            }
            "bye" => {
                *heard.byes.entry(text("reason")).or_default() += 1;
                Some(data["retry_ms"].as_u64().unwrap_or(PAUSE_MS))
            }
            _ => None,
        }
    }
}

/// Names a refusal by its problem's code.
fn code(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["code"].as_str().unwrap_or("no_problem").to_owned()
}
