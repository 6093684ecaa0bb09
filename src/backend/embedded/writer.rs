//! One thread writes. It commits the jobs that wait as one transaction (group commit), and it answers nobody before
//! that commit is durable.
//!
//! Invariants: No statement runs outside a transaction. An answer leaves after COMMIT. Nothing stands of a group that
//! failed, with one exception: a commit that failed after it was written may stand, and it is answered as unknown.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use metrics::histogram;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::failures::{broken, unavailable};
use super::folder::Folder;
use super::sqlite_rows::{code, failed};
use crate::clock::Clock;
use crate::metrics::{DB_DURATION, GROUP_COMMIT};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Most jobs that may wait. A caller that finds the queue full waits for room.
const WAITING_MAX: usize = 1024;
/// Most jobs that are committed together.
const GROUP_MAX: usize = 64;
/// SQLITE_IOERR.
const IO_ERROR: i32 = 10;
/// SQLITE_NOMEM.
const NO_MEMORY: i32 = 7;
/// SQLITE_IOERR_WRITE, an extended code whose low byte is SQLITE_IOERR.
const NOT_WRITTEN: i32 = 778;

/// Hands jobs to the thread that writes. When this value is dropped, the thread does the jobs that still wait and ends.
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// A job to be done in a transaction. It may run more than once, until one of its transactions is committed.
trait Job: Send {
    fn run<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> LocalBoxFuture<'a, StoreResult<()>>;
    fn answer(self: Box<Self>, committed: Result<(), Failure>);
}

/// Holds a failure that several jobs share.
#[derive(Debug, Clone)]
struct Failure {
    kind: ErrorKind,
    effect: Effect,
    text: String,
}

struct Asked<T, F> {
    context: &'static str,
    work: F,
    result: Option<T>,
    sender: oneshot::Sender<StoreResult<T>>,
}

impl<T, F> Job for Asked<T, F>
where
    T: Send,
    F: AsyncFn(&mut SqliteConnection) -> StoreResult<T> + Send,
{
    fn run<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> LocalBoxFuture<'a, StoreResult<()>> {
        Box::pin(async move {
            self.result = Some((self.work)(connection).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), Failure>) {
        let context = self.context;
        let answer = match committed {
            Ok(()) => self.result.ok_or_else(|| broken(context, "committed without having run")),
            Err(Failure { kind, effect, text }) => {
                Err(StoreError { kind, effect, context, source: text.into() })
            }
        };
        // A caller that is gone has stopped waiting. What was done stands all the same.
        drop(self.sender.send(answer));
    }
}

impl Writer {
    /// Starts the thread. `first` is an open connection to the database of the locked `folder`. `options` open the next
    /// connection after a failure.
    ///
    /// # Errors
    /// When the operating system has no thread left, or the thread's runtime cannot be built.
    pub fn start(
        options: SqliteConnectOptions,
        first: SqliteConnection,
        folder: Folder,
        clock: Clock,
    ) -> StoreResult<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken("start writer", error.to_string()))?;
        let thread = WriterThread { options, connection: Some(first), clock, _folder: folder };
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || runtime.block_on(thread.serve(waiting)))
            .map_err(|error| broken("start writer", error.to_string()))?;
        Ok(Self { jobs })
    }

    /// Does `work` in a transaction and answers when that is durable. `work` may run more than once, and it must not
    /// touch anything but the connection. The call waits for room when too many jobs wait.
    ///
    /// # Errors
    /// The failure of the work, of the commit, or of another job that was committed with it. It is `Unknown` only when
    /// a commit failed after it was written, or when the thread ended before it answered.
    pub async fn write<T, F>(&self, context: &'static str, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: AsyncFn(&mut SqliteConnection) -> StoreResult<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job = Asked { context, work, result: None, sender };
        self.jobs.send(Box::new(job)).await.map_err(|_| gone(context))?;
        receiver.await.unwrap_or_else(|_| Err(StoreError { effect: Effect::Unknown, ..gone(context) }))
    }
}

/// Holds what the thread owns.
struct WriterThread {
    options: SqliteConnectOptions,
    /// `None` after a failure of the disk, because the connection may have been opened for reading only.
    connection: Option<SqliteConnection>,
    clock: Clock,
    /// The folder, which stays locked until the last job is done.
    _folder: Folder,
}

impl WriterThread {
    async fn serve(mut self, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = waiting.recv().await {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            self.write(group).await;
        }
    }

    /// Commits a group. When one of several jobs is broken, each job gets a transaction of its own. Any other failure,
    /// such as a disk that cannot be written, fails them all.
    async fn write(&mut self, mut group: Vec<Box<dyn Job>>) {
        let outcome = self.attempt(&mut group).await;
        if group.len() == 1 || !matches!(&outcome, Err(failure) if failure.kind == ErrorKind::Broken) {
            for job in group {
                job.answer(outcome.clone());
            }
            return;
        }
        for job in group {
            let mut alone = vec![job];
            let outcome = self.attempt(&mut alone).await;
            for job in alone {
                job.answer(outcome.clone());
            }
        }
    }

    async fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        let began = self.clock.monotonic();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(|error| shared(failed("open database", error)))?,
        };
        let outcome = transaction(&mut connection, group).await;
        let failure = match outcome {
            Ok(()) => {
                histogram!(GROUP_COMMIT).record(f64::from(u32::try_from(group.len()).unwrap_or(u32::MAX)));
                observe(self.clock.monotonic().since(began));
                self.connection = Some(connection);
                return Ok(());
            }
            Err(failure) => failure,
        };
        // After some failures SQLite has rolled back by itself, and there is nothing left to roll back.
        let rolled_back = sqlx::query("ROLLBACK").execute(&mut connection).await.is_ok();
        if rolled_back && failure.kind != ErrorKind::Unavailable {
            self.connection = Some(connection);
        }
        Err(failure)
    }
}

async fn transaction(connection: &mut SqliteConnection, group: &mut [Box<dyn Job>]) -> Result<(), Failure> {
    let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await;
    begun.map_err(|error| shared(failed("begin", error)))?;
    for job in group {
        job.run(connection).await.map_err(shared)?;
    }
    let committed = sqlx::query("COMMIT").execute(&mut *connection).await;
    committed.map(drop).map_err(|error| {
        let effect = if may_stand(&error) { Effect::Unknown } else { Effect::NotApplied };
        Failure { effect, ..shared(failed("commit", error)) }
    })
}

/// Tells whether a commit that failed may be found after a crash. The page that makes it a commit is written last, so
/// there is no commit when writing failed. After that page SQLite only flushes it and tells the other connections. When
/// one of these fails, the commit may stand.
fn may_stand(error: &sqlx::Error) -> bool {
    code(error).is_none_or(|code| code != NOT_WRITTEN && [IO_ERROR, NO_MEMORY].contains(&(code & 0xff)))
}

fn shared(error: StoreError) -> Failure {
    Failure { kind: error.kind, effect: error.effect, text: format!("{}: {}", error.context, error.source) }
}

/// Makes the failure of a call to a thread that has ended.
fn gone(context: &'static str) -> StoreError {
    unavailable(context, "the writer has ended")
}

fn observe(elapsed: Duration) {
    histogram!(DB_DURATION, "system" => "sqlite", "operation" => "commit").record(elapsed.as_secs_f64());
}
