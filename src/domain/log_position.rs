//! Where the order writers are in a partition of the order log, and why they may not go on from there.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use super::shard::Part;

/// The identity of an order log: another one for every log, also for one that has the name of an earlier one. Source:
/// docs/adr/0014.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogId([u8; 16]);

impl LogId {
    /// Stands where a record is decided apart from every log.
    pub const APART: Self = Self([u8::MAX; 16]);

    /// Makes the identity of 16 bytes. 16 zeros stand for no log.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Reads what [`Self::stored`] answered. Other lengths, and 16 zeros, stand for no log.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        Self::new(bytes.try_into().ok()?)
    }

    /// Answers the 16 bytes of a log, or zeros when it is not known.
    pub fn stored(log: Option<Self>) -> [u8; 16] {
        log.map_or([0; 16], |log| log.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for LogId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for LogId {
    /// Writes 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a partition stands still until a person moves its position. In both cases accepted orders may be in no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Halt {
    /// The log is another one than that of the position.
    OtherLog,
    /// The log ends before the position, or its oldest record comes after it.
    OutOfRange,
}

impl Halt {
    /// All reasons.
    pub const ALL: [Self; 2] = [Self::OtherLog, Self::OutOfRange];

    /// Answers the reason's word in rows, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherLog => "other_log",
            Self::OutOfRange => "out_of_range",
        }
    }

    /// Reads a reason's word; `None` for a word that is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|halt| halt.as_str() == text)
    }
}

/// The stored position of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The offset of the next record to write. All records before it are written.
    pub next_offset: i64,
    /// The log that the offset belongs to; `None` before anything was written.
    pub log: Option<LogId>,
    /// Why nothing may be written; `None` while all is well.
    pub halt: Option<Halt>,
}

impl Position {
    /// Answers why nothing may be written from here on, when the log and its offsets are these. A halt that is stored
    /// stays, also when the log looks well again.
    pub fn halt_in(&self, log: LogId, offsets: &Range<i64>) -> Option<Halt> {
        let is_inside = offsets.start <= self.next_offset && self.next_offset <= offsets.end;
        match self.halt {
            Some(halt) => Some(halt),
            None if self.log.is_some_and(|known| known != log) => Some(Halt::OtherLog),
            None if !is_inside => Some(Halt::OutOfRange),
            None => None,
        }
    }

    /// Answers whether everything before an offset of the log is written. What a halted partition has not written may
    /// be in no log.
    pub fn has_written(&self, end: i64) -> bool {
        self.halt.is_none() && self.next_offset >= end
    }

    /// Answers the position with a halt. A halt that stands keeps its reason.
    pub fn halted(self, why: Halt) -> Self {
        Self { halt: Some(self.halt.unwrap_or(why)), ..self }
    }

    /// Counts the records that may still have to be written: those after the position, or all of the log when the
    /// partition is halted.
    pub fn behind(&self, offsets: &Range<i64>) -> i64 {
        let from = if self.halt.is_some() { offsets.start } else { self.next_offset };
        offsets.end.saturating_sub(from).max(0)
    }
}

/// Names the first of some partitions that the order writers have not written up to the ends of the order log, when
/// there is one. A partition whose end or position is not known counts as not written.
pub fn first_unwritten<'a>(
    parts: &'a [Part],
    log: &HashMap<Part, Range<i64>>,
    positions: &HashMap<Part, Position>,
) -> Option<&'a Part> {
    let is_written = |part: &&Part| {
        let end = log.get(part).map(|offsets| offsets.end);
        end.is_some_and(|end| positions.get(part).is_some_and(|position| position.has_written(end)))
    };
    parts.iter().find(|part| !is_written(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(byte: u8) -> LogId {
        LogId::new([byte; 16]).expect("a log")
    }

    #[test]
    fn a_position_holds_in_its_own_log_and_inside_it_only() {
        let at = |next_offset| Position { next_offset, log: Some(log(1)), halt: None };
        for inside in 3..=7 {
            assert_eq!(at(inside).halt_in(log(1), &(3..7)), None);
        }
        assert_eq!(at(2).halt_in(log(1), &(3..7)), Some(Halt::OutOfRange));
        assert_eq!(at(8).halt_in(log(1), &(3..7)), Some(Halt::OutOfRange));
        assert_eq!(at(5).halt_in(log(2), &(3..7)), Some(Halt::OtherLog));
        let new = Position { log: None, ..at(5) };
        assert_eq!(new.halt_in(log(2), &(3..7)), None, "nothing was written of any log");
        let halted = Position { halt: Some(Halt::OtherLog), ..at(5) };
        assert_eq!(halted.halt_in(log(1), &(3..7)), Some(Halt::OtherLog), "a halt stays");
    }

    #[test]
    fn behind_a_halt_all_of_the_log_may_be_unwritten() {
        let position = Position { next_offset: 5, log: Some(log(1)), halt: None };
        assert_eq!(position.behind(&(3..7)), 2);
        let halted = Position { halt: Some(Halt::OtherLog), ..position };
        assert_eq!(halted.behind(&(0..4)), 4);
    }
}
