//! Changes an instance's share of a stock while the sale is on.
//!
//! Invariant: a pool has the share that the stock of the directory gives it, once no adjustment is under way. Units go
//! only when nobody holds them: first those that the pool has, then those that the ledger has and does not hold. These
//! go back to the pool by a grant with units below 0, whose row also makes sure that all of it is done once.

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_grants as grants;
use crate::domain::batch_plan::Scarce;
use crate::domain::{Instance, SaleId, SkuId};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

const CONTEXT: &str = "adjust pool";
/// How often units are fetched from other instances for one share. Writers may take what was fetched.
const FETCHES_MAX: usize = 8;

/// What an instance's share becomes.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The instance.
    pub at: Instance,
    /// The stock of its pool.
    pub stock: u32,
    /// Withheld units of its ledger that may be sold again.
    pub returned: u32,
    /// The id of the change on this instance.
    pub id: [u8; 16],
}

/// What became of an attempt.
enum Set {
    Done,
    /// So many units that should go are not on the instance.
    Missing(u32),
}

/// Sets an instance's share. Idempotent by its id.
///
/// # Errors
/// When an instance could not be asked, or the units that should go are held or under way: it is tried again later.
pub async fn set_share(mysql: &Mysql, sale: &SaleId, sku: &SkuId, share: Share) -> StoreResult<()> {
    let scarce: Scarce = (sale.clone(), sku.clone());
    for _ in 0..FETCHES_MAX {
        let set = mysql.change(share.at, CONTEXT, try_set(mysql, &scarce, share)).await?;
        let Set::Missing(units) = set else { return Ok(()) };
        if grants::fetch(mysql, share.at, &scarce, units).await? == 0 {
            break;
        }
    }
    let source = "the units that should go are held, or on their way between instances".into();
    Err(StoreError { kind: ErrorKind::Conflict, effect: Effect::NotApplied, context: CONTEXT, source })
}

async fn try_set(mysql: &Mysql, scarce: &Scarce, share: Share) -> StoreResult<Set> {
    let mut tx = mysql.begin(share.at, CONTEXT).await?;
    // The ledger is locked before the pool, as by the order writers.
    let ledger = "SELECT allotted - held - sold - withheld, 0 FROM {control}.ledger \
                  WHERE sale_id = ? AND sku_id = ? FOR UPDATE";
    let pool = "SELECT stock, granted FROM {control}.pool WHERE sale_id = ? AND sku_id = ? FOR UPDATE";
    let idle = read(mysql, share.at, ledger, scarce, &mut tx).await?;
    let found = read(mysql, share.at, pool, scarce, &mut tx).await?;
    let (Some([idle, _]), Some([stock, granted])) = (idle, found) else {
        return Err(StoreError::broken(CONTEXT, "no pool for a SKU on sale: preheat it again"));
    };
    let known = "SELECT COUNT(*) FROM {control}.grants WHERE grant_id = ?";
    let known: i64 = sqlx::query_scalar(mysql.control_sql(share.at, known))
        .bind(share.id.as_slice())
        .fetch_one(&mut *tx)
        .await
        .map_err(|error| failed(CONTEXT, error))?;
    if known > 0 {
        return Ok(Set::Done);
    }
    // What the pool has not to give is taken out of the ledger.
    let more = i64::from(share.stock) - stock;
    let back = (-more - (stock - granted)).max(0);
    if idle < back {
        return Ok(Set::Missing(u32::try_from(back - idle).unwrap_or(u32::MAX)));
    }
    let pool =
        "UPDATE {control}.pool SET granted = granted - ?, stock = stock + ? WHERE sale_id = ? AND sku_id = ?";
    write(mysql, share.at, pool, [back, more], scarce, &mut tx).await?;
    let ledger = "UPDATE {control}.ledger SET allotted = allotted - ?, withheld = withheld - ? \
                  WHERE sale_id = ? AND sku_id = ?";
    write(mysql, share.at, ledger, [back, i64::from(share.returned)], scarce, &mut tx).await?;
    record(mysql, scarce, share, -back, &mut tx).await?;
    tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
    Ok(Set::Done)
}

/// Reads two numbers of a SKU; `None` when it has no row.
async fn read(
    mysql: &Mysql,
    at: Instance,
    text: &str,
    scarce: &Scarce,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<Option<[i64; 2]>> {
    let fault = |error| failed(CONTEXT, error);
    let query = sqlx::query(mysql.control_sql(at, text))
        .bind(scarce.0.as_str().as_bytes())
        .bind(scarce.1.as_str().as_bytes());
    let row = query.fetch_optional(&mut **tx).await.map_err(fault)?;
    let numbers = |row: &MySqlRow| Ok([row.try_get(0)?, row.try_get(1)?]);
    row.as_ref().map(numbers).transpose().map_err(fault)
}

/// Changes the row of a SKU by two numbers. Its conditions keep the units right.
async fn write(
    mysql: &Mysql,
    at: Instance,
    text: &str,
    numbers: [i64; 2],
    scarce: &Scarce,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    sqlx::query(mysql.control_sql(at, text))
        .bind(numbers[0])
        .bind(numbers[1])
        .bind(scarce.0.as_str().as_bytes())
        .bind(scarce.1.as_str().as_bytes())
        .execute(&mut **tx)
        .await
        .map(drop)
        .map_err(|error| failed(CONTEXT, error))
}

async fn record(
    mysql: &Mysql,
    scarce: &Scarce,
    share: Share,
    units: i64,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let text = "INSERT INTO {control}.grants (grant_id, sale_id, sku_id, taker, units, settled, from_ledger, giver) \
                VALUES (?, ?, ?, ?, ?, TRUE, FALSE, ?)";
    let inserted = sqlx::query(mysql.control_sql(share.at, text))
        .bind(share.id.as_slice())
        .bind(scarce.0.as_str().as_bytes())
        .bind(scarce.1.as_str().as_bytes())
        .bind(share.at.number())
        .bind(units)
        .bind(share.at.number())
        .execute(&mut **tx)
        .await;
    match inserted {
        Ok(_) => Ok(()),
        // Another process has done it since. The row that it wrote is found when this is tried again.
        Err(error) if is_duplicate(&error) => {
            let (kind, effect, source) = (ErrorKind::Conflict, Effect::NotApplied, Box::new(error));
            Err(StoreError { kind, effect, context: CONTEXT, source })
        }
        Err(error) => Err(failed(CONTEXT, error)),
    }
}
