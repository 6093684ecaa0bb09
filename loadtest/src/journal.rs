//! What every click asked for and what it was answered: the audit's only witness of the buyers' side.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The classes of answers. Only [`Class::Error`] is a failure; all others are the shop doing its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Accepted: an order that did not exist before.
    Won,
    /// Accepted: the order that the same key made before.
    Replayed,
    SoldOut,
    /// The buyer holds the limit.
    Limited,
    /// 429.
    Throttled,
    /// 503: nothing was taken.
    Shed,
    /// Not started, paused or ended.
    Closed,
    /// Something may have been taken: 504, no answer in time, connection lost after sending.
    Unknown,
    Error,
}

impl Class {
    pub const ALL: [Self; 9] = [
        Self::Won,
        Self::Replayed,
        Self::SoldOut,
        Self::Limited,
        Self::Throttled,
        Self::Shed,
        Self::Closed,
        Self::Unknown,
        Self::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Replayed => "replayed",
            Self::SoldOut => "sold_out",
            Self::Limited => "limited",
            Self::Throttled => "throttled",
            Self::Shed => "shed",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
            Self::Error => "error",
        }
    }

    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Won | Self::Replayed)
    }

    /// Whether the answer promised that no order was made.
    pub fn is_refused(self) -> bool {
        matches!(self, Self::SoldOut | Self::Limited | Self::Throttled | Self::Shed | Self::Closed)
    }

    /// Sorts an HTTP answer.
    pub fn of_answer(status: u16, code: Option<&str>, replayed: bool) -> Self {
        match (status, code) {
            (200..=202, _) if replayed => Self::Replayed,
            (200..=202, _) => Self::Won,
            (409, Some("sold_out")) => Self::SoldOut,
            (409, Some("limit_reached")) => Self::Limited,
            (409, Some("sale_not_started" | "sale_paused" | "sale_ended")) => Self::Closed,
            (429, _) => Self::Throttled,
            (503, _) => Self::Shed,
            (504, _) => Self::Unknown,
            _ => Self::Error,
        }
    }
}

/// Why a click was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    First,
    /// A double click: the key of the first one.
    SameKey,
    /// The same buyer once more, with another key.
    NewKey,
}

/// One click and its answer. Times are in µs; `at_us` counts from the start of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub user: String,
    pub sale: String,
    pub sku: String,
    pub quantity: u32,
    pub key: String,
    pub kind: Kind,
    /// When it was meant to be sent.
    pub at_us: u64,
    /// How much later it was sent, the generator's own fault.
    pub slip_us: u64,
    /// How long it then waited for a free connection; part of the latency.
    pub wait_us: u64,
    /// From the intended time to the whole answer.
    pub latency_us: u64,
    /// 0 without an answer.
    pub http_status: u16,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order_status: Option<String>,
    pub class: Class,
}

/// Writes one JSON object a line.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    for entry in entries {
        serde_json::to_writer(&mut out, entry)?;
        out.write_all(b"\n")?;
    }
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// When the file cannot be read or a line is not a journal entry.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut entries = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let entry = serde_json::from_str(&line)
            .with_context(|| format!("{}:{}: not a journal entry", path.display(), number + 1))?;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_fall_into_their_classes() {
        for (status, code, replayed, class) in [
            (202, None, false, Class::Won),
            (200, None, true, Class::Replayed),
            (409, Some("sold_out"), false, Class::SoldOut),
            (409, Some("limit_reached"), false, Class::Limited),
            (409, Some("sale_not_started"), false, Class::Closed),
            (409, Some("state_conflict"), false, Class::Error),
            (429, Some("rate_limited"), false, Class::Throttled),
            (503, Some("draining"), false, Class::Shed),
            (504, Some("outcome_unknown"), false, Class::Unknown),
            (401, Some("unauthenticated"), false, Class::Error),
            (500, None, false, Class::Error),
        ] {
            assert_eq!(Class::of_answer(status, code, replayed), class, "{status} {code:?}");
        }
    }

    #[test]
    fn only_an_error_is_neither_accepted_nor_refused_nor_unknown() {
        for class in Class::ALL {
            let sorted = class.is_accepted() || class.is_refused() || class == Class::Unknown;
            assert_eq!(sorted, class != Class::Error, "{class:?}");
        }
    }
}
