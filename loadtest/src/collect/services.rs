//! Redis, MySQL and Kafka together: one sale's evidence, and what of it is still on its way.

use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;

use super::settle::Look;
use super::{kafka, mysql, redis};
use crate::config::{Config, Mode};
use crate::evidence::{Evidence, PartitionFacts, SaleFacts};

/// Redis first, the log last: what happens in between then looks like a mark that has not come yet or a record
/// that nobody has read, and not like a loss. `None` without such a sale.
///
/// # Errors
/// When a store cannot be read.
pub async fn stores(config: &Config, sale: &str) -> anyhow::Result<Option<Evidence>> {
    let Some(facts) = mysql::sale(config, sale).await? else {
        return Ok(None);
    };
    let buckets = redis::read(config, &facts).await?;
    let instances = mysql::instances(config, sale).await?;
    let log = kafka::read(config, sale).await?;
    Ok(Some(Evidence {
        mode: Mode::Distributed,
        layout: config.layout,
        servers: config.instances.clone(),
        rows: instances.rows,
        claims: instances.claims,
        moves: instances.moves,
        books: instances.books,
        log: Some(log),
        buckets: Some(buckets),
        http: None,
        journal: None,
        before: Default::default(),
        sale: facts,
    }))
}

/// Looks at the outboxes, the log and the positions of the order writers, over kept connections.
pub struct Watch {
    config: Config,
    sale: SaleFacts,
    log: Arc<kafka::Log>,
    redis: MultiplexedConnection,
    positions: mysql::Positions,
    /// The log as it was when the outboxes were empty.
    target: Option<Vec<PartitionFacts>>,
}

impl Watch {
    /// # Errors
    /// When a store cannot be reached.
    pub async fn new(config: &Config, sale: &SaleFacts) -> anyhow::Result<Self> {
        let log_config = config.clone();
        Ok(Self {
            log: Arc::new(tokio::task::spawn_blocking(move || kafka::Log::new(&log_config)).await??),
            redis: redis::connect(config).await?,
            positions: mysql::Positions::connect(config).await?,
            config: config.clone(),
            sale: sale.clone(),
            target: None,
        })
    }

    /// # Errors
    /// When a store cannot be read.
    pub async fn look(&mut self) -> anyhow::Result<Look> {
        let outbox = redis::outbox_len(&self.config, &mut self.redis, &self.sale).await?;
        if outbox > 0 {
            self.target = None;
        } else if self.target.is_none() {
            self.target = Some(kafka::bounds(&self.log).await?);
        }
        let stored = self.positions.read(&self.config).await?;
        Ok(Look {
            outbox,
            missing: self.target.as_ref().map(|target| super::settle::behind(target, &stored)),
        })
    }

    /// Dropping a consumer blocks.
    ///
    /// # Errors
    /// When the runtime is going away.
    pub async fn end(self) -> anyhow::Result<()> {
        Ok(tokio::task::spawn_blocking(move || drop(self.log)).await?)
    }
}
