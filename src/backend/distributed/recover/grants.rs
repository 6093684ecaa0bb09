//! Brings the grants together again that the instance or its counterpart has lost.
//!
//! A grant between two instances has a row on both. Of one that the instance took, the giver's row is settled, and
//! nobody applies it again: it is made unsettled, and then it is a stray as any other. Of one that it gave, the taker
//! has the units, so they are taken from it again.

use std::collections::BTreeSet;

use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::stores::{CONTEXT, Recoverer};
use crate::backend::distributed::mysql::failed;
use crate::backend::distributed::mysql_grants::{self, Grant};
use crate::backend::distributed::mysql_text::list;
use crate::domain::Instance;
use crate::ports::{StoreError, StoreResult};

/// Rows that are changed or looked for at once.
const AT_ONCE: usize = 500;

/// The grants of which only the other side has its row, each with that other side.
#[derive(Debug, Default)]
pub struct LostGrants {
    /// Those that the instance took.
    pub taken: Vec<(Instance, [u8; 16])>,
    /// Those that it gave.
    pub given: Vec<(Instance, Grant)>,
}

impl Recoverer {
    /// Compares the instance's grants with those of all others.
    ///
    /// # Errors
    /// When an instance cannot be read.
    pub async fn compare_grants(&self) -> StoreResult<LostGrants> {
        let mut lost = LostGrants::default();
        for other in self.mysql.map.all_instances().filter(|other| *other != self.at) {
            let taken = self.grants_of(other, "taker = ?", other).await?;
            for grant in self.without_row(taken).await? {
                lost.taken.push((other, grant.id));
            }
            let given = self.grants_of(other, "giver = ? AND taker <> giver", self.at).await?;
            for grant in self.without_row(given).await? {
                lost.given.push((other, grant));
            }
        }
        Ok(lost)
    }

    /// Reads grants of the other instance that name this one and were given by `giver`.
    async fn grants_of(&self, other: Instance, which: &str, giver: Instance) -> StoreResult<Vec<Grant>> {
        let text = format!(
            "SELECT grant_id, sale_id, sku_id, units, from_ledger FROM {}.grants WHERE {which}",
            self.mysql.control(other)
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(self.at.number());
        let rows = query.fetch_all(self.mysql.pool(other)).await.map_err(|error| failed(CONTEXT, error))?;
        let damaged = || StoreError::broken(CONTEXT, "a grant row that is not ours");
        rows.iter().map(|row| mysql_grants::read(row, giver).ok_or_else(damaged)).collect()
    }

    /// Leaves out the grants of which the instance has its row.
    async fn without_row(&self, grants: Vec<Grant>) -> StoreResult<Vec<Grant>> {
        let mut rows: BTreeSet<Vec<u8>> = BTreeSet::new();
        for some in grants.chunks(AT_ONCE) {
            let ids = list(some.iter().map(|grant| grant.id.as_slice()));
            let text = format!(
                "SELECT grant_id FROM {}.grants WHERE grant_id IN {ids}",
                self.mysql.control(self.at)
            );
            let found = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(self.at)).await;
            let id = |row: &MySqlRow| row.try_get(0).map_err(|error| failed(CONTEXT, error));
            let found = found.map_err(|error| failed(CONTEXT, error))?;
            rows.extend(found.iter().map(id).collect::<StoreResult<Vec<Vec<u8>>>>()?);
        }
        Ok(grants.into_iter().filter(|grant| !rows.contains(grant.id.as_slice())).collect())
    }

    /// Takes again what the instance took.
    ///
    /// # Errors
    /// When an instance cannot be changed.
    pub async fn take_again(&self, lost: &LostGrants) -> StoreResult<()> {
        for some in lost.taken.chunk_by(|(one, _), (next, _)| one == next).flat_map(|of| of.chunks(AT_ONCE)) {
            let ids = list(some.iter().map(|(_, id)| id.as_slice()));
            let giver = some[0].0;
            let text = format!(
                "UPDATE {}.grants SET settled = FALSE WHERE grant_id IN {ids}",
                self.mysql.control(giver)
            );
            let unsettled = sqlx::raw_sql(AssertSqlSafe(text)).execute(self.mysql.pool(giver)).await;
            unsettled.map_err(|error| failed(CONTEXT, error))?;
        }
        mysql_grants::apply_strays(&self.mysql, self.at).await
    }

    /// Gives again what the instance gave. Answers what it has no units for any more, each in a sentence: so many units
    /// may have been sold twice.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn give_again(&self, lost: &LostGrants) -> StoreResult<Vec<String>> {
        let mut short = Vec::new();
        for (taker, grant) in &lost.given {
            let missing = mysql_grants::give_again(&self.mysql, grant, *taker).await?;
            if missing > 0 {
                let (sale, sku) = &grant.scarce;
                short.push(format!(
                    "{missing} units of {sale}/{sku} were given to mysql-{} and are held here, too",
                    taker.number()
                ));
            }
        }
        Ok(short)
    }
}
