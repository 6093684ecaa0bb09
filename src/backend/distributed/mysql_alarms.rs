//! Keeps alarms in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::mysql::{Mysql, failed};
use super::mysql_text::NOW_MS;
use crate::domain::alarm::{AlarmKey, AlarmStep, Call, DueCall, StoredAlarm};
use crate::ports::{Alarms, CallTimes, StoreResult};

const READ: &str = "read alarms";
const NOTE: &str = "note alarms";
const KEY: &str = "name = ? AND labels = ? AND since_ms = ?";

/// Serves alarms from the directory.
pub struct MysqlAlarms {
    /// The pools.
    pub mysql: Arc<Mysql>,
}

impl MysqlAlarms {
    async fn note(&self, standing: &[(AlarmKey, i64)]) -> StoreResult<()> {
        let text = format!(
            "INSERT INTO {{directory}}.alarms (name, labels, since_ms, seen_ms, value) \
             VALUES (?, ?, {NOW_MS}, {NOW_MS}, ?) ON DUPLICATE KEY UPDATE seen_ms = {NOW_MS}, value = VALUES(value)"
        );
        for (AlarmKey { name, labels }, value) in standing {
            let query = sqlx::query(self.mysql.directory_sql(&text)).bind(name).bind(labels).bind(value);
            query.execute(self.mysql.directory_pool()).await.map_err(|error| failed(NOTE, error))?;
        }
        Ok(())
    }

    async fn take_due(&self, times: CallTimes) -> StoreResult<Vec<DueCall>> {
        let text = format!(
            "SELECT name, labels, since_ms, seen_ms, value, called_ms, calls, tries, next_ms, {NOW_MS} AS now_ms \
             FROM {{directory}}.alarms"
        );
        let rows = sqlx::query(self.mysql.directory_sql(&text)).fetch_all(self.mysql.directory_pool()).await;
        let mut due = Vec::new();
        for row in rows.map_err(|error| failed(READ, error))? {
            let (alarm, now_ms) = read(&row).map_err(|error| failed(READ, error))?;
            match alarm.step(now_ms, times.ended_after, times.repeat_after) {
                AlarmStep::Wait => {}
                AlarmStep::Forget => {
                    let text = format!("DELETE FROM {{directory}}.alarms WHERE {KEY} AND seen_ms = ?");
                    self.change(&text, None, &alarm, alarm.seen_ms).await?;
                }
                AlarmStep::Call(call) => {
                    let text = format!(
                        "UPDATE {{directory}}.alarms SET tries = tries + 1, next_ms = ? WHERE {KEY} \
                         AND calls = {} AND next_ms = ?",
                        alarm.calls
                    );
                    let next_ms = alarm.next_try_ms(now_ms);
                    if self.change(&text, Some(next_ms), &alarm, alarm.next_ms).await? {
                        due.push(call);
                    }
                }
            }
        }
        Ok(due)
    }

    /// Changes one alarm, and answers whether it was found as it was. `set` is bound first, if the statement sets
    /// something, and `last` is what it compares last.
    async fn change(
        &self,
        text: &str,
        set: Option<i64>,
        StoredAlarm { key, since_ms, .. }: &StoredAlarm,
        last: i64,
    ) -> StoreResult<bool> {
        let mut query = sqlx::query(self.mysql.directory_sql(text));
        if let Some(set) = set {
            query = query.bind(set);
        }
        let query = query.bind(&key.name).bind(&key.labels).bind(since_ms).bind(last);
        let changed = query.execute(self.mysql.directory_pool()).await;
        Ok(changed.map_err(|error| failed(NOTE, error))?.rows_affected() == 1)
    }

    async fn note_called(&self, call: &DueCall) -> StoreResult<()> {
        let text = match call.call {
            Call::Ended => format!("DELETE FROM {{directory}}.alarms WHERE {KEY}"),
            Call::Raised | Call::Repeated | Call::Test => format!(
                "UPDATE {{directory}}.alarms SET called_ms = {NOW_MS}, calls = calls + 1, tries = 0, next_ms = 0 \
                 WHERE {KEY}"
            ),
        };
        let query =
            sqlx::query(self.mysql.directory_sql(&text)).bind(&call.alarm.name).bind(&call.alarm.labels);
        let noted = query.bind(call.since_ms).execute(self.mysql.directory_pool()).await;
        noted.map(drop).map_err(|error| failed(NOTE, error))
    }
}

/// Reads an alarm, and the time at which it was read.
fn read(row: &MySqlRow) -> Result<(StoredAlarm, i64), sqlx::Error> {
    let number = |name: &str| row.try_get::<i32, _>(name).map(|number| u32::try_from(number).unwrap_or(0));
    let alarm = StoredAlarm {
        key: AlarmKey { name: row.try_get("name")?, labels: row.try_get("labels")? },
        since_ms: row.try_get("since_ms")?,
        seen_ms: row.try_get("seen_ms")?,
        value: row.try_get("value")?,
        called_ms: row.try_get("called_ms")?,
        calls: number("calls")?,
        tries: number("tries")?,
        next_ms: row.try_get("next_ms")?,
    };
    Ok((alarm, row.try_get("now_ms")?))
}

#[async_trait]
impl Alarms for MysqlAlarms {
    async fn see(&self, standing: &[(AlarmKey, i64)]) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, NOTE, self.note(standing)).await
    }

    async fn due(&self, times: CallTimes) -> StoreResult<Vec<DueCall>> {
        self.mysql.change(Mysql::DIRECTORY, READ, self.take_due(times)).await
    }

    async fn called(&self, call: &DueCall) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, NOTE, self.note_called(call)).await
    }
}
