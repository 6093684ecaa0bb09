//! Keeps the operators' keys and the sessions of their pages in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::{MySqlQueryResult, MySqlRow};
use sqlx::{MySqlConnection, Row};

use super::mysql::{Mysql, failed};
use super::mysql_audit_log::audit;
use crate::domain::api_key::{KeyId, SESSION_MAX_MS, SESSIONS_MAX, Session, StoredKey};
use crate::domain::operator::Subject;
use crate::domain::{ApiKey, Change};
use crate::ports::{Keys, Sessions, StoreResult};

const READ: &str = "read API keys";
const CHANGE: &str = "change API key";
const SESSION: &str = "change session";
/// What holds of a key that may be used.
const USABLE: &str = "k.revoked_at IS NULL AND (k.ends_ms IS NULL OR k.ends_ms > ?)";
const INSERT: &str = "INSERT INTO {directory}.api_keys (key_hash, name, scopes) VALUES (?, ?, ?)";

/// Serves keys and sessions from the directory.
pub struct MysqlKeys {
    mysql: Arc<Mysql>,
}

impl MysqlKeys {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn find(&self, key_hash: [u8; 32], now_ms: i64) -> StoreResult<Option<ApiKey>> {
        let fault = |error| failed(READ, error);
        let text = format!(
            "SELECT k.name, k.scopes FROM {{directory}}.api_keys k WHERE k.key_hash = ? AND {USABLE}"
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(key_hash.as_slice()).bind(now_ms);
        let row = query.fetch_optional(self.mysql.directory_pool()).await.map_err(fault)?;
        row.map(|row| key(&row)).transpose().map_err(fault)
    }

    async fn all(&self) -> StoreResult<Vec<StoredKey>> {
        let text = "SELECT name, scopes, key_hash, CAST(UNIX_TIMESTAMP(created_at) * 1000 AS SIGNED), \
                    COALESCE(ends_ms, CAST(UNIX_TIMESTAMP(revoked_at) * 1000 AS SIGNED)), used_ms \
                    FROM {directory}.api_keys ORDER BY (ends_ms IS NULL AND revoked_at IS NULL) DESC, created_at DESC, key_hash LIMIT 10000";
        let rows = sqlx::query(self.mysql.directory_sql(text)).fetch_all(self.mysql.directory_pool()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        rows.iter().map(|row| stored(row).map_err(|error| failed(READ, error))).collect()
    }

    async fn insert(&self, key_hash: [u8; 32], key: &ApiKey, change: &Change) -> StoreResult<()> {
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CHANGE).await?;
        self.add(key_hash, key, change, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CHANGE, error))
    }

    async fn add(
        &self,
        key_hash: [u8; 32],
        key: &ApiKey,
        change: &Change,
        connection: &mut MySqlConnection,
    ) -> StoreResult<()> {
        let query = sqlx::query(self.mysql.directory_sql(INSERT)).bind(key_hash.as_slice());
        let query = query.bind(&key.name).bind(key.scopes.join(" "));
        query.execute(&mut *connection).await.map_err(|error| failed(CHANGE, error))?;
        let subject = Subject::Key { id: KeyId::of(&key_hash), key: key.clone() };
        audit(&self.mysql, change, &subject, connection).await
    }

    async fn replace(
        &self,
        id: KeyId,
        (key_hash, key): ([u8; 32], &ApiKey),
        ends_ms: i64,
        change: &Change,
    ) -> StoreResult<bool> {
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CHANGE).await?;
        let text = "UPDATE {directory}.api_keys SET ends_ms = ? \
                    WHERE LEFT(key_hash, 8) = ? AND ends_ms IS NULL AND revoked_at IS NULL";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(ends_ms).bind(id.bytes());
        if touched(query.execute(&mut *tx).await)? == 0 {
            return Ok(false);
        }
        self.add(key_hash, key, change, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CHANGE, error))?;
        Ok(true)
    }

    async fn revoke(&self, id: KeyId, now_ms: i64, change: &Change) -> StoreResult<bool> {
        let fault = |error| failed(CHANGE, error);
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CHANGE).await?;
        let text = format!(
            "SELECT k.name, k.scopes FROM {{directory}}.api_keys k WHERE LEFT(k.key_hash, 8) = ? AND {USABLE} FOR UPDATE"
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(id.bytes()).bind(now_ms);
        let Some(row) = query.fetch_optional(&mut *tx).await.map_err(fault)? else { return Ok(false) };
        let key = key(&row).map_err(fault)?;
        // Versions before this one look at `revoked_at` alone.
        let text = "UPDATE {directory}.api_keys SET ends_ms = ?, revoked_at = CURRENT_TIMESTAMP(3) \
                    WHERE LEFT(key_hash, 8) = ?";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(now_ms).bind(id.bytes());
        query.execute(&mut *tx).await.map_err(fault)?;
        audit(&self.mysql, change, &Subject::Key { id, key }, &mut tx).await?;
        tx.commit().await.map_err(fault)?;
        Ok(true)
    }

    async fn begin_session(&self, session: &Session) -> StoreResult<()> {
        let fault = |error| failed(SESSION, error);
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, SESSION).await?;
        let oldest = "SELECT begun_ms FROM {directory}.admin_sessions WHERE key_hash = ? \
                      ORDER BY begun_ms DESC LIMIT 1 OFFSET ?";
        let query = sqlx::query_scalar(self.mysql.directory_sql(oldest)).bind(session.key_hash.as_slice());
        let query = query.bind(u32::try_from(SESSIONS_MAX - 1).unwrap_or(u32::MAX));
        let oldest: Option<i64> = query.fetch_optional(&mut *tx).await.map_err(fault)?;
        let over =
            "DELETE FROM {directory}.admin_sessions WHERE begun_ms <= ? OR (key_hash = ? AND begun_ms <= ?)";
        let query = sqlx::query(self.mysql.directory_sql(over)).bind(session.begun_ms - SESSION_MAX_MS);
        let query = query.bind(session.key_hash.as_slice()).bind(oldest.unwrap_or(i64::MIN));
        query.execute(&mut *tx).await.map_err(fault)?;
        let text = "INSERT INTO {directory}.admin_sessions (session_hash, key_hash, begun_ms, seen_ms) \
                    VALUES (?, ?, ?, ?)";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(session.hash.as_slice());
        let query = query.bind(session.key_hash.as_slice()).bind(session.begun_ms).bind(session.seen_ms);
        query.execute(&mut *tx).await.map_err(fault)?;
        tx.commit().await.map_err(fault)
    }

    async fn find_session(&self, hash: [u8; 32], now_ms: i64) -> StoreResult<Option<(Session, ApiKey)>> {
        let fault = |error| failed("read session", error);
        let text = format!(
            "SELECT k.name, k.scopes, s.key_hash, s.begun_ms, s.seen_ms FROM {{directory}}.admin_sessions s \
             JOIN {{directory}}.api_keys k ON k.key_hash = s.key_hash WHERE s.session_hash = ? AND {USABLE}"
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(hash.as_slice()).bind(now_ms);
        let row = query.fetch_optional(self.mysql.directory_pool()).await.map_err(fault)?;
        let Some(row) = row else { return Ok(None) };
        let (begun_ms, seen_ms) = (row.try_get(3).map_err(fault)?, row.try_get(4).map_err(fault)?);
        let session = Session { hash, key_hash: hash_of(&row, 2).map_err(fault)?, begun_ms, seen_ms };
        Ok(Some((session, key(&row).map_err(fault)?)))
    }

    /// Executes a statement about one row, which is named by a hash.
    async fn touch(&self, text: &str, at_ms: Option<i64>, hash: [u8; 32]) -> StoreResult<()> {
        let mut query = sqlx::query(self.mysql.directory_sql(text));
        if let Some(at_ms) = at_ms {
            query = query.bind(at_ms);
        }
        touched(query.bind(hash.as_slice()).execute(self.mysql.directory_pool()).await).map(drop)
    }
}

fn touched(done: sqlx::Result<MySqlQueryResult>) -> StoreResult<u64> {
    done.map(|done| done.rows_affected()).map_err(|error| failed(CHANGE, error))
}

/// Reads the key of a row that begins with its name and its scopes.
fn key(row: &MySqlRow) -> sqlx::Result<ApiKey> {
    Ok(ApiKey::of(row.try_get(0)?, &row.try_get::<String, _>(1)?))
}

fn hash_of(row: &MySqlRow, column: usize) -> sqlx::Result<[u8; 32]> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))
}

fn stored(row: &MySqlRow) -> sqlx::Result<StoredKey> {
    Ok(StoredKey {
        id: KeyId::of(&hash_of(row, 2)?),
        key: key(row)?,
        created_ms: row.try_get(3)?,
        ends_ms: row.try_get(4)?,
        used_ms: row.try_get(5)?,
    })
}

#[async_trait]
impl Keys for MysqlKeys {
    async fn api_key(&self, key_hash: [u8; 32], now_ms: i64) -> StoreResult<Option<ApiKey>> {
        self.mysql.read(READ, self.find(key_hash, now_ms)).await
    }

    async fn api_keys(&self) -> StoreResult<Vec<StoredKey>> {
        self.mysql.read(READ, self.all()).await
    }

    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey, change: &Change) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.insert(key_hash, key, change)).await
    }

    async fn replace_api_key(
        &self,
        id: KeyId,
        (key_hash, key): ([u8; 32], &ApiKey),
        ends_ms: i64,
        change: &Change,
    ) -> StoreResult<bool> {
        let work = self.replace(id, (key_hash, key), ends_ms, change);
        self.mysql.change(Mysql::DIRECTORY, CHANGE, work).await
    }

    async fn end_api_key(&self, id: KeyId, now_ms: i64, change: &Change) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.revoke(id, now_ms, change)).await
    }

    async fn note_use(&self, key_hash: [u8; 32], used_ms: i64) -> StoreResult<()> {
        let text = "UPDATE {directory}.api_keys SET used_ms = ? WHERE key_hash = ?";
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.touch(text, Some(used_ms), key_hash)).await
    }
}

#[async_trait]
impl Sessions for MysqlKeys {
    async fn begin(&self, session: &Session) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, SESSION, self.begin_session(session)).await
    }

    async fn session(&self, hash: [u8; 32], now_ms: i64) -> StoreResult<Option<(Session, ApiKey)>> {
        self.mysql.read("read session", self.find_session(hash, now_ms)).await
    }

    async fn note_seen(&self, hash: [u8; 32], seen_ms: i64) -> StoreResult<()> {
        let text = "UPDATE {directory}.admin_sessions SET seen_ms = ? WHERE session_hash = ?";
        self.mysql.change(Mysql::DIRECTORY, SESSION, self.touch(text, Some(seen_ms), hash)).await
    }

    async fn end(&self, hash: [u8; 32]) -> StoreResult<()> {
        let text = "DELETE FROM {directory}.admin_sessions WHERE session_hash = ?";
        self.mysql.change(Mysql::DIRECTORY, SESSION, self.touch(text, None, hash)).await
    }
}
