//! Identifiers. Each is a newtype, and its constructor checks alphabet and length. A slug is safe wherever it stands:
//! in a Redis key, a Lua argument, an SQL text and a log line. What clients choose is visible ASCII of a bounded
//! length.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    /// The kind of id that was expected.
    pub(super) what: &'static str,
    /// The form that such an id has.
    pub(super) rule: &'static str,
}

/// Makes a checked text. `$measure` answers its length, and `$allowed` says which characters it may have, as `$pattern`
/// does.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $measure:expr, $allowed:expr, $pattern:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest accepted length, in characters. Of all ids but [`Reference`] a character is a byte.
            pub const LEN_MAX: usize = $max;

            /// Checks a text and makes an id of it.
            ///
            /// # Errors
            /// [`InvalidId`] when the text is empty, longer than [`Self::LEN_MAX`] or holds another character.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let allowed: fn(char) -> bool = $allowed;
                let measure: fn(&str) -> usize = $measure;
                if text.is_empty() || measure(text) > Self::LEN_MAX || !text.chars().all(allowed) {
                    return Err(InvalidId { what: $what, rule: $rule });
                }
                Ok(Self(text.into()))
            }

            /// Answers the id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
                output.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                input.deserialize_str(Text(Self::parse))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).description(Some($rule));
                text.min_length(Some(1)).max_length(Some($max)).pattern(Some($pattern)).into()
            }
        }

        impl ToSchema for $name {}
    };
}

/// Reads an id from the borrowed text. Every purchase has ids, and a `String` for each would be a wasted allocation.
pub(super) struct Text<T>(pub(super) fn(&str) -> Result<T, InvalidId>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

fn is_slug(character: char) -> bool {
    character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
}

/// Allows visible ASCII characters. They stand in no key of Redis and are bytes in SQL, and JSON escapes them.
fn is_visible(character: char) -> bool {
    character.is_ascii_graphic()
}

/// Allows what people write in one line. The text stands in JSON, and elsewhere as bytes.
fn is_written(character: char) -> bool {
    !character.is_control()
}

/// The patterns of the three, for the contract.
const SLUG: &str = "^[a-z0-9-]+$";
const VISIBLE: &str = "^[!-~]+$";
const WRITTEN: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$";

fn in_characters(text: &str) -> usize {
    text.chars().count()
}

text_id!(
    /// A sale's slug, chosen by the promoter.
    SaleId, "sale id", 32, str::len, is_slug, SLUG, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A SKU's slug, unique within its sale.
    SkuId, "SKU id", 32, str::len, is_slug, SLUG, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A shopper's device, as the identity provider or the shop's app names it.
    DeviceId, "device id", 128, str::len, is_visible, VISIBLE, "1 to 128 visible ASCII characters"
);
text_id!(
    /// Something that the shop stands on: `redis`, `kafka`, `mysql-0`, `provider`, and in embedded mode `folder`.
    DependencyId, "dependency", 32, str::len, is_slug, SLUG, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A feature's slug, chosen by the operator.
    FlagId, "flag", 32, str::len, is_slug, SLUG, "1 to 32 characters of a-z, 0-9 and -"
);
text_id!(
    /// A rule's slug, chosen by the operator.
    RuleId, "rule id", 64, str::len, is_slug, SLUG, "1 to 64 characters of a-z, 0-9 and -"
);
text_id!(
    /// A shopper, as the `sub` of the verified token names them. It is never taken from a body or a query (I6). Source
    /// of the length: OpenID Connect Core §2, `sub`.
    UserId, "user id", 255, str::len, is_visible, VISIBLE, "1 to 255 visible ASCII characters"
);
text_id!(
    /// The client's idempotency key. It names one purchase of a user in a sale.
    IdempotencyKey, "idempotency key", 255, str::len, is_visible, VISIBLE, "1 to 255 visible ASCII characters"
);
text_id!(
    /// A shop's own name for an order, as a purchase gives it. It is carried along and means nothing here, and two
    /// orders may have the same. It has at most 256 bytes.
    Reference, "reference", 64, in_characters, is_written, WRITTEN, "1 to 64 characters without control characters"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_unsafe_characters_are_refused() {
        assert!(SaleId::parse("Friday").is_err());
        assert!(SaleId::parse("a b").is_err());
        assert!(SaleId::parse(&"a".repeat(33)).is_err());
        assert!(UserId::parse("auth0|64a1b2c3").is_ok());
        assert!(UserId::parse("a b").is_err());
        assert!(UserId::parse("a\0b").is_err());
        assert!(UserId::parse("ключ").is_err());
        assert!(UserId::parse(&"a".repeat(255)).is_ok());
        assert!(UserId::parse(&"a".repeat(256)).is_err());
        assert!(IdempotencyKey::parse("").is_err());
        assert!(Reference::parse(&"ö".repeat(64)).is_ok());
        assert!(Reference::parse(&"ö".repeat(65)).is_err());
        assert!(Reference::parse("shop order 7|x").is_ok());
        assert!(Reference::parse("a\nb").is_err());
        assert!(Reference::parse("").is_err());
    }
}
