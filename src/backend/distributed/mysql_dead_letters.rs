//! Reads dead letters and notes what became of them, in the instances' control databases.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::mysql::{Mysql, failed};
use super::mysql_batch;
use super::mysql_text::NOW_MS;
use crate::backend::readable::readable;
use crate::domain::record::Poison;
use crate::domain::{
    DeadLetter, DeadLetterId, Instance, LetterQuery, LetterState, OrderId, OrderRecord, Part, Sales,
};
use crate::ports::{DeadLetters, Redecided, StoreError, StoreResult};

const READ: &str = "read dead letters";
const DECIDE: &str = "decide a dead letter";
/// The columns that [`read`] reads.
const COLUMNS: &str = "id, part, log_offset, reason, order_id, payload, state, \
                       CAST(UNIX_TIMESTAMP(at) * 1000 AS SIGNED) AS at_ms, decided_ms";

/// Serves dead letters from the instances' control databases.
pub struct MysqlDeadLetters {
    mysql: Arc<Mysql>,
}

impl MysqlDeadLetters {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn list_at(&self, at: Instance, query: &LetterQuery, limit: u32) -> StoreResult<Vec<MySqlRow>> {
        let after = query.after.filter(|after| after.at == at).map_or(0, |after| after.number);
        let mut text =
            format!("SELECT {COLUMNS} FROM {{control}}.dead_letters WHERE topic = ? AND id > {after}");
        if let Some(state) = query.state {
            text.push_str(&format!(" AND state = '{}'", state.as_str()));
        }
        if query.reason.is_some() {
            text.push_str(" AND reason = ?");
        }
        text.push_str(&format!(" ORDER BY id LIMIT {limit}"));
        let mut rows = sqlx::query(self.mysql.control_sql(at, &text)).bind(&self.mysql.topic);
        if let Some(reason) = &query.reason {
            rows = rows.bind(reason);
        }
        rows.fetch_all(self.mysql.readers(at)).await.map_err(|error| failed(READ, error))
    }

    async fn list_all(&self, query: &LetterQuery) -> StoreResult<Vec<DeadLetter>> {
        let mut found = Vec::new();
        let first = query.after.map_or(0, |after| after.at.number());
        for at in self.mysql.map.all_instances().filter(|at| at.number() >= first) {
            let left = query.limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            if left == 0 {
                break;
            }
            let rows = self.list_at(at, query, left).await?;
            found.extend(rows.iter().filter_map(|row| readable("dead_letters", read(at, row))));
        }
        Ok(found)
    }

    async fn read_one(&self, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        let text = format!("SELECT {COLUMNS} FROM {{control}}.dead_letters WHERE topic = ? AND id = ?");
        let query = sqlx::query(self.mysql.control_sql(id.at, &text)).bind(&self.mysql.topic).bind(id.number);
        let row =
            query.fetch_optional(self.mysql.readers(id.at)).await.map_err(|error| failed(READ, error))?;
        row.as_ref().map(|row| read(id.at, row)).transpose()
    }

    async fn set_state(&self, id: DeadLetterId, state: LetterState) -> StoreResult<bool> {
        let text = format!(
            "UPDATE {{control}}.dead_letters SET state = ?, decided_ms = {NOW_MS} WHERE id = ? AND state = 'open'"
        );
        let query = sqlx::query(self.mysql.control_sql(id.at, &text)).bind(state.as_str()).bind(id.number);
        let decided = query.execute(self.mysql.pool(id.at)).await.map_err(|error| failed(DECIDE, error))?;
        Ok(decided.rows_affected() == 1)
    }

    async fn count(&self) -> StoreResult<u64> {
        let mut open = 0;
        for at in self.mysql.map.all_instances() {
            let text = "SELECT COUNT(*) FROM {control}.dead_letters WHERE state = 'open' AND topic = ?";
            let count: i64 = sqlx::query_scalar(self.mysql.control_sql(at, text))
                .bind(&self.mysql.topic)
                .fetch_one(self.mysql.pool(at))
                .await
                .map_err(|error| failed(READ, error))?;
            open += count.unsigned_abs();
        }
        Ok(open)
    }

    fn holds(&self, id: DeadLetterId) -> bool {
        id.at.number() < self.mysql.map.instances()
    }
}

fn read(at: Instance, row: &MySqlRow) -> StoreResult<DeadLetter> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let (part, state): (i32, String) =
        (row.try_get("part").map_err(fault)?, row.try_get("state").map_err(fault)?);
    let order: Option<Vec<u8>> = row.try_get("order_id").map_err(fault)?;
    let order = order.map(|order| OrderId::from_bytes(&order)).transpose();
    Ok(DeadLetter {
        id: DeadLetterId { at, number: row.try_get("id").map_err(fault)? },
        part: Part::new(u16::try_from(part).map_err(|error| broken(error.to_string()))?),
        offset: row.try_get("log_offset").map_err(fault)?,
        reason: row.try_get("reason").map_err(fault)?,
        order: order.map_err(|error| broken(error.to_string()))?,
        payload: row.try_get("payload").map_err(fault)?,
        state: LetterState::parse(&state).ok_or_else(|| broken(state))?,
        at_ms: row.try_get("at_ms").map_err(fault)?,
        decided_ms: row.try_get("decided_ms").map_err(fault)?,
    })
}

#[async_trait]
impl DeadLetters for MysqlDeadLetters {
    async fn list(&self, query: &LetterQuery) -> StoreResult<Vec<DeadLetter>> {
        self.mysql.read(READ, self.list_all(query)).await
    }

    async fn read(&self, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        if !self.holds(id) {
            return Ok(None);
        }
        self.mysql.read(READ, self.read_one(id)).await
    }

    async fn decide(&self, id: DeadLetterId, state: LetterState) -> StoreResult<bool> {
        if !self.holds(id) {
            return Ok(false);
        }
        self.mysql.change(id.at, DECIDE, self.set_state(id, state)).await
    }

    async fn write_apart(&self, record: &OrderRecord, sales: &Sales) -> StoreResult<Redecided> {
        if !self.mysql.map.holds(record.order_id.shard()) {
            return Ok(Redecided::Poison(Poison::WrongPlace));
        }
        let instance = self.mysql.map.instance_of(record.order_id.shard());
        self.mysql.change(instance, "write apart", mysql_batch::write_apart(&self.mysql, record, sales)).await
    }

    async fn open(&self) -> StoreResult<u64> {
        self.mysql.read(READ, self.count()).await
    }
}
