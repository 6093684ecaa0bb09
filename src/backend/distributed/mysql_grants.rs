//! Grants: units that move from a SKU's pool at its home to the ledger of the instance that needs them.
//!
//! Invariant: units taken from a pool are in exactly one grant, and a grant is applied at most once, because
//! its id is the primary key on the taker. A grant taken and not applied (a crash between the two) is found
//! again by [`apply_strays`]; until then its units are merely idle.

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::broken;
use super::mysql::{Mysql, failed, is_duplicate};
use crate::domain::batch_plan::Scarce;
use crate::domain::{Instance, SaleId, SkuId};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

#[derive(Debug, Clone)]
pub struct Grant {
    pub id: [u8; 16],
    pub scarce: Scarce,
    pub units: u32,
    pub home: Instance,
}

/// Takes up to `missing` units from the SKU's home and applies them inside the taker's transaction. `None`
/// when the pool has nothing left.
pub async fn take(
    mysql: &Mysql,
    taker: Instance,
    scarce: &Scarce,
    missing: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<Option<Grant>> {
    let home = mysql.map.home_of(&scarce.1);
    let mut grant = Grant { id: rand::random(), scarce: scarce.clone(), units: 0, home };
    if home == taker {
        grant.units = from_pool(mysql, &grant, missing, tx).await?;
    } else {
        let mut at_home = mysql.begin(home, "begin grant").await?;
        grant.units = from_pool(mysql, &grant, missing, &mut at_home).await?;
        if grant.units > 0 {
            record(mysql, home, taker, &grant, &mut at_home).await?;
            at_home.commit().await.map_err(|error| failed("commit grant", error))?;
        }
    }
    if grant.units == 0 {
        return Ok(None);
    }
    apply(mysql, taker, &grant, tx).await?;
    Ok(Some(grant))
}

/// Moves units out of the pool; answers how many there were.
async fn from_pool(
    mysql: &Mysql,
    grant: &Grant,
    missing: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u32> {
    let (sale, sku) = (grant.scarce.0.as_str().as_bytes(), grant.scarce.1.as_str().as_bytes());
    let row = sqlx::query(mysql.control_sql(
        grant.home,
        "SELECT stock - granted FROM {control}.pool WHERE sale_id = ? AND sku_id = ? FOR UPDATE",
    ))
    .bind(sale)
    .bind(sku)
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| failed("read pool", error))?;
    let row = row.ok_or_else(|| broken("read pool", "no pool for a SKU on sale: preheat it again"))?;
    let left: i64 = row.try_get(0).map_err(|error| failed("read pool", error))?;
    let units = missing.min(u32::try_from(left).unwrap_or(0));
    if units == 0 {
        return Ok(0);
    }
    let taken = sqlx::query(mysql.control_sql(
        grant.home,
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
        Err(broken("take from pool", "changed under its lock"))
    }
}

/// Applies a grant on the taker: ledger first, then the row whose key makes it once. Both writers and
/// [`apply_strays`] lock in this order.
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
        return Err(broken("apply grant", "no ledger row for a SKU on sale: preheat it again"));
    }
    record(mysql, taker, taker, grant, tx).await
}

/// Writes the grant's row on `at`: settled on the taker, unsettled on a foreign home.
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
        // Somebody applied it as a stray: the transaction is dropped and finds the units in the ledger.
        Err(error) if is_duplicate(&error) => Err(StoreError {
            kind: ErrorKind::Conflict,
            effect: Effect::NotApplied,
            context: "record grant",
            source: Box::new(error),
        }),
        Err(error) => Err(failed("record grant", error)),
    }
}

/// Marks foreign grants as applied at their homes. Best effort: an unsettled grant is looked at again at the
/// next takeover, and its key keeps it from being applied twice.
pub async fn settle(mysql: &Mysql, taker: Instance, applied: &[Grant]) {
    for grant in applied.iter().filter(|grant| grant.home != taker) {
        let settled = sqlx::query(
            mysql.control_sql(grant.home, "UPDATE {control}.grants SET settled = TRUE WHERE grant_id = ?"),
        )
        .bind(grant.id.as_slice())
        .execute(mysql.pool(grant.home))
        .await;
        if let Err(error) = settled {
            tracing::warn!(%error, "grant stays unsettled until the next takeover");
        }
    }
}

/// Applies what was taken for `taker` and never applied. A home that cannot be asked is passed over: its
/// grants stay idle, and nothing is oversold.
pub async fn apply_strays(mysql: &Mysql, taker: Instance) -> StoreResult<()> {
    // All at once: a home that is down answers only after the pool's time-out.
    let homes: Vec<Instance> = mysql.map.all_instances().filter(|home| *home != taker).collect();
    let answers = futures::future::join_all(homes.iter().map(|home| unsettled(mysql, *home, taker))).await;
    for (home, answer) in homes.iter().zip(answers) {
        let strays = match answer {
            Ok(strays) => strays,
            Err(error) => {
                tracing::warn!(%error, home = home.number(), "grants of this home are not checked now");
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
            settle(mysql, taker, std::slice::from_ref(grant)).await;
        }
    }
    Ok(())
}

async fn unsettled(mysql: &Mysql, home: Instance, taker: Instance) -> StoreResult<Vec<Grant>> {
    let rows = sqlx::query(mysql.control_sql(
        home,
        "SELECT grant_id, sale_id, sku_id, units FROM {control}.grants WHERE NOT settled AND taker = ?",
    ))
    .bind(taker.number())
    .fetch_all(mysql.pool(home))
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
            home,
        })
    };
    let damaged = || broken("read stray grants", "a grant row that is not ours");
    rows.iter().map(|row| read(row).ok_or_else(damaged)).collect()
}
