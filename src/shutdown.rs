//! Tasks with an owner, and the signals that end the process. No other module listens to signals, or spawns async
//! tasks, but for the one on each thread of a listener that ends with the thread (`app::servers`).
//!
//! A shutdown has this order: not ready → notice → stop accepting → finish purchases in flight → flush the order log →
//! writers finish their batch and commit → close. A deadline bounds it, and a second signal ends it at once.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and counts those that run. Cheap to clone.
///
/// A task outlives the request that asked for it.
#[derive(Debug, Clone)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Makes an owner that has no tasks yet and spawns onto the runtime it is made on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_current_runtime() -> Self {
        Self { runtime: Handle::current(), tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Spawns a task onto the main runtime. It runs on when the handle is dropped.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &self.runtime)
    }

    /// Spawns a task onto the runtime of the caller, so that the two need not wake each other's threads. It ends with
    /// that runtime: whoever stops an HTTP server waits for [`Self::drained`] before.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_here<F>(&self, work: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, &Handle::current());
    }

    /// Spawns a task that stays on the thread of the caller, and ends with it as [`Self::spawn_here`] says.
    ///
    /// # Panics
    /// Outside a local set of tokio.
    pub fn spawn_local<F>(&self, work: F)
    where
        F: Future<Output = ()> + 'static,
    {
        self.tracker.spawn_local(work);
    }

    /// Tells loops to end after what they have begun. Idempotent.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Answers whether loops were told to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until loops are told to end.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Counts the tasks that run now.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until all spawned tasks have ended. Loops end only after [`Self::stop`].
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

/// The signal by which a process is told to read its configuration again. From when it is caught, it does not end the
/// process.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Catches SIGHUP.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn catch() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Calls `hung_up` at each signal, one after the other. Never ends.
    pub async fn each(mut self, hung_up: impl AsyncFn()) -> std::convert::Infallible {
        loop {
            self.0.recv().await;
            hung_up().await;
        }
    }
}

/// Who asked the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A supervisor, by SIGTERM.
    BySupervisor,
    /// A person at a terminal, by SIGINT.
    ByPerson,
}

/// The signals that end the process. From when they are caught, none ends it by itself any more.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches SIGTERM and SIGINT. It is done before the process says that it serves, so that none ends it undrained.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first signal. A second one ends the process at once with status 130.
    pub async fn first(self) -> Asked {
        let Self { mut terminate, mut interrupt } = self;
        let asked = tokio::select! {
            _ = terminate.recv() => Asked::BySupervisor,
            _ = interrupt.recv() => Asked::ByPerson,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "must not be waited for by the drain that it cuts short"
        )]
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(130);
        });
        asked
    }
}
