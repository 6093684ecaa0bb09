//! Waits until nothing of a sale waits in outboxes, in the log or for its release any more.

use std::time::{Duration, Instant};

use super::look::Look;
#[cfg(feature = "distributed")]
use super::services;
#[cfg(feature = "embedded")]
use super::sqlite;
#[cfg(not(all(feature = "distributed", feature = "embedded")))]
use crate::config::built_without;
use crate::config::{Config, Mode};
use crate::evidence::SaleFacts;
use crate::progress::say;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const TALK_INTERVAL: Duration = Duration::from_secs(1);

/// How the waiting ended.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// How long it took.
    pub took: Duration,
    /// Whether all was quiet in the end. Otherwise the time limit ended the waiting.
    pub quiet: bool,
}

enum Watch {
    #[cfg(feature = "distributed")]
    Services(Box<services::Watch>),
    #[cfg(feature = "embedded")]
    Folder(sqlite::Watch),
}

impl Watch {
    /// Makes a watch of a sale. A data folder has one log for all sales, so there it watches all of them.
    #[cfg_attr(
        not(feature = "distributed"),
        expect(unused_variables, reason = "only outboxes are a sale's own")
    )]
    async fn new(config: &Config, sale: &SaleFacts) -> anyhow::Result<Self> {
        match config.mode {
            #[cfg(feature = "distributed")]
            Mode::Distributed => Ok(Self::Services(Box::new(services::Watch::new(config, sale).await?))),
            #[cfg(feature = "embedded")]
            Mode::Embedded => Ok(Self::Folder(sqlite::Watch::new(config).await?)),
            #[cfg(not(all(feature = "distributed", feature = "embedded")))]
            absent => Err(built_without(absent)),
        }
    }

    async fn look(&mut self) -> anyhow::Result<Look> {
        match self {
            #[cfg(feature = "distributed")]
            Self::Services(watch) => watch.look().await,
            #[cfg(feature = "embedded")]
            Self::Folder(watch) => watch.look().await,
        }
    }
}

/// Waits until the outboxes are empty, every record that was in the log at that moment is written, and all units that
/// nobody holds are on sale again. It does not wait for records that come later, and it gives up after `limit`.
///
/// # Errors
/// When a store cannot be read.
pub async fn settle(config: &Config, sale: &SaleFacts, limit: Duration) -> anyhow::Result<Settled> {
    let began = Instant::now();
    let mut watch = Watch::new(config, sale).await?;
    wait(&mut watch, began, limit).await
}

async fn wait(watch: &mut Watch, began: Instant, limit: Duration) -> anyhow::Result<Settled> {
    let mut talked = began;
    loop {
        let Look { outbox, missing, releases } = watch.look().await?;
        if missing == Some(0) && releases == 0 {
            return Ok(Settled { took: began.elapsed(), quiet: true });
        }
        if began.elapsed() >= limit {
            return Ok(Settled { took: began.elapsed(), quiet: false });
        }
        if talked.elapsed() >= TALK_INTERVAL {
            talked = Instant::now();
            let behind =
                missing.map_or("waiting for the outbox".to_owned(), |n| format!("{n} records to write"));
            say(&format!("settling: {outbox} in the outbox, {behind}, {releases} orders to release"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
