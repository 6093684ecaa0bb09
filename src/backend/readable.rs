//! Passes over rows that this version cannot read: those of a newer version, and damaged ones.

use metrics::counter;

use crate::metrics::ROWS_UNREADABLE;
use crate::ports::StoreResult;

/// Answers what was read of a row of `table`. A row that cannot be read is counted and called out, and holds up no
/// other.
pub fn readable<T>(table: &'static str, row: StoreResult<T>) -> Option<T> {
    row.inspect_err(|error| {
        counter!(ROWS_UNREADABLE, "table" => table).increment(1);
        tracing::error!(%error, table, "a row cannot be read, and is passed over");
    })
    .ok()
}
