//! The journal: what every click asked for, and how it was answered. It is all that the audit knows of the buyers'
//! side.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The classes of answers. Only [`Class::Error`] is a failure. In all other classes the shop does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Accepted: an order that did not exist before.
    Won,
    /// Accepted: the order that the same key made before.
    Replayed,
    /// Nothing is left.
    SoldOut,
    /// The buyer holds as many units as the limit allows.
    Limited,
    /// The buyer has left as many orders unpaid as the sale allows.
    Unpaid,
    /// 429, or 403 `blocked`: a rule of traffic refuses the buyer.
    Throttled,
    /// 503: nothing was taken.
    Shed,
    /// The sale has not started, is paused or has ended.
    Closed,
    /// Something may have been taken: 504, no answer in time, or a connection lost after sending.
    Unknown,
    /// Everything else.
    Error,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 10] = [
        Self::Won,
        Self::Replayed,
        Self::SoldOut,
        Self::Limited,
        Self::Unpaid,
        Self::Throttled,
        Self::Shed,
        Self::Closed,
        Self::Unknown,
        Self::Error,
    ];

    /// Returns the class's word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Replayed => "replayed",
            Self::SoldOut => "sold_out",
            Self::Limited => "limited",
            Self::Unpaid => "unpaid",
            Self::Throttled => "throttled",
            Self::Shed => "shed",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
            Self::Error => "error",
        }
    }

    /// Returns whether the answer says that the order stands.
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Won | Self::Replayed)
    }

    /// Returns whether the answer promised that no order was made.
    pub fn is_refused(self) -> bool {
        matches!(
            self,
            Self::SoldOut | Self::Limited | Self::Unpaid | Self::Throttled | Self::Shed | Self::Closed
        )
    }

    /// Sorts an HTTP answer.
    pub fn of_answer(status: u16, code: Option<&str>, replayed: bool) -> Self {
        match (status, code) {
            (200..=202, _) if replayed => Self::Replayed,
            (200..=202, _) => Self::Won,
            (409, Some("sold_out" | "fewer_left")) => Self::SoldOut,
            (409, Some("limit_reached")) => Self::Limited,
            (409, Some("too_many_unpaid")) => Self::Unpaid,
            (409, Some("sale_not_started" | "sale_delayed" | "sale_paused" | "sale_ended")) => Self::Closed,
            (429, _) | (403, Some("blocked")) => Self::Throttled,
            (503, _) => Self::Shed,
            (504, _) => Self::Unknown,
            _ => Self::Error,
        }
    }
}

/// The reason for which a click was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An arrival.
    First,
    /// A double click, with the key of the first click.
    SameKey,
    /// A second try of the same buyer, with another key.
    NewKey,
    /// A buyer who was refused comes again, with the key of the first click.
    SecondChance,
}

/// One click and its answer. Times are in µs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The user who clicked.
    pub user: String,
    /// The sale's id.
    pub sale: String,
    /// The SKU that was asked for.
    pub sku: String,
    /// The units that were asked for.
    pub quantity: u32,
    /// The reference that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The idempotency key.
    pub key: String,
    /// Why the click was made.
    pub kind: Kind,
    /// When the click was meant to be sent, from the start of the run.
    pub at_us: u64,
    /// How much later it was sent, which is the generator's own fault.
    pub slip_us: u64,
    /// How long it then waited for a free connection. This is part of the latency.
    pub wait_us: u64,
    /// From the intended time to the whole answer.
    pub latency_us: u64,
    /// The HTTP status; 0 without an answer.
    pub http_status: u16,
    /// The problem's code, or the tool's own word when there is no answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    /// The order's id in the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order_id: Option<String>,
    /// The order's state in the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order_status: Option<String>,
    /// The time of acceptance in the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accepted_at: Option<String>,
    /// The class of the answer.
    pub class: Class,
}

impl Entry {
    /// Returns when the click was sent, at the earliest, in µs since the start of the run.
    pub fn sent_us(&self) -> u64 {
        self.at_us.saturating_add(self.slip_us)
    }

    /// Returns when the answer was there, in µs since the start of the run.
    pub fn answered_us(&self) -> u64 {
        self.at_us.saturating_add(self.latency_us)
    }
}

/// Writes a journal, one JSON object a line.
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

/// Reads a journal that [`write()`] wrote.
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
            (409, Some("too_many_unpaid"), false, Class::Unpaid),
            (409, Some("sale_not_started"), false, Class::Closed),
            (409, Some("state_conflict"), false, Class::Error),
            (429, Some("rate_limited"), false, Class::Throttled),
            (403, Some("blocked"), false, Class::Throttled),
            (403, Some("forbidden"), false, Class::Error),
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
