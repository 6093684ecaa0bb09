//! Dead letters: records of the order log that could not become orders, until an operator decides what becomes of them.

use std::fmt;

use serde::{Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::order_id::OrderId;
use super::shard::{Instance, Part};

/// The identity of a dead letter: its instance and its number there, as `0-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId {
    /// The instance that keeps it.
    pub at: Instance,
    /// Its number there, from 1 on.
    pub number: i64,
}

impl DeadLetterId {
    /// Reads an id; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (at, number) = text.split_once('-')?;
        let is_plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(at) || !is_plain(number) {
            return None;
        }
        Some(Self { at: Instance::new(at.parse().ok()?), number: number.parse().ok()? })
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at.number(), self.number)
    }
}

impl PartialSchema for DeadLetterId {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,3}-[0-9]{1,18}$"));
        text.description(Some("The instance that keeps it, and its number there.")).into()
    }
}

impl ToSchema for DeadLetterId {}

impl Serialize for DeadLetterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterState {
    /// Nobody has decided. A buyer whose order it names waits.
    Open,
    /// Its order has a row, because an operator had it decided again or because it had one already.
    Retried,
    /// Its order is rejected, and its units went back.
    GivenBack,
    /// It names no order that anything is known of, so nothing was owed to anybody.
    Dismissed,
}

impl LetterState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Open, Self::Retried, Self::GivenBack, Self::Dismissed];

    /// Answers the state's word in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Retried => "retried",
            Self::GivenBack => "given_back",
            Self::Dismissed => "dismissed",
        }
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A record of the order log that could not become an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its identity.
    pub id: DeadLetterId,
    /// The partition of the order log in which it stands.
    pub part: Part,
    /// Its offset there.
    pub offset: i64,
    /// Why it could not become an order: a word of [`super::record::Poison`], perhaps of another version.
    pub reason: String,
    /// The order that it names; `None` when it names none.
    pub order: Option<OrderId>,
    /// Its bytes. Of a long record they are the first ones; a record that could be ours is whole.
    pub payload: Vec<u8>,
    /// What became of it.
    pub state: LetterState,
    /// When it was found, ms since 1970.
    pub at_ms: i64,
    /// When an operator decided, ms since 1970; `None` while it is open.
    pub decided_ms: Option<i64>,
}

/// Which dead letters are asked for.
#[derive(Debug, Clone, Default)]
pub struct LetterQuery {
    /// Only those in this state.
    pub state: Option<LetterState>,
    /// Only those that could not become orders for this reason.
    pub reason: Option<String>,
    /// Only those after this one.
    pub after: Option<DeadLetterId>,
    /// At most so many.
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_two_plain_numbers() {
        let id = DeadLetterId { at: Instance::new(1), number: 17 };
        assert_eq!(DeadLetterId::parse(&id.to_string()), Some(id));
        for text in
            ["", "-", "1-", "-1", "1-2-3", "+1-2", "1-+2", "70000-1", " 1-2", "1-99999999999999999999"]
        {
            assert_eq!(DeadLetterId::parse(text), None, "{text:?}");
        }
        for state in LetterState::ALL {
            assert_eq!(LetterState::parse(state.as_str()), Some(state));
        }
    }
}
