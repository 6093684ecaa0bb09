//! Tests of `seckill migrate`. It is idempotent, two may run at once, and it never takes another shard map or topic
//! silently.

use seckill::app;
use seckill::backend::distributed::{self, migrate};
use seckill::clock::Clock;
use seckill::config::{Config, Mode};

use crate::harness::{Servers, Stage as _, config, migrated, months, remove};

async fn migrate_error(config: &Config) -> String {
    let settings = app::backend_settings(config).expect("settings");
    let failed = migrate::run(&settings, &months(), Clock::System, |_| ()).await;
    failed.expect_err("a mismatch must be refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_and_twice_at_once_changes_nothing() {
    let config = config(Mode::Distributed, &[]);
    tokio::join!(migrated(&config), migrated(&config));
    migrated(&config).await;
    let database = Servers::of(&config);
    assert_eq!(database.sum("COUNT(*)", "consumer_positions").await, 2);
    let settings = format!("SELECT COUNT(*) FROM {}.settings", database.directory());
    assert_eq!(database.number(0, &settings).await, 4);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_shard_count_is_refused_by_migrate_and_by_serve() {
    let mut config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    config.shards.shards = 8;
    let text = migrate_error(&config).await;
    assert!(text.contains("shards is 8") && text.contains("was 4"), "{text}");
    let settings = app::backend_settings(&config).expect("settings");
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("set it back to 4"), "{refused}");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_in_another_order_are_refused_before_anything_is_made() {
    let mut config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    config.mysql.instances.reverse();
    let text = migrate_error(&config).await;
    assert!(text.contains("order of the first migration"), "{text}");
    config.mysql.instances.reverse();
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_other_settings_is_an_error_with_the_remedy() {
    let mut config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    config.kafka.retention_ms = 1_000_000;
    let text = migrate_error(&config).await;
    assert!(text.contains("retention.ms=604800000") && text.contains("kafka-configs --alter"), "{text}");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_before_migrating_says_what_to_do() {
    let config = config(Mode::Distributed, &[]);
    let settings = app::backend_settings(&config).expect("settings");
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("seckill migrate"), "{refused}");
}
