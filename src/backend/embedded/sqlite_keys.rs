//! Keeps the operators' keys and the sessions of their pages in the database.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_audit_log::note;
use super::sqlite_rows::{column, failed};
use crate::domain::api_key::{KeyId, SESSION_MAX_MS, SESSIONS_MAX, Session, StoredKey};
use crate::domain::operator::Subject;
use crate::domain::{ApiKey, Change};
use crate::ports::{Keys, Sessions, StoreResult};

const READ: &str = "read API keys";
const CHANGE: &str = "change API key";
const SESSION: &str = "change session";
const FIND: &str =
    "SELECT name, scopes FROM api_keys WHERE key_hash = ? AND (revoked_ms IS NULL OR revoked_ms > ?)";
const ALL: &str = "SELECT key_hash, name, scopes, created_ms, revoked_ms, used_ms FROM api_keys \
     ORDER BY revoked_ms IS NULL DESC, created_ms DESC, key_hash LIMIT 10000";
const USABLE: &str = "SELECT name, scopes FROM api_keys \
     WHERE substr(key_hash, 1, 8) = ? AND (revoked_ms IS NULL OR revoked_ms > ?)";
const FIND_SESSION: &str = "SELECT k.name, k.scopes, s.key_hash, s.begun_ms, s.seen_ms FROM admin_sessions s \
     JOIN api_keys k ON k.key_hash = s.key_hash \
     WHERE s.session_hash = ? AND (k.revoked_ms IS NULL OR k.revoked_ms > ?)";
/// Those that are over, and the oldest of a key's, but for so many.
const REMOVE: &str = "DELETE FROM admin_sessions WHERE begun_ms <= ? OR session_hash IN \
     (SELECT session_hash FROM admin_sessions WHERE key_hash = ? ORDER BY begun_ms DESC LIMIT -1 OFFSET ?)";

/// Serves keys and sessions from the database.
pub struct SqliteKeys {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

impl SqliteKeys {
    /// Executes a statement about one row, which is named by a hash.
    async fn touch(
        &self,
        context: &'static str,
        text: &'static str,
        at_ms: Option<i64>,
        hash: [u8; 32],
    ) -> StoreResult<()> {
        let work = async move |connection: &mut SqliteConnection| {
            let mut query = sqlx::query(text);
            if let Some(at_ms) = at_ms {
                query = query.bind(at_ms);
            }
            let done = query.bind(hash.to_vec()).execute(connection).await;
            done.map(drop).map_err(|error| failed(context, error))
        };
        self.sqlite.writer.write(context, work).await
    }
}

fn key(row: &SqliteRow) -> StoreResult<ApiKey> {
    Ok(ApiKey::of(column(row, "name")?, column(row, "scopes")?))
}

fn hash_of(row: &SqliteRow) -> StoreResult<[u8; 32]> {
    let bytes: &[u8] = column(row, "key_hash")?;
    bytes.try_into().map_err(|_| broken(READ, "a hash has 32 bytes"))
}

fn stored(row: &SqliteRow) -> StoreResult<StoredKey> {
    Ok(StoredKey {
        id: KeyId::of(&hash_of(row)?),
        key: key(row)?,
        created_ms: column(row, "created_ms")?,
        ends_ms: column(row, "revoked_ms")?,
        used_ms: column(row, "used_ms")?,
    })
}

/// Adds a key and its audit row.
async fn add(
    connection: &mut SqliteConnection,
    key_hash: [u8; 32],
    key: &ApiKey,
    change: &Change,
    at_ms: i64,
) -> StoreResult<()> {
    sqlx::query("INSERT INTO api_keys (key_hash, name, scopes, created_ms) VALUES (?, ?, ?, ?)")
        .bind(key_hash.to_vec())
        .bind(&key.name)
        .bind(key.scopes.join(" "))
        .bind(at_ms)
        .execute(&mut *connection)
        .await
        .map_err(|error| failed(CHANGE, error))?;
    let subject = Subject::Key { id: KeyId::of(&key_hash), key: key.clone() };
    note(connection, change, &subject, at_ms).await
}

/// Ends a key, and answers how many that were.
async fn end(connection: &mut SqliteConnection, id: KeyId, ends_ms: i64, is_open: bool) -> StoreResult<u64> {
    let text =
        "UPDATE api_keys SET revoked_ms = ? WHERE substr(key_hash, 1, 8) = ? AND (? OR revoked_ms IS NULL)";
    let query = sqlx::query(text).bind(ends_ms).bind(id.bytes().to_vec()).bind(!is_open);
    query.execute(connection).await.map(|done| done.rows_affected()).map_err(|error| failed(CHANGE, error))
}

#[async_trait]
impl Keys for SqliteKeys {
    async fn api_key(&self, key_hash: [u8; 32], now_ms: i64) -> StoreResult<Option<ApiKey>> {
        let query = sqlx::query(FIND).bind(key_hash.to_vec()).bind(now_ms);
        let row = query.fetch_optional(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        row.as_ref().map(key).transpose()
    }

    async fn api_keys(&self) -> StoreResult<Vec<StoredKey>> {
        let rows = sqlx::query(ALL).fetch_all(self.sqlite.readers()).await;
        rows.map_err(|error| failed(READ, error))?.iter().map(stored).collect()
    }

    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey, change: &Change) -> StoreResult<()> {
        let (key, change, at_ms) = (key.clone(), change.clone(), self.sqlite.time.now_ms());
        let work = async move |connection: &mut SqliteConnection| {
            add(connection, key_hash, &key, &change, at_ms).await
        };
        self.sqlite.writer.write(CHANGE, work).await
    }

    async fn replace_api_key(
        &self,
        id: KeyId,
        (key_hash, key): ([u8; 32], &ApiKey),
        ends_ms: i64,
        change: &Change,
    ) -> StoreResult<bool> {
        let (key, change, at_ms) = (key.clone(), change.clone(), self.sqlite.time.now_ms());
        let work = async move |connection: &mut SqliteConnection| {
            if end(connection, id, ends_ms, true).await? == 0 {
                return Ok(false);
            }
            add(connection, key_hash, &key, &change, at_ms).await?;
            Ok(true)
        };
        self.sqlite.writer.write(CHANGE, work).await
    }

    async fn end_api_key(&self, id: KeyId, now_ms: i64, change: &Change) -> StoreResult<bool> {
        let (change, at_ms) = (change.clone(), self.sqlite.time.now_ms());
        let work = async move |connection: &mut SqliteConnection| {
            let query = sqlx::query(USABLE).bind(id.bytes().to_vec()).bind(now_ms);
            let row = query.fetch_optional(&mut *connection).await.map_err(|error| failed(CHANGE, error))?;
            let Some(key) = row.as_ref().map(key).transpose()? else { return Ok(false) };
            end(connection, id, now_ms, false).await?;
            note(connection, &change, &Subject::Key { id, key }, at_ms).await?;
            Ok(true)
        };
        self.sqlite.writer.write(CHANGE, work).await
    }

    async fn note_use(&self, key_hash: [u8; 32], used_ms: i64) -> StoreResult<()> {
        let text = "UPDATE api_keys SET used_ms = ? WHERE key_hash = ?";
        self.touch(CHANGE, text, Some(used_ms), key_hash).await
    }
}

#[async_trait]
impl Sessions for SqliteKeys {
    async fn begin(&self, session: &Session) -> StoreResult<()> {
        let session = *session;
        let work = async move |connection: &mut SqliteConnection| {
            let fault = |error| failed(SESSION, error);
            let kept = i64::try_from(SESSIONS_MAX - 1).unwrap_or(i64::MAX);
            let query = sqlx::query(REMOVE).bind(session.begun_ms - SESSION_MAX_MS);
            let query = query.bind(session.key_hash.to_vec()).bind(kept);
            query.execute(&mut *connection).await.map_err(fault)?;
            let text =
                "INSERT INTO admin_sessions (session_hash, key_hash, begun_ms, seen_ms) VALUES (?, ?, ?, ?)";
            let query = sqlx::query(text).bind(session.hash.to_vec()).bind(session.key_hash.to_vec());
            let query = query.bind(session.begun_ms).bind(session.seen_ms);
            query.execute(connection).await.map(drop).map_err(fault)
        };
        self.sqlite.writer.write(SESSION, work).await
    }

    async fn session(&self, hash: [u8; 32], now_ms: i64) -> StoreResult<Option<(Session, ApiKey)>> {
        let query = sqlx::query(FIND_SESSION).bind(hash.to_vec()).bind(now_ms);
        let row = query.fetch_optional(self.sqlite.readers()).await;
        let Some(row) = row.map_err(|error| failed("read session", error))? else { return Ok(None) };
        let (begun_ms, seen_ms) = (column(&row, "begun_ms")?, column(&row, "seen_ms")?);
        Ok(Some((Session { hash, key_hash: hash_of(&row)?, begun_ms, seen_ms }, key(&row)?)))
    }

    async fn note_seen(&self, hash: [u8; 32], seen_ms: i64) -> StoreResult<()> {
        let text = "UPDATE admin_sessions SET seen_ms = ? WHERE session_hash = ?";
        self.touch(SESSION, text, Some(seen_ms), hash).await
    }

    async fn end(&self, hash: [u8; 32]) -> StoreResult<()> {
        self.touch(SESSION, "DELETE FROM admin_sessions WHERE session_hash = ?", None, hash).await
    }
}
