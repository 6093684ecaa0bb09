//! Reads the keys that an identity provider publishes as a JWK Set, from a file or from a URL.
//!
//! Invariant: the last keys that could be read stay in use, so that a provider that is down logs nobody out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;
use tokio::sync::Mutex;

use crate::clock::{Clock, Moment};
use crate::config::AuthConfig;
use crate::http::auth::{Tokens, jwk_set};
use crate::metrics::TOKEN_KEY_READS;
use crate::ports::{Duty, Fault, Probe, StoreError, StoreResult};
use crate::shutdown::Tasks;
use crate::trace;
use crate::worker::driver::{Progress, Task};

/// How long after a read the next one may begin that a token asks for.
const REST: Duration = Duration::from_secs(10);
/// How long after a good read the next one begins when no token asks for it, so that a withdrawn key is forgotten.
const PERIOD: Duration = Duration::from_secs(300);
/// How long a provider may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest set that is read. A key of 4,096 bits has some 800 bytes.
const SET_BYTES_MAX: usize = 256 * 1024;

enum Source {
    File(PathBuf),
    Url(reqwest::Client, String),
}

/// The published keys of the process.
pub struct PublishedKeys {
    source: Source,
    tokens: Arc<Tokens>,
    clock: Clock,
    last: Arc<Mutex<LastRead>>,
    /// Whether any set was ever read.
    is_read: AtomicBool,
    /// Whether there are configured keys, too.
    are_beside_others: bool,
}

#[derive(Default)]
struct LastRead {
    began: Option<Moment>,
    has_failed: bool,
    set: Vec<u8>,
}

impl PublishedKeys {
    /// Makes the reader of the place that the configuration names, which gives its keys to `tokens`; `None` when it
    /// names none.
    ///
    /// # Errors
    /// When the client of a URL cannot be made.
    pub fn of(auth: &AuthConfig, tokens: &Arc<Tokens>, clock: &Clock) -> anyhow::Result<Option<Arc<Self>>> {
        let source = match (&auth.jwks_file, &auth.jwks_url) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(url)) => {
                let client = reqwest::Client::builder();
                // In plain text they come from this machine only, and through no proxy.
                let client = if url.starts_with("http://") { client.no_proxy() } else { client };
                let client = client
                    .timeout(ANSWER_TIMEOUT)
                    .redirect(reqwest::redirect::Policy::none())
                    // A connection belongs to the thread that made it, and reads are rare.
                    .pool_max_idle_per_host(0)
                    .user_agent(concat!("seckill/", env!("CARGO_PKG_VERSION")))
                    .build()?;
                Source::Url(client, url.clone())
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Arc::new(Self {
            source,
            tokens: tokens.clone(),
            clock: clock.clone(),
            last: Arc::default(),
            is_read: AtomicBool::new(false),
            are_beside_others: !auth.hs256_secret.expose().is_empty() || auth.public_key_file.is_some(),
        })))
    }

    /// Reads the keys for the first time.
    ///
    /// # Errors
    /// When a file cannot be used. A provider that is down is no error: its keys are read as soon as it is up.
    pub async fn read_first(&self) -> anyhow::Result<()> {
        let mut last = self.last.lock().await;
        match (self.read(&mut last).await, &self.source) {
            (Err(error), Source::File(file)) => {
                Err(anyhow::anyhow!("cannot use auth.jwks_file {}: {error}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads the keys anew, unless that was done less than 10 s ago. Callers that come meanwhile wait for the same
    /// read. Answers whether keys were ever read. A read that has begun is a task of `tasks`, and goes on when its
    /// caller has gone.
    pub async fn learn(self: Arc<Self>, tasks: Tasks) -> bool {
        let mut last = self.last.clone().lock_owned().await;
        if self.rested(&last) >= REST {
            let keys = self.clone();
            // A failure is logged and counted, and the last keys stay.
            let read = tasks.spawn(async move { drop(keys.read(&mut last).await) });
            drop(read.await);
        }
        self.is_read.load(Ordering::Relaxed)
    }

    /// Answers how long ago the last read began.
    fn rested(&self, last: &LastRead) -> Duration {
        last.began.map_or(Duration::MAX, |began| self.clock.monotonic().since(began))
    }

    async fn read(&self, last: &mut LastRead) -> Result<(), String> {
        last.began = Some(self.clock.monotonic());
        let read = self.fetched().await.and_then(|set| {
            if set != last.set {
                let keys = jwk_set::parse(&set).map_err(|error| error.to_string())?;
                tracing::info!(keys = keys.len(), "the published token keys have changed");
                self.tokens.publish(keys);
                last.set = set;
            }
            Ok(())
        });
        last.has_failed = read.is_err();
        match &read {
            Ok(()) => self.is_read.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "the published token keys were not read; the last ones stay")
            }
        }
        let result = if read.is_ok() { "read" } else { "failed" };
        counter!(TOKEN_KEY_READS, "result" => result).increment(1);
        read
    }

    async fn fetched(&self) -> Result<Vec<u8>, String> {
        let too_large = || format!("it has more than {SET_BYTES_MAX} bytes");
        match &self.source {
            Source::File(file) => {
                let set = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
                if set.len() > SET_BYTES_MAX { Err(too_large()) } else { Ok(set) }
            }
            Source::Url(client, url) => {
                let words = |error: reqwest::Error| {
                    let mut causes = vec![error.to_string()];
                    let mut source = std::error::Error::source(&error);
                    while let Some(cause) = source {
                        causes.push(cause.to_string());
                        source = cause.source();
                    }
                    causes.join(": ")
                };
                let asked = async |_| client.get(url).send().await.map_err(words);
                let mut answer = trace::ask(("keys", &self.clock), asked).await?;
                if answer.status() != reqwest::StatusCode::OK {
                    return Err(format!("{url} answers {}", answer.status()));
                }
                let mut set = Vec::new();
                while let Some(piece) = answer.chunk().await.map_err(words)? {
                    if set.len() + piece.len() > SET_BYTES_MAX {
                        return Err(too_large());
                    }
                    set.extend_from_slice(&piece);
                }
                Ok(set)
            }
        }
    }
}

#[async_trait]
impl Task for PublishedKeys {
    fn name(&self) -> &'static str {
        "token_key_refresh"
    }

    fn period(&self) -> Duration {
        REST
    }

    async fn run_once(&self) -> StoreResult<Progress> {
        let mut last = self.last.lock().await;
        let due = if last.has_failed { REST } else { PERIOD };
        if self.rested(&last) < due {
            return Ok(Progress::default());
        }
        let read = self.read(&mut last).await;
        read.map_err(|error| StoreError::broken("read the published token keys", error))?;
        Ok(Progress::of(1))
    }
}

#[async_trait]
impl Probe for PublishedKeys {
    fn name(&self) -> String {
        "token-keys".to_owned()
    }

    fn duties(&self) -> &'static [Duty] {
        &[Duty::Buy]
    }

    async fn check(&self) -> Result<(), Fault> {
        if self.is_read.load(Ordering::Relaxed) {
            return Ok(());
        }
        let words =
            "were never read: no token that they have signed can be checked (auth.jwks_url)".to_owned();
        Err(Fault { words, still_works: self.are_beside_others })
    }
}

#[cfg(test)]
mod tests;
