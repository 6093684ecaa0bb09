//! The handlers of the public listener.

pub mod order_view;
pub mod orders;
pub mod payment_view;
pub mod payments;
pub mod problems;
pub mod sales;
pub mod sessions;
pub mod streams;
pub mod tokens;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problem::Problem;
pub use crate::domain::calendar::rfc3339;

/// Reads a time as RFC 3339, with any offset, into milliseconds since 1970.
pub(super) fn parse_rfc3339(pointer: &str, text: &str) -> Result<i64, Problem> {
    let at = OffsetDateTime::parse(text, &Rfc3339);
    let at = at.map_err(|_| {
        Problem::invalid(pointer, "must be an RFC 3339 time such as 2026-11-11T20:00:00.000Z")
    })?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000)
        .map_err(|_| Problem::invalid(pointer, "is too far from now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds_both_ways() {
        assert_eq!(parse_rfc3339("/x", "2026-01-01T08:00:00.007+08:00").expect("valid"), 1_767_225_600_007);
        assert!(parse_rfc3339("/x", "tomorrow").is_err());
    }
}
