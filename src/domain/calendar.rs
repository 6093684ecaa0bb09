//! How times are written.

use std::num::NonZeroU8;

use time::OffsetDateTime;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::{Iso8601, Rfc3339};

const MILLISECONDS: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: NonZeroU8::new(3) }).encode();

/// Writes a time, in ms since 1970, as RFC 3339, in UTC and with milliseconds. A time that RFC 3339 cannot write is an
/// empty text.
pub fn rfc3339(at_ms: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&Iso8601::<MILLISECONDS>).ok()).unwrap_or_default()
}

/// Reads a time as RFC 3339 writes it, in ms since 1970; `None` for any other text.
pub fn ms_of(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for at_ms in [0, 1_767_225_600_007] {
            assert_eq!(ms_of(&rfc3339(at_ms)), Some(at_ms));
        }
        assert_eq!(ms_of("2026-01-01T08:00:00+08:00"), Some(1_767_225_600_000));
        for bad in ["", "2026-01-01", "now", "2026-13-01T00:00:00Z"] {
            assert_eq!(ms_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_time_always_has_its_milliseconds() {
        assert_eq!(rfc3339(1_767_225_600_007), "2026-01-01T00:00:00.007Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "");
    }
}
