//! Keeps alarms in the database.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, number};
use crate::domain::alarm::{AlarmKey, AlarmStep, Call, DueCall, StoredAlarm};
use crate::ports::{Alarms, CallTimes, StoreResult};

const READ: &str = "read alarms";
const NOTE: &str = "note alarms";
const SEE: &str = "INSERT INTO alarms (name, labels, since_ms, seen_ms, value) VALUES (?1, ?2, ?3, ?3, ?4) \
     ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms, value = excluded.value";
const ALL: &str =
    "SELECT name, labels, since_ms, seen_ms, value, called_ms, calls, tries, next_ms FROM alarms";
const FORGET: &str = "DELETE FROM alarms WHERE name = ? AND labels = ? AND since_ms = ?";
const TRY: &str =
    "UPDATE alarms SET tries = tries + 1, next_ms = ? WHERE name = ? AND labels = ? AND since_ms = ?";
const CALLED: &str = "UPDATE alarms SET called_ms = ?, calls = calls + 1, tries = 0, next_ms = 0 \
     WHERE name = ? AND labels = ? AND since_ms = ?";

/// Serves alarms from the database.
pub struct SqliteAlarms {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

fn read(row: &SqliteRow) -> StoreResult<StoredAlarm> {
    Ok(StoredAlarm {
        key: AlarmKey { name: column(row, "name")?, labels: column(row, "labels")? },
        since_ms: column(row, "since_ms")?,
        seen_ms: column(row, "seen_ms")?,
        value: column(row, "value")?,
        called_ms: column(row, "called_ms")?,
        calls: number(row, "calls")?,
        tries: number(row, "tries")?,
        next_ms: column(row, "next_ms")?,
    })
}

/// Changes one alarm. `set` is bound first, if the statement sets something.
async fn change(
    connection: &mut SqliteConnection,
    text: &'static str,
    set: Option<i64>,
    (key, since_ms): (&AlarmKey, i64),
) -> StoreResult<()> {
    let mut query = sqlx::query(text);
    if let Some(set) = set {
        query = query.bind(set);
    }
    let changed = query.bind(&key.name).bind(&key.labels).bind(since_ms).execute(connection).await;
    changed.map(drop).map_err(|error| failed(NOTE, error))
}

async fn due(connection: &mut SqliteConnection, now_ms: i64, times: CallTimes) -> StoreResult<Vec<DueCall>> {
    let rows = sqlx::query(ALL).fetch_all(&mut *connection).await.map_err(|error| failed(READ, error))?;
    let mut due = Vec::new();
    for row in rows {
        let alarm = read(&row)?;
        let at = (&alarm.key, alarm.since_ms);
        match alarm.step(now_ms, times.ended_after, times.repeat_after) {
            AlarmStep::Wait => {}
            AlarmStep::Forget => change(connection, FORGET, None, at).await?,
            AlarmStep::Call(call) => {
                change(connection, TRY, Some(alarm.next_try_ms(now_ms)), at).await?;
                due.push(call);
            }
        }
    }
    Ok(due)
}

#[async_trait]
impl Alarms for SqliteAlarms {
    async fn see(&self, standing: &[(AlarmKey, i64)]) -> StoreResult<()> {
        let (standing, time) = (standing.to_vec(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let now_ms = time.now_ms();
            for (key, value) in &standing {
                let query = sqlx::query(SEE).bind(&key.name).bind(&key.labels).bind(now_ms).bind(value);
                query.execute(&mut *connection).await.map_err(|error| failed(NOTE, error))?;
            }
            Ok(())
        };
        self.sqlite.writer.write(NOTE, work).await
    }

    async fn due(&self, times: CallTimes) -> StoreResult<Vec<DueCall>> {
        let time = self.sqlite.time.clone();
        let work = async move |connection: &mut SqliteConnection| due(connection, time.now_ms(), times).await;
        self.sqlite.writer.write(READ, work).await
    }

    async fn called(&self, call: &DueCall) -> StoreResult<()> {
        let (call, time) = (call.clone(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let at = (&call.alarm, call.since_ms);
            match call.call {
                Call::Ended => change(connection, FORGET, None, at).await,
                Call::Raised | Call::Repeated | Call::Test => {
                    change(connection, CALLED, Some(time.now_ms()), at).await
                }
            }
        };
        self.sqlite.writer.write(NOTE, work).await
    }
}
