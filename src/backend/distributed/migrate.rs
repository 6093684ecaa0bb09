//! Makes or checks the databases, the tables and the topic, for `seckill migrate`. It is idempotent. Two at once are
//! safe: the migrations of every database run under the server's named lock, and the monthly tables and positions are
//! made only where they are absent.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};

use super::mysql::{Guarded, Mysql, failed};
use super::mysql_guard::THIS_SERVER;
use super::mysql_text::NOW_MS;
use super::settings::Settings;
use crate::backend::migrations::{CONTROL, DIRECTORY, File, MONTH, SHARD, migrator};
use crate::clock::Clock;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::{Instance, Month};
use crate::ports::{Effect, StoreError, StoreResult};

mod found;
mod journal;
mod plan;
mod topic;

pub use found::shapes_of_months;
use found::{check_order_of_instances, with_months_of_sales};
pub use plan::plan;

/// Longest time that a migration waits for another one of the same database.
const LOCK_WAIT_S: u32 = 120;
/// The name of the setting that says which schema the databases have.
const SCHEMA: &str = "schema";
/// The name of the setting that says which schema a program must know at least to work on the databases.
const SCHEMA_LEAST: &str = "schema_least";
/// The oldest schema whose programs can work on databases of this version, beside this version or alone. Raise it to
/// [`schema_version`] with a change that older programs cannot work with, and say in the changelog that all processes
/// have to be stopped.
const LEAST: usize = 22;

/// Tells people what a migration did or found.
#[derive(Debug, Default)]
pub struct Report {
    /// Databases that are migrated now, on all instances.
    pub databases: usize,
    /// Months whose orders tables this run made or found, as `yyyymm`, ascending.
    pub months: Vec<u32>,
    /// Whether the topic was created. If not, it was there with the wanted settings.
    pub topic_created: bool,
    /// Partitions of the topic beyond the shard map's. They were added by another hand, and nobody uses them.
    pub foreign_parts: usize,
}

/// Makes everything that is absent and checks what is there, for `months` and the months of all sales. `progress` is
/// told each step before it begins.
///
/// # Errors
/// When a server cannot be reached, the instances stand in another order, the recorded shard map differs, or the topic
/// has other settings or is gone although orders were written from it. The text says the remedy.
pub async fn run(
    settings: &Settings,
    months: &[Month],
    clock: Clock,
    progress: impl Fn(&str),
) -> StoreResult<Report> {
    let mysql = Mysql::new(&settings.mysql, settings.map, &settings.kafka.topic, Guarded::No, clock.clone())?;
    check_order_of_instances(&mysql).await?;
    if is_of_newer(&mysql).await? {
        progress("a newer version has migrated the databases: nothing is changed");
        return Ok(Report::default());
    }
    progress("directory");
    migrate_database(&mysql, Mysql::DIRECTORY, &mysql.directory(), DIRECTORY).await?;
    record_shard_map(&mysql).await?;
    let months = &with_months_of_sales(&mysql, months).await?[..];
    let mut report = Report { databases: 1, ..Report::default() };
    for instance in mysql.map.all_instances() {
        progress(&format!("instance {} of {}", instance.number() + 1, mysql.map.instances()));
        migrate_database(&mysql, instance, &mysql.control(instance), CONTROL).await?;
        make_positions(&mysql, instance).await?;
        make_event_logs(&mysql, instance).await?;
        make_watermark(&mysql, instance).await?;
        report.databases += 1;
        for shard in mysql.map.shards_of(instance) {
            migrate_database(&mysql, instance, &mysql.shard(shard), SHARD).await?;
            make_months(&mysql, instance, &mysql.shard(shard), months).await?;
            report.databases += 1;
        }
        tell_journal(&mysql, instance, &progress).await?;
    }
    record_schema(&mysql).await?;
    progress("order log topic");
    (report.topic_created, report.foreign_parts) = topic::make(settings, &mysql, &clock).await?;
    if !settings.kafka.events_topic.is_empty() {
        progress("events topic");
        topic::make_of_events(settings).await?;
    }
    progress("positions");
    topic::name_log_of_positions(settings, &mysql, &clock).await?;
    report.months = months.iter().map(|month| month.yyyymm()).collect();
    Ok(report)
}

async fn migrate_database(
    mysql: &Mysql,
    instance: Instance,
    database: &str,
    files: &[File],
) -> StoreResult<()> {
    let context = "migrate database";
    let migrator = migrator(files);
    let pool = mysql.pool(instance);
    // The name is made of a checked prefix and numbers.
    let create =
        format!("CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    sqlx::query(AssertSqlSafe(create)).execute(pool).await.map_err(|error| failed(context, error))?;
    let options = pool.connect_options().as_ref().clone().database(database);
    let mut connection =
        MySqlConnection::connect_with(&options).await.map_err(|error| failed(context, error))?;
    lock(&mut connection, database).await?;
    let migrated = migrator.run_direct(None, &mut connection, false).await;
    migrated.map_err(|error| StoreError::broken(context, format!("{database}: {error}")))?;
    connection.close().await.map_err(|error| failed(context, error))
}

/// Locks a database, and so waits for another migration of it to end. The lock goes with the connection. sqlx has a
/// lock of its own, but MariaDB takes its endless wait for none.
async fn lock(connection: &mut MySqlConnection, database: &str) -> StoreResult<()> {
    let context = "lock database";
    let row = sqlx::query("SELECT GET_LOCK(?, ?)").bind(format!("seckill:{database}")).bind(LOCK_WAIT_S);
    let row = row.fetch_one(connection).await.map_err(|error| failed(context, error))?;
    match row.try_get::<Option<i64>, _>(0) {
        Ok(Some(1)) => Ok(()),
        _ => Err(StoreError::broken(
            context,
            format!("another migration is at work on {database} for {LOCK_WAIT_S} s"),
        )),
    }
}

/// Makes the orders tables of `months` that are absent, and brings those of all months to the newest shape.
async fn make_months(mysql: &Mysql, instance: Instance, database: &str, months: &[Month]) -> StoreResult<()> {
    let context = "make monthly tables";
    let options = mysql.pool(instance).connect_options().as_ref().clone().database(database);
    let mut connection =
        MySqlConnection::connect_with(&options).await.map_err(|error| failed(context, error))?;
    lock(&mut connection, database).await?;
    let mut shapes = shapes_of_months(&mut connection, database).await?;
    for month in months {
        shapes.entry(month.yyyymm().to_string()).or_insert(0);
    }
    for (yyyymm, shape) in shapes {
        for (_, text) in MONTH.iter().skip(shape) {
            let text = text.replace("{yyyymm}", &yyyymm);
            let made = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await;
            made.map_err(|error| failed(context, error))?;
        }
    }
    connection.close().await.map_err(|error| failed(context, error))
}

/// Tells the steps that orders took before there were events, while no other migration does.
async fn tell_journal(mysql: &Mysql, instance: Instance, progress: &impl Fn(&str)) -> StoreResult<()> {
    let context = "lock database";
    let options = mysql.pool(instance).connect_options().as_ref().clone();
    let mut connection =
        MySqlConnection::connect_with(&options).await.map_err(|error| failed(context, error))?;
    lock(&mut connection, &mysql.control(instance)).await?;
    journal::tell_all(mysql, instance, progress).await?;
    connection.close().await.map_err(|error| failed(context, error))
}

/// Makes the numbers of events of the instance's partitions.
async fn make_event_logs(mysql: &Mysql, instance: Instance) -> StoreResult<()> {
    let text = "INSERT IGNORE INTO {control}.event_logs (part, next_number) VALUES (?, ?)";
    for part in mysql.map.all_parts().filter(|part| mysql.map.instance_of_part(*part) == instance) {
        let query = sqlx::query(mysql.control_sql(instance, text)).bind(part.number()).bind(FIRST_NUMBER);
        query.execute(mysql.pool(instance)).await.map_err(|error| failed("make numbers of events", error))?;
    }
    let text = "INSERT IGNORE INTO {control}.retold_shards (shard, upto) VALUES (?, '')";
    for shard in mysql.map.shards_of(instance) {
        let query = sqlx::query(mysql.control_sql(instance, text)).bind(shard.number());
        query.execute(mysql.pool(instance)).await.map_err(|error| failed("make numbers of events", error))?;
    }
    Ok(())
}

/// Says on which server the instance's data are written, unless it says so already: then the data may be a copy.
async fn make_watermark(mysql: &Mysql, instance: Instance) -> StoreResult<()> {
    let text = format!(
        "INSERT IGNORE INTO {{control}}.watermark (one, server, mark, at_ms) VALUES (1, {THIS_SERVER}, 0, {NOW_MS})"
    );
    let made = sqlx::query(mysql.control_sql(instance, &text)).execute(mysql.pool(instance)).await;
    made.map(drop).map_err(|error| failed("make the watermark", error))
}

async fn make_positions(mysql: &Mysql, instance: Instance) -> StoreResult<()> {
    let text = "INSERT INTO {control}.consumer_positions (topic, part, next_offset) \
                SELECT ?, ?, 0 FROM dual WHERE NOT EXISTS \
                (SELECT 1 FROM {control}.consumer_positions WHERE topic = ? AND part = ?)";
    for part in mysql.map.all_parts().filter(|part| mysql.map.instance_of_part(*part) == instance) {
        let made = sqlx::query(mysql.control_sql(instance, text))
            .bind(&mysql.topic)
            .bind(part.number())
            .bind(&mysql.topic)
            .bind(part.number())
            .execute(mysql.pool(instance))
            .await;
        match made {
            Ok(_) => {}
            Err(error) if super::mysql::is_duplicate(&error) => {}
            Err(error) => return Err(failed("make positions", error)),
        }
    }
    Ok(())
}

fn wanted_settings(mysql: &Mysql) -> [(&'static str, String); 3] {
    [
        ("shards", mysql.map.shards().to_string()),
        ("partitions", mysql.map.parts().to_string()),
        ("instances", mysql.map.instances().to_string()),
    ]
}

/// Records the numbers of shards, partitions and instances at the first migration, and compares them ever after.
async fn record_shard_map(mysql: &Mysql) -> StoreResult<()> {
    let text = "INSERT INTO {directory}.settings (name, value) SELECT ?, ? FROM dual WHERE NOT EXISTS \
                (SELECT 1 FROM {directory}.settings WHERE name = ?)";
    for (name, value) in wanted_settings(mysql) {
        let made = sqlx::query(mysql.directory_sql(text))
            .bind(name)
            .bind(value)
            .bind(name)
            .execute(mysql.directory_pool())
            .await;
        match made {
            Ok(_) => {}
            Err(error) if super::mysql::is_duplicate(&error) => {}
            Err(error) => return Err(failed("record shard map", error)),
        }
    }
    check_shard_map(&recorded_settings(mysql).await?, mysql)
}

/// Refuses databases that were not migrated to this version, and a configuration whose shard map is not the one that
/// the data was written with.
///
/// # Errors
/// When the databases are not migrated or a newer version has migrated them, or a count differs.
pub async fn check_directory(mysql: &Mysql) -> StoreResult<()> {
    let recorded = recorded_settings(mysql).await?;
    check_shard_map(&recorded, mysql)?;
    check_not_too_old(&recorded)?;
    let (found, own) = (schema_of(&recorded, SCHEMA).unwrap_or(1), schema_version());
    if found < own {
        let detail =
            format!("the databases have schema {found}, this version needs {own}: run `seckill migrate`");
        return Err(StoreError::broken("check schema", detail));
    }
    Ok(())
}

/// Answers whether a newer version has migrated the databases. Then this one makes nothing, also no months: it knows
/// only their older shape.
///
/// # Errors
/// When this version is too old to work on them, or they cannot be read.
async fn is_of_newer(mysql: &Mysql) -> StoreResult<bool> {
    let text =
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = 'settings'";
    let tables: i64 = sqlx::query_scalar(text)
        .bind(mysql.directory())
        .fetch_one(mysql.directory_pool())
        .await
        .map_err(|error| failed("check schema", error))?;
    if tables == 0 {
        return Ok(false);
    }
    let recorded = recorded_settings(mysql).await?;
    check_not_too_old(&recorded)?;
    Ok(schema_of(&recorded, SCHEMA).is_some_and(|found| found > schema_version()))
}

fn schema_of(recorded: &BTreeMap<String, String>, name: &str) -> Option<usize> {
    recorded.get(name).and_then(|text| text.parse().ok())
}

/// Refuses databases that a newer version has migrated beyond what this one can work with.
fn check_not_too_old(recorded: &BTreeMap<String, String>) -> StoreResult<()> {
    let own = schema_version();
    match schema_of(recorded, SCHEMA_LEAST) {
        Some(least) if own < least => {
            let detail = format!(
                "a newer version has migrated the databases: a program has to know schema {least} at least, and this \
                 one knows {own}. Use a newer version"
            );
            Err(StoreError::broken("check schema", detail))
        }
        _ => Ok(()),
    }
}

/// Answers the number of all migrations. It grows with every change.
fn schema_version() -> usize {
    [DIRECTORY, CONTROL, SHARD, MONTH].map(<[_]>::len).into_iter().sum()
}

/// Records that all databases have this version's schema, and which one a program has to know, unless newer ones stand
/// there.
async fn record_schema(mysql: &Mysql) -> StoreResult<()> {
    let text = "INSERT INTO {directory}.settings (name, value) VALUES (?, ?), (?, ?) ON DUPLICATE KEY UPDATE \
                value = IF(CAST(value AS UNSIGNED) < CAST(VALUES(value) AS UNSIGNED), VALUES(value), value)";
    sqlx::query(mysql.directory_sql(text))
        .bind(SCHEMA)
        .bind(schema_version().to_string())
        .bind(SCHEMA_LEAST)
        .bind(LEAST.to_string())
        .execute(mysql.directory_pool())
        .await
        .map(drop)
        .map_err(|error| failed("record schema", error))
}

async fn recorded_settings(mysql: &Mysql) -> StoreResult<BTreeMap<String, String>> {
    let context = "read settings";
    let rows = sqlx::query(mysql.directory_sql("SELECT name, value FROM {directory}.settings"))
        .fetch_all(mysql.directory_pool())
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(answer) if matches!(answer.code().as_deref(), Some("42000" | "42S02")) => {
                StoreError::broken(
                    context,
                    format!("{} is not there: run `seckill migrate`", mysql.directory()),
                )
            }
            _ => failed(context, error),
        })?;
    let mut recorded: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(|error| failed(context, error))?;
        recorded.insert(name, row.try_get(1).map_err(|error| failed(context, error))?);
    }
    Ok(recorded)
}

fn check_shard_map(recorded: &BTreeMap<String, String>, mysql: &Mysql) -> StoreResult<()> {
    let context = "check shard map";
    for (name, value) in wanted_settings(mysql) {
        match recorded.get(name) {
            Some(found) if *found == value => {}
            Some(found) => {
                let detail = format!(
                    "{name} is {value} in the configuration and was {found} at the first migration; \
                     it is frozen: set it back to {found}"
                );
                return Err(StoreError { effect: Effect::NotApplied, ..StoreError::broken(context, detail) });
            }
            None => {
                return Err(StoreError::broken(
                    context,
                    format!("{name} is not recorded: run `seckill migrate`"),
                ));
            }
        }
    }
    Ok(())
}
