//! How the background tasks of a process fare.

/// The state of a task, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// The task's word in logs and metrics.
    pub name: &'static str,
    /// How much its last run did, in orders, records or sales, or why it failed; `None` before the first one has ended.
    pub last: Option<Result<usize, String>>,
    /// When that run ended, in ms since 1970.
    pub ended_ms: Option<i64>,
    /// How many runs have failed since the last one that did not.
    pub failures: u32,
}
