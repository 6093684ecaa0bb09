//! A process reads its configuration again: at SIGHUP, and when an operator says so.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::binary::{Folder, Process, SERVE, command, run};
use crate::client::call;
use crate::harness::eventually;

/// Writes a configuration whose limit of a buyer is so many purchases a second.
fn write(folder: &Folder, text: &str) {
    fs::create_dir_all(folder.path()).expect("a folder");
    fs::write(folder.path().join("shop.toml"), text).expect("written");
}

fn with_file(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = command(&folder.path().join("data"), arguments);
    command.env_remove("SECKILL__LIMITS__USER_PER_S").arg("--config").arg(folder.path().join("shop.toml"));
    command
}

/// Reads how many purchases a second a buyer may make.
async fn rate(process: &Process, key: &str) -> Value {
    let headers = [("Authorization", format!("Bearer {key}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let rules = call(process.admin, "GET", "/api/v1/admin/rules", &headers, "").await.json();
    let all = rules["rules"].as_array().expect("rules").clone();
    let user = all.into_iter().find(|rule| rule["id"] == "user");
    user.map_or(Value::Null, |rule| rule["value"]["rate"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_followed_without_a_restart_and_a_bad_file_changes_nothing() {
    let folder = Folder::new();
    write(&folder, "[limits]\nuser_per_s = 5\n");
    let scopes = ["key", "create", "--name", "tester", "--scopes", "limits:read,limits:write,ops:read"];
    let (code, key, said) = run(with_file(&folder, &scopes));
    assert_eq!(code, Some(0), "{said}");
    let process = Process::start(with_file(&folder, &SERVE)).await;
    assert_eq!(rate(&process, &key).await, 5);

    write(&folder, "[limits]\nuser_per_s = 7\n");
    let sent = Command::new("kill").args(["-HUP", &process.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    eventually("the process follows it", async || rate(&process, &key).await == 7).await;
    let headers = [("Authorization", format!("Bearer {key}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let rows = call(process.admin, "GET", "/api/v1/admin/audit?actor=signal", &headers, "").await.json();
    assert_eq!(rows["rows"][0]["action"], "config_reload", "{rows}");

    let reload = || {
        let mut reload = with_file(&folder, &["config", "reload", "--reason", "a test", "--output", "json"]);
        reload.env("SECKILL_ADMIN", process.admin.to_string()).env("SECKILL_API_KEY", &key);
        run(reload)
    };
    write(&folder, "[limits]\nuser_per_s = 8\n[cache]\norders_max = 5\n");
    let (code, told, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["followed"], serde_json::json!(["limits.user_per_s"]), "{told}");
    assert_eq!(told["at_restart"], serde_json::json!(["cache.orders_max"]), "{told}");
    assert_eq!(rate(&process, &key).await, 8);

    write(&folder, "[limits]\nuser_per_s = -1\n");
    let (code, _, said) = reload();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("limits.user_per_s"), "{said}");
    assert_eq!(rate(&process, &key).await, 8, "nothing was changed");
    assert!(process.stop().success());
}
