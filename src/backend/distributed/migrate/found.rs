//! What a migration finds.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{MySqlConnection, Row};

use crate::backend::distributed::mysql::{Mysql, failed};
use crate::domain::{Instance, Month};
use crate::ports::{StoreError, StoreResult};

/// Refuses `mysql.instances` in another order than the data was written in. A database that is missing here and present
/// on another instance was not lost: it is being looked for in the wrong place.
pub async fn check_order_of_instances(mysql: &Mysql) -> StoreResult<()> {
    let context = "check the order of mysql.instances";
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for instance in mysql.map.all_instances() {
        let rows = sqlx::query("SELECT CAST(schema_name AS CHAR) FROM information_schema.schemata")
            .fetch_all(mysql.pool(instance))
            .await
            .map_err(|error| failed(context, error))?;
        let names = rows.into_iter().map(|row| row.try_get(0).map_err(|error| failed(context, error)));
        found.push(names.collect::<StoreResult<_>>()?);
    }
    let mut wanted: Vec<(Instance, String)> =
        mysql.map.all_instances().map(|instance| (instance, mysql.control(instance))).collect();
    wanted.push((Mysql::DIRECTORY, mysql.directory()));
    for (instance, name) in wanted {
        let here = found.get(usize::from(instance.number())).is_some_and(|names| names.contains(&name));
        if let Some(elsewhere) = found.iter().position(|names| names.contains(&name)).filter(|_| !here) {
            let detail = format!(
                "{name} belongs to entry {} of mysql.instances and is on entry {elsewhere}: put the entries \
                 back into the order of the first migration",
                instance.number()
            );
            return Err(StoreError::broken(context, detail));
        }
    }
    Ok(())
}

/// Adds the months of all sales, because a sale may be planned further ahead than tables are made.
pub async fn with_months_of_sales(mysql: &Mysql, months: &[Month]) -> StoreResult<Vec<Month>> {
    let context = "read the months of sales";
    let rows = sqlx::query(mysql.directory_sql("SELECT starts_ms FROM {directory}.sales"))
        .fetch_all(mysql.directory_pool())
        .await
        .map_err(|error| failed(context, error))?;
    let mut all: BTreeSet<Month> = months.iter().copied().collect();
    for row in rows {
        all.insert(Month::of_ms(row.try_get(0).map_err(|error| failed(context, error))?));
    }
    Ok(all.into_iter().collect())
}

/// Reads the shape of every orders table that there is, by its month as `yyyymm`.
pub async fn shapes_of_months(
    connection: &mut MySqlConnection,
    database: &str,
) -> StoreResult<BTreeMap<String, usize>> {
    let context = "read the shapes of monthly tables";
    let text = "SELECT CAST(table_name AS CHAR), CAST(table_comment AS CHAR) FROM information_schema.tables \
                WHERE table_schema = ? AND table_name REGEXP '^orders_[0-9]{6}$'";
    let rows = sqlx::query(text).bind(database).fetch_all(connection).await;
    let mut shapes = BTreeMap::new();
    for row in rows.map_err(|error| failed(context, error))? {
        let name: String = row.try_get(0).map_err(|error| failed(context, error))?;
        let comment: String = row.try_get(1).map_err(|error| failed(context, error))?;
        let shape = comment.strip_prefix("shape ").and_then(|number| number.parse().ok()).unwrap_or(1);
        shapes.insert(name.trim_start_matches("orders_").to_owned(), shape);
    }
    Ok(shapes)
}
