//! Keeps the shop from an instance that was set back: a backup was restored, or a replica took over that was behind.
//!
//! Invariant: no connection to an instance is used before it was asked for its watermark, and found to be on the server
//! of its data with all that this process has seen of it. Nobody uses an instance that was found to be set back, until
//! it was recovered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row};
use tokio::sync::Mutex;

use super::mysql_error::{IsSetBack, failed, number};
use super::mysql_text::NOW_MS;
use crate::domain::Instance;
use crate::domain::watermark::{SetBack, Watermark};
use crate::ports::StoreResult;

const LOOK: &str = "read the watermark";

/// The name of the server that answers, as a text of at most 64 bytes. MariaDB passes over what stands in the comment:
/// its servers have no name of their own but the number that replicas need.
pub const THIS_SERVER: &str = "CAST(COALESCE(/*!80000 @@server_uuid, */ @@server_id) AS CHAR)";

/// The guard of one instance.
pub struct Guard {
    instance: Instance,
    /// The name of the table.
    table: String,
    /// Whether nobody may use the instance.
    is_shut: AtomicBool,
    /// The highest watermark that was seen of it.
    known: AtomicI64,
    /// The connection on which the guard looks, and the watermark that it left the last time.
    own: Mutex<(Option<MySqlConnection>, i64)>,
}

impl Guard {
    /// Makes the guard of an instance whose control database has this name. It knows nothing yet.
    pub fn new(instance: Instance, control: &str) -> Arc<Self> {
        Arc::new(Self {
            instance,
            table: format!("{control}.watermark"),
            is_shut: AtomicBool::new(false),
            known: AtomicI64::new(0),
            own: Mutex::default(),
        })
    }

    /// Answers whether nobody may use the instance.
    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }

    /// Answers the highest watermark that was seen of the instance; 0 for none.
    pub fn known(&self) -> i64 {
        self.known.load(Ordering::Acquire)
    }

    /// Takes note of a watermark that somebody has seen.
    pub fn learn(&self, mark: i64) {
        self.known.fetch_max(mark, Ordering::AcqRel);
    }

    /// Looks whether a new connection leads to the instance that the shop has written.
    ///
    /// # Errors
    /// When it does not, or cannot be asked. Then the connection must not be used.
    pub async fn admit(&self, connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        // Before the question: what is learned meanwhile may be newer than the answer.
        let known = self.known();
        let found = read(&self.table, connection).await?;
        match SetBack::of(found.as_ref(), known) {
            None => Ok(()),
            Some(why) => {
                self.shut(why, found.as_ref(), known);
                Err(sqlx::Error::Configuration(Box::new(IsSetBack)))
            }
        }
    }

    /// Looks at the instance on a connection of the guard's own, and raises its watermark unless somebody else does.
    /// Answers why the instance is set back; `None` when it is not.
    ///
    /// # Errors
    /// When the instance cannot be asked. Then what was known of it stands.
    pub async fn look(&self, options: &MySqlConnectOptions) -> StoreResult<Option<SetBack>> {
        let mut own = self.own.lock().await;
        let (connection, last) = &mut *own;
        let mut asked = match connection.take() {
            Some(asked) => asked,
            None => MySqlConnection::connect_with(options).await.map_err(|error| failed(LOOK, error))?,
        };
        let known = self.known();
        let found = read(&self.table, &mut asked).await.map_err(|error| failed(LOOK, error))?;
        let set_back = SetBack::of(found.as_ref(), known);
        match set_back {
            Some(why) => self.shut(why, found.as_ref(), known),
            None => self.open(),
        }
        if let (None, Some(found)) = (set_back, found) {
            // It is raised once in a round, by the process that finds it as it has left it.
            *last = if found.mark == *last { self.raise(&found, &mut asked).await? } else { found.mark };
            self.learn(*last);
        }
        // A connection that has failed was dropped.
        *connection = Some(asked);
        Ok(set_back)
    }

    /// Raises the watermark that was found by one, unless somebody else has. Answers what it is at least.
    async fn raise(&self, found: &Watermark, connection: &mut MySqlConnection) -> StoreResult<i64> {
        let text = format!(
            "UPDATE {} SET mark = mark + 1, at_ms = {NOW_MS} WHERE mark = ? AND server = ?",
            self.table
        );
        let raised = sqlx::query(AssertSqlSafe(text))
            .bind(found.mark)
            .bind(found.written_on.as_bytes())
            .execute(connection)
            .await
            .map_err(|error| failed("raise the watermark", error))?;
        Ok(found.mark + i64::from(raised.rows_affected() == 1))
    }

    fn shut(&self, why: SetBack, found: Option<&Watermark>, known: i64) {
        if !self.is_shut.swap(true, Ordering::AcqRel) {
            let instance = self.instance.number();
            tracing::error!(
                instance,
                ?found,
                known,
                "mysql-{instance} {why}, and is not used: `seckill recover mysql {instance}`"
            );
        }
    }

    /// Only a look opens: a connection may have been asked before the last thing was learned.
    fn open(&self) {
        if self.is_shut.swap(false, Ordering::AcqRel) {
            let instance = self.instance.number();
            tracing::info!(instance, "mysql-{instance} is used again");
        }
    }
}

/// Reads the watermark of an instance; `None` when it has none.
///
/// # Errors
/// When it cannot be read.
pub async fn read(table: &str, connection: &mut MySqlConnection) -> Result<Option<Watermark>, sqlx::Error> {
    let text = format!("SELECT server, mark, at_ms, {THIS_SERVER} FROM {table}");
    let row = match sqlx::query(AssertSqlSafe(text)).fetch_optional(connection).await {
        Ok(row) => row,
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    let watermark = |row: sqlx::mysql::MySqlRow| -> Result<Watermark, sqlx::Error> {
        let written_on: Vec<u8> = row.try_get(0)?;
        Ok(Watermark {
            written_on: String::from_utf8_lossy(&written_on).into_owned(),
            mark: row.try_get(1)?,
            at_ms: row.try_get(2)?,
            server: row.try_get(3)?,
        })
    };
    row.map(watermark).transpose()
}

/// Answers whether the table or its database is not there: nothing was ever migrated, or it is gone.
fn is_absent(error: &sqlx::Error) -> bool {
    matches!(number(error), 1049 | 1146)
}
