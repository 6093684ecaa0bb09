//! Waits until nothing of a sale is on its way any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[cfg(feature = "distributed")]
use super::services;
#[cfg(feature = "embedded")]
use super::sqlite;
use crate::config::{Config, Mode};
use crate::evidence::{PartitionFacts, SaleFacts};
use crate::progress::say;

const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const TALK_INTERVAL: Duration = Duration::from_secs(1);

/// How the waiting ended.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    pub took: Duration,
    pub quiet: bool,
}

/// What is on its way.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Entries of the outboxes.
    pub outbox: u64,
    /// Records to be written of those that were in the log when the outboxes were empty; `None` while they are not.
    pub missing: Option<i64>,
}

/// Records between the stored positions and the ends of the log.
pub fn behind(target: &[PartitionFacts], stored: &BTreeMap<u16, i64>) -> i64 {
    let behind = (0u16..).zip(target).map(|(part, facts)| {
        // An empty partition needs no position.
        let position = stored.get(&part).copied().unwrap_or(facts.low);
        (facts.end - position).max(0)
    });
    behind.sum()
}

enum Watch {
    #[cfg(feature = "distributed")]
    Services(Box<services::Watch>),
    #[cfg(feature = "embedded")]
    Folder(sqlite::Watch),
}

impl Watch {
    /// The whole folder has one log: there no sale is waited for alone.
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
            absent => Err(super::built_without(absent)),
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

    async fn end(self) -> anyhow::Result<()> {
        match self {
            #[cfg(feature = "distributed")]
            Self::Services(watch) => watch.end().await,
            #[cfg(feature = "embedded")]
            Self::Folder(_) => Ok(()),
        }
    }
}

/// Waits until the outboxes are empty and every record that was in the log at that moment is written.
/// Records that come later are not waited for.
///
/// # Errors
/// When a store cannot be read.
pub async fn settle(config: &Config, sale: &SaleFacts, limit: Duration) -> anyhow::Result<Settled> {
    let began = Instant::now();
    let mut watch = Watch::new(config, sale).await?;
    let outcome = wait(&mut watch, began, limit).await;
    watch.end().await?;
    outcome
}

async fn wait(watch: &mut Watch, began: Instant, limit: Duration) -> anyhow::Result<Settled> {
    let mut talked = began;
    loop {
        let Look { outbox, missing } = watch.look().await?;
        if missing == Some(0) {
            return Ok(Settled { took: began.elapsed(), quiet: true });
        }
        if began.elapsed() >= limit {
            return Ok(Settled { took: began.elapsed(), quiet: false });
        }
        if talked.elapsed() >= TALK_INTERVAL {
            talked = Instant::now();
            let behind =
                missing.map_or("waiting for the outbox".to_owned(), |n| format!("{n} records to write"));
            say(&format!("settling: {outbox} in the outbox, {behind}"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
