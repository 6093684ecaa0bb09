//! The async runtime of a command.

/// Runs the work of a command on a runtime of its own, and waits for it.
///
/// # Errors
/// As the work, and when no runtime can be made.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}
