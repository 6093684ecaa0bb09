//! Opens the database file. Several connections read it, and one thread writes it.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};

use super::failures::broken;
use super::folder::Folder;
use super::sqlite_rows::failed;
use super::writer::Writer;
use crate::backend::migrations::{EMBEDDED, migrator};
use crate::clock::Clock;
use crate::config::{EmbeddedConfig, Synchronous};
use crate::domain::ShardMap;
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
    /// The thread that writes.
    pub writer: Writer,
    readers: SqlitePool,
    /// How users are spread over the shards.
    pub map: ShardMap,
    /// The process's clock.
    pub clock: Clock,
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
        Ok(Self { writer, readers, map, clock })
    }

    /// Answers the pool of connections that only read.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }
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
