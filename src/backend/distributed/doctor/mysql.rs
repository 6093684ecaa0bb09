//! Looks at the MySQL instances.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::told::{compare_clocks, host_of, of_privacy, version_of, why};
use crate::backend::distributed::mysql::{Mysql, NO_CHANGE, failed};
use crate::backend::distributed::mysql_text::NOW_MS;
use crate::backend::distributed::settings::Settings;
use crate::backend::distributed::{migrate, mysql_guard, tls};
use crate::clock::Clock;
use crate::domain::check::{Check, Checks, Level};
use crate::domain::node::Node;
use crate::domain::watermark::SetBack;
use crate::domain::{Instance, Month};
use crate::ports::{StoreError, StoreResult};

/// The oldest versions that the statements of the shop were run on.
const MYSQL_LEAST: (u32, u32) = (8, 4);
const MARIADB_LEAST: (u32, u32) = (10, 11);
/// Connections that an instance should have to spare, for operators, backups and this command.
const CONNECTIONS_TO_SPARE: u64 = 10;
/// Bytes that the largest batch of the writer may have in one statement.
const PACKET_BYTES_LEAST: u64 = 16 << 20;
/// Bytes of the buffer pool below which a shop waits for its disk.
const BUFFER_BYTES_WANTED: u64 = 1 << 30;
/// Statements that a connection keeps prepared in a shop at work, as the status `Prepared_stmt_count` tells.
const STATEMENTS_PER_CONNECTION: u64 = 128;

/// What the instances are compared with.
pub struct Examined<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// The pools.
    pub mysql: &'a Mysql,
    /// The months of which there should be orders tables; the first one is now.
    pub months: &'a [Month],
    /// The processes of the shop; `None` when they are not known.
    pub processes: Option<Vec<Node>>,
    /// The clock of this process.
    pub clock: &'a Clock,
}

/// The global variables of a server.
type Variables = BTreeMap<String, String>;

impl Examined<'_> {
    /// Looks at all instances, in their order, and then at the directory.
    pub async fn instances(&self) -> Vec<Check> {
        let each = self.mysql.map.all_instances().map(|instance| self.instance(instance));
        let mut checks = join_all(each).await.concat();
        checks.extend(self.directory().await);
        checks
    }

    async fn instance(&self, instance: Instance) -> Vec<Check> {
        let mut checks = Checks::of(format!("mysql-{}", instance.number()));
        let connecting = async {
            // A connection of its own: those of the pool have settings of ours.
            let options = self.mysql.pool(instance).connect_options();
            let connecting = Box::pin(MySqlConnection::connect_with(&options));
            connecting.await.map_err(|error| failed("connect", error))
        };
        let mut connection = match self.mysql.read("connect", connecting).await {
            Ok(connection) => connection,
            Err(error) => {
                let address = &self.settings.mysql.instances[usize::from(instance.number())];
                let fix = format!(
                    "is it running at {address}, and are mysql.user and mysql.password right, and mysql.tls, where the \
                     server wants TLS of this user?"
                );
                checks.need("reached", false, why(&error), tls::fix(&why(&error), "mysql", fix));
                return checks.found();
            }
        };
        checks.need("reached", true, "answers", "");
        let config = &self.settings.mysql;
        of_privacy(
            &mut checks,
            [host_of(&config.instances[usize::from(instance.number())])],
            config.tls,
            "mysql.tls",
        );
        match self.mysql.read("read variables", variables(&mut connection)).await {
            Ok(variables) => {
                of_variables(&mut checks, &variables);
                self.of_connections(&mut checks, &variables, &mut connection).await;
            }
            Err(error) => {
                checks.need("variables", false, why(&error), "the user needs to read global variables")
            }
        }
        let asked_ms = self.clock.now_ms();
        match self.mysql.read("read the time", now_ms(&mut connection)).await {
            Ok(theirs_ms) => compare_clocks(&mut checks, theirs_ms, (asked_ms, self.clock.now_ms())),
            Err(error) => checks.need("clock", false, why(&error), "see the log of MySQL"),
        }
        self.of_data(&mut checks, instance, &mut connection).await;
        drop(connection.close().await);
        checks.found()
    }

    /// Compares the connections of all processes with what the server allows.
    async fn of_connections(
        &self,
        checks: &mut Checks,
        variables: &Variables,
        connection: &mut MySqlConnection,
    ) {
        let config = &self.settings.mysql;
        let each = u64::from(config.pool_connections_max) + u64::from(config.reader_connections_max);
        let alive =
            self.processes.as_ref().map_or(0, |nodes| nodes.iter().filter(|node| !node.is_lost()).count());
        // One may be about to start, and a shop is two processes at least.
        let processes = u64::try_from((alive + 1).max(2)).unwrap_or(u64::MAX);
        let most = number(variables, "max_connections").unwrap_or(0);
        let wanted = each.saturating_mul(processes) + CONNECTIONS_TO_SPARE;
        checks.need(
            "connections",
            wanted <= most,
            format!("max_connections is {most}; {processes} processes take up to {each} each, and some are to spare"),
            format!("raise max_connections to {wanted} or more, or lower mysql.pool_connections_max"),
        );
        if let Ok(used) = self.mysql.read("read status", status(connection, "Threads_connected")).await {
            checks.want(
                "connections_used",
                used + CONNECTIONS_TO_SPARE <= most,
                format!("{used} of {most} connections are taken"),
                "see SHOW PROCESSLIST for who takes them: new processes will find none",
            );
        }
        let statements = number(variables, "max_prepared_stmt_count").unwrap_or(u64::MAX);
        let cached = each.saturating_mul(processes).saturating_mul(STATEMENTS_PER_CONNECTION);
        checks.want(
            "prepared_statements",
            cached <= statements,
            format!("max_prepared_stmt_count is {statements}"),
            format!("raise it to {cached} or more: a statement that cannot be prepared fails its batch"),
        );
    }

    /// Looks at what the shop has on the instance.
    async fn of_data(&self, checks: &mut Checks, instance: Instance, connection: &mut MySqlConnection) {
        let text = self.mysql.control_sql(instance, NO_CHANGE);
        let written = async {
            let done = sqlx::query(text).execute(&mut *connection).await;
            done.map(drop).map_err(|error| failed("change no row", error))
        };
        match self.mysql.read("change no row", written).await {
            Ok(()) => checks.need("writes", true, "the user may write", ""),
            Err(error) => {
                let fix = "run `seckill migrate`, give the user its rights (deploy/mysql/grants.sql), or let the address \
                           lead to the primary";
                checks.need("writes", false, why(&error), fix);
            }
        }
        self.of_watermark(checks, instance, connection).await;
        self.of_session(checks, instance).await;
        match self.missing(instance, connection).await {
            Ok(missing) => self.of_months(checks, &missing),
            Err(error) => checks.need("months", false, why(&error), "run `seckill migrate`"),
        }
    }

    /// Looks whether the data are older than what the shop has seen of them.
    async fn of_watermark(&self, checks: &mut Checks, instance: Instance, connection: &mut MySqlConnection) {
        let table = format!("{}.watermark", self.mysql.control(instance));
        let known = self.mysql.guard(instance).known();
        let asked = async {
            mysql_guard::read(&table, connection).await.map_err(|error| failed("read the watermark", error))
        };
        match self.mysql.read("read the watermark", asked).await {
            Ok(found) => {
                let set_back = SetBack::of(found.as_ref(), known);
                let number = instance.number();
                checks.need(
                    "watermark",
                    set_back.is_none() && found.is_some(),
                    match (set_back, &found) {
                        (Some(set_back), _) => set_back.to_string(),
                        (None, None) => "has no watermark".to_owned(),
                        (None, Some(_)) if self.processes.is_none() => {
                            "Redis does not say how old it may be".to_owned()
                        }
                        (None, Some(_)) => "has all that the shop has seen of it".to_owned(),
                    },
                    format!("run `seckill recover mysql {number}`, or `seckill migrate` when it is new"),
                );
            }
            Err(error) => checks.need("watermark", false, why(&error), "run `seckill migrate`"),
        }
    }

    /// Looks whether the settings of our own connections hold: something between may pass them over.
    async fn of_session(&self, checks: &mut Checks, instance: Instance) {
        let asked = async {
            let text = "SHOW SESSION VARIABLES WHERE variable_name IN \
                        ('transaction_isolation', 'tx_isolation', 'time_zone')";
            let fault = |error| failed("read our session", error);
            let rows = sqlx::query(text).fetch_all(self.mysql.pool(instance)).await.map_err(fault)?;
            rows.iter().map(|row| row.try_get::<String, _>(1).map_err(fault)).collect::<StoreResult<Vec<_>>>()
        };
        // That nobody may use the instance, or that it is not migrated, was said above.
        let Ok(values) = self.mysql.read("read our session", asked).await else { return };
        let holds = |wanted: &str| values.iter().any(|value| value == wanted);
        checks.need(
            "session",
            holds("READ-COMMITTED") && holds("+00:00"),
            format!("our connections have {}", values.join(", ")),
            "let what is between (a proxy, a pooler) keep SET of each connection: READ-COMMITTED and +00:00",
        );
    }

    /// Lists the months, as `yyyymm`, that some shard of the instance has no orders table of.
    async fn missing(&self, instance: Instance, connection: &mut MySqlConnection) -> StoreResult<Vec<u32>> {
        let mut missing = BTreeSet::new();
        for shard in self.mysql.map.shards_of(instance) {
            let database = self.mysql.shard(shard);
            let asked = migrate::shapes_of_months(connection, &database);
            let shapes = self.mysql.read("read the tables", asked).await?;
            let wanted = self.months.iter().map(|month| month.yyyymm());
            missing.extend(wanted.filter(|yyyymm| !shapes.contains_key(&yyyymm.to_string())));
        }
        Ok(missing.into_iter().collect())
    }

    fn of_months(&self, checks: &mut Checks, missing: &[u32]) {
        let now = self.months.first().map(|month| month.yyyymm());
        let fix = "run `seckill migrate`; it makes the tables of shards.months_ahead months";
        let detail = match missing.len() {
            0 => format!("the orders tables of {} months are there", self.months.len()),
            _ => format!("there are no orders tables of {missing:?}"),
        };
        let is_now = missing.iter().any(|month| Some(*month) == now);
        let level = if is_now { Level::Error } else { Level::Warning };
        checks.add("months", detail, (!missing.is_empty()).then(|| (level, fix.into())));
    }

    /// Looks whether the databases are of this version and of the shard map of the configuration.
    async fn directory(&self) -> Vec<Check> {
        let mut checks = Checks::of("mysql");
        match self.mysql.read("check schema", migrate::check_directory(self.mysql)).await {
            Ok(()) => {
                checks.need("schema", true, "the databases are of this version and of this shard map", "")
            }
            Err(error) => {
                checks.need("schema", false, why(&error), "run `seckill migrate`, and see what it says")
            }
        }
        checks.found()
    }
}

async fn variables(connection: &mut MySqlConnection) -> StoreResult<Variables> {
    let fault = |error| failed("read variables", error);
    let rows = sqlx::query("SHOW GLOBAL VARIABLES").fetch_all(connection).await.map_err(fault)?;
    let pair = |row: &MySqlRow| -> StoreResult<(String, String)> {
        let value: Option<String> = row.try_get(1).map_err(fault)?;
        Ok((row.try_get(0).map_err(fault)?, value.unwrap_or_default()))
    };
    rows.iter().map(pair).collect()
}

async fn status(connection: &mut MySqlConnection, name: &'static str) -> StoreResult<u64> {
    let text = format!("SHOW GLOBAL STATUS LIKE '{name}'");
    let fault = |error| failed("read status", error);
    let row = sqlx::query(AssertSqlSafe(text)).fetch_one(connection).await.map_err(fault)?;
    let value: String = row.try_get(1).map_err(fault)?;
    value.parse().map_err(|_| StoreError::broken("read status", format!("{name} is {value}")))
}

async fn now_ms(connection: &mut MySqlConnection) -> StoreResult<i64> {
    let asked = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {NOW_MS}"))).fetch_one(connection).await;
    asked.map_err(|error| failed("read the time", error))
}

fn number(variables: &Variables, name: &str) -> Option<u64> {
    variables.get(name).and_then(|value| value.parse().ok())
}

fn word<'a>(variables: &'a Variables, name: &str) -> &'a str {
    variables.get(name).map_or("not told", String::as_str)
}

fn is_on(variables: &Variables, name: &str) -> bool {
    ["ON", "1"].contains(&word(variables, name))
}

fn of_variables(checks: &mut Checks, variables: &Variables) {
    let word = |name: &str| word(variables, name);
    let version = word("version");
    let (least, kind) =
        if version.contains("MariaDB") { (MARIADB_LEAST, "MariaDB") } else { (MYSQL_LEAST, "MySQL") };
    checks.need(
        "version",
        version_of(version) >= least,
        format!("is {version}"),
        format!("use {kind} {}.{} or newer", least.0, least.1),
    );
    let reads_only = is_on(variables, "read_only") || is_on(variables, "super_read_only");
    checks.need(
        "read_only",
        !reads_only,
        if reads_only { "only reads" } else { "takes writes" },
        "let the address lead to the primary, or set read_only and super_read_only off",
    );
    let flush = word("innodb_flush_log_at_trx_commit");
    checks.need(
        "flush",
        flush == "1",
        format!("innodb_flush_log_at_trx_commit is {flush}"),
        "set it to 1: a power failure takes orders whose rows were committed",
    );
    of_binlog(checks, variables);
    let mode = word("sql_mode");
    checks.want(
        "sql_mode",
        mode.contains("STRICT_TRANS_TABLES") || mode.contains("STRICT_ALL_TABLES"),
        format!("sql_mode is {mode}"),
        "add STRICT_TRANS_TABLES: values that do not fit would be cut and not refused",
    );
    let packet = number(variables, "max_allowed_packet").unwrap_or(0);
    checks.need(
        "packet",
        packet >= PACKET_BYTES_LEAST,
        format!("max_allowed_packet is {} MiB", packet >> 20),
        "set it to 16 MiB or more: larger batches are refused",
    );
    let buffer = number(variables, "innodb_buffer_pool_size").unwrap_or(0);
    checks.want(
        "buffer_pool",
        buffer >= BUFFER_BYTES_WANTED,
        format!("innodb_buffer_pool_size is {} MiB", buffer >> 20),
        "give it half of the machine's memory: below 1 GiB writers wait for the disk",
    );
    let wait = number(variables, "innodb_lock_wait_timeout").unwrap_or(50);
    checks.want(
        "lock_wait",
        (2..=120).contains(&wait),
        format!("innodb_lock_wait_timeout is {wait} s"),
        "set it to 50 s, the server's own value",
    );
}

fn of_binlog(checks: &mut Checks, variables: &Variables) {
    if is_on(variables, "log_bin") {
        let sync = word(variables, "sync_binlog");
        checks.want(
            "sync_binlog",
            sync == "1",
            format!("sync_binlog is {sync}"),
            "set it to 1: after a power failure replicas may have other orders than the primary",
        );
        let format = word(variables, "binlog_format");
        checks.need(
            "binlog_format",
            format != "STATEMENT",
            format!("binlog_format is {format}"),
            "set it to ROW: what the shop writes with READ COMMITTED is refused otherwise",
        );
    } else {
        let fix = "set log_bin on: without it there are no replicas, and no recovery up to a moment";
        checks.want("binlog", false, "keeps no binary log", fix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(changed: &[(&str, &str)]) -> BTreeMap<String, Level> {
        let mut variables: BTreeMap<&str, &str> = BTreeMap::from([
            ("version", "9.7.4"),
            ("read_only", "OFF"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("log_bin", "ON"),
            ("sync_binlog", "1"),
            ("binlog_format", "ROW"),
            ("sql_mode", "STRICT_TRANS_TABLES,NO_ZERO_DATE"),
            ("max_allowed_packet", "67108864"),
            ("innodb_buffer_pool_size", "1073741824"),
            ("innodb_lock_wait_timeout", "50"),
        ]);
        variables.extend(changed.iter().copied());
        let variables =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut checks = Checks::of("mysql-0");
        of_variables(&mut checks, &variables);
        checks.found().into_iter().map(|check| (check.name.into_owned(), check.level)).collect()
    }

    #[test]
    fn each_variable_is_red_when_it_is_wrong_and_only_then() {
        assert!(levels(&[]).values().all(|level| *level == Level::Ok), "{:?}", levels(&[]));
        assert!(
            levels(&[("version", "10.11.14-MariaDB-0+deb12u2")]).values().all(|level| *level == Level::Ok)
        );
        for (name, value, check, level) in [
            ("version", "8.0.30", "mysql-0.version", Level::Error),
            ("version", "10.6.1-MariaDB", "mysql-0.version", Level::Error),
            ("read_only", "ON", "mysql-0.read_only", Level::Error),
            ("super_read_only", "ON", "mysql-0.read_only", Level::Error),
            ("innodb_flush_log_at_trx_commit", "2", "mysql-0.flush", Level::Error),
            ("log_bin", "OFF", "mysql-0.binlog", Level::Warning),
            ("sync_binlog", "0", "mysql-0.sync_binlog", Level::Warning),
            ("binlog_format", "STATEMENT", "mysql-0.binlog_format", Level::Error),
            ("sql_mode", "", "mysql-0.sql_mode", Level::Warning),
            ("max_allowed_packet", "1048576", "mysql-0.packet", Level::Error),
            ("innodb_buffer_pool_size", "67108864", "mysql-0.buffer_pool", Level::Warning),
            ("innodb_lock_wait_timeout", "1", "mysql-0.lock_wait", Level::Warning),
        ] {
            let found = levels(&[(name, value)]);
            let ill: Vec<_> = found.iter().filter(|(_, level)| **level != Level::Ok).collect();
            assert_eq!(ill, [(&check.to_owned(), &level)], "{name} {value}");
        }
    }
}
