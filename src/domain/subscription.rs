//! Subscriptions: addresses to which events are sent as they happen.

use std::fmt;

use serde::{Serialize, Serializer};

/// The id of a subscription: `whk_` and 16 digits of a–f and 0–9.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(String);

const PREFIX: &str = "whk_";
const DIGITS: usize = 16;

impl SubscriptionId {
    /// Makes an id of random bytes.
    pub fn of_bytes(bytes: [u8; DIGITS / 2]) -> Self {
        Self(bytes.iter().fold(PREFIX.to_owned(), |id, byte| format!("{id}{byte:02x}")))
    }

    /// Reads an id; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == DIGITS && digits.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// Answers the id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Answers the name under which the subscription reads events.
    pub fn reader(&self) -> String {
        format!("webhook:{}", self.0)
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SubscriptionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Whether events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    /// They are.
    Active,
    /// They wait until an operator resumes it.
    Paused,
}

impl SubscriptionState {
    /// Answers the state's word in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
        }
    }

    /// Reads a state's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Paused].into_iter().find(|state| state.as_str() == text)
    }
}

/// An address to which events are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its identity.
    pub id: SubscriptionId,
    /// The address.
    pub url: String,
    /// The words of the steps that are sent; all when there are none.
    pub kinds: Vec<String>,
    /// The secret that signs what is sent.
    pub secret: String,
    /// The secret before the last change. What is sent is signed with it, too.
    pub previous_secret: Option<String>,
    /// Whether events are sent.
    pub state: SubscriptionState,
    /// Why it is paused; empty while it is active.
    pub why: String,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// Since when nothing was taken that was sent, ms since 1970; `None` while all is well.
    pub failing_since_ms: Option<i64>,
}

/// Secrets are in no log.
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, url, state, .. } = self;
        f.debug_struct("Subscription")
            .field("id", id)
            .field("url", url)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// Most subscriptions of a shop. Each reads all events.
    pub const MAX: usize = 32;
    /// Most bytes of an address.
    pub const URL_BYTES_MAX: usize = 1024;

    /// Answers whether steps of this word are sent.
    pub fn wants(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind)
    }

    /// Answers the secrets that sign what is sent, the newest first.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.secret.as_str()).chain(self.previous_secret.as_deref())
    }
}

/// What happens to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// No more is sent, for this reason, of at most 200 characters.
    Pause(String),
    /// Events are sent again, from where it was.
    Resume,
    /// It gets a new secret, and the one before holds as well.
    Rotate(String),
    /// No more is sent, because nothing was taken since `failing_since_ms`, in ms since 1970. Nothing happens when it
    /// is not active or not failing since then any more: an operator or a receiver was quicker.
    GiveUp {
        /// Since when nothing was taken.
        failing_since_ms: i64,
        /// The reason, of at most 200 characters.
        why: String,
    },
    /// Something was sent and not taken. It is failing from then on, unless it was before.
    Failed,
    /// Something that was sent was taken.
    Taken,
}

/// A subscription that is to be made.
#[derive(Debug, Clone)]
pub struct NewSubscription {
    /// The address.
    pub url: String,
    /// The words of the steps that are sent; all when there are none.
    pub kinds: Vec<String>,
    /// Whether it begins with the oldest event that is kept, and not with the next one.
    pub from_oldest: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_it_was_made_of_and_nothing_else() {
        let id = SubscriptionId::of_bytes([0, 1, 2, 3, 4, 5, 254, 255]);
        assert_eq!(id.as_str(), "whk_000102030405feff");
        assert_eq!(SubscriptionId::parse(id.as_str()), Some(id));
        for text in ["", "whk_", "whk_000102030405fef", "whk_000102030405FEFF", "whk_000102030405fefg", "x"] {
            assert_eq!(SubscriptionId::parse(text), None, "{text}");
        }
    }
}
