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

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn migrating_again_and_twice_at_once_changes_nothing() {
    let config = config(Mode::Distributed, &[]);
    tokio::join!(migrated(&config), migrated(&config));
    migrated(&config).await;
    let database = Servers::of(&config);
    assert_eq!(database.sum("COUNT(*)", "consumer_positions").await, 2);
    let settings = format!("SELECT COUNT(*) FROM {}.settings", database.directory());
    assert_eq!(database.number(0, &settings).await, 5);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
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

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn instances_in_another_order_are_refused_before_anything_is_made() {
    let mut config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    config.mysql.instances.reverse();
    let text = migrate_error(&config).await;
    assert!(text.contains("order of the first migration"), "{text}");
    config.mysql.instances.reverse();
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_topic_with_other_settings_is_an_error_with_the_remedy() {
    let mut config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    config.kafka.retention_ms = 1_000_000;
    let text = migrate_error(&config).await;
    assert!(text.contains("retention.ms=604800000") && text.contains("kafka-configs --alter"), "{text}");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn serving_before_migrating_says_what_to_do() {
    let config = config(Mode::Distributed, &[]);
    let settings = app::backend_settings(&config).expect("settings");
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("seckill migrate"), "{refused}");
}

/// Makes an orders table of a month in every shard as the first version made it.
async fn old_month(database: &Servers, yyyymm: u32) {
    let first = include_str!("../../migrations/month/0001_orders.sql");
    for (instance, shard) in database.shards() {
        let table = format!("`{shard}`.orders_{yyyymm}");
        database.execute(instance, &format!("DROP TABLE IF EXISTS {table}")).await;
        let made = first.replace("EXISTS orders_{yyyymm}", &format!("EXISTS {table}"));
        database.execute(instance, &made.replace("{yyyymm}", &yyyymm.to_string())).await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn months_that_exist_are_brought_to_the_newest_shape_without_losing_a_row() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let database = Servers::of(&config);
    let current = months()[0].yyyymm();
    // A month that is long over, for which nobody asks any more, and one that is sold in now.
    for yyyymm in [202001, current] {
        old_month(&database, yyyymm).await;
        for (instance, shard) in database.shards() {
            let row = format!(
                "INSERT INTO `{shard}`.orders_{yyyymm} VALUES (REPEAT('x', 16), 's', 'k', 'alice', 1, 1, 'CNY', \
                 'awaiting_payment', NULL, 1, 1, 1, 1)"
            );
            database.execute(instance, &row).await;
        }
    }
    // The second migration finds nothing to do, and two at once do it once.
    tokio::join!(migrated(&config), migrated(&config));
    migrated(&config).await;
    for (instance, shard) in database.shards() {
        for yyyymm in [202001, current] {
            let place = format!("table_schema = '{shard}' AND table_name = 'orders_{yyyymm}'");
            let longest = format!(
                "SELECT CAST(character_maximum_length AS SIGNED) FROM information_schema.columns \
                 WHERE {place} AND column_name = 'user_id'"
            );
            assert_eq!(database.number(instance, &longest).await, 255, "{place}");
            let named = format!(
                "SELECT COUNT(*) FROM information_schema.tables WHERE {place} AND table_comment = 'shape 7'"
            );
            assert_eq!(database.number(instance, &named).await, 1, "{place}");
            let rows = format!("SELECT COUNT(*) FROM `{shard}`.orders_{yyyymm} WHERE user_id = 'alice'");
            assert_eq!(database.number(instance, &rows).await, 1, "{place}");
        }
    }
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_front_that_knows_longer_names_does_not_serve_the_older_schema() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let database = Servers::of(&config);
    let older = format!("UPDATE {}.settings SET value = '2' WHERE name = 'schema'", database.directory());
    database.execute(0, &older).await;
    let settings = app::backend_settings(&config).expect("settings");
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("run `seckill migrate`"), "{refused}");
    migrated(&config).await;
    distributed::open(&settings, Clock::System).await.expect("opened");
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_older_program_works_beside_a_newer_one_as_long_as_that_one_allows_it() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let database = Servers::of(&config);
    let set = async |name: &str, value: u32| {
        let text =
            format!("UPDATE {}.settings SET value = '{value}' WHERE name = '{name}'", database.directory());
        database.execute(0, &text).await;
    };
    set("schema", 999).await;
    let newer = format!(
        "INSERT INTO {}._sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'of a newer version', true, 'x', 1)",
        database.directory()
    );
    database.execute(0, &newer).await;
    let settings = app::backend_settings(&config).expect("settings");
    distributed::open(&settings, Clock::System).await.expect("it works with what it knows");
    migrated(&config).await;
    let recorded =
        format!("SELECT CAST(value AS SIGNED) FROM {}.settings WHERE name = 'schema'", database.directory());
    assert_eq!(database.number(0, &recorded).await, 999);
    set("schema_least", 999).await;
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("Use a newer version"), "{refused}");
    assert!(migrate_error(&config).await.contains("Use a newer version"));
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_dry_run_says_what_is_to_be_done_and_does_nothing() {
    let config = config(Mode::Distributed, &[]);
    let database = Servers::of(&config);
    let settings = app::backend_settings(&config).expect("settings");
    let plan = async || migrate::plan(&settings, &months(), Clock::System).await.expect("a plan");
    let steps = plan().await;
    let databases = steps.iter().filter(|step| step.starts_with("make database")).count();
    let topics = steps.iter().filter(|step| step.starts_with("make topic")).count();
    assert_eq!((databases, topics, steps.len()), (1 + 2 + 4, 2, 9), "{steps:?}");
    assert_eq!(plan().await, steps, "nothing was made");
    migrated(&config).await;
    assert_eq!(plan().await, [""; 0]);
    old_month(&database, 202001).await;
    database
        .execute(0, &format!("DELETE FROM {}._sqlx_migrations WHERE version = 5", database.directory()))
        .await;
    let steps = plan().await;
    let first = format!("apply 0005_words_seals_subscriptions.sql to {}", database.directory());
    assert_eq!(steps[0], first);
    let month = |step: &&String| step.ends_with("orders_202001 (0 orders) from shape 1 to shape 7");
    assert_eq!((steps.iter().filter(month).count(), steps.len()), (4, 5), "{steps:?}");
    remove(&config).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_dry_run_on_a_folder_makes_nothing() {
    let config = config(Mode::Embedded, &[]);
    let folder = config.embedded.folder.display().to_string();
    let plan = async || app::migration_plan(&config).await.expect("a plan");
    assert_eq!(plan().await, [format!("make folder {folder}")]);
    assert!(!config.embedded.folder.exists(), "nothing was made");
    drop(crate::harness::open(&config).await);
    assert_eq!(plan().await, [""; 0]);
    remove(&config).await;
}
