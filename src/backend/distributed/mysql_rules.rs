//! Keeps the rules of traffic in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::mysql::{Mysql, failed};
use super::mysql_audit_log::audit;
use crate::domain::operator::Subject;
use crate::domain::rule::{RULES_MAX, Rule, RuleChange, RuleChanged, RuleSet, RuleTerms};
use crate::domain::{Change, RuleId};
use crate::ports::{Rules, StoreError, StoreResult};

const READ: &str = "read rules";
const CHANGE: &str = "change rule";

/// Serves rules from the directory.
pub struct MysqlRules {
    mysql: Arc<Mysql>,
}

impl MysqlRules {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn read_other(&self, known: u64) -> StoreResult<Option<RuleSet>> {
        // One statement sees one moment.
        let text = "SELECT v.version, r.rule_id, r.terms, r.version FROM {directory}.rule_version v \
                    LEFT JOIN {directory}.rules r ON TRUE WHERE v.version <> ? ORDER BY r.rule_id";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(known);
        let rows = query.fetch_all(self.mysql.directory_pool()).await.map_err(|error| failed(READ, error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let version = number(first, 0)?;
        let rules: StoreResult<Vec<Option<Rule>>> = rows.iter().map(read).collect();
        Ok(Some(RuleSet { version, rules: rules?.into_iter().flatten().collect() }))
    }

    async fn write(&self, wish: &RuleChange, change: &Change) -> StoreResult<RuleChanged> {
        let fault = |error| failed(CHANGE, error);
        let mut tx = self.mysql.begin(Mysql::DIRECTORY, CHANGE).await?;
        // Changes of rules wait for each other here.
        let raise = "UPDATE {directory}.rule_version SET version = version + 1";
        sqlx::query(self.mysql.directory_sql(raise)).execute(&mut *tx).await.map_err(fault)?;
        let (version, of_rule, count) = self.standing(&wish.id, &mut tx).await?;
        let is_seen = |seen: &Vec<u64>| of_rule.is_some_and(|version| seen.contains(&version));
        if !wish.seen.as_ref().is_none_or(is_seen) {
            return Ok(RuleChanged::VersionMoved);
        }
        let id = wish.id.as_str().as_bytes();
        match &wish.terms {
            Some(_) if of_rule.is_none() && count >= RULES_MAX => return Ok(RuleChanged::TooMany),
            Some(terms) => {
                let put = "INSERT INTO {directory}.rules (rule_id, terms, version) VALUES (?, ?, ?) \
                           ON DUPLICATE KEY UPDATE terms = VALUES(terms), version = VALUES(version)";
                let query = sqlx::query(self.mysql.directory_sql(put));
                let query = query.bind(id).bind(terms.document()).bind(version);
                query.execute(&mut *tx).await.map_err(fault)?;
            }
            None if of_rule.is_none() => return Ok(RuleChanged::Unknown),
            None => {
                let remove = "DELETE FROM {directory}.rules WHERE rule_id = ?";
                let query = sqlx::query(self.mysql.directory_sql(remove)).bind(id);
                query.execute(&mut *tx).await.map_err(fault)?;
            }
        }
        let subject = Subject::Rule { rule: wish.id.clone(), terms: wish.terms.clone().map(Box::new) };
        audit(&self.mysql, change, &subject, &mut tx).await?;
        tx.commit().await.map_err(fault)?;
        Ok(RuleChanged::Done(version))
    }

    /// Answers the version of all rules, that of one of them, and how many there are.
    async fn standing(
        &self,
        id: &RuleId,
        connection: &mut MySqlConnection,
    ) -> StoreResult<(u64, Option<u64>, usize)> {
        let text = "SELECT v.version, r.version, (SELECT COUNT(*) FROM {directory}.rules) \
                    FROM {directory}.rule_version v LEFT JOIN {directory}.rules r ON r.rule_id = ?";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(id.as_str().as_bytes());
        let row = query.fetch_one(connection).await.map_err(|error| failed(CHANGE, error))?;
        let of_rule: Option<i64> = row.try_get(1).map_err(|error| failed(CHANGE, error))?;
        let count = usize::try_from(number(&row, 2)?).unwrap_or(usize::MAX);
        Ok((number(&row, 0)?, of_rule.and_then(|version| u64::try_from(version).ok()), count))
    }
}

fn number(row: &MySqlRow, column: usize) -> StoreResult<u64> {
    let number: i64 = row.try_get(column).map_err(|error| failed(READ, error))?;
    u64::try_from(number).map_err(|error| StoreError::broken(READ, error.to_string()))
}

/// Reads the rule of a row; `None` in the one row of a directory without rules.
fn read(row: &MySqlRow) -> StoreResult<Option<Rule>> {
    let fault = |error| failed(READ, error);
    let Some(id) = row.try_get::<Option<Vec<u8>>, _>(1).map_err(fault)? else { return Ok(None) };
    let id = String::from_utf8_lossy(&id).into_owned();
    let document: String = row.try_get(2).map_err(fault)?;
    let broken = |why: String| StoreError::broken(READ, format!("rule {id}: {why}"));
    let terms = RuleTerms::read(&document).map_err(broken)?;
    let version = number(row, 3)?;
    Ok(Some(Rule { id: RuleId::parse(&id).map_err(|error| broken(error.to_string()))?, terms, version }))
}

#[async_trait]
impl Rules for MysqlRules {
    async fn other_than(&self, known: u64) -> StoreResult<Option<RuleSet>> {
        self.mysql.read(READ, self.read_other(known)).await
    }

    async fn change(&self, wish: &RuleChange, change: &Change) -> StoreResult<RuleChanged> {
        self.mysql.change(Mysql::DIRECTORY, CHANGE, self.write(wish, change)).await
    }
}
