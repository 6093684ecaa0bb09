//! Says what errors of MySQL and of its client mean.

use sqlx::mysql::MySqlDatabaseError;

use crate::ports::{Effect, ErrorKind, StoreError};

/// Says that an instance is not used, because it was set back.
#[derive(Debug, thiserror::Error)]
#[error("the instance was set back, and is not used before `seckill recover mysql`")]
pub struct IsSetBack;

/// Says what a failed statement means. A lost connection leaves the effect open. An answer of the server does not: its
/// statement was not applied.
pub fn failed(context: &'static str, source: sqlx::Error) -> StoreError {
    let (kind, effect) = match &source {
        sqlx::Error::Database(_) => {
            let number = number(&source);
            // Conflicts are a deadlock, a lock wait and NOWAIT. The server is unavailable with too many connections, in
            // a shutdown, when it only reads, and when a statement took too long.
            match number {
                1213 | 1205 | 3572 => (ErrorKind::Conflict, Effect::NotApplied),
                1040 | 1053 | 3024 => (ErrorKind::Unavailable, Effect::NotApplied),
                number if READS_ONLY.contains(&number) => (ErrorKind::Unavailable, Effect::NotApplied),
                _ => (ErrorKind::Broken, Effect::NotApplied),
            }
        }
        // The server has no TLS, or a name or a file is not what it should be. Nothing was asked.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
            (ErrorKind::Unavailable, Effect::NotApplied)
        }
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, Effect::Unknown),
        _ => (ErrorKind::Broken, Effect::Unknown),
    };
    let source: Box<dyn std::error::Error + Send + Sync> = match source {
        // No other pool is ever closed.
        sqlx::Error::PoolClosed => Box::new(IsSetBack),
        source => Box::new(source),
    };
    StoreError { kind, effect, context, source }
}

/// Answers with these numbers say that the server only reads: it is a replica, or was one until a failover moved its
/// address, or its transactions are set to read only.
pub const READS_ONLY: [u16; 3] = [1290, 1836, 1792];

/// Answers the number of a server's error; 0 for any other failure.
pub fn number(error: &sqlx::Error) -> u16 {
    let answer = error.as_database_error().and_then(|answer| answer.try_downcast_ref::<MySqlDatabaseError>());
    answer.map_or(0, MySqlDatabaseError::number)
}

/// Tells whether a failure is the refusal of a duplicate key.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
