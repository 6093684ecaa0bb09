//! Makes grants, which move units from an instance's pool to the ledger of the instance that needs them, mostly its
//! own.
//!
//! Invariant: Units that were taken from a pool are in exactly one grant. A grant is applied at most once, because its
//! id is the primary key on the taker. A crash may leave a grant that was given and not applied. [`apply_strays`] finds
//! it again, and until then its units are merely idle. No lock is held while another instance is asked: two instances
//! that want each other's units would wait in a circle that no server sees.

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use crate::chance;
use crate::domain::batch_plan::Scarce;
use crate::domain::{Instance, SaleId, SkuId};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

#[derive(Debug, Clone)]
struct Grant {
    id: [u8; 16],
    scarce: Scarce,
    units: u32,
    /// The instance whose pool gave the units.
    giver: Instance,
}

impl Grant {
    fn new(scarce: &Scarce, giver: Instance) -> Self {
        Self { id: chance::bytes(), scarce: scarce.clone(), units: 0, giver }
    }
}

/// Moves up to `missing` units from an instance's own pool to its ledger, inside the transaction `tx`. Answers how many
/// it moved.
///
/// # Errors
/// When a statement fails, or the sale has no pool or no ledger row here.
pub async fn take_own(
    mysql: &Mysql,
    instance: Instance,
    scarce: &Scarce,
    missing: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u32> {
    let mut grant = Grant::new(scarce, instance);
    grant.units = from_pool(mysql, &grant, missing, tx).await?;
    if grant.units > 0 {
        apply(mysql, instance, &grant, tx).await?;
    }
    Ok(grant.units)
}

/// Moves up to `missing` units from the other instances' pools to the taker's ledger, one instance after the other.
/// Answers how many it moved. The caller must hold no transaction.
///
/// # Errors
/// When too few units were found and an instance could not be asked, which may have them.
pub async fn fetch(mysql: &Mysql, taker: Instance, scarce: &Scarce, missing: u32) -> StoreResult<u32> {
    let mut found = 0;
    let mut unasked = None;
    for giver in mysql.map.ring_of(&scarce.1).filter(|giver| *giver != taker) {
        match fetch_from(mysql, giver, taker, scarce, missing - found).await {
            Ok(units) => found += units,
            Err(error) => unasked = Some(error),
        }
        if found == missing {
            return Ok(found);
        }
    }
    unasked.map_or(Ok(found), Err)
}

async fn fetch_from(
    mysql: &Mysql,
    giver: Instance,
    taker: Instance,
    scarce: &Scarce,
    missing: u32,
) -> StoreResult<u32> {
    let mut grant = Grant::new(scarce, giver);
    let mut given = mysql.begin(giver, "begin grant").await?;
    grant.units = from_pool(mysql, &grant, missing, &mut given).await?;
    if grant.units == 0 {
        return Ok(0);
    }
    record(mysql, giver, taker, &grant, &mut given).await?;
    given.commit().await.map_err(|error| failed("commit grant", error))?;
    let mut taken = mysql.begin(taker, "begin to apply grant").await?;
    apply(mysql, taker, &grant, &mut taken).await?;
    taken.commit().await.map_err(|error| failed("commit applied grant", error))?;
    settle(mysql, &grant).await;
    Ok(grant.units)
}

/// Takes up to `missing` units out of the giver's pool, and answers how many it took.
async fn from_pool(
    mysql: &Mysql,
    grant: &Grant,
    missing: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u32> {
    let (sale, sku) = (grant.scarce.0.as_str().as_bytes(), grant.scarce.1.as_str().as_bytes());
    let row = sqlx::query(mysql.control_sql(
        grant.giver,
        "SELECT stock - granted FROM {control}.pool WHERE sale_id = ? AND sku_id = ? FOR UPDATE",
    ))
    .bind(sale)
    .bind(sku)
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| failed("read pool", error))?;
    let row =
        row.ok_or_else(|| StoreError::broken("read pool", "no pool for a SKU on sale: preheat it again"))?;
    let left: i64 = row.try_get(0).map_err(|error| failed("read pool", error))?;
    let units = missing.min(u32::try_from(left).unwrap_or(0));
    if units == 0 {
        return Ok(0);
    }
    let taken = sqlx::query(mysql.control_sql(
        grant.giver,
        "UPDATE {control}.pool SET granted = granted + ? \
         WHERE sale_id = ? AND sku_id = ? AND granted + ? <= stock",
    ))
    .bind(units)
    .bind(sale)
    .bind(sku)
    .bind(units)
    .execute(&mut **tx)
    .await
    .map_err(|error| failed("take from pool", error))?;
    if taken.rows_affected() == 1 {
        Ok(units)
    } else {
        Err(StoreError::broken("take from pool", "changed under its lock"))
    }
}

/// Applies a grant on the taker: first the ledger, then the row whose key makes sure that it is applied once. Writers
/// and [`apply_strays`] both lock in this order.
async fn apply(
    mysql: &Mysql,
    taker: Instance,
    grant: &Grant,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let allotted = sqlx::query(mysql.control_sql(
        taker,
        "UPDATE {control}.ledger SET allotted = allotted + ? WHERE sale_id = ? AND sku_id = ?",
    ))
    .bind(grant.units)
    .bind(grant.scarce.0.as_str().as_bytes())
    .bind(grant.scarce.1.as_str().as_bytes())
    .execute(&mut **tx)
    .await
    .map_err(|error| failed("apply grant", error))?;
    if allotted.rows_affected() != 1 {
        return Err(StoreError::broken("apply grant", "no ledger row for a SKU on sale: preheat it again"));
    }
    record(mysql, taker, taker, grant, tx).await
}

/// Writes the grant's row on the instance `at`: settled on the taker, unsettled on a giver that is another instance.
async fn record(
    mysql: &Mysql,
    at: Instance,
    taker: Instance,
    grant: &Grant,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let inserted = sqlx::query(mysql.control_sql(
        at,
        "INSERT INTO {control}.grants (grant_id, sale_id, sku_id, taker, units, settled) VALUES (?, ?, ?, ?, ?, ?)",
    ))
    .bind(grant.id.as_slice())
    .bind(grant.scarce.0.as_str().as_bytes())
    .bind(grant.scarce.1.as_str().as_bytes())
    .bind(taker.number())
    .bind(grant.units)
    .bind(at == taker)
    .execute(&mut **tx)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        // It was applied as a stray meanwhile. This transaction is dropped, and the next one finds the units in the
        // ledger.
        Err(error) if is_duplicate(&error) => Err(StoreError {
            kind: ErrorKind::Conflict,
            effect: Effect::NotApplied,
            context: "record grant",
            source: Box::new(error),
        }),
        Err(error) => Err(failed("record grant", error)),
    }
}

/// Marks a grant as applied where it was given. This is best effort: an unsettled grant is looked at again at the next
/// takeover, and its key keeps it from being applied twice.
async fn settle(mysql: &Mysql, grant: &Grant) {
    let settled = sqlx::query(
        mysql.control_sql(grant.giver, "UPDATE {control}.grants SET settled = TRUE WHERE grant_id = ?"),
    )
    .bind(grant.id.as_slice())
    .execute(mysql.pool(grant.giver))
    .await;
    if let Err(error) = settled {
        tracing::warn!(%error, "grant stays unsettled until the next takeover");
    }
}

/// Applies the grants that were given to `taker` and never applied. It is idempotent. An instance that cannot be asked
/// is passed over: its grants stay idle, and nothing is oversold.
///
/// # Errors
/// When a statement on the taker fails.
pub async fn apply_strays(mysql: &Mysql, taker: Instance) -> StoreResult<()> {
    // All instances are asked at once, because one that is down answers only after the pool's time-out.
    let givers: Vec<Instance> = mysql.map.all_instances().filter(|giver| *giver != taker).collect();
    let asked = givers.iter().map(|giver| mysql.read("read stray grants", unsettled(mysql, *giver, taker)));
    let answers = futures::future::join_all(asked).await;
    for (giver, answer) in givers.iter().zip(answers) {
        let strays = match answer {
            Ok(strays) => strays,
            Err(error) => {
                tracing::warn!(%error, giver = giver.number(), "grants of this instance are not checked now");
                continue;
            }
        };
        for grant in &strays {
            let mut tx = mysql.begin(taker, "begin stray grant").await?;
            match apply(mysql, taker, grant, &mut tx).await {
                Ok(()) => {
                    tx.commit().await.map_err(|error| failed("commit stray grant", error))?;
                    tracing::info!(units = grant.units, sku = %grant.scarce.1, "applied a stray grant");
                }
                Err(error) if error.kind == ErrorKind::Conflict => drop(tx),
                Err(error) => return Err(error),
            }
        }
        settle_applied(mysql, taker, &strays).await?;
    }
    Ok(())
}

/// Settles those of `strays` whose row stands on the taker.
async fn settle_applied(mysql: &Mysql, taker: Instance, strays: &[Grant]) -> StoreResult<()> {
    for grant in strays {
        let there =
            sqlx::query(mysql.control_sql(taker, "SELECT 1 FROM {control}.grants WHERE grant_id = ?"))
                .bind(grant.id.as_slice())
                .fetch_optional(mysql.pool(taker))
                .await
                .map_err(|error| failed("read grant", error))?;
        if there.is_some() {
            settle(mysql, grant).await;
        }
    }
    Ok(())
}

async fn unsettled(mysql: &Mysql, giver: Instance, taker: Instance) -> StoreResult<Vec<Grant>> {
    let rows = sqlx::query(mysql.control_sql(
        giver,
        "SELECT grant_id, sale_id, sku_id, units FROM {control}.grants WHERE NOT settled AND taker = ?",
    ))
    .bind(taker.number())
    .fetch_all(mysql.pool(giver))
    .await
    .map_err(|error| failed("read stray grants", error))?;
    let read = |row: &MySqlRow| -> Option<Grant> {
        let text = |index: usize| String::from_utf8(row.try_get(index).ok()?).ok();
        let id: Vec<u8> = row.try_get(0).ok()?;
        let units: i64 = row.try_get(3).ok()?;
        Some(Grant {
            id: id.try_into().ok()?,
            scarce: (SaleId::parse(&text(1)?).ok()?, SkuId::parse(&text(2)?).ok()?),
            units: u32::try_from(units).ok()?,
            giver,
        })
    };
    let damaged = || StoreError::broken("read stray grants", "a grant row that is not ours");
    rows.iter().map(|row| read(row).ok_or_else(damaged)).collect()
}
