//! The keys by which operators prove who they are, and the sessions that pages have in a key's stead.

use std::fmt;

use serde::{Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::scope::{Role, Scope};

/// The most keys that may be used at once.
pub const KEYS_MAX: usize = 1000;
/// The longest name of a key, in bytes.
pub const KEY_NAME_MAX: usize = 64;
/// Names under which the audit log has what no key has done.
const NAMES_TAKEN: [&str; 3] = ["command line", "import", "seckill"];
/// How long a session may be used at most, in ms.
pub const SESSION_MAX_MS: i64 = 12 * 3_600_000;
/// After how long without a request a session ends, in ms.
pub const SESSION_IDLE_MS: i64 = 30 * 60_000;
/// The most sessions of one key. The oldest ends when another one begins.
pub const SESSIONS_MAX: usize = 100;

/// Names a key: the first 64 bits of the hash of its text, which say nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// Answers the id of the key whose text has this hash.
    pub fn of(key_hash: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&key_hash[..8]);
        Self(id)
    }

    /// Reads an id, 16 hexadecimal digits; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 8];
        const_hex::decode_to_slice(text, &mut id).ok()?;
        (!text.starts_with("0x")).then_some(Self(id))
    }

    /// Answers its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PartialSchema for KeyId {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-f]{16}$"));
        text.description(Some("Names a key, and says nothing of its text.")).into()
    }
}

impl ToSchema for KeyId {}

/// Checks the name of a new key.
///
/// # Errors
/// Why it cannot have that name.
pub fn check_name(name: &str) -> Result<(), String> {
    if !(1..=KEY_NAME_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(format!("must have 1 to {KEY_NAME_MAX} bytes, and no control characters"));
    }
    if NAMES_TAKEN.contains(&name) {
        return Err("is what the audit log calls somebody else".to_owned());
    }
    Ok(())
}

/// What the directory knows of an operator's API key. The key's text is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// The operator's name, which the audit log shows.
    pub name: String,
    /// What the key may do: words of scopes, such as `sales:read`, and of roles, such as `viewer`. A word that this
    /// version does not know allows nothing.
    pub scopes: Vec<String>,
}

impl ApiKey {
    /// Makes a key of what its row has.
    pub fn of(name: String, words: &str) -> Self {
        Self { name, scopes: words.split(' ').map(str::to_owned).collect() }
    }

    /// Answers whether the key has a scope, by itself or by a role.
    pub fn allows(&self, scope: Scope) -> bool {
        let has = |role: Role| Role::with(scope) <= role;
        self.scopes.iter().any(|word| word == scope.as_str() || Role::parse(word).is_some_and(has))
    }

    /// Answers the role that the key has; `None` for a key of single scopes.
    pub fn role(&self) -> Option<Role> {
        self.scopes.iter().filter_map(|word| Role::parse(word)).max()
    }

    /// Answers all scopes that the key has.
    pub fn all_scopes(&self) -> Vec<Scope> {
        Scope::ALL.into_iter().filter(|scope| self.allows(*scope)).collect()
    }
}

/// A key as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its id.
    pub id: KeyId,
    /// Whose it is, and what it may do.
    pub key: ApiKey,
    /// When it was made, ms since 1970.
    pub created_ms: i64,
    /// From when on it is refused, ms since 1970; `None` for never.
    pub ends_ms: Option<i64>,
    /// When it was used last, to the minute, ms since 1970; `None` for never.
    pub used_ms: Option<i64>,
}

/// A session: a page may do what the key may with which it was begun. Its text is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// SHA-256 of the text of its key.
    pub key_hash: [u8; 32],
    /// When it began, ms since 1970.
    pub begun_ms: i64,
    /// When it was used last, to ten seconds, ms since 1970.
    pub seen_ms: i64,
}

impl Session {
    /// Answers when it ends if nobody uses it, ms since 1970.
    pub fn ends_ms(&self) -> i64 {
        (self.begun_ms + SESSION_MAX_MS).min(self.seen_ms + SESSION_IDLE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(words: &str) -> ApiKey {
        ApiKey::of("ada".to_owned(), words)
    }

    #[test]
    fn a_role_has_what_lesser_roles_have_and_single_scopes_add_to_it() {
        for (nth, role) in Role::ALL.into_iter().enumerate() {
            let this = key(role.as_str());
            let lesser: Vec<Scope> =
                nth.checked_sub(1).map_or(Vec::new(), |nth| key(Role::ALL[nth].as_str()).all_scopes());
            assert!(lesser.iter().all(|scope| this.allows(*scope)) && this.all_scopes().len() > lesser.len());
        }
        let mixed = key("viewer stock:write something:new");
        assert!(mixed.allows(Scope::StockWrite) && mixed.allows(Scope::KeysRead));
        assert!(!mixed.allows(Scope::SalesWrite));
        assert_eq!((mixed.role(), key("sales:read").role()), (Some(Role::Viewer), None));
        assert_eq!(key("").all_scopes(), []);
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = KeyId::of(&[0xab; 32]);
        assert_eq!(KeyId::parse(&id.to_string()), Some(id));
        for other in ["", "abab", "0xababababababab", "zzzzzzzzzzzzzzzz", "abababababababab00"] {
            assert_eq!(KeyId::parse(other), None, "{other}");
        }
    }
}
