//! The one writer. Whatever waits is committed as one transaction (group commit), and nobody is answered before
//! that commit is durable.
//!
//! Invariants: no statement runs outside a transaction; an answer leaves after COMMIT; of a group that failed
//! nothing stands, except when its commit failed after it was written, which is answered as unknown.

use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use metrics::histogram;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::folder::Folder;
use super::sqlite::{code, failed};
use super::{broken, unavailable};
use crate::metrics::{DB_DURATION, GROUP_COMMIT};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Jobs that may wait; who finds no room waits for it.
const WAITING_MAX: usize = 1024;
/// Jobs committed together.
const GROUP_MAX: usize = 64;
/// SQLITE_IOERR, SQLITE_NOMEM, and SQLITE_IOERR_WRITE of the first, with the bits of its kind.
const IO_ERROR: i32 = 10;
const NO_MEMORY: i32 = 7;
const NOT_WRITTEN: i32 = 778;

/// Cheap to share; the thread ends when the last of it is gone.
pub struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// Something to be done in a transaction, perhaps more than once until one of them is committed.
trait Job: Send {
    fn run<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> LocalBoxFuture<'a, StoreResult<()>>;
    fn answer(self: Box<Self>, committed: Result<(), Failure>);
}

/// A failure that several jobs share.
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
        // An asker that is gone has stopped waiting; what was done stands all the same.
        drop(self.sender.send(answer));
    }
}

impl Writer {
    /// Starts the thread with a connection to a locked folder that is open already; `options` open the next one after a failure.
    ///
    /// # Errors
    /// When the operating system has no thread left.
    pub fn start(
        options: SqliteConnectOptions,
        first: SqliteConnection,
        folder: Folder,
    ) -> StoreResult<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken("start writer", error.to_string()))?;
        let scribe = Scribe { options, connection: Some(first), _folder: folder };
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || runtime.block_on(scribe.serve(waiting)))
            .map_err(|error| broken("start writer", error.to_string()))?;
        Ok(Self { jobs })
    }

    /// Does `work` in a transaction and answers when that is durable. `work` may run more than once and must not
    /// touch anything but the connection.
    ///
    /// # Errors
    /// The work's own failure or that of the commit. `Unknown` only when a commit failed after it was written.
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

/// What the thread owns.
struct Scribe {
    options: SqliteConnectOptions,
    /// `None` after a failure of the disk: a connection may have been opened for reading only.
    connection: Option<SqliteConnection>,
    /// Locked until the last job is done.
    _folder: Folder,
}

impl Scribe {
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

    /// Commits a group. When one of several jobs is broken each gets a transaction of its own; a disk that cannot be
    /// written fails them all.
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
        let began = Instant::now();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(|error| shared(failed("open database", error)))?,
        };
        let outcome = transaction(&mut connection, group).await;
        let failure = match outcome {
            Ok(()) => {
                histogram!(GROUP_COMMIT).record(f64::from(u32::try_from(group.len()).unwrap_or(u32::MAX)));
                observe(began.elapsed());
                self.connection = Some(connection);
                return Ok(());
            }
            Err(failure) => failure,
        };
        // SQLite has rolled back by itself after some failures; then there is nothing left to roll back.
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

/// Whether a commit that failed may be found after a crash. The page that makes it one is written last, so it is not
/// when writing failed; what comes after that page is to flush it and to tell the other connections.
fn may_stand(error: &sqlx::Error) -> bool {
    code(error).is_none_or(|code| code != NOT_WRITTEN && [IO_ERROR, NO_MEMORY].contains(&(code & 0xff)))
}

fn shared(error: StoreError) -> Failure {
    Failure { kind: error.kind, effect: error.effect, text: format!("{}: {}", error.context, error.source) }
}

/// The failure of a call to a thread that has ended.
fn gone(context: &'static str) -> StoreError {
    unavailable(context, "the writer has ended")
}

fn observe(elapsed: Duration) {
    histogram!(DB_DURATION, "system" => "sqlite", "operation" => "commit").record(elapsed.as_secs_f64());
}
