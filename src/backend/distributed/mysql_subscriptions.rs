//! Keeps subscriptions in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::mysql::{Mysql, failed};
use super::mysql_text::NOW_MS;
use crate::backend::readable::readable;
use crate::backend::subscription_change::update;
use crate::domain::subscription::{Subscription, SubscriptionChange, SubscriptionId, SubscriptionState};
use crate::ports::{StoreError, StoreResult, Subscriptions};

const READ: &str = "read subscriptions";
const CHANGE: &str = "change subscription";
const COLUMNS: &str = "id, url, kinds, secret, previous_secret, state, why, created_ms, failing_since_ms";

/// Serves subscriptions from the directory.
pub struct MysqlSubscriptions {
    mysql: Arc<Mysql>,
}

impl MysqlSubscriptions {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn read_all(&self) -> StoreResult<Vec<Subscription>> {
        let text = format!(
            "SELECT {COLUMNS} FROM {{directory}}.subscriptions ORDER BY created_ms, id LIMIT {}",
            Subscription::MAX
        );
        let rows = sqlx::query(self.mysql.directory_sql(&text)).fetch_all(self.mysql.directory_pool()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        Ok(rows.iter().filter_map(|row| readable("subscriptions", read(row))).collect())
    }

    async fn insert(&self, subscription: &Subscription) -> StoreResult<bool> {
        // Two that are added at once may be one more than the most, which harms nobody.
        let text = format!(
            "INSERT INTO {{directory}}.subscriptions ({COLUMNS}) SELECT ?, ?, ?, ?, NULL, ?, '', ?, NULL FROM dual \
             WHERE (SELECT COUNT(*) FROM {{directory}}.subscriptions) < {}",
            Subscription::MAX
        );
        let added = sqlx::query(self.mysql.directory_sql(&text))
            .bind(subscription.id.as_str().as_bytes())
            .bind(&subscription.url)
            .bind(subscription.kinds.join(" "))
            .bind(&subscription.secret)
            .bind(subscription.state.as_str())
            .bind(subscription.created_ms)
            .execute(self.mysql.directory_pool())
            .await;
        Ok(added.map_err(|error| failed(CHANGE, error))?.rows_affected() == 1)
    }

    async fn update(&self, id: &SubscriptionId, change: &SubscriptionChange) -> StoreResult<bool> {
        let (set, condition, text) = update(change, NOW_MS);
        let statement = format!("UPDATE {{directory}}.subscriptions SET {set} WHERE id = ?{condition}");
        let mut query = sqlx::query(self.mysql.directory_sql(&statement));
        if let Some(text) = text {
            query = query.bind(text);
        }
        let query = query.bind(id.as_str().as_bytes());
        let changed =
            query.execute(self.mysql.directory_pool()).await.map_err(|error| failed(CHANGE, error))?;
        // The client counts the rows that were found, changed or not.
        Ok(changed.rows_affected() == 1)
    }

    async fn delete(&self, id: &SubscriptionId) -> StoreResult<bool> {
        let text = "DELETE FROM {directory}.subscriptions WHERE id = ?";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(id.as_str().as_bytes());
        let deleted =
            query.execute(self.mysql.directory_pool()).await.map_err(|error| failed(CHANGE, error))?;
        for at in self.mysql.map.all_instances() {
            for table in ["event_readers", "event_leases"] {
                let text = format!("DELETE FROM {{control}}.{table} WHERE reader = ?");
                let query = sqlx::query(self.mysql.control_sql(at, &text)).bind(id.reader().into_bytes());
                query.execute(self.mysql.pool(at)).await.map_err(|error| failed(CHANGE, error))?;
            }
        }
        Ok(deleted.rows_affected() == 1)
    }
}

fn read(row: &MySqlRow) -> StoreResult<Subscription> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let id: Vec<u8> = row.try_get("id").map_err(fault)?;
    let (kinds, state): (String, String) =
        (row.try_get("kinds").map_err(fault)?, row.try_get("state").map_err(fault)?);
    let id = std::str::from_utf8(&id).ok().and_then(SubscriptionId::parse);
    Ok(Subscription {
        id: id.ok_or_else(|| broken("an id that is not ours".to_owned()))?,
        url: row.try_get("url").map_err(fault)?,
        kinds: kinds.split_whitespace().map(str::to_owned).collect(),
        secret: row.try_get("secret").map_err(fault)?,
        previous_secret: row.try_get("previous_secret").map_err(fault)?,
        state: SubscriptionState::parse(&state).ok_or_else(|| broken(state))?,
        why: row.try_get("why").map_err(fault)?,
        created_ms: row.try_get("created_ms").map_err(fault)?,
        failing_since_ms: row.try_get("failing_since_ms").map_err(fault)?,
    })
}

#[async_trait]
impl Subscriptions for MysqlSubscriptions {
    async fn all(&self) -> StoreResult<Vec<Subscription>> {
        self.mysql.read(READ, self.read_all()).await
    }

    async fn add(&self, subscription: &Subscription) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.insert(subscription)).await
    }

    async fn change(&self, id: &SubscriptionId, change: &SubscriptionChange) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.update(id, change)).await
    }

    async fn remove(&self, id: &SubscriptionId) -> StoreResult<bool> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.delete(id)).await
    }
}
