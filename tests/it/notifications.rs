//! Tests of the calls to a person: which alarms there are, and that each is called out once by whichever process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::alarm::{ALARMS, AlarmKey, Call, DueCall};
use seckill::domain::signature::is_signed;
use seckill::outbound::HttpOutbound;
use seckill::ports::{Alarms, CallTimes, Ports, StoreError, StoreResult};
use seckill::worker::alarm_caller::{self, AlarmCaller, Memory};
use seckill::worker::driver::Task as _;
use serde_json::Value;

use crate::harness::data_folder::DataFolder;
use crate::harness::{Servers, config, eventually, migrated, open, remove};
use crate::receiver::Receiver;

in_both_modes!(
    an_alarm_is_called_out_once_and_forgotten_when_its_end_was_heard,
    a_receiver_that_was_down_hears_what_stands_signed_and_its_end,
);

/// The page-level alerts of which a process cannot call itself: it is down, or keeps no hour of all processes.
const OF_OTHERS: [&str; 3] = ["SeckillDown", "SeckillPurchaseBudgetBurns", "SeckillRowBudgetBurns"];

#[test]
fn every_alert_of_the_page_level_is_an_alarm_and_says_the_same() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/rules.yml");
    let text = std::fs::read_to_string(path).expect("the rules");
    let alerts = text.split("- alert: ").skip(1);
    let pages = alerts.filter(|alert| alert.contains("severity: page"));
    let name = |alert: &str| alert.lines().next().expect("a name").trim().to_owned();
    let mut expected: BTreeMap<String, &str> = pages.map(|alert| (name(alert), alert)).collect();
    for of_others in OF_OTHERS {
        assert!(expected.remove(of_others).is_some(), "{of_others}");
    }
    let names: BTreeSet<String> = ALARMS.iter().map(|alarm| alarm.name.to_owned()).collect();
    assert_eq!(names, expected.keys().cloned().collect());
    for alarm in &ALARMS {
        assert!(expected[alarm.name].contains(alarm.metric), "{} is made of {}", alarm.name, alarm.metric);
    }
}

const STANDS: CallTimes =
    CallTimes { ended_after: Duration::from_secs(600), repeat_after: Duration::from_secs(600) };
/// As if all alarms were called out, and seen for the last time, long ago.
const LONG_AGO: CallTimes =
    CallTimes { ended_after: Duration::from_secs(600), repeat_after: Duration::from_millis(1) };

async fn due(ports: &Ports, times: CallTimes) -> Vec<(String, Call)> {
    let due = ports.alarms.due(times).await.expect("alarms");
    due.into_iter().map(|due| (due.alarm.labels, due.call)).collect()
}

async fn an_alarm_is_called_out_once_and_forgotten_when_its_end_was_heard(mode: Mode) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let ports = open(&config).await;
    let alarm = |part: u32, value: i64| {
        (AlarmKey { name: "SeckillPartitionHalted".to_owned(), labels: format!("part={part}") }, value)
    };
    ports.alarms.see(&[alarm(0, 1), alarm(1, 7)]).await.expect("noted");
    ports.alarms.see(&[alarm(1, 8)]).await.expect("noted");
    let (one, other) = tokio::join!(due(&ports, STANDS), due(&ports, STANDS));
    let both: BTreeSet<String> = one.iter().chain(&other).map(|(labels, _)| labels.clone()).collect();
    assert_eq!((one.len() + other.len(), both.len()), (2, 2), "each is taken by one: {one:?} {other:?}");
    assert_eq!(due(&ports, STANDS).await, [], "what was not taken is tried again later");
    assert_eq!(due(&ports, LONG_AGO).await, []);

    // A receiver that was down hears of it later, and only then it is repeated.
    ports.alarms.see(&[alarm(2, 3)]).await.expect("noted");
    let raised = ports.alarms.due(STANDS).await.expect("alarms").pop().expect("a call");
    assert_eq!((raised.call, raised.value, raised.calls), (Call::Raised, 3, 0));
    ports.alarms.called(&raised).await.expect("noted");
    assert_eq!(due(&ports, STANDS).await, []);
    eventually("it is repeated", async || {
        due(&ports, LONG_AGO).await == [("part=2".to_owned(), Call::Repeated)]
    })
    .await;
    // Nobody sees any of them for a while. Nobody was called about the first two.
    let ended = CallTimes { ended_after: Duration::ZERO, repeat_after: Duration::ZERO };
    eventually("they are forgotten", async || {
        due(&ports, ended).await.is_empty() && {
            ports.alarms.see(&[alarm(0, 1), alarm(1, 1)]).await.expect("noted");
            due(&ports, STANDS).await.len() == 2
        }
    })
    .await;
    let last = DueCall { call: Call::Ended, calls: 1, ..raised };
    ports.alarms.called(&last).await.expect("noted");
    ports.alarms.see(&[alarm(2, 1)]).await.expect("noted");
    let again = ports.alarms.due(STANDS).await.expect("alarms");
    assert_eq!(again.iter().map(|due| due.call).collect::<Vec<_>>(), [Call::Raised], "it was forgotten");
    drop(ports);
    remove(&config).await;
}

/// Does at once what would be tried again later, and lets alarms end that nobody sees now.
async fn let_time_pass(config: &Config) {
    let text = "UPDATE {}alarms SET next_ms = 0, seen_ms = seen_ms - 61000";
    match config.backend.mode {
        Mode::Embedded => {
            DataFolder::of(config).try_execute(&text.replace("{}", "")).await.expect("a database");
        }
        Mode::Distributed => {
            let servers = Servers::of(config);
            servers.execute(0, &text.replace("{}", &format!("{}.", servers.directory()))).await;
        }
    }
}

async fn a_receiver_that_was_down_hears_what_stands_signed_and_its_end(mode: Mode) {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let config = config(mode, &[("events.webhook_networks", "127.0.0.0/8")]);
    migrated(&config).await;
    let ports = open(&config).await;
    let receiver = Receiver::start().await;
    let measured = Arc::new(Mutex::new("seckill_dead_letters_open 2\n".to_owned()));
    let shown = measured.clone();
    let clock = Clock::manual(Clock::System.now_ms());
    let caller = AlarmCaller {
        alarms: ports.alarms.clone(),
        receiver: alarm_caller::Receiver {
            outbound: Arc::new(HttpOutbound::new(&config.events, Clock::System).expect("a client")),
            url: receiver.url(),
            secret: SECRET.to_owned(),
        },
        exposition: Box::new(move || shown.lock().expect("sound").clone()),
        clock: clock.clone(),
        repeat_after: Duration::from_secs(3600),
        memory: Mutex::new(Memory::new(clock.monotonic())),
    };
    receiver.answer(503);
    caller.run_once().await.expect("a call that is not taken is no failure");
    assert_eq!((receiver.calls(), receiver.taken().len()), (1, 0));
    receiver.answer(200);
    for _ in 0..2 {
        caller.run_once().await.expect("a store");
    }
    assert_eq!(receiver.calls(), 1, "it is left alone for a while");
    let_time_pass(&config).await;
    for _ in 0..2 {
        caller.run_once().await.expect("a store");
    }
    assert_eq!(receiver.taken().len(), 1, "it is called once");
    "seckill_dead_letters_open 0\n".clone_into(&mut measured.lock().expect("sound"));
    caller.run_once().await.expect("a store");
    assert_eq!(receiver.taken().len(), 1, "it may come back");
    let_time_pass(&config).await;
    caller.run_once().await.expect("a store");
    assert_eq!(receiver.taken().len(), 1, "this process has not seen everything yet");
    clock.advance_ms(181_000);
    for _ in 0..2 {
        caller.run_once().await.expect("a store");
    }
    let said: Vec<(Value, Value)> = receiver
        .taken()
        .iter()
        .map(|call| {
            let now_s = Clock::System.now_ms() / 1000;
            let header = call.header("seckill-signature");
            assert!(is_signed(header, &call.body, &[SECRET.as_bytes()], now_s), "{header}");
            let event: Value = serde_json::from_slice(&call.body).expect("JSON");
            assert_eq!(event["id"], call.header("seckill-event-id"));
            assert_eq!(
                (&event["data"]["alarm"], &event["data"]["value"]),
                (&"SeckillDeadLetters".into(), &2.into())
            );
            (event["type"].clone(), event["data"]["since"].clone())
        })
        .collect();
    assert_eq!([&said[0].0, &said[1].0], ["seckill.alarm.raised", "seckill.alarm.ended"]);
    assert_eq!((said.len(), &said[0].1), (2, &said[1].1), "since when is the same");
    drop((caller, ports));
    remove(&config).await;
}

/// A store that does not answer.
struct NoStore;

#[async_trait]
impl Alarms for NoStore {
    async fn see(&self, _: &[(AlarmKey, i64)]) -> StoreResult<()> {
        Err(StoreError::broken("note alarms", "down"))
    }

    async fn due(&self, _: CallTimes) -> StoreResult<Vec<DueCall>> {
        Err(StoreError::broken("read alarms", "down"))
    }

    async fn called(&self, _: &DueCall) -> StoreResult<()> {
        Err(StoreError::broken("note alarms", "down"))
    }
}

#[tokio::test]
async fn somebody_is_called_although_the_directory_is_down() {
    let config = config(Mode::Embedded, &[("events.webhook_networks", "127.0.0.0/8")]);
    let receiver = Receiver::start().await;
    let clock = Clock::manual(Clock::System.now_ms());
    let caller = AlarmCaller {
        alarms: Arc::new(NoStore),
        receiver: alarm_caller::Receiver {
            outbound: Arc::new(HttpOutbound::new(&config.events, Clock::System).expect("a client")),
            url: receiver.url(),
            secret: "0123456789abcdef0123456789abcdef".to_owned(),
        },
        exposition: Box::new(|| "seckill_partition_stalled_seconds{part=\"3\"} 31\n".to_owned()),
        clock: clock.clone(),
        repeat_after: Duration::from_secs(3600),
        memory: Mutex::new(Memory::new(clock.monotonic())),
    };
    receiver.answer(500);
    assert!(caller.run_once().await.is_err());
    receiver.answer(200);
    for _ in 0..3 {
        assert!(caller.run_once().await.is_err());
    }
    assert_eq!((receiver.calls(), receiver.taken().len()), (2, 1), "it is tried again, and called once");
    clock.advance_ms(3_600_000);
    assert!(caller.run_once().await.is_err());
    assert_eq!(receiver.taken().len(), 2, "and an hour later again");
}
