//! Waits until nothing of a sale is on its way any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{kafka, mysql, redis};
use crate::config::Config;
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

/// Waits until the outboxes are empty and every record that was in the log at that moment is written.
/// Records of other sales that come later are not waited for.
///
/// # Errors
/// When a store cannot be read.
pub async fn settle(config: &Config, sale: &SaleFacts, limit: Duration) -> anyhow::Result<Settled> {
    let began = Instant::now();
    let log_config = config.clone();
    let log = Arc::new(tokio::task::spawn_blocking(move || kafka::Log::new(&log_config)).await??);
    let outcome = wait(config, sale, &log, began, limit).await;
    // Dropping a consumer blocks.
    tokio::task::spawn_blocking(move || drop(log)).await?;
    outcome
}

async fn wait(
    config: &Config,
    sale: &SaleFacts,
    log: &Arc<kafka::Log>,
    began: Instant,
    limit: Duration,
) -> anyhow::Result<Settled> {
    let mut redis = redis::connect(config).await?;
    let mut positions = mysql::Positions::connect(config).await?;
    let mut target: Option<Vec<PartitionFacts>> = None;
    let mut talked = began;
    loop {
        let outbox = redis::outbox_len(config, &mut redis, sale).await?;
        if outbox > 0 {
            target = None;
        } else if target.is_none() {
            target = Some(kafka::bounds(log).await?);
        }
        let stored = positions.read(config).await?;
        let missing: Option<i64> = target.as_ref().map(|target| {
            let behind = (0u16..).zip(target).map(|(part, facts)| {
                // An empty partition needs no position.
                let position = stored.get(&part).copied().unwrap_or(facts.low);
                (facts.end - position).max(0)
            });
            behind.sum()
        });
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
