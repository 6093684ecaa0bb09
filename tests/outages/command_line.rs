//! Runs the real binary as a person runs it.

use std::process::Stdio;

use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::{Month, OrderId, Shard};
use serde_json::json;

use crate::binary::{Process, add_key, command};
use crate::client::call;
use crate::harness::{Books, Stage as _, assert_kept, config, eventually, operate, sale_body};
use crate::world::World;

#[test]
fn serving_without_a_secret_is_refused_with_exit_code_3() {
    let output = command(&config(Mode::Distributed, &[]))
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
    let world = World::new(&[]).await;
    add_key(&world.config).await;
    let process = Process::start(&world.config, "all").await;
    let run = |args: &[&str], key: Option<&str>| {
        let mut command = command(&world.config);
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
    let file = std::env::temp_dir().join(format!("{}.json", world.config.kafka.topic));
    std::fs::write(&file, sale_body("cli-sale", 1, &[("phone", 3)]).to_string()).expect("written");
    let created = run(&["sale", "create", file.to_str().expect("a path")], Some(&key));
    assert!(created.0 == Some(0) && created.1.contains("draft"), "{created:?}");
    std::fs::remove_file(&file).expect("removed");
    for (action, state) in [("publish", "published"), ("preheat", "preheated"), ("end", "ended")] {
        let done = run(&["sale", action, "cli-sale", "-o", "json"], Some(&key));
        assert!(done.0 == Some(0) && done.1.contains(state), "{done:?}");
    }
    let looked = run(&["reconcile"], Some(&key));
    assert!(looked.0 == Some(0) && looked.2.contains("the books fit together"), "{looked:?}");
    let refused = run(&["sale", "resume", "cli-sale"], Some(&key));
    assert!(refused.0 == Some(1) && refused.2.contains("allowed"), "{refused:?}");
    let (code, minted, _) = run(&["token", "mint", "--user", "alice"], None);
    assert_eq!(code, Some(0));
    let bearer = format!("Bearer {minted}");
    let orders = call(process.shopper, "GET", "/api/v1/orders", &[("Authorization", &bearer)], "").await;
    assert_eq!(orders.json()["orders"], json!([]));
    assert_eq!(run(&["sale"], None).0, Some(2), "usage");
    assert_kept(&world.config, Some(process.shopper), Books::LeftAlone).await;
    drop(process);
    world.finish().await;
}

#[test]
fn a_missing_server_is_named_with_its_address_and_its_setting() {
    let mut config = config(Mode::Distributed, &[]);
    config.mysql.instances = vec!["127.0.0.1:9".to_owned()];
    for args in [&["serve"][..], &["migrate"], &["key", "create", "--name", "x"], &["position", "show"]] {
        let output = command(&config)
            .env("SECKILL__START__WAIT_MS", "600")
            .args(args)
            .stderr(Stdio::piped())
            .output()
            .expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        for words in ["waiting for MySQL instance 0 at 127.0.0.1:9", "s left", "mysql.instances", "refused"] {
            assert!(text.contains(words), "{args:?} does not say {words}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_without_kafka_says_so_at_once() {
    let world = World::new(&[]).await;
    let mut config = world.config.clone();
    config.kafka.brokers = "127.0.0.1:9".to_owned();
    let output = command(&config)
        .env("SECKILL__START__WAIT_MS", "600")
        .arg("migrate")
        .stderr(Stdio::piped())
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("waiting for Kafka at 127.0.0.1:9 (kafka.brokers)"), "{text}");
    world.finish().await;
}

/// The commands of the runbook, in their order and each once, as lines of words.
fn commands_of_the_runbook() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md"));
    let page = page.expect("the page");
    let (_, runbook) = page.split_once("\n## Runbook").expect("the section");
    let (runbook, _) = runbook.split_once("\n## ").expect("the section after it");
    let mut found = Vec::new();
    for line in runbook.lines().filter_map(|line| line.strip_prefix("$ ")) {
        found.push(line.to_owned());
    }
    // Every second piece stands between marks of code; those of blocks have three.
    let joined = runbook.replace("```", "").replace('\n', " ");
    let code = joined.split('`').skip(1).step_by(2);
    found.extend(code.map(|piece| piece.split_whitespace().collect::<Vec<_>>().join(" ")));
    let mut unique: Vec<String> = Vec::new();
    for command in found.into_iter().filter(|piece| piece.starts_with("seckill ")) {
        if !unique.contains(&command) {
            unique.push(command);
        }
    }
    unique
}

/// Fills in what a line leaves open.
fn filled_in(line: &str, letter: &str) -> String {
    let reason = ["\"…\"", "…", "\"read again\"", "\"a slip\""];
    let filled = reason.iter().fold(line.to_owned(), |line, reason| line.replace(reason, "a_test"));
    let sale = if line.contains("stock") { "drop" } else { "over" };
    let values = [
        ("PART", "1"),
        (" N ", " 1 "),
        ("SALE", sale),
        ("SKU", "phone"),
        ("UNITS", "3"),
        ("TEXT", "a_test"),
        ("LETTER", letter),
    ];
    let filled = values.iter().fold(filled, |line, (name, value)| line.replace(name, value));
    let is_short = filled.ends_with("stock show") || filled.ends_with("sale preheat");
    if is_short { format!("{filled} drop") } else { filled }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_runbook_does_what_it_says() {
    let world = World::new(&[]).await;
    let process = Process::start(&world.config, "all").await;
    let run = |line: &str, key: &str| {
        let mut command = command(&world.config);
        command.env("SECKILL_ADMIN", process.admin.to_string()).env("SECKILL_API_KEY", key);
        let words = line.split_whitespace().skip(1).map(|word| word.replace('_', " "));
        let output = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = output.expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let scopes = "sales:read,sales:write,stock:write,orders:read,orders:write";
    let key = run(&format!("seckill key create --name cli --scopes {scopes}"), "").1;
    let key = key.lines().find(|line| line.starts_with("sk_")).expect("a key").to_owned();
    for sale in ["drop", "over"] {
        let body = sale_body(sale, 1, &[("phone", 3)]);
        for (path, body) in [("/sales".to_owned(), body)].into_iter().chain(
            ["publish", "preheat"].map(|act| (format!("/sales/{sale}/{act}"), json!({ "reason": "a test" }))),
        ) {
            let answer = operate(process.admin, &key, "POST", &path, body).await;
            assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        }
    }
    operate(process.admin, &key, "POST", "/sales/over/end", json!({ "reason": "a test" })).await;
    let garbage = OrderId::first_of(Shard::new(0), Month::of_ms(Clock::System.now_ms()));
    world.database().append(garbage, vec![b"no record".to_vec()]).await;
    let letters = async || run("seckill dead-letters list", &key).1;
    eventually("there is a dead letter", async || letters().await.contains("garbage")).await;
    let letters = letters().await;
    let line = letters.lines().find(|line| line.contains("garbage")).expect("its line");
    let letter = line.split_whitespace().next().expect("its id").to_owned();
    let commands = commands_of_the_runbook();
    assert!(commands.len() > 12, "{commands:?}");
    for line in commands {
        let filled = filled_in(&line, &letter);
        let (expected, says) = match line.split_whitespace().nth(1).expect("a command") {
            _ if line.contains("--to 5") => (1, "offsets from 0 to"),
            "migrate" => (0, "databases ready"),
            "reconcile" => (0, "the books fit together"),
            "recover" if line.contains("--apply") => (0, "is used again within a second"),
            "recover" => (0, "nothing was changed"),
            _ => (0, ""),
        };
        if line.starts_with("seckill recover") {
            let (at, control) = world.database().controls().pop().expect("an instance");
            world.database().execute(at, &format!("UPDATE {control}.watermark SET mark = 0")).await;
        }
        let (code, text) = run(&filled, &key);
        assert!(code == Some(expected) && text.contains(says), "{filled}: {code:?} {text}");
        if line.starts_with("seckill recover") {
            run("seckill recover mysql 1 --apply --reason a_test", &key);
            eventually("it is used, and its buckets are rebuilt", async || {
                run("seckill reconcile", &key).0 == Some(0)
            })
            .await;
        }
    }
    drop(process);
    world.finish().await;
}
