//! Keeps subscriptions in the database.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed};
use crate::backend::readable::readable;
use crate::backend::subscription_change::update;
use crate::domain::subscription::{Subscription, SubscriptionChange, SubscriptionId, SubscriptionState};
use crate::ports::{StoreResult, Subscriptions};

const READ: &str = "read subscriptions";
const CHANGE: &str = "change subscription";
const ALL: &str = "SELECT id, url, kinds, secret, previous_secret, state, why, created_ms, failing_since_ms \
     FROM subscriptions ORDER BY created_ms, id LIMIT ?";
const ADD: &str = "INSERT INTO subscriptions (id, url, kinds, secret, state, created_ms) SELECT ?, ?, ?, ?, ?, ? \
     WHERE (SELECT COUNT(*) FROM subscriptions) < ?";

/// Serves subscriptions from the database.
pub struct SqliteSubscriptions {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

fn read(row: &SqliteRow) -> StoreResult<Subscription> {
    let (id, kinds, state): (&str, &str, &str) =
        (column(row, "id")?, column(row, "kinds")?, column(row, "state")?);
    Ok(Subscription {
        id: SubscriptionId::parse(id).ok_or_else(|| broken(READ, id))?,
        url: column(row, "url")?,
        kinds: kinds.split_whitespace().map(str::to_owned).collect(),
        secret: column(row, "secret")?,
        previous_secret: column(row, "previous_secret")?,
        state: SubscriptionState::parse(state).ok_or_else(|| broken(READ, state))?,
        why: column(row, "why")?,
        created_ms: column(row, "created_ms")?,
        failing_since_ms: column(row, "failing_since_ms")?,
    })
}

#[async_trait]
impl Subscriptions for SqliteSubscriptions {
    async fn all(&self) -> StoreResult<Vec<Subscription>> {
        let most = i64::try_from(Subscription::MAX).unwrap_or(i64::MAX);
        let rows = sqlx::query(ALL).bind(most).fetch_all(self.sqlite.readers()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        Ok(rows.iter().filter_map(|row| readable("subscriptions", read(row))).collect())
    }

    async fn add(&self, subscription: &Subscription) -> StoreResult<bool> {
        let new = subscription.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let query = sqlx::query(ADD).bind(new.id.as_str()).bind(&new.url).bind(new.kinds.join(" "));
            let query = query.bind(&new.secret).bind(new.state.as_str()).bind(new.created_ms);
            let added =
                query.bind(i64::try_from(Subscription::MAX).unwrap_or(i64::MAX)).execute(connection).await;
            Ok(added.map_err(|error| failed(CHANGE, error))?.rows_affected() == 1)
        };
        self.sqlite.writer.write(CHANGE, work).await
    }

    async fn change(&self, id: &SubscriptionId, change: &SubscriptionChange) -> StoreResult<bool> {
        let (id, (set, condition, text)) = (id.clone(), update(change, self.sqlite.time.now_ms()));
        let work = async move |connection: &mut SqliteConnection| {
            let statement = format!("UPDATE subscriptions SET {set} WHERE id = ?{condition}");
            let mut query = sqlx::query(AssertSqlSafe(statement));
            if let Some(text) = &text {
                query = query.bind(text);
            }
            let changed = query.bind(id.as_str()).execute(connection).await;
            Ok(changed.map_err(|error| failed(CHANGE, error))?.rows_affected() == 1)
        };
        self.sqlite.writer.write(CHANGE, work).await
    }

    async fn remove(&self, id: &SubscriptionId) -> StoreResult<bool> {
        let id = id.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let forget = sqlx::query("DELETE FROM event_readers WHERE reader = ?").bind(id.reader());
            forget.execute(&mut *connection).await.map_err(|error| failed(CHANGE, error))?;
            let deleted = sqlx::query("DELETE FROM subscriptions WHERE id = ?").bind(id.as_str());
            let deleted = deleted.execute(connection).await.map_err(|error| failed(CHANGE, error))?;
            Ok(deleted.rows_affected() == 1)
        };
        self.sqlite.writer.write(CHANGE, work).await
    }
}
