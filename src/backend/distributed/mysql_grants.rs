//! Makes grants, which move units from an instance's pool to the ledger of the instance that needs them, mostly its
//! own. When all pools are empty, they also move units that another ledger has and does not hold.
//!
//! Invariant: Units that were taken from a pool or a ledger are in exactly one grant. A grant is applied at most once,
//! because its id is the primary key on the taker. A crash may leave a grant that was given and not applied.
//! [`apply_strays`] finds it again, and until then its units are merely idle. No lock is held while another instance is
//! asked: two instances that want each other's units would wait in a circle that no server sees.

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use crate::chance;
use crate::domain::batch_plan::Scarce;
use crate::domain::{Instance, SaleId, SkuId};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Units that move from an instance to the ledger of another one, or of its own.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Its id, on both.
    pub id: [u8; 16],
    /// What the units are of.
    pub scarce: Scarce,
    /// How many there are.
    pub units: u32,
    /// The instance that gave the units.
    pub giver: Instance,
    /// Whether they were taken from the giver's ledger, and not from its pool.
    from_ledger: bool,
}

impl Grant {
    fn new(scarce: &Scarce, giver: Instance) -> Self {
        Self { id: chance::bytes(), scarce: scarce.clone(), units: 0, giver, from_ledger: false }
    }
}

/// The most units that are taken from a pool ahead of need.
const AHEAD_MAX: u32 = 500;
/// Of what a pool has left beyond the need, one in so many is taken ahead. So the last units are taken one by one, and
/// nothing is kept from other instances when it matters.
const AHEAD_SHARE: u32 = 4;

/// Moves up to `missing` units from an instance's own pool to its ledger, inside the transaction `tx`, and some more
/// for the batches to come: units that the ledger has and does not hold can be had from it like those of the pool.
/// Answers how many it moved.
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
    grant.units = from_pool(mysql, &grant, missing, ahead, tx).await?;
    if grant.units > 0 {
        apply(mysql, instance, &grant, tx).await?;
    }
    Ok(grant.units)
}

/// Moves up to `missing` units from the other instances to the taker's ledger: first from their pools, then what their
/// ledgers do not hold. Answers how many it moved. The caller must hold no transaction.
///
/// # Errors
/// When too few units were found, and an instance could not be asked, which may have them, or some are under way to
/// another instance. Also when units were given and could not be applied: nobody is asked for them again.
pub async fn fetch(mysql: &Mysql, taker: Instance, scarce: &Scarce, missing: u32) -> StoreResult<u32> {
    let mut found = 0;
    let mut unasked = None;
    for from_ledger in [false, true] {
        for giver in mysql.map.ring_of(&scarce.1).filter(|giver| *giver != taker) {
            let grant = Grant { from_ledger, ..Grant::new(scarce, giver) };
            match give(mysql, grant, taker, missing - found).await {
                Ok(None) => {}
                Ok(Some(grant)) => {
                    take(mysql, taker, &grant).await?;
                    found += grant.units;
                }
                Err(error) if error.effect == Effect::NotApplied => {
                    mysql.note_failure(giver, &error);
                    unasked = Some(error);
                }
                Err(error) => return Err(error),
            }
            if found == missing {
                return Ok(found);
            }
        }
    }
    if let Some(error) = unasked {
        return Err(error);
    }
    wait_for_units_under_way(mysql, taker, scarce).await?;
    Ok(found)
}

/// Takes up to `units` from the giver, and records them as a grant. Answers the grant, or `None` when the giver has
/// nothing to give.
///
/// # Errors
/// `NotApplied` when nothing was given. `Unknown` when only the answer to COMMIT is missing.
async fn give(mysql: &Mysql, mut grant: Grant, taker: Instance, units: u32) -> StoreResult<Option<Grant>> {
    let given = async {
        let mut tx = mysql.begin(grant.giver, "begin grant").await?;
        grant.units = match grant.from_ledger {
            true => from_ledger(mysql, &grant, units, &mut tx).await?,
            false => from_pool(mysql, &grant, units, |_| 0, &mut tx).await?,
        };
        if grant.units > 0 {
            record(mysql, grant.giver, taker, &grant, &mut tx).await?;
        }
        Ok(tx)
    };
    // Whatever failed before COMMIT is rolled back.
    let tx = given.await.map_err(|error: StoreError| StoreError { effect: Effect::NotApplied, ..error })?;
    if grant.units == 0 {
        return Ok(None);
    }
    tx.commit().await.map_err(|error| failed("commit grant", error))?;
    Ok(Some(grant))
}

/// Applies a grant that was given, on its taker.
async fn take(mysql: &Mysql, taker: Instance, grant: &Grant) -> StoreResult<()> {
    let mut taken = mysql.begin(taker, "begin to apply grant").await?;
    apply(mysql, taker, grant, &mut taken).await?;
    taken.commit().await.map_err(|error| failed("commit applied grant", error))?;
    settle(mysql, grant).await;
    Ok(())
}

/// Refuses to call a SKU sold out while units of it are under way between instances. Their taker may not need them, and
/// then they can be had there. They are applied here when nobody else does it.
///
/// # Errors
/// A conflict when units were under way: the caller asks again. Also when an instance cannot be asked.
async fn wait_for_units_under_way(mysql: &Mysql, asker: Instance, scarce: &Scarce) -> StoreResult<()> {
    let mut are_under_way = false;
    for giver in mysql.map.all_instances().filter(|giver| *giver != asker) {
        for taker in unsettled_takers(mysql, giver, scarce).await? {
            apply_strays(mysql, taker).await?;
            are_under_way = true;
        }
    }
    if !are_under_way {
        return Ok(());
    }
    let (kind, effect) = (ErrorKind::Conflict, Effect::NotApplied);
    let source = "units were under way between instances".into();
    Err(StoreError { kind, effect, context: "fetch units", source })
}

/// Lists the instances to which a giver has given units of a SKU that are not known to be applied.
async fn unsettled_takers(mysql: &Mysql, giver: Instance, scarce: &Scarce) -> StoreResult<Vec<Instance>> {
    let context = "read grants under way";
    let text = "SELECT DISTINCT taker FROM {control}.grants WHERE NOT settled AND sale_id = ? AND sku_id = ?";
    let rows = sqlx::query(mysql.control_sql(giver, text))
        .bind(scarce.0.as_str().as_bytes())
        .bind(scarce.1.as_str().as_bytes())
        .fetch_all(mysql.pool(giver))
        .await
        .map_err(|error| failed(context, error))?;
    let taker = |row: &MySqlRow| {
        let number: i32 = row.try_get(0).map_err(|error| failed(context, error))?;
        let known = mysql.map.all_instances().find(|instance| i32::from(instance.number()) == number);
        known.ok_or_else(|| StoreError::broken(context, format!("a grant to instance {number}")))
    };
    rows.iter().map(taker).collect()
}

/// Takes up to `missing` units out of the giver's ledger that it does not hold, and answers how many it took.
async fn from_ledger(
    mysql: &Mysql,
    grant: &Grant,
    missing: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u32> {
    let (sale, sku) = (grant.scarce.0.as_str().as_bytes(), grant.scarce.1.as_str().as_bytes());
    let row = sqlx::query(mysql.control_sql(
        grant.giver,
        "SELECT allotted - held - sold - withheld FROM {control}.ledger WHERE sale_id = ? AND sku_id = ? FOR UPDATE",
    ))
    .bind(sale)
    .bind(sku)
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| failed("read ledger", error))?;
    let idle: i64 = match row {
        Some(row) => row.try_get(0).map_err(|error| failed("read ledger", error))?,
        None => 0,
    };
    let units = missing.min(u32::try_from(idle).unwrap_or(0));
    if units > 0 {
        sqlx::query(mysql.control_sql(
            grant.giver,
            "UPDATE {control}.ledger SET allotted = allotted - ? WHERE sale_id = ? AND sku_id = ?",
        ))
        .bind(units)
        .bind(sale)
        .bind(sku)
        .execute(&mut **tx)
        .await
        .map_err(|error| failed("take from ledger", error))?;
    }
    Ok(units)
}

/// Answers how many units to take ahead of need, of so many that a pool has left beyond it.
fn ahead(left: u32) -> u32 {
    (left / AHEAD_SHARE).min(AHEAD_MAX)
}

/// Takes up to `missing` units out of the giver's pool, and `ahead` of what is left then. Answers how many it took.
async fn from_pool(
    mysql: &Mysql,
    grant: &Grant,
    missing: u32,
    ahead: fn(u32) -> u32,
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
    let left = u32::try_from(left).unwrap_or(0);
    let needed = missing.min(left);
    let units = needed + ahead(left - needed);
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
        "INSERT INTO {control}.grants (grant_id, sale_id, sku_id, taker, units, settled, from_ledger, giver) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    ))
    .bind(grant.id.as_slice())
    .bind(grant.scarce.0.as_str().as_bytes())
    .bind(grant.scarce.1.as_str().as_bytes())
    .bind(taker.number())
    .bind(grant.units)
    .bind(at == taker)
    .bind(grant.from_ledger)
    .bind(grant.giver.number())
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
        "SELECT grant_id, sale_id, sku_id, units, from_ledger FROM {control}.grants WHERE NOT settled AND taker = ?",
    ))
    .bind(taker.number())
    .fetch_all(mysql.pool(giver))
    .await
    .map_err(|error| failed("read stray grants", error))?;
    let damaged = || StoreError::broken("read stray grants", "a grant row that is not ours");
    rows.iter().map(|row| read(row, giver).ok_or_else(damaged)).collect()
}

/// Reads a row of `grants`: its id, sale, SKU, units and whether they came from a ledger.
pub fn read(row: &MySqlRow, giver: Instance) -> Option<Grant> {
    let text = |index: usize| String::from_utf8(row.try_get(index).ok()?).ok();
    let id: Vec<u8> = row.try_get(0).ok()?;
    let units: i64 = row.try_get(3).ok()?;
    Some(Grant {
        id: id.try_into().ok()?,
        scarce: (SaleId::parse(&text(1)?).ok()?, SkuId::parse(&text(2)?).ok()?),
        units: u32::try_from(units).ok()?,
        giver,
        from_ledger: row.try_get(4).ok()?,
    })
}

/// Gives a grant again that its giver has forgotten and its taker has: out of its pool, or else out of what its ledger
/// does not hold. Answers how many units it does not have; the grant stands all the same.
///
/// # Errors
/// When the giver cannot be changed. Then nothing was.
pub async fn give_again(mysql: &Mysql, grant: &Grant, taker: Instance) -> StoreResult<u32> {
    let mut tx = mysql.begin(grant.giver, "begin to give again").await?;
    let mut given = Grant { from_ledger: false, ..grant.clone() };
    let mut missing = grant.units - from_pool(mysql, &given, grant.units, |_| 0, &mut tx).await?;
    if missing > 0 {
        // What came out of the pool goes through the ledger, because a grant comes out of one of both.
        given.from_ledger = true;
        let own = Grant { units: grant.units - missing, ..Grant::new(&grant.scarce, grant.giver) };
        apply(mysql, grant.giver, &own, &mut tx).await?;
        missing = grant.units - from_ledger(mysql, &given, grant.units, &mut tx).await?;
    }
    record(mysql, grant.giver, taker, &Grant { units: grant.units - missing, ..given }, &mut tx).await?;
    tx.commit().await.map_err(|error| failed("commit what was given again", error))?;
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_taken_ahead_of_need_and_none_of_the_last() {
        assert_eq!([0, 3, 4, 400, 2_000, 1_000_000].map(ahead), [0, 0, 1, 100, 500, 500]);
    }
}
