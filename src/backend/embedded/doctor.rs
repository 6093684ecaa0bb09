//! Looks at the data folder, for `seckill doctor`. It changes nothing, and may run while the folder is served.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::statfs::{Statfs, statfs};
use nix::unistd::{AccessFlags, access};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use super::Settings;
use super::folder::{DATABASE, holds_shop};
use super::sqlite::{FolderTime, plan};
use crate::backend::migrations::{EMBEDDED, migrator};
use crate::clock::Clock;
use crate::config::Synchronous;
use crate::domain::check::{Check, Checks};

/// Bytes that the disk should have to spare before anybody should look, and before a sale is in danger.
const FREE_BYTES_WANTED: u64 = 2 << 30;
const FREE_BYTES_LEAST: u64 = 200 << 20;
/// Bytes of the write-ahead log at which something keeps it from being reset.
const WAL_BYTES_MOST: u64 = 256 << 20;
/// How long the database is looked through for damage. A reader keeps the write-ahead log from being reset.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// How far the newest entry may be ahead of the clock, in ms.
const AHEAD_MS_MOST: i64 = 1000;

/// Looks at the folder.
pub async fn examine(settings: &Settings, clock: &Clock) -> Vec<Check> {
    let mut checks = Checks::of("folder");
    let path = &settings.embedded.folder;
    let shown = path.display();
    if !path.exists() {
        let parent = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        checks.need(
            "made",
            access(parent, AccessFlags::W_OK).is_ok(),
            format!("{shown} is made at the first start"),
            format!("{} cannot be written: name another folder with --data", parent.display()),
        );
        of_disk(&mut checks, parent);
        return checks.found();
    }
    checks.need(
        "writes",
        access(path, AccessFlags::W_OK).is_ok(),
        format!("{shown} is there"),
        format!("let this user write {shown}, or name another folder with --data"),
    );
    let mode = std::fs::metadata(path).map_or(0, |folder| folder.permissions().mode()) & 0o777;
    checks.want(
        "private",
        mode & 0o077 == 0,
        format!("its rights are {mode:03o}"),
        format!("chmod 700 {shown}: it has orders and the names of buyers"),
    );
    of_disk(&mut checks, path);
    of_durability(&mut checks, settings.embedded.synchronous);
    if holds_shop(path) {
        of_database(&mut checks, path, clock).await;
    }
    checks.found()
}

fn of_disk(checks: &mut Checks, path: &Path) {
    let Ok(disk) = statfs(path) else {
        return checks.want("disk", false, "its disk cannot be asked", "see whether the folder can be read");
    };
    let free = disk.blocks_available().saturating_mul(u64::try_from(disk.block_size()).unwrap_or(0));
    let detail = format!("{} MiB are free", free >> 20);
    let fix = "make room: purchases are refused when the disk is full";
    match free {
        0..FREE_BYTES_LEAST => checks.need("disk", false, detail, fix),
        _ => checks.want("disk", free >= FREE_BYTES_WANTED, detail, fix),
    }
    checks.need(
        "file_system",
        !is_of_network(&disk),
        "keeps locks",
        "use a disk of this machine: SQLite loses data on a network's file system",
    );
}

#[cfg(target_os = "linux")]
fn is_of_network(disk: &Statfs) -> bool {
    use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC};
    // What mounts of CIFS and SMB say of themselves. Source: linux/magic.h.
    let (cifs, smb2) = (FsType(0xff53_4d42), FsType(0xfe53_4d42));
    [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, cifs, smb2].contains(&disk.filesystem_type())
}

#[cfg(not(target_os = "linux"))]
fn is_of_network(_: &Statfs) -> bool {
    false
}

fn of_durability(checks: &mut Checks, synchronous: Synchronous) {
    checks.want(
        "synchronous",
        synchronous == Synchronous::Full,
        match synchronous {
            Synchronous::Full => "a commit waits for the disk",
            Synchronous::Normal => "a commit waits for the operating system alone",
        },
        "set embedded.synchronous = \"full\": a power failure takes the last orders otherwise",
    );
}

async fn of_database(checks: &mut Checks, path: &Path, clock: &Clock) {
    let wal = std::fs::metadata(path.join(format!("{DATABASE}-wal"))).map_or(0, |file| file.len());
    checks.want(
        "wal",
        wal <= WAL_BYTES_MOST,
        format!("the write-ahead log has {} MiB", wal >> 20),
        "end what reads the database for long (a backup, a shell): the log cannot be reset meanwhile",
    );
    match plan(path).await {
        Ok(_) if is_newer(path).await => checks.need(
            "schema",
            false,
            "a newer version has used the folder",
            "use that version or a newer one, or restore a backup from before",
        ),
        Ok(steps) => checks.want(
            "schema",
            steps.is_empty(),
            match steps.len() {
                0 => "the database is of this version".to_owned(),
                steps => format!("{steps} migrations are to be applied"),
            },
            "back it up; the next start of this version applies them",
        ),
        Err(error) => {
            checks.need("schema", false, error.source.to_string(), "restore a backup of the folder")
        }
    }
    let options = SqliteConnectOptions::new().filename(path.join(DATABASE)).read_only(true);
    let Ok(mut connection) = options.connect().await else {
        // That it cannot be read was said above.
        return;
    };
    if let Ok(newest_ms) = FolderTime::newest_ms(&mut connection).await {
        let ahead_ms = newest_ms - clock.now_ms();
        checks.want(
            "clock",
            ahead_ms <= AHEAD_MS_MOST,
            match ahead_ms {
                1.. => format!("the newest entry is {ahead_ms} ms ahead of this machine's clock"),
                _ => "no entry is ahead of this machine's clock".to_owned(),
            },
            "set the clock by NTP: the shop goes on by the time of its newest entry",
        );
    }
    // Last, because it may still be looking when the time is over.
    let sound = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)").fetch_one(&mut connection);
    match clock.timeout(LOOK_MAX, sound).await {
        Ok(said) => {
            let said = said.unwrap_or_else(|error| error.to_string());
            checks.need(
                "sound",
                said == "ok",
                if said == "ok" {
                    "SQLite finds no damage".to_owned()
                } else {
                    format!("SQLite finds: {said}")
                },
                "end the process, keep the folder, and restore a backup (docs/operations.md, Embedded mode)",
            );
        }
        Err(_) => checks.add("sound", "was not looked through: the database is too large for that", None),
    }
}

/// Answers whether migrations were applied that this version does not know.
async fn is_newer(path: &Path) -> bool {
    let options = SqliteConnectOptions::new().filename(path.join(DATABASE)).read_only(true);
    let Ok(mut connection) = options.connect().await else { return false };
    let text = "SELECT MAX(version) FROM _sqlx_migrations";
    let newest = sqlx::query_scalar::<_, Option<i64>>(text).fetch_one(&mut connection).await;
    let known = migrator(EMBEDDED).iter().map(|migration| migration.version).max();
    newest.ok().flatten() > known
}
