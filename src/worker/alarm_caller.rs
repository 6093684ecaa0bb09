//! Calls a person when an alarm is raised, now and then while it stands, and when it has ended.
//!
//! Invariant: an alarm is forgotten only when its end was heard, or when nobody had heard of it. A receiver that is
//! down is called again, and hears every alarm that still stands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use metrics::counter;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::alarm::{AlarmKey, DueCall, Samples};
use crate::domain::signature;
use crate::metrics::ALARM_CALLS;
use crate::ports::{Alarms, CallTimes, Message, Outbound, StoreResult};

/// How often a process judges its alarms.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How long no process may see an alarm before it has ended.
pub const ENDED_AFTER: Duration = Duration::from_secs(60);

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
    /// When the caller was made, and what was measured since.
    pub samples: Mutex<(Moment, Samples)>,
}

impl AlarmCaller {
    fn standing(&self) -> Vec<(AlarmKey, i64)> {
        let text = (self.exposition)();
        let mut samples = self.samples.lock().expect("no code panics while holding it");
        let (began, samples) = &mut *samples;
        let now_s = i64::try_from(self.clock.monotonic().since(*began).as_secs()).unwrap_or(i64::MAX);
        samples.take(&text, now_s);
        samples.standing(now_s).into_iter().map(|(key, value)| (key, whole(value))).collect()
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
    /// When the alarms cannot be read or noted. A call that was not taken is no failure.
    async fn run_once(&self) -> StoreResult<Progress> {
        let standing = self.standing();
        if !standing.is_empty() {
            self.alarms.see(&standing).await?;
        }
        let times = CallTimes { ended_after: ENDED_AFTER, repeat_after: self.repeat_after };
        let due = self.alarms.due(times).await?;
        let called = join_all(due.iter().map(|due| self.call(due))).await;
        called.into_iter().collect::<StoreResult<Vec<()>>>()?;
        Ok(Progress::of(due.len()))
    }
}
