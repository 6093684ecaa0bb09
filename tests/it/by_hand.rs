//! Commands that change the stores themselves leave rows in the audit log, and those that change nothing leave none.

use std::process::Stdio;

use seckill::config::{Config, Mode};
use serde_json::Value;

use crate::harness::process::program;
use crate::harness::{MONTHS_AHEAD, Servers, TestShop, config, eventually, remove, stage};

/// Runs a command, which must succeed.
fn run(config: &Config, args: &[&str]) -> String {
    let mut command = program(config);
    command.env("SECKILL__SHARDS__MONTHS_AHEAD", MONTHS_AHEAD.to_string());
    let done = command.args(args).stdin(Stdio::null()).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{args:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

async fn rows(config: &Config, action: &str) -> Vec<Value> {
    stage(config).notes(action).await.into_iter().map(|(_, details)| details).collect()
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_migration_a_key_and_a_moved_position_leave_rows_and_what_changes_nothing_leaves_none() {
    let config = config(Mode::Distributed, &[]);
    run(&config, &["migrate"]);
    let noted = rows(&config, "migrate").await;
    let steps = noted.first().and_then(|details| details["steps"].as_array()).expect("steps");
    assert!(noted.len() == 1 && steps.len() > 5, "{noted:?}");
    run(&config, &["migrate"]);
    run(&config, &["migrate", "--dry-run"]);
    assert_eq!(rows(&config, "migrate").await.len(), 1, "nothing was to be done");
    run(&config, &["key", "create", "--name", "bob"]);
    assert_eq!(rows(&config, "key_create").await.len(), 1);
    run(&config, &["position", "show"]);
    run(&config, &["position", "move", "0", "--to", "start", "--reason", "x"]);
    assert_eq!(rows(&config, "position_move").await.len(), 1);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn views_that_are_made_anew_leave_a_row_when_they_are_others() {
    let mut shop = TestShop::start(Mode::Distributed).await;
    let config = shop.config.clone();
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    assert_eq!(shop.buy("ada", "drop", "phone", "k").await.status, 202);
    let database = Servers::of(&config);
    let (counted, of_both) = ("SELECT COUNT(*) FROM {}.view_counts", database.controls());
    eventually("the view has it", async || {
        let mut rows = 0;
        for (instance, control) in &of_both {
            rows += database.number(*instance, &counted.replace("{}", control)).await;
        }
        rows > 0
    })
    .await;
    shop.stop().await;
    run(&config, &["views", "rebuild"]);
    assert_eq!(rows(&config, "views_rebuild").await, Vec::<Value>::new(), "they are the same");
    for (instance, control) in &of_both {
        database.execute(*instance, &format!("UPDATE {control}.view_counts SET orders = orders + 1")).await;
    }
    run(&config, &["views", "rebuild", "--reason", "somebody has changed them"]);
    let noted = rows(&config, "views_rebuild").await;
    assert_eq!(noted.first().map(|details| &details["sales"][0]), Some(&Value::from("drop")), "{noted:?}");
    remove(&config).await;
}
