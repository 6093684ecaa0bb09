//! Writes and reads rows of the database, and says what a failed statement means.

use metrics::histogram;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteError};
use sqlx::{AssertSqlSafe, Row};

use super::failures::broken;
use crate::backend::multi_row::{placeholders, runs};
use crate::clock::Clock;
use crate::domain::Reference;
use crate::metrics::DB_DURATION;
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};
use crate::trace::{self, Kind, described};

/// Says what a failed statement means. Nothing stands before a transaction's COMMIT, so the effect is `NotApplied`.
/// Only the writer knows when the COMMIT itself failed in a way that leaves the effect open.
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

/// Answers SQLite's extended code of a failure, or `None` when the failure is not SQLite's. The low byte of the code
/// names its kind.
pub fn code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?.try_downcast_ref::<SqliteError>()?;
    sqlx::error::DatabaseError::code(error)?.parse().ok()
}

/// Runs `work` and records how long it took.
pub async fn observed<T>(
    clock: &Clock,
    operation: &'static str,
    work: impl Future<Output = StoreResult<T>>,
) -> StoreResult<T> {
    let began = clock.monotonic();
    let outcome =
        trace::step(operation, Kind::Client, |span| described(span, "sqlite", operation), work).await;
    histogram!(DB_DURATION, "system" => "sqlite", "operation" => operation)
        .record(clock.monotonic().since(began).as_secs_f64());
    outcome
}

/// Most rows of one statement. 64 of the widest rows stay far below SQLite's limit of placeholders.
const ROWS_MAX: usize = 64;

/// A statement whose values are being bound.
pub type Bound<'a> = Query<'a, sqlx::Sqlite, SqliteArguments>;

/// Inserts rows with multi-row statements. `table` names a table with its columns, in words of ours alone. `tail`
/// follows the values. `bind` adds the values of one row, as many as `columns`.
///
/// # Errors
/// As [`failed`]. None of the failed statement's rows stands then.
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

/// Executes a statement that has to change one row.
///
/// # Errors
/// When it fails, or changes another number of rows.
pub async fn change_one(connection: &mut SqliteConnection, query: Bound<'_>) -> StoreResult<()> {
    let changed =
        query.execute(connection).await.map_err(|error| failed("change a row", error))?.rows_affected();
    if changed == 1 {
        Ok(())
    } else {
        Err(broken("change a row", format!("{changed} rows changed and not one")))
    }
}

/// Reads a column's value.
///
/// # Errors
/// When the row has no such column of this type, because it is damaged or not ours.
pub fn column<'r, T>(row: &'r sqlx::sqlite::SqliteRow, name: &str) -> StoreResult<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(|error| failed("read row", error))
}

/// Reads a column of text and checks it with `parse`.
///
/// # Errors
/// As [`column`], and for a text that `parse` refuses.
pub fn parsed<T, E: std::fmt::Display>(
    row: &sqlx::sqlite::SqliteRow,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> StoreResult<T> {
    let text: &str = column(row, name)?;
    parse(text).map_err(|error| broken("read row", format!("{name}: {error}")))
}

/// Reads the column `reference`: a shop's own name for an order.
///
/// # Errors
/// As [`parsed`].
pub fn reference(row: &sqlx::sqlite::SqliteRow) -> StoreResult<Option<Reference>> {
    let text: Option<&str> = column(row, "reference")?;
    let parse = |text| Reference::parse(text).map_err(|error| broken("read row", error.to_string()));
    text.map(parse).transpose()
}

/// Reads a column's number as a number of another width.
///
/// # Errors
/// As [`column`], and for a number out of range.
pub fn number<T: TryFrom<i64>>(row: &sqlx::sqlite::SqliteRow, name: &str) -> StoreResult<T> {
    let wide: i64 = column(row, name)?;
    T::try_from(wide).map_err(|_| broken("read row", format!("{name}: {wide} is out of range")))
}
