//! `seckill doctor` on a data folder: each thing that is wrong is told.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use crate::binary::{Folder, Process, command, make_key, run};

/// Answers the level of a check, the exit code, and what was said.
fn level(folder: &Path, check: &str, settings: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = command(folder, &["doctor", "-o", "json"]);
    command.envs(settings.iter().copied());
    let (code, said, talk) = run(command);
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said} {talk}"));
    let found = answer["checks"].as_array().expect("a list").iter().find(|found| found["name"] == check);
    let level = found.map_or("not there", |found| found["level"].as_str().expect("a level"));
    (level.to_owned(), code)
}

fn is(level: &str, code: i32) -> (String, Option<i32>) {
    (level.to_owned(), Some(code))
}

async fn execute(folder: &Path, text: &'static str) {
    let file = SqliteConnectOptions::new().filename(folder.join("seckill.db"));
    let mut connection = file.connect().await.expect("a database");
    sqlx::query(text).execute(&mut connection).await.expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_folder_is_told() {
    let folder = Folder::new();
    let path = folder.path();
    assert_eq!(level(path, "folder.made", &[]), is("ok", 0));
    make_key(path);
    for check in [
        "folder.private",
        "folder.synchronous",
        "folder.wal",
        "folder.schema",
        "folder.sound",
        "folder.clock",
    ] {
        assert_eq!(level(path, check, &[]), is("ok", 0), "{check}");
    }
    let normal = [("SECKILL__EMBEDDED__SYNCHRONOUS", "normal")];
    assert_eq!(level(path, "folder.synchronous", &normal), is("warning", 0));
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("set");
    assert_eq!(level(path, "folder.private", &[]), is("warning", 0));
    execute(path, "INSERT INTO audit_log (at_ms, actor, action, reason, request_id) VALUES (4102444800000, 'x', 'x', 'x', 'x')").await;
    assert_eq!(level(path, "folder.clock", &[]), is("warning", 0));
    execute(path, "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)")
        .await;
    assert_eq!(level(path, "folder.schema", &[]), is("warning", 0));
    let file = path.join("seckill.db");
    let mut bytes = fs::read(&file).expect("the database");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&file, bytes).expect("written");
    assert_eq!(level(path, "folder.sound", &[]), is("error", 4));
    fs::write(&file, "no database").expect("written");
    assert_eq!(level(path, "folder.schema", &[]), is("error", 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_served_may_be_looked_at() {
    let folder = Folder::new();
    let process = Process::serve(folder.path()).await;
    assert_eq!(level(folder.path(), "folder.sound", &[]), is("ok", 0));
    assert!(process.is_ready().await);
    assert!(process.stop().success());
}
