//! Alarms that stand, and what of them was said.

use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::alarm::{AlarmKey, DueCall};

/// When calls are due.
#[derive(Debug, Clone, Copy)]
pub struct CallTimes {
    /// An alarm that no process has seen for so long has ended.
    pub ended_after: Duration,
    /// A standing alarm is called out again after so long; zero for never.
    pub repeat_after: Duration,
}

/// The alarms of all processes of a shop. Times are those of the database's clock.
#[async_trait]
pub trait Alarms: Send + Sync {
    /// Notes that alarms stand, each with its value. The first process that sees one begins it.
    async fn see(&self, standing: &[(AlarmKey, i64)]) -> StoreResult<()>;

    /// Takes the calls that are due now. Each is due again later, after twice the time, so that no other process takes
    /// it and a receiver that is down is left alone. An alarm that ended before anybody was called is forgotten.
    async fn due(&self, times: CallTimes) -> StoreResult<Vec<DueCall>>;

    /// Notes that a call was taken. An alarm that has ended is forgotten.
    async fn called(&self, call: &DueCall) -> StoreResult<()>;
}
