//! Sends events to the addresses that subscribe to them.
//!
//! Invariant: a subscription moves on only behind events that its receiver has taken, and the events of an order go out
//! one after the other. A receiver that is down loses nothing, and holds up no other one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use metrics::{counter, gauge};

use super::driver::{Progress, Task};
use super::event_reader::{self, EventReader, Unread};
use crate::chance::Chance;
use crate::clock::{Clock, Moment};
use crate::domain::operator::Subject;
use crate::domain::subscription::{Subscription, SubscriptionChange, SubscriptionId, SubscriptionState};
use crate::domain::{Change, EventNumbers, Instance, OrderId, StoredEvent, signature};
use crate::metrics::{WEBHOOK_SUBSCRIPTIONS, WEBHOOKS_SENT};
use crate::ports::{AuditLog, Message, OrderEvents, Outbound, StoreResult, Subscriptions};

/// Most messages of one subscription and instance that are under way.
const UNDER_WAY_MAX: usize = 16;
/// How long a run goes on with one subscription. With the last answer it takes two thirds of the lease at most, unless
/// receivers may take longer than ten seconds.
const RUN_MAX: Duration = Duration::from_secs(10);
/// How long other processes leave a subscription to the process that has its turn.
const LEASE: Duration = Duration::from_secs(30);
/// The pause after a message that was not taken. It doubles with every further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The sender of a process. Any number of processes may have one.
pub struct WebhookSender {
    /// The subscriptions.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The events.
    pub events: Arc<dyn OrderEvents>,
    /// Where is noted that a subscription was given up.
    pub audit_log: Arc<dyn AuditLog>,
    /// The way out.
    pub outbound: Arc<dyn Outbound>,
    /// The clock of the process.
    pub clock: Clock,
    /// Spreads the pauses.
    pub chance: Chance,
    /// The number of this process.
    pub holder: [u8; 16],
    /// Time between two rounds.
    pub period: Duration,
    /// After how long without anything taken a subscription is paused.
    pub pause_after: Duration,
    /// The pauses after messages that were not taken.
    pub pauses: Mutex<HashMap<(SubscriptionId, Instance), Pause>>,
    /// The readers of the subscriptions that were served in the last round.
    pub readers: Mutex<BTreeSet<String>>,
}

/// A pause of one subscription at one instance.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    failures: u32,
    until: Moment,
}

#[async_trait]
impl Task for WebhookSender {
    fn name(&self) -> &'static str {
        "webhook_sender"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Sends every subscription what it has not had.
    ///
    /// # Errors
    /// The first failure of a store. The other subscriptions were served all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let subscriptions = self.subscriptions.all().await?;
        for (state, of_state) in
            [("active", SubscriptionState::Active), ("paused", SubscriptionState::Paused)]
        {
            let count = subscriptions.iter().filter(|subscription| subscription.state == of_state).count();
            gauge!(WEBHOOK_SUBSCRIPTIONS, "state" => state)
                .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
        let failing =
            subscriptions.iter().filter(|subscription| subscription.failing_since_ms.is_some()).count();
        gauge!(WEBHOOK_SUBSCRIPTIONS, "state" => "failing")
            .set(f64::from(u32::try_from(failing).unwrap_or(u32::MAX)));
        let active =
            subscriptions.iter().filter(|subscription| subscription.state == SubscriptionState::Active);
        self.note_readers(active.clone().map(|subscription| subscription.id.reader()).collect());
        let (mut done, mut has_more, mut failure) = (0, false, Ok(()));
        for served in join_all(active.map(|subscription| self.serve(subscription))).await {
            failure = failure.and(served.map(|progress| {
                done += progress.done;
                has_more |= progress.again_in.is_some();
            }));
        }
        let again_in = has_more.then_some(Duration::ZERO);
        failure.map(|()| Progress { done, again_in })
    }
}

impl WebhookSender {
    /// Notes who reads, and that those who do not any more have nothing to read.
    fn note_readers(&self, now: BTreeSet<String>) {
        let mut readers = self.readers.lock().expect("no code panics while holding it");
        for gone in readers.difference(&now) {
            event_reader::reads_no_more(gone, self.events.instances());
        }
        *readers = now;
    }

    /// Sends a subscription what it has not had, of every instance.
    async fn serve(&self, subscription: &Subscription) -> StoreResult<Progress> {
        let (events, holder) = (self.events.clone(), self.holder);
        let reader = EventReader { events, name: subscription.id.reader(), holder, lease: LEASE };
        reader.round(|at| self.send_from(subscription, &reader, at)).await
    }

    async fn send_from(
        &self,
        subscription: &Subscription,
        reader: &EventReader,
        at: Instance,
    ) -> StoreResult<(usize, bool)> {
        let key = (subscription.id.clone(), at);
        let pause = self.pauses.lock().expect("no code panics while holding it").get(&key).copied();
        if pause.is_some_and(|pause| self.clock.monotonic() < pause.until) {
            return Ok((0, false));
        }
        let Some(mut unread) = reader.unread(at).await? else { return Ok((0, false)) };
        let outcome = self.send_all(subscription, &unread).await;
        let (taken, first_failed) = (outcome.taken, outcome.first_missing);
        unread.page.next = until(&unread, &first_failed);
        reader.done(at, &unread).await?;
        match outcome.failure {
            None => {
                self.pauses.lock().expect("no code panics while holding it").remove(&key);
                if taken > 0 && subscription.failing_since_ms.is_some() {
                    self.subscriptions.change(&subscription.id, &SubscriptionChange::Taken).await?;
                }
                Ok((taken, unread.has_more || !first_failed.is_empty()))
            }
            Some(why) => {
                let failures = pause.map_or(1, |pause| pause.failures.saturating_add(1));
                self.note_failure(subscription, key, (failures, &why)).await?;
                Ok((taken, false))
            }
        }
    }

    /// Sends events, those of one order one after the other. It begins nothing more after a failure.
    async fn send_all(&self, subscription: &Subscription, unread: &Unread) -> Outcome {
        let began = self.clock.monotonic();
        let mut wanted: Vec<&StoredEvent> =
            unread.page.events.iter().filter(|event| subscription.wants(&event.kind)).collect();
        let (mut taken, mut failure) = (0, None);
        while !wanted.is_empty() && failure.is_none() && self.clock.monotonic().since(began) < RUN_MAX {
            // The first event of each order, as many as may be under way.
            let mut orders: HashSet<OrderId> = HashSet::new();
            let is_next = |event: &&StoredEvent| orders.len() < UNDER_WAY_MAX && orders.insert(event.order);
            let (now, later): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_next);
            let sent = join_all(now.iter().map(|event| self.send(subscription, event))).await;
            wanted = later;
            for (event, outcome) in now.into_iter().zip(sent) {
                match outcome {
                    Ok(()) => taken += 1,
                    Err(why) => {
                        failure = failure.or(Some(why));
                        wanted.push(event);
                    }
                }
            }
        }
        let mut first_missing = EventNumbers::new();
        for event in wanted {
            let first = first_missing.entry(event.part).or_insert(event.number);
            *first = event.number.min(*first);
        }
        Outcome { taken, failure, first_missing }
    }

    async fn send(&self, subscription: &Subscription, event: &StoredEvent) -> Result<(), String> {
        let (id, body) = (event.id(), event.encode());
        let now_s = self.clock.now_ms().div_euclid(1000);
        let message = Message {
            url: &subscription.url,
            id: &id,
            content_type: "application/cloudevents+json",
            signature: signature::sign(subscription.secrets(), &body, now_s),
            body,
        };
        let sent = self.outbound.send(&message).await;
        let result = if sent.is_ok() { "taken" } else { "failed" };
        counter!(WEBHOOKS_SENT, "result" => result).increment(1);
        sent
    }

    /// Pauses after a message that was not taken. When nothing was taken for too long, an operator has to resume the
    /// subscription.
    async fn note_failure(
        &self,
        subscription: &Subscription,
        key: (SubscriptionId, Instance),
        (failures, why): (u32, &str),
    ) -> StoreResult<()> {
        tracing::warn!(subscription = %subscription.id, why, failures, "an event was not taken");
        let pause = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
        let ms = self.chance.with_jitter(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let until = self.clock.monotonic() + Duration::from_millis(ms);
        self.pauses.lock().expect("no code panics while holding it").insert(key, Pause { failures, until });
        let long_ms = i64::try_from(self.pause_after.as_millis()).unwrap_or(i64::MAX);
        let since_ms = subscription.failing_since_ms.filter(|ms| self.clock.now_ms() - ms >= long_ms);
        let Some(failing_since_ms) = since_ms else {
            return self.subscriptions.change(&subscription.id, &SubscriptionChange::Failed).await.map(drop);
        };
        let long_s = (self.clock.now_ms() - failing_since_ms) / 1000;
        let why = format!("nothing was taken for {long_s} s: {why}");
        let given_up = SubscriptionChange::GiveUp { failing_since_ms, why };
        if self.subscriptions.change(&subscription.id, &given_up).await? {
            tracing::error!(subscription = %subscription.id, "nothing was taken for too long: it is paused");
            let change = Change::by_itself("webhook_give_up", "nothing was taken for too long");
            let subject = Subject::Subscription { subscription: subscription.id.clone(), url: None };
            self.audit_log.note(&change, &subject).await?;
        }
        Ok(())
    }
}

/// What came of sending events.
struct Outcome {
    taken: usize,
    /// Why the first of those was not taken that were not.
    failure: Option<String>,
    /// The first event of each partition that was not taken.
    first_missing: EventNumbers,
}

/// Answers up to where a reader has everything: to the end of what it has read, or to what is missing.
fn until(unread: &Unread, first_missing: &EventNumbers) -> EventNumbers {
    let each = unread.page.next.iter();
    each.map(|(part, next)| (*part, first_missing.get(part).copied().unwrap_or(*next))).collect()
}
