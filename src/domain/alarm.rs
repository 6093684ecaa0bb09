//! Alarms: the conditions that call a person at any hour, and what is said of them.
//!
//! They are the page-level alerts of `deploy/prometheus/rules.yml`, judged by a process itself by what it measures, so
//! that a shop without Prometheus is called, too. `tests/it/notifications.rs` compares the two lists. Three are left to
//! others: a process that is down cannot say so (`SeckillDown`), and no process keeps what all have measured within an
//! hour (`SeckillPurchaseBudgetBurns`, `SeckillRowBudgetBurns`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::calendar::rfc3339;
use super::exposition::Series;

/// When a condition holds, by the samples of a series that are at most [`AlarmRule::window_s`] old.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Holds {
    /// Every one of them is above a limit, and samples are taken for that long.
    Above(f64),
    /// As [`Self::Above`], and the last is not below the first.
    AboveAndNotFalling(f64),
    /// The last is above the first by more than that.
    Rises(f64),
}

/// One condition.
#[derive(Debug, PartialEq)]
pub struct AlarmRule {
    /// The name of the alert.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub summary: &'static str,
    /// The metric that is judged.
    pub metric: &'static str,
    /// The labels that tell its series apart. Series that differ in other labels are added up.
    by: &'static [&'static str],
    /// Values of a label, one of which a series must have.
    of: Option<(&'static str, &'static [&'static str])>,
    holds: Holds,
    /// How far back is looked, in seconds.
    window_s: i64,
}

const fn gauge(
    (name, summary): (&'static str, &'static str),
    metric: &'static str,
    by: &'static [&'static str],
    (above, window_s): (f64, i64),
) -> AlarmRule {
    AlarmRule { name, summary, metric, by, of: None, holds: Holds::Above(above), window_s }
}

const fn counter(
    (name, summary): (&'static str, &'static str),
    metric: &'static str,
    of: Option<(&'static str, &'static [&'static str])>,
    (more_than, window_s): (f64, i64),
) -> AlarmRule {
    AlarmRule { name, summary, metric, by: &[], of, holds: Holds::Rises(more_than), window_s }
}

/// All conditions.
pub static ALARMS: [AlarmRule; 14] = [
    gauge(
        ("SeckillDeadLetters", "an accepted order will never be one, and nobody has decided about it"),
        "seckill_dead_letters_open",
        &[],
        (0.0, 0),
    ),
    gauge(
        ("SeckillRefundStuck", "buyers wait for money that could not be paid back"),
        "seckill_refunds_stuck",
        &["database"],
        (0.0, 60),
    ),
    gauge(
        ("SeckillPartitionHalted", "accepted orders may be missing"),
        "seckill_partition_halted",
        &["part", "reason"],
        (0.0, 0),
    ),
    gauge(
        ("SeckillPartitionStalled", "a partition stands still"),
        "seckill_partition_stalled_seconds",
        &["part"],
        (30.0, 0),
    ),
    gauge(
        ("SeckillMysqlSetBack", "a MySQL instance has older data than it had, and is not used"),
        "seckill_mysql_set_back",
        &["database"],
        (0.0, 0),
    ),
    gauge(
        ("SeckillBucketsLost", "a bucket has lost keys in Redis"),
        "seckill_buckets_lost",
        &["sale"],
        (0.0, 0),
    ),
    gauge(
        ("SeckillBooksWrong", "the books are wrong and were not mended"),
        "seckill_drift",
        &["kind"],
        (0.0, 180),
    ),
    gauge(
        ("SeckillSaleDelayed", "a sale should sell and is not in place"),
        "seckill_sale_delayed",
        &["sale"],
        (0.0, 10),
    ),
    gauge(
        ("SeckillSaleUnplaced", "a sale starts within two minutes and is not in place"),
        "seckill_sale_unplaced",
        &["sale"],
        (0.0, 10),
    ),
    gauge(
        ("SeckillOutboxStuck", "an accepted order waits over 30 s for Kafka"),
        "seckill_outbox_oldest_seconds",
        &[],
        (30.0, 60),
    ),
    AlarmRule {
        name: "SeckillOrdersNotDraining",
        summary: "more than 1,000 orders wait and it gets no better",
        metric: "seckill_orders_pending",
        by: &[],
        of: None,
        holds: Holds::AboveAndNotFalling(1000.0),
        window_s: 120,
    },
    counter(
        ("SeckillOutboxSetAside", "an accepted order cannot be delivered"),
        "seckill_outbox_set_aside_total",
        None,
        (0.0, 600),
    ),
    counter(
        ("SeckillBatchesBroken", "a batch fails for ever, or records were left out"),
        "seckill_writer_retries_total",
        Some(("reason", &["broken", "gap"])),
        (0.0, 300),
    ),
    counter(
        ("SeckillOutcomeUnknown", "purchases fail on a dependency"),
        "seckill_admission_total",
        Some(("outcome", &["unavailable", "outcome_unknown"])),
        (120.0, 120),
    ),
];

/// What tells alarms apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlarmKey {
    /// The name of the alert, at most 64 bytes.
    pub name: String,
    /// Its labels, as `name=value` with commas between them; at most 255 bytes, and empty for none.
    pub labels: String,
}

/// The samples of the last ten minutes, of which alarms are judged.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(&'static str, AlarmKey), VecDeque<(i64, f64)>>);

impl Samples {
    /// The rate at which samples are taken, in seconds.
    pub const PERIOD_S: i64 = 10;

    /// Takes the samples of a moment, in seconds of any origin: the text in which Prometheus reads them.
    pub fn take(&mut self, exposition: &str, now_s: i64) {
        let mut sums: BTreeMap<(&'static str, AlarmKey), f64> = BTreeMap::new();
        for series in exposition.lines().filter_map(Series::parse) {
            for rule in ALARMS.iter().filter(|rule| rule.concerns(&series)) {
                *sums.entry((rule.name, rule.key(&series))).or_default() += series.value;
            }
        }
        for (series, value) in sums {
            self.0.entry(series).or_default().push_back((now_s, value));
        }
        for samples in self.0.values_mut() {
            while samples.front().is_some_and(|(at_s, _)| now_s - at_s > 600 + Self::PERIOD_S) {
                samples.pop_front();
            }
        }
        self.0.retain(|_, samples| !samples.is_empty());
    }

    /// Answers the conditions that hold at a moment, each with its value.
    pub fn standing(&self, now_s: i64) -> BTreeMap<AlarmKey, f64> {
        let judged = self.0.iter().filter_map(|((name, key), samples)| {
            let rule = ALARMS.iter().find(|rule| rule.name == *name)?;
            Some((key.clone(), rule.judge(samples, now_s)?))
        });
        judged.collect()
    }
}

impl AlarmRule {
    fn concerns(&self, series: &Series<'_>) -> bool {
        let has = |label, values: &[&str]| series.label(label).is_some_and(|value| values.contains(&value));
        self.metric == series.metric && self.of.is_none_or(|(label, values)| has(label, values))
    }

    fn key(&self, series: &Series<'_>) -> AlarmKey {
        let of = |name: &&str| format!("{name}={}", series.label(name).unwrap_or_default());
        let mut labels = self.by.iter().map(of).collect::<Vec<_>>().join(",");
        labels.truncate(labels.floor_char_boundary(255));
        AlarmKey { name: self.name.to_owned(), labels }
    }

    fn judge(&self, samples: &VecDeque<(i64, f64)>, now_s: i64) -> Option<f64> {
        let (first_s, _) = samples.front()?;
        // A round takes a while, so that the samples are a little more than the period apart.
        let window = samples.iter().filter(|(at_s, _)| now_s - at_s <= self.window_s + 2);
        let values: Vec<f64> = window.map(|(_, value)| *value).collect();
        let (first, last) = (values.first()?, *values.last()?);
        let is_whole = now_s - first_s >= self.window_s && (self.window_s == 0 || values.len() > 1);
        let all_above = |limit: f64| is_whole && values.iter().all(|value| *value > limit);
        let holds = match self.holds {
            Holds::Above(limit) => all_above(limit),
            Holds::AboveAndNotFalling(limit) => all_above(limit) && last >= *first,
            Holds::Rises(by) => last - first > by,
        };
        holds.then_some(if matches!(self.holds, Holds::Rises(_)) { last - first } else { last })
    }
}

/// What is said of an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// It has begun.
    Raised,
    /// It stands still.
    Repeated,
    /// Its cause is gone.
    Ended,
    /// An operator wants to see whether calls are heard.
    Test,
}

impl Call {
    /// Answers the word of the call.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Repeated => "repeated",
            Self::Ended => "ended",
            Self::Test => "test",
        }
    }
}

/// An alarm, and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCall {
    /// The alarm.
    pub alarm: AlarmKey,
    /// What is said.
    pub call: Call,
    /// Since when it stands, ms since 1970.
    pub since_ms: i64,
    /// Its last value.
    pub value: i64,
    /// How many calls of it were taken before.
    pub calls: u32,
}

/// An alarm as it is stored. Times are in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAlarm {
    /// The alarm.
    pub key: AlarmKey,
    /// Since when it stands.
    pub since_ms: i64,
    /// When a process saw it last.
    pub seen_ms: i64,
    /// Its last value.
    pub value: i64,
    /// When a call of it was taken last; `None` before the first one.
    pub called_ms: Option<i64>,
    /// How many calls of it were taken.
    pub calls: u32,
    /// How often the next call was tried.
    pub tries: u32,
    /// Before when it is not tried again.
    pub next_ms: i64,
}

/// What is to be done about a stored alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmStep {
    /// Nothing now.
    Wait,
    /// It ended before anybody was called.
    Forget,
    /// Somebody is to be called.
    Call(DueCall),
}

impl StoredAlarm {
    /// Answers what is to be done at a time. An alarm that nobody has seen for longer than `ended_after` has ended; one
    /// that stands is called out again after `repeat_after`, or never when that is zero.
    pub fn step(&self, now_ms: i64, ended_after: Duration, repeat_after: Duration) -> AlarmStep {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let (ended_after_ms, repeat_after_ms) = (ms(ended_after), ms(repeat_after));
        let has_ended = now_ms - self.seen_ms > ended_after_ms;
        let is_old = |called_ms: i64| repeat_after_ms > 0 && now_ms - called_ms >= repeat_after_ms;
        let call = match self.called_ms {
            None if has_ended => return AlarmStep::Forget,
            None => Call::Raised,
            Some(_) if has_ended => Call::Ended,
            Some(called_ms) if is_old(called_ms) => Call::Repeated,
            Some(_) => return AlarmStep::Wait,
        };
        if now_ms < self.next_ms {
            return AlarmStep::Wait;
        }
        let Self { key, since_ms, value, calls, .. } = self.clone();
        AlarmStep::Call(DueCall { alarm: key, call, since_ms, value, calls })
    }

    /// Answers before when the call is not tried again, when it is tried at a time. The pause doubles, from 20 s, which
    /// is longer than a receiver may take, to ten minutes.
    pub fn next_try_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_add((20_000_i64 << self.tries.min(10)).min(600_000))
    }
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    r#type: String,
    time: String,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    alarm: &'a str,
    severity: &'static str,
    labels: BTreeMap<&'a str, &'a str>,
    since: String,
    value: i64,
    summary: &'static str,
}

impl DueCall {
    /// Answers the call's id, the same however often it is tried.
    pub fn id(&self) -> String {
        let AlarmKey { name, labels } = &self.alarm;
        format!("{name}.{labels}.{}.{}.{}", self.since_ms, self.call.as_str(), self.calls)
    }

    /// Encodes the call: CloudEvents 1.0 as JSON.
    pub fn encode(&self, now_ms: i64) -> Vec<u8> {
        let rule = ALARMS.iter().find(|rule| rule.name == self.alarm.name);
        let event = Event {
            specversion: "1.0",
            id: &self.id(),
            source: "/seckill/alarms",
            r#type: format!("seckill.alarm.{}", self.call.as_str()),
            time: rfc3339(now_ms),
            datacontenttype: "application/json",
            data: Data {
                alarm: &self.alarm.name,
                severity: "page",
                labels: self.alarm.labels.split(',').filter_map(|label| label.split_once('=')).collect(),
                since: rfc3339(self.since_ms),
                value: self.value,
                summary: rule.map_or("a call that an operator asked for", |rule| rule.summary),
            },
        };
        serde_json::to_vec(&event).expect("texts and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(samples: &Samples, now_s: i64) -> Vec<String> {
        let all = samples.standing(now_s);
        all.iter().map(|(key, value)| format!("{}{{{}}} {value}", key.name, key.labels)).collect()
    }

    #[test]
    fn a_gauge_calls_when_it_was_above_its_limit_for_long_enough() {
        let mut samples = Samples::default();
        for now_s in (0..=70).step_by(10) {
            samples.take(
                "seckill_refunds_stuck{database=\"1\"} 2\nseckill_refunds_stuck{database=\"0\"} 0\n",
                now_s,
            );
            let expected: &[&str] = if now_s < 60 { &[] } else { &["SeckillRefundStuck{database=1} 2"] };
            assert_eq!(standing(&samples, now_s), expected, "{now_s}");
        }
        samples.take("seckill_refunds_stuck{database=\"1\"} 0\n", 80);
        assert!(standing(&samples, 80).is_empty());
        samples.take("# TYPE x gauge\nseckill_dead_letters_open 3\n\nno number\n", 90);
        assert_eq!(standing(&samples, 90), ["SeckillDeadLetters{} 3"]);
    }

    #[test]
    fn a_counter_calls_when_it_rises_and_not_because_it_is_high() {
        let mut samples = Samples::default();
        let text = |broken: u32, conflict: u32| {
            format!(
                "seckill_writer_retries_total{{reason=\"broken\"}} {broken}\n\
                 seckill_writer_retries_total{{reason=\"gap\"}} 1\n\
                 seckill_writer_retries_total{{reason=\"conflict\"}} {conflict}\n"
            )
        };
        samples.take(&text(5, 0), 0);
        assert!(standing(&samples, 0).is_empty());
        samples.take(&text(5, 90), 10);
        assert!(standing(&samples, 10).is_empty());
        samples.take(&text(7, 90), 20);
        assert_eq!(standing(&samples, 20), ["SeckillBatchesBroken{} 2"]);
        for now_s in (30..=330).step_by(10) {
            samples.take(&text(7, 90), now_s);
        }
        assert!(standing(&samples, 330).is_empty(), "five minutes later");
    }

    #[test]
    fn somebody_is_called_once_then_rarely_and_told_of_the_end() {
        let key = AlarmKey { name: "SeckillDeadLetters".to_owned(), labels: String::new() };
        let new = StoredAlarm {
            key,
            since_ms: 1_000,
            seen_ms: 1_000,
            value: 3,
            called_ms: None,
            calls: 0,
            tries: 0,
            next_ms: 0,
        };
        let called = |alarm: &StoredAlarm, now_ms: i64| match alarm.step(
            now_ms,
            Duration::from_secs(60),
            Duration::from_secs(3600),
        ) {
            AlarmStep::Call(due) => due.call.as_str(),
            AlarmStep::Forget => "forget",
            AlarmStep::Wait => "wait",
        };
        assert_eq!(
            (called(&new, 1_000), called(&new, 61_000), called(&new, 61_001)),
            ("raised", "raised", "forget")
        );
        let tried = StoredAlarm { tries: 1, next_ms: new.next_try_ms(1_000), ..new.clone() };
        assert_eq!((called(&tried, 20_999), called(&tried, 21_000)), ("wait", "raised"));
        assert_eq!(StoredAlarm { tries: 40, ..new.clone() }.next_try_ms(0), 600_000);
        let told = StoredAlarm { called_ms: Some(2_000), calls: 1, seen_ms: 3_602_000, ..new };
        assert_eq!((called(&told, 3_601_999), called(&told, 3_602_000)), ("wait", "repeated"));
        assert_eq!(called(&told, 3_662_001), "ended");
        let AlarmStep::Call(due) = told.step(3_662_001, Duration::from_secs(60), Duration::ZERO) else {
            panic!("a call")
        };
        assert_eq!(due.id(), "SeckillDeadLetters..1000.ended.1");
    }

    #[test]
    fn orders_that_wait_call_only_when_it_gets_no_better() {
        let at = |per_round: i64| {
            let mut samples = Samples::default();
            for round in 0..=13 {
                samples.take(&format!("seckill_orders_pending {}\n", 5000 + per_round * round), round * 10);
            }
            standing(&samples, 130)
        };
        assert_eq!(at(0), ["SeckillOrdersNotDraining{} 5000"]);
        assert_eq!(at(1), ["SeckillOrdersNotDraining{} 5013"]);
        assert!(at(-1).is_empty());
    }
}
