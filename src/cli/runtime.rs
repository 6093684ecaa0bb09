//! The async runtime of a command.

use std::time::Duration;

/// How long the end of a command's work is waited for when it is done. What goes on then is not of the command: it has
/// waited for its own.
const END_MAX: Duration = Duration::from_secs(5);

/// Runs the work of a command on a runtime of its own, and waits for it.
///
/// # Errors
/// As the work, and when no runtime can be made.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(END_MAX);
    done
}
