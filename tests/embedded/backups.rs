//! Makes backups as docs/operations.md says, while the shop sells. What buyers were told of before is in the backup,
//! and the restored folder sells on.

use std::fs;
use std::path::Path;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::audit::{assert_clean, orders};
use crate::binary::{Folder, Process, make_key};
use crate::harness::{DataFolder, eventually};
use crate::load::{Crowd, Told, open_sale};

/// Starts a shop under load that has sold some orders. Returns the orders that buyers have been told of until now.
async fn selling(folder: &Path) -> (Process, Crowd, Vec<Told>) {
    let key = make_key(folder);
    let process = Process::serve(folder).await;
    open_sale(process.admin, &key, "drop", 1_000_000).await;
    let first = Crowd::start(process.shopper, "first", "drop", 4);
    eventually("there are orders", async || orders(folder).await > 300).await;
    let told = first.stop().await.told;
    let crowd = Crowd::start(process.shopper, "later", "drop", 4);
    let before = orders(folder).await;
    eventually("it goes on selling", async || orders(folder).await > before + 50).await;
    (process, crowd, told)
}

async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.expect("a database")
}

/// Asserts that the restored folder serves, is clean, has what it must have, and sells.
async fn assert_restored(restored: &Path, told: &[Told]) {
    let process = Process::serve(restored).await;
    assert_clean(restored, told).await;
    let before = orders(restored).await;
    let crowd = Crowd::start(process.shopper, "after", "drop", 2);
    eventually("the restored shop sells", async || orders(restored).await > before + 20).await;
    let more = crowd.stop().await.told;
    assert_clean(restored, &[told, &more].concat()).await;
    assert!(process.stop().success());
}

async fn finish(folder: &Path, process: Process, crowd: Crowd, told: &[Told]) {
    let more = crowd.stop().await.told;
    assert_clean(folder, &[told, &more].concat()).await;
    assert!(process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_by_vacuum_into_under_load_restores_to_a_shop_that_sells() {
    let (folder, restored) = (Folder::new(), Folder::new());
    let (process, crowd, told) = selling(folder.path()).await;
    fs::create_dir_all(restored.path()).expect("a folder");
    let mut connection = connect(&DataFolder::database(folder.path())).await;
    let backup = DataFolder::database(restored.path());
    let text = "VACUUM INTO ?";
    let done = sqlx::query(text).bind(backup.to_str().expect("text")).execute(&mut connection).await;
    done.expect("a backup");
    finish(folder.path(), process, crowd, &told).await;
    assert_restored(restored.path(), &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_file_and_log_under_the_write_lock_restores_to_a_shop_that_sells() {
    let (folder, restored) = (Folder::new(), Folder::new());
    let (process, crowd, told) = selling(folder.path()).await;
    fs::create_dir_all(restored.path()).expect("a folder");
    let mut connection = connect(&DataFolder::database(folder.path())).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.expect("the lock");
    for name in ["seckill.db", "seckill.db-wal"] {
        fs::copy(folder.path().join(name), restored.path().join(name)).expect("copied");
    }
    sqlx::query("ROLLBACK").execute(&mut connection).await.expect("released");
    drop(connection);
    finish(folder.path(), process, crowd, &told).await;
    assert_restored(restored.path(), &told).await;
}
