//! Announces changed orders over a channel of Redis, which keeps nothing: whoever hears at that moment is told.
//!
//! A connection that is half open says nothing, so it is asked once a second whether it is there. Whoever cannot read
//! an announcement may have missed one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use serde::{Deserialize, Serialize};

use super::redis_link::{RedisLink, failed};
use crate::clock::{Clock, Moment};
use crate::domain::trace;
use crate::domain::{NodeMark, Order, TraceContext};
use crate::ports::{Announcements, Effect, Hearing, StoreError, StoreResult, Told};

const ANNOUNCE: &str = "announce orders";
const HEAR: &str = "hear announcements";
/// The form of announcements.
const VERSION: u32 = 1;
/// How long one look waits for an announcement.
const LOOK: Duration = Duration::from_millis(250);
/// How often the connection is asked whether it is there.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// What one process tells all others.
#[derive(Serialize, Deserialize)]
struct Announcement<O> {
    v: u32,
    node: NodeMark,
    orders: O,
    /// The steps of traces that changed them, by the place of the order; only of those that are recorded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    traces: BTreeMap<usize, Step>,
    /// Whether there is more of which nobody tells.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    missed: bool,
}

/// A step of a trace.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Step(#[serde(deserialize_with = "trace::read")] Option<TraceContext>);

/// Serves announcements from Redis.
pub struct RedisAnnouncements {
    link: Arc<RedisLink>,
    node: NodeMark,
    clock: Clock,
}

impl RedisAnnouncements {
    /// Makes the port for a process. It calls nothing.
    pub fn new(link: Arc<RedisLink>, node: NodeMark, clock: Clock) -> Self {
        Self { link, node, clock }
    }
}

impl RedisAnnouncements {
    async fn publish(&self, told: &[Told], missed: bool) -> StoreResult<()> {
        let traced = |(place, told): (usize, &Told)| told.trace.map(|trace| (place, Step(Some(trace))));
        let traces = told.iter().enumerate().filter_map(traced).collect();
        let orders: Vec<&Order> = told.iter().map(|told| &told.order).collect();
        let announcement = Announcement { v: VERSION, node: self.node, orders, traces, missed };
        let text = serde_json::to_string(&announcement).expect("orders are JSON");
        let publish = redis::cmd("PUBLISH").arg(self.link.announcements()).arg(text).to_owned();
        self.link.command::<i64>(ANNOUNCE, &publish).await.map(drop)
    }
}

#[async_trait]
impl Announcements for RedisAnnouncements {
    async fn announce(&self, orders: &[Told]) -> StoreResult<()> {
        self.publish(orders, false).await
    }

    async fn announce_missed(&self) -> StoreResult<()> {
        self.publish(&[], true).await
    }

    async fn hear(&self) -> StoreResult<Box<dyn Hearing>> {
        let (mut sink, announced) = self.link.channels(HEAR).await?.split();
        let subscribed = self.clock.timeout(ASKED_EVERY, sink.subscribe(self.link.announcements())).await;
        let late = |error| StoreError::broken(HEAR, format!("{error}"));
        subscribed.map_err(late)?.map_err(|error| failed(HEAR, Effect::NotApplied, error))?;
        let (node, clock) = (self.node, self.clock.clone());
        let ask_at = clock.monotonic() + ASKED_EVERY;
        Ok(Box::new(RedisHearing { sink, announced, node, ask_at, clock }))
    }
}

struct RedisHearing {
    sink: PubSubSink,
    announced: PubSubStream,
    node: NodeMark,
    /// When the connection is asked next whether it is there.
    ask_at: Moment,
    clock: Clock,
}

impl RedisHearing {
    async fn ask(&mut self) -> StoreResult<()> {
        self.ask_at = self.clock.monotonic() + ASKED_EVERY;
        let asked = self.clock.timeout(ASKED_EVERY, self.sink.ping::<redis::Value>()).await;
        let late = |error| StoreError::broken(HEAR, format!("the connection is silent: {error}"));
        asked.map_err(late)?.map(drop).map_err(|error| failed(HEAR, Effect::NotApplied, error))
    }

    /// Reads the orders of an announcement; none of one of our own.
    fn read(&self, message: &Msg) -> StoreResult<Vec<Told>> {
        let unreadable = |error: String| {
            StoreError::broken(HEAR, format!("an announcement that nobody can read: {error}"))
        };
        let announcement: Announcement<Vec<Order>> = serde_json::from_slice(message.get_payload_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        if announcement.v != VERSION {
            return Err(unreadable(format!("version {}", announcement.v)));
        }
        if announcement.missed {
            return Err(StoreError::broken(HEAR, "another process has not told of everything".to_owned()));
        }
        if announcement.node == self.node {
            return Ok(Vec::new());
        }
        let traces = announcement.traces;
        let trace = |place| traces.get(&place).and_then(|step: &Step| step.0);
        let told = |(place, order)| Told { order, trace: trace(place) };
        Ok(announcement.orders.into_iter().enumerate().map(told).collect())
    }
}

#[async_trait]
impl Hearing for RedisHearing {
    async fn next(&mut self) -> StoreResult<Vec<Told>> {
        if self.clock.monotonic() >= self.ask_at {
            self.ask().await?;
        }
        match self.clock.timeout(LOOK, self.announced.next()).await {
            Ok(Some(message)) => self.read(&message),
            Ok(None) => Err(StoreError::broken(HEAR, "the connection has ended".to_owned())),
            Err(_) => Ok(Vec::new()),
        }
    }
}
