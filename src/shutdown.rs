//! Tasks with an owner, and the ordered drain: the only place that spawns and that listens to signals.
//!
//! Order of a shutdown: not ready → stop accepting → finish purchases in flight → flush the order log →
//! writers finish their batch and commit → close. A deadline bounds it; a second signal ends it at once.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns onto the main runtime and remembers what runs. Cheap to clone.
///
/// Work spawned here survives the request that asked for it and the actix worker that served it.
#[derive(Debug, Clone)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_current_runtime() -> Self {
        Self { runtime: Handle::current(), tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }

    /// Runs blocking work on a thread of its own; counts like a task.
    ///
    /// # Errors
    /// When the operating system has no thread left.
    pub fn spawn_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let token = self.tracker.token();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            work();
            drop(token);
        })?;
        Ok(())
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Tells loops to end after what they have begun.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Sleeps for `pause`, or less when told to stop.
    pub async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all spawned work has ended; call [`Self::stop`] first for loops to end.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

/// Completes at the first SIGTERM or SIGINT; a second one ends the process at once with status 130.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn signalled() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    #[expect(clippy::disallowed_methods, reason = "must not be waited for by the drain that it cuts short")]
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}
