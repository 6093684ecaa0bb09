//! Folders that are in use, foreign or damaged, or that cannot be written, are refused with words and left as they
//! were.

use std::fs;
use std::process::Command;

use seckill::backend::migrations::{EMBEDDED, migrator};
use seckill::config::Mode;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

use crate::audit::assert_clean;
use crate::binary::{Folder, Process, SERVE, command, config_of, make_key, run, settings};
use crate::harness::{DataFolder, config};
use crate::load::{Crowd, open_sale};

/// Returns what `serve` prints before it ends with this code.
fn refusal(command: Command, code: i32) -> String {
    let (ended, _, said) = run(command);
    assert_eq!(ended, Some(code), "{said}");
    said
}

#[test]
fn serving_without_a_secret_is_refused_with_exit_code_3() {
    let folder = Folder::new();
    let mut bare = command(folder.path(), &SERVE);
    bare.env_remove("SECKILL__AUTH__HS256_SECRET");
    let said = refusal(bare, 3);
    assert!(said.contains("SECKILL__AUTH__HS256_SECRET"), "{said}");
    assert!(!folder.path().exists(), "nothing is made");
}

#[test]
fn embedded_mode_is_one_process_and_has_no_roles() {
    let folder = Folder::new();
    let said = refusal(command(folder.path(), &["serve", "--role", "worker"]), 1);
    assert!(said.contains("one process"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_listens_on_loopback_and_its_folder_is_its_owners_alone() {
    let folder = Folder::new();
    let mut plain = command(folder.path(), &["serve", "--bind", "127.0.0.1:0"]);
    // The default port may be taken on this machine, so only the address is the default.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    plain.env("SECKILL__ADMIN__BIND", port.to_string());
    let default = config(Mode::Embedded, &[]);
    assert!(default.admin.bind.ip().is_loopback());
    let process = Process::start(plain).await;
    assert!(process.admin.ip().is_loopback() && process.shopper.ip().is_loopback());
    let mode = Command::new("stat").args(["-c", "%a"]).arg(folder.path()).output().expect("stat runs");
    assert_eq!(String::from_utf8_lossy(&mode.stdout).trim(), "700");
    assert!(process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_folder_is_refused_and_the_first_goes_on() {
    let folder = Folder::new();
    let key = make_key(folder.path());
    let first = Process::serve(folder.path()).await;
    for arguments in [&SERVE[..], &["key", "create", "--name", "late"], &["migrate"]] {
        let said = refusal(command(folder.path(), arguments), 1);
        assert!(said.contains(&format!("in use by process {}", first.id())), "{said}");
    }
    open_sale(first.admin, &key, "drop", 5).await;
    let crowd = Crowd::start(first.shopper, "u", "drop", 1);
    first.kill();
    drop(crowd.heard().await);
    // The lock ended with its process.
    let next = Process::serve(folder.path()).await;
    assert_clean(folder.path(), &[]).await;
    assert!(next.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_made_by_a_newer_version_is_refused_and_left_as_it_was() {
    let folder = Folder::new();
    make_key(folder.path());
    let data = DataFolder::of(&config_of(folder.path()));
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, X'00', 1)";
    data.try_execute(newer).await.expect("a newer schema");
    let said = refusal(command(folder.path(), &SERVE), 1);
    assert!(said.contains("a newer seckill has used this folder") && said.contains("9999"), "{said}");
    data.try_execute("DELETE FROM _sqlx_migrations WHERE version = 9999").await.expect("the old schema");
    assert!(Process::serve(folder.path()).await.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_made_by_any_older_version_is_migrated() {
    for known in 0..=EMBEDDED.len() {
        let folder = Folder::new();
        fs::create_dir_all(folder.path()).expect("a folder");
        let old = migrator(&EMBEDDED[..known]);
        let options = SqliteConnectOptions::new()
            .filename(DataFolder::database(folder.path()))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        old.run(&mut options.connect().await.expect("a database")).await.expect("an old schema");
        let key = make_key(folder.path());
        let process = Process::serve(folder.path()).await;
        open_sale(process.admin, &key, "drop", 5).await;
        assert!(process.stop().success());
    }
}

#[test]
fn another_shard_map_is_refused_with_both_maps() {
    let folder = Folder::new();
    make_key(folder.path());
    let mut other = command(folder.path(), &SERVE);
    other.env("SECKILL__SHARDS__SHARDS", "8");
    let said = refusal(other, 1);
    assert!(said.contains("4 shards, 2 partitions") && said.contains("8 shards, 2 partitions"), "{said}");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_kept() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path()).expect("a folder");
    let file = DataFolder::database(folder.path());
    let text = "somebody's notes, ".repeat(1000);
    fs::write(&file, &text).expect("written");
    let said = refusal(command(folder.path(), &SERVE), 1);
    assert!(said.contains("not a database"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("kept"), text);
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_at_the_start() {
    let folder = Folder::new();
    make_key(folder.path());
    let mut read_only = Command::new("unshare");
    settings(&mut read_only).args(["-rm", "sh", "-c"]).args([
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && shift 0 && exec \"$@\"",
        folder.path().to_str().expect("text"),
        env!("CARGO_BIN_EXE_seckill"),
    ]);
    read_only.args(SERVE).args(["--mode", "embedded", "--data"]).arg(folder.path());
    let said = refusal(read_only, 1);
    assert!(said.contains("cannot write in") && said.contains("Read-only file system"), "{said}");
    // The path names a file and not a folder.
    let file = folder.path().join("lock");
    let said = refusal(command(&file, &SERVE), 1);
    assert!(said.contains("cannot make"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_that_oversells_is_refused_by_the_tables() {
    let folder = Folder::new();
    let key = make_key(folder.path());
    let process = Process::serve(folder.path()).await;
    open_sale(process.admin, &key, "drop", 5).await;
    let data = DataFolder::of(&config_of(folder.path()));
    for text in [
        "UPDATE ledger SET held = stock + 1",
        "UPDATE ledger SET sold = stock + 1",
        "UPDATE ledger SET held = -1",
        "UPDATE stock SET available = -1",
        "INSERT INTO reservations VALUES ('o', 'drop', 0, 'phone', 'u', 0, 'f', 1, NULL)",
        "INSERT INTO orders VALUES ('o', 1, 'drop', 'phone', 'u', 0, 1, 'CNY', 'paid', NULL, 1, 1, 1, 1, NULL)",
        "INSERT INTO orders VALUES ('o', 1, 'drop', 'phone', 'u', 1, 1, 'CNY', 'queued', NULL, 1, 1, 1, 1, NULL)",
    ] {
        let error = data.try_execute(text).await.expect_err(text).into_database_error();
        assert!(error.as_ref().is_some_and(|error| error.is_check_violation()), "{text}: {error:?}");
    }
    assert!(process.stop().success());
}
