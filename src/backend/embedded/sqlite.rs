//! Opens the database file. Several connections read it, and one thread writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use metrics::gauge;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};

use super::failures::broken;
use super::folder::{DATABASE, Folder, holds_shop};
use super::sqlite_rows::failed;
use super::writer::Writer;
use crate::backend::migrations::{EMBEDDED, migrator, pending};
use crate::chance;
use crate::clock::Clock;
use crate::config::{EmbeddedConfig, Synchronous};
use crate::domain::{NodeId, OrderRecord, ShardMap};
use crate::metrics::WAL_BYTES;
use crate::ports::StoreResult;

/// Most connections for reading. They wait for no writer, so a few of them serve many callers.
const READERS_MAX: u32 = 4;
/// SQLite copies the write-ahead log into the database when the log has this many pages of 4 KiB. A page that changes
/// with every group of jobs is then copied once for many groups.
const WAL_PAGES: &str = "4096";
/// The write-ahead log shrinks back to this many bytes after it was longer.
const WAL_BYTES_KEPT: &str = "16777216";
/// The writer's memory for pages, in KiB, which SQLite tells by the minus sign. The pages that a busy sale works on
/// stay in it.
const WRITER_CACHE: &str = "-16384";

/// Holds the database of one process. Any number of callers may read, and one thread writes.
pub struct Sqlite {
    /// This process.
    pub node: NodeId,
    /// The thread that writes.
    pub writer: Writer,
    readers: SqlitePool,
    /// How users are spread over the shards.
    pub map: ShardMap,
    /// The process's clock.
    pub clock: Clock,
    /// The time of what is written.
    pub time: FolderTime,
    /// The file of the write-ahead log.
    wal: PathBuf,
}

/// The time of a folder: that of the process's clock, but never behind anything that was written before. A clock that
/// was set back would otherwise accept orders before their sale opened. Cheap to clone.
#[derive(Clone)]
pub struct FolderTime {
    clock: Clock,
    /// By how many ms the folder was ahead of the clock when it was opened; at least 0. Its time runs on from there.
    ahead_ms: i64,
    newest_ms: Arc<AtomicI64>,
}

impl FolderTime {
    /// Answers the time now, in ms since 1970.
    pub fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms().saturating_add(self.ahead_ms);
        self.newest_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }

    async fn read(connection: &mut SqliteConnection, clock: Clock) -> StoreResult<Self> {
        let newest_ms = Self::newest_ms(connection).await?;
        let ahead_ms = newest_ms.saturating_sub(clock.now_ms()).max(0);
        Ok(Self { clock, ahead_ms, newest_ms: Arc::new(AtomicI64::new(newest_ms)) })
    }

    /// Reads the newest time of a folder, in ms since 1970: of its last change, and of the last order in each partition
    /// of its log. 0 when it has neither.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn newest_ms(connection: &mut SqliteConnection) -> StoreResult<i64> {
        let fault = |error| failed("read the newest time", error);
        let audit = sqlx::query("SELECT at_ms FROM audit_log ORDER BY id DESC LIMIT 1");
        let row = audit.fetch_optional(&mut *connection).await.map_err(fault)?;
        let mut newest_ms: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(fault)?;
        let last = "SELECT payload FROM order_log l JOIN \
             (SELECT part, MAX(log_offset) AS last FROM order_log GROUP BY part) e \
             ON l.part = e.part AND l.log_offset = e.last";
        for row in sqlx::query(last).fetch_all(connection).await.map_err(fault)? {
            let payload: Vec<u8> = row.try_get(0).map_err(fault)?;
            let accepted_ms = OrderRecord::decode(&payload).map_or(0, |record| record.accepted_ms);
            newest_ms = newest_ms.max(accepted_ms);
        }
        Ok(newest_ms)
    }
}

impl Sqlite {
    /// Opens the file, makes or migrates its tables, and checks the shard map that is frozen in it.
    ///
    /// # Errors
    /// When the file cannot be written, was made by a newer version, is damaged, or has another shard map.
    pub async fn open(
        folder: Folder,
        config: &EmbeddedConfig,
        map: ShardMap,
        clock: Clock,
    ) -> StoreResult<Self> {
        let mut wal = folder.database().into_os_string();
        wal.push("-wal");
        let options = SqliteConnectOptions::new()
            .filename(folder.database())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match config.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
            .pragma("journal_size_limit", WAL_BYTES_KEPT)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            .statement_cache_capacity(256);
        let writing = options.clone().pragma("cache_size", WRITER_CACHE);
        let mut first = writing.connect().await.map_err(|error| failed("open database", error))?;
        migrate(&mut first).await?;
        freeze(&mut first, map).await?;
        let time = FolderTime::read(&mut first, clock.clone()).await?;
        let node = NodeId::new(chance::bytes());
        // What the process before wrote last may be of this moment.
        note_process(&mut first, node, time.now_ms() + 1).await?;
        let writer = Writer::start(writing, first, folder, clock.clone())?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            // No connection is replaced: one that is opened while the disk is read-only would stay read-only.
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|error| failed("open database", error))?;
        Ok(Self { node, writer, readers, map, clock, time, wal: wal.into() })
    }

    /// Shows as a metric how large the write-ahead log is. A reader that is forgotten keeps it from being reset.
    pub fn gauge_wal(&self) {
        let bytes = std::fs::metadata(&self.wal).map_or(0, |file| file.len());
        gauge!(WAL_BYTES).set(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
    }

    /// Answers the pool of connections that only read.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }
}

/// Lists in words what opening the folder at `path` would make or change. Changes nothing, and may be asked while the
/// folder is served.
///
/// # Errors
/// When the database cannot be read.
pub async fn plan(path: &Path) -> StoreResult<Vec<String>> {
    let context = "look at the folder";
    let shown = path.display();
    if !holds_shop(path) {
        return Ok(vec![format!("make folder {shown}")]);
    }
    let options = SqliteConnectOptions::new().filename(path.join(DATABASE)).read_only(true);
    let mut connection = options.connect().await.map_err(|error| failed(context, error))?;
    let table = "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let migrated: i64 =
        sqlx::query_scalar(table).fetch_one(&mut connection).await.map_err(|error| failed(context, error))?;
    let applied = match migrated {
        0 => Vec::new(),
        _ => sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut connection)
            .await
            .map_err(|error| failed(context, error))?,
    };
    Ok(pending(EMBEDDED, &applied).map(|file| format!("apply {file} to folder {shown}")).collect())
}

async fn migrate(connection: &mut SqliteConnection) -> StoreResult<()> {
    let context = "migrate database";
    let migrations = migrator(EMBEDDED);
    migrations.run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => broken(
            context,
            format!(
                "a newer seckill has used this folder (its schema is {version}, this program knows up to {}): use that \
                 version or a newer one, or restore a backup from before",
                migrations.iter().map(|known| known.version).max().unwrap_or(0)
            ),
        ),
        MigrateError::Execute(error) => failed(context, error),
        other => broken(context, other.to_string()),
    })
}

/// Notes that a process has the folder from now on.
async fn note_process(connection: &mut SqliteConnection, node: NodeId, now_ms: i64) -> StoreResult<()> {
    let query = sqlx::query("INSERT INTO processes (since_ms, mark) VALUES (?, ?)");
    let noted = query.bind(now_ms).bind(node.mark().bytes().as_slice()).execute(connection).await;
    noted.map(drop).map_err(|error| failed("open database", error))
}

/// Records the shard map once, and refuses any other one ever after. The map is part of every order's id, so it never
/// changes.
async fn freeze(connection: &mut SqliteConnection, map: ShardMap) -> StoreResult<()> {
    let context = "check shard map";
    let wanted = format!("{} shards, {} partitions", map.shards(), map.parts());
    let record = "INSERT INTO settings (name, value) VALUES ('shard_map', ?) ON CONFLICT DO NOTHING";
    let done = sqlx::query(record).bind(&wanted).execute(&mut *connection).await;
    done.map_err(|error| failed(context, error))?;
    let row =
        sqlx::query("SELECT value FROM settings WHERE name = 'shard_map'").fetch_one(&mut *connection).await;
    let row = row.map_err(|error| failed(context, error))?;
    let found: String = row.try_get(0).map_err(|error| failed(context, error))?;
    if found == wanted {
        return Ok(());
    }
    Err(broken(
        context,
        format!("the folder was made with {found}, the configuration says {wanted} ([shards])"),
    ))
}
