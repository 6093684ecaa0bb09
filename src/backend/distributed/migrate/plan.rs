//! Says what a migration would do, and changes nothing.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::found::{check_order_of_instances, shapes_of_months, with_months_of_sales};
use crate::backend::distributed::kafka_identity;
use crate::backend::distributed::mysql::{Guarded, Mysql, failed};
use crate::backend::distributed::settings::Settings;
use crate::backend::migrations::{CONTROL, DIRECTORY, File, MONTH, SHARD, pending};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::{Instance, Month};
use crate::ports::StoreResult;

const CONTEXT: &str = "look at the databases";

/// Lists in words what a migration would make or change, in its order. An empty answer says that nothing is to be
/// done. Settings that a migration would refuse are found by the migration alone.
///
/// # Errors
/// When a server cannot be reached, or the instances stand in another order.
pub async fn plan(settings: &Settings, months: &[Month], clock: Clock) -> StoreResult<Vec<String>> {
    let mysql = Mysql::new(&settings.mysql, settings.map, &settings.kafka.topic, Guarded::No, clock.clone())?;
    check_order_of_instances(&mysql).await?;
    let mut steps = Vec::new();
    let directory = mysql.directory();
    let has_sales = of_database(&mysql, Mysql::DIRECTORY, &directory, DIRECTORY, &mut steps).await?.is_some();
    let months = if has_sales { with_months_of_sales(&mysql, months).await? } else { months.to_vec() };
    for instance in mysql.map.all_instances() {
        of_database(&mysql, instance, &mysql.control(instance), CONTROL, &mut steps).await?;
        for shard in mysql.map.shards_of(instance) {
            let database = mysql.shard(shard);
            let made = of_database(&mysql, instance, &database, SHARD, &mut steps).await?;
            let Some(mut connection) = made else { continue };
            of_months(&mut connection, &database, &months, &mut steps).await?;
            connection.close().await.map_err(|error| failed(CONTEXT, error))?;
        }
    }
    for topic in [&settings.kafka.topic, &settings.kafka.events_topic] {
        let kafka = KafkaConfig { topic: topic.clone(), ..settings.kafka.clone() };
        if !topic.is_empty() && kafka_identity::read(&kafka, &clock).await?.is_none() {
            steps.push(format!("make topic {topic} with {} partitions", mysql.map.parts()));
        }
    }
    Ok(steps)
}

/// Adds what one database needs. Answers a connection to it; `None` when it is not there.
async fn of_database(
    mysql: &Mysql,
    instance: Instance,
    database: &str,
    files: &[File],
    steps: &mut Vec<String>,
) -> StoreResult<Option<MySqlConnection>> {
    let fault = |error| failed(CONTEXT, error);
    let pool = mysql.pool(instance);
    let text = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
    let migrated: i64 = sqlx::query_scalar(text)
        .bind(database)
        .bind("_sqlx_migrations")
        .fetch_one(pool)
        .await
        .map_err(fault)?;
    if migrated == 0 {
        steps.push(format!("make database {database}"));
        return Ok(None);
    }
    let options = pool.connect_options().as_ref().clone().database(database);
    let mut connection = MySqlConnection::connect_with(&options).await.map_err(fault)?;
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
        .fetch_all(&mut connection)
        .await
        .map_err(fault)?;
    steps.extend(pending(files, &applied).map(|file| format!("apply {file} to {database}")));
    Ok(Some(connection))
}

async fn of_months(
    connection: &mut MySqlConnection,
    database: &str,
    months: &[Month],
    steps: &mut Vec<String>,
) -> StoreResult<()> {
    let shapes = shapes_of_months(connection, database).await?;
    let wanted: BTreeSet<String> = months.iter().map(|month| month.yyyymm().to_string()).collect();
    for yyyymm in wanted.iter().filter(|yyyymm| !shapes.contains_key(*yyyymm)) {
        steps.push(format!("make {database}.orders_{yyyymm}"));
    }
    for (yyyymm, shape) in shapes.iter().filter(|(_, shape)| **shape < MONTH.len()) {
        let table = format!("{database}.orders_{yyyymm}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")))
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| failed(CONTEXT, error))?;
        steps.push(format!("bring {table} ({rows} orders) from shape {shape} to shape {}", MONTH.len()));
    }
    Ok(())
}
