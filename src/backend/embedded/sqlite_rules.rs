//! Keeps the rules of traffic in the database.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_audit_log::note;
use super::sqlite_rows::{column, failed};
use crate::domain::operator::Subject;
use crate::domain::rule::{RULES_MAX, Rule, RuleChange, RuleChanged, RuleSet, RuleTerms};
use crate::domain::{Change, RuleId};
use crate::ports::{Rules, StoreResult};

const READ: &str = "read rules";
const CHANGE: &str = "change rule";
/// One statement sees one moment.
const OTHER: &str = "SELECT v.version AS all_version, r.rule_id, r.terms, r.version FROM rule_version v \
     LEFT JOIN rules r WHERE v.version <> ? ORDER BY r.rule_id";
const STANDING: &str = "SELECT v.version AS all_version, r.version, (SELECT COUNT(*) FROM rules) AS rules \
     FROM rule_version v LEFT JOIN rules r ON r.rule_id = ?";
const PUT: &str = "INSERT INTO rules (rule_id, terms, version) VALUES (?, ?, ?) \
     ON CONFLICT (rule_id) DO UPDATE SET terms = excluded.terms, version = excluded.version";

/// Serves rules from the database.
pub struct SqliteRules {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

/// Reads the rule of a row; `None` in the one row of a database without rules.
fn read(row: &SqliteRow) -> StoreResult<Option<Rule>> {
    let Some(id) = column::<Option<&str>>(row, "rule_id")? else { return Ok(None) };
    let fault = |why: String| broken(READ, format!("rule {id}: {why}"));
    let terms = RuleTerms::read(column(row, "terms")?).map_err(fault)?;
    let version = number(row, "version")?;
    Ok(Some(Rule { id: RuleId::parse(id).map_err(|error| fault(error.to_string()))?, terms, version }))
}

fn number(row: &SqliteRow, name: &str) -> StoreResult<u64> {
    let number: i64 = column(row, name)?;
    u64::try_from(number).map_err(|error| broken(READ, error.to_string()))
}

#[async_trait]
impl Rules for SqliteRules {
    async fn other_than(&self, known: u64) -> StoreResult<Option<RuleSet>> {
        let known = i64::try_from(known).unwrap_or(i64::MAX);
        let rows = sqlx::query(OTHER).bind(known).fetch_all(self.sqlite.readers()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let version = number(first, "all_version")?;
        let rules: StoreResult<Vec<Option<Rule>>> = rows.iter().map(read).collect();
        Ok(Some(RuleSet { version, rules: rules?.into_iter().flatten().collect() }))
    }

    async fn change(&self, wish: &RuleChange, change: &Change) -> StoreResult<RuleChanged> {
        let (wish, change, at_ms) = (wish.clone(), change.clone(), self.sqlite.time.now_ms());
        let work =
            async move |connection: &mut SqliteConnection| write(connection, &wish, &change, at_ms).await;
        self.sqlite.writer.write(CHANGE, work).await
    }
}

async fn write(
    connection: &mut SqliteConnection,
    wish: &RuleChange,
    change: &Change,
    at_ms: i64,
) -> StoreResult<RuleChanged> {
    let fault = |error| failed(CHANGE, error);
    let id = wish.id.as_str();
    let row = sqlx::query(STANDING).bind(id).fetch_one(&mut *connection).await.map_err(fault)?;
    let of_rule: Option<i64> = column(&row, "version")?;
    let of_rule = of_rule.and_then(|version| u64::try_from(version).ok());
    let is_full = number(&row, "rules")? >= u64::try_from(RULES_MAX).unwrap_or(u64::MAX);
    let version = number(&row, "all_version")? + 1;
    let is_seen = |seen: &Vec<u64>| of_rule.is_some_and(|version| seen.contains(&version));
    if !wish.seen.as_ref().is_none_or(is_seen) {
        return Ok(RuleChanged::VersionMoved);
    }
    let stored = i64::try_from(version).map_err(|error| broken(CHANGE, error.to_string()))?;
    let done = match &wish.terms {
        Some(_) if of_rule.is_none() && is_full => return Ok(RuleChanged::TooMany),
        Some(terms) => {
            sqlx::query(PUT).bind(id).bind(terms.document()).bind(stored).execute(&mut *connection).await
        }
        None if of_rule.is_none() => return Ok(RuleChanged::Unknown),
        None => sqlx::query("DELETE FROM rules WHERE rule_id = ?").bind(id).execute(&mut *connection).await,
    };
    done.map_err(fault)?;
    let raise = sqlx::query("UPDATE rule_version SET version = ?").bind(stored);
    raise.execute(&mut *connection).await.map_err(fault)?;
    let subject = Subject::Rule { rule: wish.id.clone(), terms: wish.terms.clone().map(Box::new) };
    note(connection, change, &subject, at_ms).await?;
    Ok(RuleChanged::Done(version))
}
