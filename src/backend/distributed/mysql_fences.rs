//! Keeps the fences of partitions, in the control database of the partition's instance.
//!
//! Invariant: a fence and the number beside the stored position change in one transaction, under the lock that every
//! batch takes first. So a batch is either committed before the fence, or decided with it.

use sqlx::Row;

use super::mysql::{Mysql, failed};
use crate::domain::{BucketId, Fences, Part, SaleId};
use crate::ports::{Claim, StoreError, StoreResult};

const READ: &str = "read fences";
const SET: &str = "set fence";

/// Reads the fences of a partition.
///
/// # Errors
/// When they cannot be read, or the partition has no position.
pub async fn read(mysql: &Mysql, part: Part) -> StoreResult<Fences> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let instance = mysql.map.instance_of_part(part);
    let text = "SELECT p.fences, f.sale_id, f.bucket, f.epoch FROM {control}.consumer_positions p \
                LEFT JOIN {control}.fences f ON f.part = p.part WHERE p.topic = ? AND p.part = ?";
    let rows = sqlx::query(mysql.control_sql(instance, text))
        .bind(&mysql.topic)
        .bind(part.number())
        .fetch_all(mysql.pool(instance))
        .await
        .map_err(fault)?;
    let mut fences = Fences::default();
    for row in &rows {
        let number = |column: usize| -> StoreResult<Option<i32>> { row.try_get(column).map_err(fault) };
        fences.set = u32::try_from(number(0)?.unwrap_or(0)).map_err(|error| broken(error.to_string()))?;
        let sale: Option<Vec<u8>> = row.try_get(1).map_err(fault)?;
        let (Some(sale), Some(bucket), Some(epoch)) = (sale, number(2)?, number(3)?) else { continue };
        let sale = std::str::from_utf8(&sale).ok().and_then(|sale| SaleId::parse(sale).ok());
        let (Some(sale), Ok(bucket), Ok(epoch)) = (sale, u16::try_from(bucket), u32::try_from(epoch)) else {
            return Err(broken(format!("partition {} has a fence that is not ours", part.number())));
        };
        fences.epochs.insert(BucketId { sale, bucket }, epoch);
    }
    Ok(fences)
}

/// Sets a fence in a partition, unless a newer one stands. Every batch that is written from then on knows of it.
///
/// # Errors
/// When the instance cannot be changed.
pub async fn set(mysql: &Mysql, part: Part, claim: &Claim) -> StoreResult<()> {
    let at = mysql.map.instance_of_part(part);
    mysql.change(at, SET, set_in(mysql, part, claim)).await
}

async fn set_in(mysql: &Mysql, part: Part, Claim { bucket, epoch }: &Claim) -> StoreResult<()> {
    let at = mysql.map.instance_of_part(part);
    let mut tx = mysql.begin(at, SET).await?;
    // The position comes first, as in every batch.
    let count = "UPDATE {control}.consumer_positions SET fences = fences + 1 WHERE topic = ? AND part = ?";
    let query = sqlx::query(mysql.control_sql(at, count)).bind(&mysql.topic).bind(part.number());
    let counted = query.execute(&mut *tx).await.map_err(|error| failed(SET, error))?;
    if counted.rows_affected() != 1 {
        return Err(StoreError::broken(SET, format!("partition {} has no position", part.number())));
    }
    let text = "INSERT INTO {control}.fences (part, sale_id, bucket, epoch) VALUES (?, ?, ?, ?) \
                ON DUPLICATE KEY UPDATE epoch = GREATEST(epoch, VALUES(epoch))";
    let query = sqlx::query(mysql.control_sql(at, text)).bind(part.number());
    let query = query.bind(bucket.sale.as_str().as_bytes()).bind(bucket.bucket).bind(*epoch);
    query.execute(&mut *tx).await.map_err(|error| failed(SET, error))?;
    tx.commit().await.map_err(|error| failed(SET, error))
}
