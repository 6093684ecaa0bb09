//! The real binary as a process: signals, kills, and what is left afterwards.

#![expect(clippy::disallowed_methods, reason = "a crowd's task ends with its test")]

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::binary::{Process, assert_all_written, command, crowd, prepared};
use crate::client::call;
use crate::harness::{Database, config, eventually, open_sale, remove, sale_body};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_no_accepted_order_and_exits_zero() {
    let config = prepared().await;
    let mut first = Process::start(&config, "all").await;
    open_sale(first.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(first.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    first.signal("-TERM");
    let status = first.ended(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    let accepted = load.await.expect("no panic").len();
    assert!(accepted > 100);
    let mut second = Process::start(&config, "worker").await;
    assert_all_written(&config, accepted).await;
    second.signal("-TERM");
    assert!(second.ended(Duration::from_secs(20)).await.success());
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_the_whole_process_loses_no_accepted_order() {
    let config = prepared().await;
    let mut first = Process::start(&config, "all").await;
    open_sale(first.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(first.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    first.signal("-KILL");
    assert!(!first.ended(Duration::from_secs(5)).await.success());
    let accepted = load.await.expect("no panic").len();
    let second = Process::start(&config, "worker").await;
    assert_all_written(&config, accepted).await;
    drop(second);
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_of_one_of_two_writers_is_taken_over() {
    let config = prepared().await;
    let front = Process::start(&config, "api").await;
    let mut dying = Process::start(&config, "worker").await;
    let _survivor = Process::start(&config, "worker").await;
    open_sale(front.admin, sale_body("drop", 1, &[("phone", 100_000)])).await;
    let load = tokio::spawn(crowd(front.shopper));
    let database = Database::of(&config);
    eventually("orders flow", async || database.orders("awaiting_payment").await > 100).await;
    dying.signal("-KILL");
    dying.ended(Duration::from_secs(5)).await;
    let accepted = load.await.expect("no panic").len();
    assert_eq!(accepted, 6400, "the front does not notice");
    assert_all_written(&config, accepted).await;
    remove(&config).await;
}

#[test]
fn serving_without_a_secret_is_refused_with_exit_code_3() {
    let output = command(&config(&[]))
        .env_remove("SECKILL__AUTH__HS256_SECRET")
        .arg("serve")
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("SECKILL__AUTH__HS256_SECRET"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_runs_a_sale_from_key_to_end() {
    let config = prepared().await;
    let process = Process::start(&config, "all").await;
    let run = |args: &[&str], key: Option<&str>| {
        let mut command = command(&config);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("SECKILL_ADMIN", process.admin.to_string());
        if let Some(key) = key {
            command.env("SECKILL_API_KEY", key);
        }
        let output = command.output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, key, _) = run(&["key", "create", "--name", "cli"], None);
    assert!(code == Some(0) && key.starts_with("sk_"), "{code:?}");
    let file = std::env::temp_dir().join(format!("{}.json", config.kafka.topic));
    std::fs::write(&file, sale_body("cli-sale", 1, &[("phone", 3)]).to_string()).expect("written");
    let created = run(&["sale", "create", file.to_str().expect("a path")], Some(&key));
    assert!(created.0 == Some(0) && created.1.contains("draft"), "{created:?}");
    std::fs::remove_file(&file).expect("removed");
    for (action, state) in [("publish", "published"), ("preheat", "preheated"), ("end", "ended")] {
        let done = run(&["sale", action, "cli-sale", "-o", "json"], Some(&key));
        assert!(done.0 == Some(0) && done.1.contains(state), "{done:?}");
    }
    let refused = run(&["sale", "resume", "cli-sale"], Some(&key));
    assert!(refused.0 == Some(1) && refused.2.contains("allowed"), "{refused:?}");
    let (code, minted, _) = run(&["token", "mint", "--user", "alice"], None);
    assert_eq!(code, Some(0));
    let bearer = format!("Bearer {minted}");
    let orders = call(process.shopper, "GET", "/api/v1/orders", &[("Authorization", &bearer)], "").await;
    assert_eq!(orders.json()["orders"], json!([]));
    assert_eq!(run(&["sale"], None).0, Some(2), "usage");
    remove(&config).await;
}
