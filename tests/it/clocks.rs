//! Tests of a process whose clock is wrong: it follows the clock of the inventory.

use std::time::Duration;

use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::worker::clock_watch::ClockWatch;
use seckill::worker::driver::Task as _;

use crate::harness::{config, migrated, open, remove};

in_both_modes!(a_clock_that_is_wrong_is_corrected_and_its_offset_is_told);

async fn a_clock_that_is_wrong_is_corrected_and_its_offset_is_told(mode: Mode) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let ports = open(&config).await;
    for wrong_ms in [-5_000, 0, 5_000, 86_400_000] {
        let clock = Clock::manual(Clock::System.now_ms() + wrong_ms).follow();
        let watch = ClockWatch::new(ports.gates.clone(), clock.clone(), Duration::from_secs(1));
        for _ in 0..2 {
            watch.run_once().await.expect("a clock");
            let off_ms = clock.now_ms() - Clock::System.now_ms();
            assert!(off_ms.abs() < 2_000, "{wrong_ms}: still {off_ms} ms off");
            assert!((clock.offset_ms() + wrong_ms).abs() < 2_000, "{wrong_ms}: {} told", clock.offset_ms());
        }
    }
    drop(ports);
    remove(&config).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_time_of_a_folder_is_never_behind_what_was_written_in_it() {
    use seckill::backend::embedded::open;
    use seckill::domain::operator::Subject;
    use seckill::domain::{ApiKey, Change, KeyId};

    const DAY_MS: i64 = 86_400_000;
    let config = config(Mode::Embedded, &[]);
    let settings = seckill::app::embedded_settings(&config).expect("settings");
    let written_ms = Clock::System.now_ms();
    {
        let ports = open(&settings, Clock::manual(written_ms)).await.expect("a folder").ports;
        let (actor, reason, request_id) = ("somebody".to_owned(), "a test".to_owned(), "-".to_owned());
        let key = ApiKey { name: "a-key".to_owned(), scopes: Vec::new() };
        let change = Change { actor, action: "create_key", reason, request_id };
        ports.audit_log.note(&change, &Subject::Key { id: KeyId::of(&[7; 32]), key }).await.expect("written");
    }
    // The clock was set back meanwhile.
    let clock = Clock::manual(written_ms - DAY_MS);
    let mut opened = None;
    crate::harness::eventually("the thread of the writer has ended and left the folder", async || {
        opened = open(&settings, clock.clone()).await.ok();
        opened.is_some()
    })
    .await;
    let ports = opened.expect("opened").ports;
    assert_eq!(ports.gates.now_ms().await.expect("a time"), written_ms);
    clock.advance_ms(500);
    assert_eq!(ports.gates.now_ms().await.expect("a time"), written_ms + 500, "it runs on from there");
    drop(ports);
    remove(&config).await;
}
