//! Runs the real binary as a person runs it.

use std::process::Stdio;

use seckill::config::Mode;
use serde_json::json;

use crate::binary::{Process, add_key, command};
use crate::client::call;
use crate::harness::{Books, assert_kept, config, sale_body};
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
