//! What tells whether a database is the one that the shop has written, and not an older copy of it.

use std::fmt;

use serde::Serialize;

/// What an instance says of its data. Source: docs/adr/0025-an-instance-that-was-set-back.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Watermark {
    /// The server that the data were written on: 1 to 64 bytes, and empty while an operator recovers the instance.
    pub written_on: String,
    /// The server that has them now.
    pub server: String,
    /// The watermark, 0 or more. It grows about once a second while the shop runs.
    pub mark: i64,
    /// When it grew last, ms since 1970 by the server's clock.
    pub at_ms: i64,
}

/// Why an instance is not the one that the shop has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBack {
    /// Its data are on another server: a replica took over, or a copy was put on a new server. Either may be behind.
    OtherServer,
    /// Its data are older than what the shop has seen of it.
    OlderData,
    /// An operator recovers it, or has begun to.
    InRecovery,
}

impl SetBack {
    /// Compares what an instance says with the highest watermark that was seen of it. `found` is `None` when it says
    /// nothing, and `known` is 0 when it was never seen: then it is new.
    pub fn of(found: Option<&Watermark>, known: i64) -> Option<Self> {
        match found {
            None => (known > 0).then_some(Self::OlderData),
            Some(found) if found.written_on.is_empty() => Some(Self::InRecovery),
            Some(found) if found.written_on != found.server => Some(Self::OtherServer),
            Some(found) => (found.mark < known).then_some(Self::OlderData),
        }
    }
}

impl fmt::Display for SetBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherServer => "is on another server than its data were written on",
            Self::OlderData => "has older data than it had",
            Self::InRecovery => "is being recovered",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(written_on: &str, mark: i64) -> Watermark {
        Watermark { written_on: written_on.to_owned(), server: "a".to_owned(), mark, at_ms: 0 }
    }

    #[test]
    fn only_the_server_of_the_data_with_all_that_was_seen_of_it_is_not_set_back() {
        for (found, known, expected) in [
            (Some(found("a", 7)), 7, None),
            (Some(found("a", 8)), 7, None),
            (Some(found("a", 0)), 0, None),
            (None, 0, None),
            (Some(found("a", 6)), 7, Some(SetBack::OlderData)),
            (None, 1, Some(SetBack::OlderData)),
            (Some(found("b", 8)), 7, Some(SetBack::OtherServer)),
            (Some(found("", 8)), 7, Some(SetBack::InRecovery)),
        ] {
            assert_eq!(SetBack::of(found.as_ref(), known), expected, "{found:?} of {known}");
        }
    }
}
