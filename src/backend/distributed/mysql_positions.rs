//! Keeps the stored position of every partition, in the control database of the partition's instance.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::mysql::{Mysql, failed};
use crate::domain::{Halt, Instance, LogId, Part, Position};
use crate::ports::{Positions, StoreError, StoreResult};

const COLUMNS: &str = "part, next_offset, log_id, halt";

/// Serves the positions of the writers.
pub struct MysqlPositions {
    mysql: Arc<Mysql>,
}

/// Reads the stored position of a partition.
///
/// # Errors
/// When the position cannot be read or was never made.
pub async fn read(mysql: &Mysql, part: Part) -> StoreResult<Position> {
    let instance = mysql.map.instance_of_part(part);
    let text = format!("SELECT {COLUMNS} FROM {{control}}.consumer_positions WHERE topic = ? AND part = ?");
    let row = sqlx::query(mysql.control_sql(instance, &text))
        .bind(&mysql.topic)
        .bind(part.number())
        .fetch_optional(mysql.pool(instance))
        .await
        .map_err(|error| failed("read position", error))?;
    let missing = || {
        let detail = format!("no row for partition {}: run `seckill migrate`", part.number());
        StoreError::broken("read position", detail)
    };
    Ok(position(&row.ok_or_else(missing)?)?.1)
}

/// Reads the stored positions of all partitions of an instance.
///
/// # Errors
/// When one cannot be read.
pub async fn read_all(mysql: &Mysql, instance: Instance) -> StoreResult<HashMap<Part, Position>> {
    let text = format!("SELECT {COLUMNS} FROM {{control}}.consumer_positions WHERE topic = ?");
    let rows = sqlx::query(mysql.control_sql(instance, &text))
        .bind(&mysql.topic)
        .fetch_all(mysql.pool(instance))
        .await
        .map_err(|error| failed("read positions", error))?;
    rows.iter().map(position).collect()
}

fn position(row: &MySqlRow) -> StoreResult<(Part, Position)> {
    let context = "read position";
    let fault = |error| failed(context, error);
    let part: i32 = row.try_get("part").map_err(fault)?;
    let log: Vec<u8> = row.try_get("log_id").map_err(fault)?;
    let halt: String = row.try_get("halt").map_err(fault)?;
    let part = u16::try_from(part).map_err(|error| StoreError::broken(context, error.to_string()))?;
    let halt = match halt.as_str() {
        "" => None,
        word => Some(Halt::parse(word).ok_or_else(|| StoreError::broken(context, format!("halt {word}")))?),
    };
    let next_offset = row.try_get("next_offset").map_err(fault)?;
    Ok((Part::new(part), Position { next_offset, log: LogId::from_stored(&log), halt }))
}

/// Replaces a position that still is `seen`. Answers `false` when it is another one by now.
///
/// # Errors
/// When the statement fails.
pub async fn replace(mysql: &Mysql, part: Part, seen: &Position, to: &Position) -> StoreResult<bool> {
    let instance = mysql.map.instance_of_part(part);
    let word = |halt: Option<Halt>| halt.map_or("", Halt::as_str);
    let text = "UPDATE {control}.consumer_positions SET next_offset = ?, log_id = ?, halt = ? \
                WHERE topic = ? AND part = ? AND next_offset = ? AND log_id = ? AND halt = ?";
    let replaced = sqlx::query(mysql.control_sql(instance, text))
        .bind(to.next_offset)
        .bind(LogId::stored(to.log).to_vec())
        .bind(word(to.halt))
        .bind(&mysql.topic)
        .bind(part.number())
        .bind(seen.next_offset)
        .bind(LogId::stored(seen.log).to_vec())
        .bind(word(seen.halt))
        .execute(mysql.pool(instance))
        .await
        .map_err(|error| failed("replace position", error))?;
    Ok(replaced.rows_affected() == 1)
}

impl MysqlPositions {
    /// Makes the store. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }
}

#[async_trait]
impl Positions for MysqlPositions {
    async fn positions(&self) -> HashMap<Part, Position> {
        let reads = self
            .mysql
            .map
            .all_instances()
            .map(|instance| self.mysql.read("read positions", read_all(&self.mysql, instance)));
        let mut positions = HashMap::new();
        for answer in futures::future::join_all(reads).await {
            match answer {
                Ok(found) => positions.extend(found),
                Err(error) => tracing::debug!(%error, "positions of an instance left out"),
            }
        }
        positions
    }

    async fn replace(&self, part: Part, seen: &Position, to: &Position) -> StoreResult<bool> {
        let instance = self.mysql.map.instance_of_part(part);
        self.mysql.change(instance, "replace position", replace(&self.mysql, part, seen, to)).await
    }
}
