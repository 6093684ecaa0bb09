//! Writes rows and lists of values as the text of SQL statements.
//!
//! Everything that comes from outside is written as a hexadecimal literal, so that it cannot be SQL.

use std::fmt::Write as _;

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, Transaction};

use super::mysql_error::failed;
use crate::backend::multi_row::{placeholders, runs};
use crate::ports::StoreResult;

/// Most rows of one statement. The row counts of smaller prepared statements are powers of two, so that a connection
/// prepares ten texts per table and not five hundred.
pub const ROWS_MAX: usize = 512;

type Bound<'a> = Query<'a, MySql, MySqlArguments>;

/// The expression of the time of the server's clock, in ms since 1970. The client has set the session's zone to UTC.
pub const NOW_MS: &str = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";

/// Answers the statement that keeps the server's time as `@now_ms`, so that all rows of a transaction have one time.
pub fn set_now() -> String {
    format!("SET @now_ms = {NOW_MS};")
}

/// Appends bytes as a hexadecimal literal: whatever they are, they cannot be SQL.
pub fn push_bytes(text: &mut String, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    text.push_str("x'");
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text.push('\'');
}

/// Answers a list of hexadecimal literals: `(x'…',x'…')`.
pub fn list<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    let mut text = "(".to_owned();
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        push_bytes(&mut text, value);
    }
    text.push(')');
    text
}

/// Appends a formatted text.
pub fn push_all(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

/// Appends statements that insert rows into `table (columns)`, each of many rows. `push` appends one row's values:
/// numbers, words of ours, and bytes as [`push_bytes`] writes them.
///
/// This serves the three tables that every order has. A prepared statement has one row count, so a batch would be six
/// prepared statements per table and not one (docs/benchmarks.md).
pub fn push_insert<T>(statements: &mut Vec<String>, table: &str, rows: &[T], push: impl Fn(&mut String, &T)) {
    for run in rows.chunks(ROWS_MAX) {
        let mut text = format!("INSERT INTO {table} VALUES ");
        for (nth, row) in run.iter().enumerate() {
            text.push_str(if nth == 0 { "(" } else { ",(" });
            push(&mut text, row);
            text.push(')');
        }
        text.push(';');
        statements.push(text);
    }
}

/// Inserts rows with prepared statements. This serves what is rare or may be large. `bind` adds one row's values, as
/// many as `columns`, and `otherwise` is the end of the statement.
pub async fn insert_rows<'a, T>(
    tx: &mut Transaction<'_, MySql>,
    (table, columns, otherwise): (&str, usize, &str),
    rows: &'a [T],
    bind: impl Fn(Bound<'a>, &'a T) -> Bound<'a>,
) -> StoreResult<()> {
    for run in runs(rows, ROWS_MAX) {
        let text = format!("INSERT INTO {table} VALUES {} {otherwise}", placeholders(run.len(), columns));
        let query = run.iter().fold(sqlx::query(AssertSqlSafe(text)), &bind);
        query.execute(&mut **tx).await.map_err(|error| failed("insert batch", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_bytes_are_they_are_no_sql() {
        let values: [&[u8]; 3] = [b"", b"'); DROP TABLE orders; --", b"\x00\xff"];
        let text = list(values.into_iter());
        assert_eq!(text, "(x'',x'27293b2044524f50205441424c45206f72646572733b202d2d',x'00ff')");
    }
}
