//! Operators' keys, the sessions of their pages, and the log of what they did.

use super::{Failure, Shop};
use crate::domain::api_key::{KEYS_MAX, KeyId, SESSION_MAX_MS, Session, StoredKey};
use crate::domain::audit::{AuditQuery, AuditRow};
use crate::domain::operator::Subject;
use crate::domain::{ApiKey, Change};

/// How often it is written when a key was used, and when a session was, in ms.
const USE_NOTED_EVERY_MS: i64 = 60_000;
const SESSION_NOTED_EVERY_MS: i64 = 10_000;

/// What came of a wish to make a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// The key can be used.
    Done,
    /// A key of this name can be used already.
    Taken(KeyId),
    /// As many keys can be used as there may be.
    TooMany,
}

/// What came of a wish to change a key.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyChanged {
    /// It was changed.
    Done(Box<StoredKey>),
    /// There is none of that id.
    Unknown,
    /// It has an end already, so nothing was changed.
    Ended(Box<StoredKey>),
}

impl Shop {
    /// Finds an API key by the SHA-256 of its text; `None` for a key that is unknown or has ended.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn api_key(&self, key_hash: [u8; 32]) -> Result<Option<ApiKey>, Failure> {
        let now_ms = self.now_ms();
        let found = self.ports.keys.api_key(key_hash, now_ms).await.map_err(Failure::of_read)?;
        if found.is_some() {
            self.note_use(key_hash, now_ms).await;
        }
        Ok(found)
    }

    /// Notes that a key was used, once in a while. The request is about something else, and goes on without it.
    async fn note_use(&self, key_hash: [u8; 32], now_ms: i64) {
        if self.memory.notes.is_due(key_hash, now_ms, USE_NOTED_EVERY_MS) {
            let noted = self.ports.keys.note_use(key_hash, now_ms).await;
            noted.unwrap_or_else(|error| tracing::warn!(%error, "the use of an API key is not noted"));
        }
    }

    /// Reads the keys, first those without an end, of both those that were made last first.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn api_keys(&self) -> Result<Vec<StoredKey>, Failure> {
        self.ports.keys.api_keys().await.map_err(Failure::of_read)
    }

    /// Makes a key, unless one without an end has its name: so a repetition makes no second one. Two calls at one
    /// moment may make two.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn add_api_key(
        &self,
        key_hash: [u8; 32],
        key: &ApiKey,
        change: &Change,
    ) -> Result<Added, Failure> {
        let mut usable = self.api_keys().await?;
        usable.retain(|found| found.ends_ms.is_none());
        if let Some(found) = usable.iter().find(|found| found.key.name == key.name) {
            return Ok(Added::Taken(found.id));
        }
        if usable.len() >= KEYS_MAX {
            return Ok(Added::TooMany);
        }
        self.ports.keys.add_api_key(key_hash, key, change).await?;
        Ok(Added::Done)
    }

    /// Makes a key that may do what another one may, which ends after `overlap_ms`.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn rotate_api_key(
        &self,
        id: KeyId,
        key_hash: [u8; 32],
        overlap_ms: i64,
        change: &Change,
    ) -> Result<KeyChanged, Failure> {
        let Some(old) = self.key_of(id).await? else { return Ok(KeyChanged::Unknown) };
        let ends_ms = self.now_ms().saturating_add(overlap_ms);
        if !self.ports.keys.replace_api_key(id, (key_hash, &old.key), ends_ms, change).await? {
            return Ok(KeyChanged::Ended(Box::new(old)));
        }
        Ok(KeyChanged::Done(Box::new(StoredKey { ends_ms: Some(ends_ms), ..old })))
    }

    /// Ends a key at once, and all sessions that were begun with it. Idempotent.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn revoke_api_key(&self, id: KeyId, change: &Change) -> Result<KeyChanged, Failure> {
        let Some(old) = self.key_of(id).await? else { return Ok(KeyChanged::Unknown) };
        let now_ms = self.now_ms();
        if !self.ports.keys.end_api_key(id, now_ms, change).await? {
            return Ok(KeyChanged::Ended(Box::new(old)));
        }
        Ok(KeyChanged::Done(Box::new(StoredKey { ends_ms: Some(now_ms), ..old })))
    }

    async fn key_of(&self, id: KeyId) -> Result<Option<StoredKey>, Failure> {
        Ok(self.api_keys().await?.into_iter().find(|found| found.id == id))
    }

    /// Begins a session of the key whose text has this hash.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn begin_session(
        &self,
        hash: [u8; 32],
        (key_hash, key): ([u8; 32], &ApiKey),
        change: &Change,
    ) -> Result<Session, Failure> {
        let now_ms = self.now_ms();
        let subject = Subject::Key { id: KeyId::of(&key_hash), key: key.clone() };
        self.ports.audit_log.note(change, &subject).await?;
        let session = Session { hash, key_hash, begun_ms: now_ms, seen_ms: now_ms };
        self.ports.sessions.begin(&session).await?;
        Ok(session)
    }

    /// Finds a session that is not over, and its key.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn session(&self, hash: [u8; 32]) -> Result<Option<(Session, ApiKey)>, Failure> {
        let now_ms = self.now_ms();
        let found = self.ports.sessions.session(hash, now_ms).await.map_err(Failure::of_read)?;
        let Some((mut session, key)) = found.filter(|(session, _)| now_ms < session.ends_ms()) else {
            return Ok(None);
        };
        self.note_use(session.key_hash, now_ms).await;
        if self.memory.notes.is_due(hash, now_ms, SESSION_NOTED_EVERY_MS) {
            let noted = self.ports.sessions.note_seen(hash, now_ms).await;
            noted.unwrap_or_else(|error| tracing::warn!(%error, "the use of a session is not noted"));
        }
        session.seen_ms = now_ms.min(session.begun_ms.saturating_add(SESSION_MAX_MS));
        Ok(Some((session, key)))
    }

    /// Ends a session. Idempotent.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn end_session(
        &self,
        hash: [u8; 32],
        change: impl FnOnce(&ApiKey) -> Change,
    ) -> Result<(), Failure> {
        if let Some((session, key)) = self.session(hash).await? {
            let change = change(&key);
            let subject = Subject::Key { id: KeyId::of(&session.key_hash), key };
            self.ports.audit_log.note(&change, &subject).await?;
        }
        Ok(self.ports.sessions.end(hash).await?)
    }

    /// Reads the audit log, what was written last first.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn audit_log(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, Failure> {
        self.ports.audit_log.rows(query).await.map_err(Failure::of_read)
    }
}
