//! The database file: how it is opened, who may write, and what its errors mean.

use std::time::{Duration, Instant};

use metrics::histogram;
use sqlx::migrate::MigrateError;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteError, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use super::folder::Folder;
use super::writer::Writer;
use super::{Settings, broken};
use crate::backend::migrations::{EMBEDDED, migrator};
use crate::backend::multi_row::{placeholders, runs};
use crate::config::Synchronous;
use crate::domain::ShardMap;
use crate::metrics::DB_DURATION;
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Connections for reading: they wait for nobody, so a few serve many.
const READERS_MAX: u32 = 4;
/// The write-ahead log is copied into the database when it has so many pages of 4 KiB: a page that changes with
/// every group is then copied once for many.
const WAL_PAGES: &str = "4096";
/// It shrinks back to this after it was longer.
const WAL_BYTES_KEPT: &str = "16777216";
/// Memory of the writer for pages, in KiB with SQLite's sign: what a rush works on stays there.
const WRITER_CACHE: &str = "-16384";

/// The database of one process: any number may read, one thread writes.
pub struct Sqlite {
    pub writer: Writer,
    readers: SqlitePool,
    pub map: ShardMap,
}

impl Sqlite {
    /// Opens the file, makes or migrates its tables, and checks what is frozen in it.
    ///
    /// # Errors
    /// When it cannot be written, was made by a newer version, is damaged, or has another shard map.
    pub async fn open(folder: Folder, settings: &Settings) -> StoreResult<Self> {
        let options = SqliteConnectOptions::new()
            .filename(folder.database())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match settings.embedded.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
            .pragma("journal_size_limit", WAL_BYTES_KEPT)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            .statement_cache_capacity(256);
        let writing = options.clone().pragma("cache_size", WRITER_CACHE);
        let mut first = writing.connect().await.map_err(|error| failed("open database", error))?;
        migrate(&mut first).await?;
        freeze(&mut first, settings.map).await?;
        let writer = Writer::start(writing, first, folder)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            // Never opened anew: on a disk that is read-only for a while the new one would stay so.
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(|error| failed("open database", error))?;
        Ok(Self { writer, readers, map: settings.map })
    }

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

/// The map of users to shards is part of every order's id: it is recorded once and never changes.
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

/// Says what a failed statement means. Nothing stands before a transaction's COMMIT; the writer alone knows
/// when that failed in a way that leaves the effect open.
pub fn failed(context: &'static str, source: sqlx::Error) -> StoreError {
    let kind = match &source {
        sqlx::Error::Database(_) => match code(&source).unwrap_or(0) & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED.
            5 | 6 => ErrorKind::Conflict,
            // SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN.
            8 | 10 | 13 | 14 => ErrorKind::Unavailable,
            _ => ErrorKind::Broken,
        },
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Broken,
    };
    StoreError { kind, effect: Effect::NotApplied, context, source: Box::new(source) }
}

/// SQLite's extended code of a failure; `None` when it is none of SQLite's. The low byte names its kind.
pub fn code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?.try_downcast_ref::<SqliteError>()?;
    sqlx::error::DatabaseError::code(error)?.parse().ok()
}

/// Records how long a call took, as `work` did it.
pub async fn observed<T>(
    operation: &'static str,
    work: impl Future<Output = StoreResult<T>>,
) -> StoreResult<T> {
    let began = Instant::now();
    let outcome = work.await;
    histogram!(DB_DURATION, "system" => "sqlite", "operation" => operation)
        .record(began.elapsed().as_secs_f64());
    outcome
}

/// Rows of one statement: 64 of the widest are far below SQLite's limit of placeholders.
const ROWS_MAX: usize = 64;

pub type Bound<'a> = Query<'a, sqlx::Sqlite, SqliteArguments>;

/// Multi-row INSERT INTO `table`, a table with its columns and words of ours alone; `tail` follows the values, and
/// `bind` adds one row's values, as many as `columns`.
///
/// # Errors
/// As [`failed`]; none of a statement's rows stands then.
pub async fn insert<'a, T>(
    connection: &mut SqliteConnection,
    (table, columns, tail): (&'static str, usize, &'static str),
    rows: &'a [T],
    bind: impl Fn(Bound<'a>, &'a T) -> Bound<'a>,
) -> StoreResult<()> {
    for run in runs(rows, ROWS_MAX) {
        let text = format!("INSERT INTO {table} VALUES {} {tail}", placeholders(run.len(), columns));
        let query = run.iter().fold(sqlx::query(AssertSqlSafe(text)), &bind);
        query.execute(&mut *connection).await.map_err(|error| failed("insert rows", error))?;
    }
    Ok(())
}

/// A column's value.
///
/// # Errors
/// When the row has no such column of this type: damaged, or not ours.
pub fn column<'r, T>(row: &'r sqlx::sqlite::SqliteRow, name: &str) -> StoreResult<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|error| failed("read row", error))
}

/// A column whose value is checked on its way in.
///
/// # Errors
/// As [`column`], and for a value that is refused.
pub fn parsed<T, E: std::fmt::Display>(
    row: &sqlx::sqlite::SqliteRow,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> StoreResult<T> {
    let text: &str = column(row, name)?;
    parse(text).map_err(|error| broken("read row", format!("{name}: {error}")))
}

/// A column with a number of another width.
///
/// # Errors
/// As [`column`], and for a number out of range.
pub fn number<T: TryFrom<i64>>(row: &sqlx::sqlite::SqliteRow, name: &str) -> StoreResult<T> {
    let wide: i64 = column(row, name)?;
    T::try_from(wide).map_err(|_| broken("read row", format!("{name}: {wide} is out of range")))
}
