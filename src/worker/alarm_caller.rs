//! Calls a person when an alarm is raised, now and then while it stands, and when it has ended.
//!
//! Invariant: an alarm is forgotten only when its end was heard, or when nobody had heard of it. A receiver that is
//! down is called again, and hears every alarm that still stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use metrics::counter;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::alarm::{AlarmKey, Call, DueCall, Samples};
use crate::domain::signature;
use crate::metrics::ALARM_CALLS;
use crate::ports::{Alarms, CallTimes, Message, Outbound, StoreResult};

/// How often a process judges its alarms.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How long no process may see an alarm before it has ended.
pub const ENDED_AFTER: Duration = Duration::from_secs(60);
/// After so long a process has seen every alarm that stands: the longest window, and as long as an alarm may be unseen.
const SEEN_AFTER: Duration = Duration::from_secs(180);
/// How often a standing alarm is called out that no store keeps.
const UNSTORED_AGAIN: Duration = Duration::from_secs(3600);

/// Whom to call.
#[derive(Clone)]
pub struct Receiver {
    /// The way out.
    pub outbound: Arc<dyn Outbound>,
    /// The address.
    pub url: String,
    /// What calls are signed with.
    pub secret: String,
}

impl Receiver {
    /// Sends a call.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn call(&self, call: &DueCall, now_ms: i64) -> Result<(), String> {
        let (id, body) = (call.id(), call.encode(now_ms));
        let signature =
            signature::sign(std::iter::once(self.secret.as_str()), &body, now_ms.div_euclid(1000));
        let message = Message {
            url: &self.url,
            id: &id,
            content_type: "application/cloudevents+json",
            signature,
            body,
        };
        let sent = self.outbound.send(&message).await;
        let result = if sent.is_ok() { "taken" } else { "failed" };
        counter!(ALARM_CALLS, "result" => result).increment(1);
        sent
    }
}

/// The caller of a process. Any number of processes may have one.
pub struct AlarmCaller {
    /// What stands, by all processes.
    pub alarms: Arc<dyn Alarms>,
    /// Whom to call.
    pub receiver: Receiver,
    /// Answers what the process measures, as Prometheus reads it.
    pub exposition: Box<dyn Fn() -> String + Send + Sync>,
    /// The clock of the process.
    pub clock: Clock,
    /// How often a standing alarm is called out again; zero for never.
    pub repeat_after: Duration,
    /// What this process remembers.
    pub memory: Mutex<Memory>,
}

/// What a caller remembers of its rounds.
pub struct Memory {
    began: Moment,
    samples: Samples,
    /// Since when every round has noted what stands. Before a process has seen everything it ends no alarm.
    whole_since: Option<Moment>,
    /// When it called without a store, by alarm.
    called: BTreeMap<AlarmKey, Moment>,
}

impl Memory {
    /// Begins at a moment.
    pub fn new(began: Moment) -> Self {
        Self { began, samples: Samples::default(), whole_since: None, called: BTreeMap::new() }
    }
}

impl AlarmCaller {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics while holding it")
    }

    fn standing(&self) -> Vec<(AlarmKey, i64)> {
        let text = (self.exposition)();
        let mut memory = self.memory();
        let passed = self.clock.monotonic().since(memory.began);
        let now_s = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        memory.samples.take(&text, now_s);
        memory.samples.standing(now_s).into_iter().map(|(key, value)| (key, whole(value))).collect()
    }

    /// Notes what stands, and takes the calls that are due.
    async fn due(&self, standing: &[(AlarmKey, i64)]) -> StoreResult<Vec<DueCall>> {
        if !standing.is_empty() {
            self.alarms.see(standing).await?;
        }
        let now = self.clock.monotonic();
        let whole_since = *self.memory().whole_since.get_or_insert(now);
        let ended_after = if now.since(whole_since) < SEEN_AFTER { Duration::MAX } else { ENDED_AFTER };
        self.alarms.due(CallTimes { ended_after, repeat_after: self.repeat_after }).await
    }

    /// Answers the calls that this process makes by itself, because no store says who was called. Other processes may
    /// make the same.
    fn due_without_a_store(&self, standing: &[(AlarmKey, i64)]) -> Vec<DueCall> {
        let (now, now_ms) = (self.clock.monotonic(), self.clock.now_ms());
        let mut memory = self.memory();
        memory.whole_since = None;
        memory.called.retain(|_, called| now.since(*called) < UNSTORED_AGAIN);
        let mut due = Vec::new();
        for (alarm, value) in standing {
            if memory.called.contains_key(alarm) {
                continue;
            }
            memory.called.insert(alarm.clone(), now);
            let (alarm, value) = (alarm.clone(), *value);
            due.push(DueCall { alarm, call: Call::Raised, since_ms: now_ms, value, calls: 0 });
        }
        due
    }

    async fn call(&self, due: &DueCall) -> StoreResult<()> {
        match self.receiver.call(due, self.clock.now_ms()).await {
            Ok(()) => self.alarms.called(due).await,
            Err(why) => {
                tracing::warn!(alarm = due.alarm.name, why, "a call was not taken");
                Ok(())
            }
        }
    }
}

/// Answers the next whole number below a value that is not negative.
fn whole(value: f64) -> i64 {
    format!("{:.0}", value.floor()).parse().unwrap_or(i64::MAX)
}

#[async_trait]
impl Task for AlarmCaller {
    fn name(&self) -> &'static str {
        "alarm_caller"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    /// Judges what this process measures, and makes the calls that are due.
    ///
    /// # Errors
    /// When the alarms cannot be read or noted: then it calls all the same, once an hour. A call that was not taken is
    /// no failure.
    async fn run_once(&self) -> StoreResult<Progress> {
        let standing = self.standing();
        match self.due(&standing).await {
            Ok(due) => {
                let called = join_all(due.iter().map(|due| self.call(due))).await;
                called.into_iter().collect::<StoreResult<Vec<()>>>()?;
                Ok(Progress::of(due.len()))
            }
            Err(error) => {
                let due = self.due_without_a_store(&standing);
                let now_ms = self.clock.now_ms();
                for (call, taken) in
                    due.iter().zip(join_all(due.iter().map(|due| self.receiver.call(due, now_ms))).await)
                {
                    if let Err(why) = taken {
                        tracing::warn!(alarm = call.alarm.name, why, "a call was not taken");
                        self.memory().called.remove(&call.alarm);
                    }
                }
                Err(error)
            }
        }
    }
}
