//! Reads Redis, MySQL and Kafka together: the evidence of a sale, and what of the sale still waits.

use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;

use super::look::{Look, behind};
use super::{kafka, mysql, redis};
use crate::config::{Config, Mode};
use crate::evidence::{Evidence, PartitionFacts, SaleFacts};

/// Reads the evidence of a sale; `None` means that there is no such sale. Redis is read first and the log last. So what
/// happens in between looks like a mark that has not come yet or a record that is not written yet, and not like a loss.
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
        events: instances.events,
        payments: instances.payments,
        refunds: instances.refunds,
        orphans: instances.orphans,
        other_sales: instances.other_sales,
        provider: None,
        books: instances.books,
        log: Some(log),
        buckets: Some(buckets),
        http: None,
        journal: None,
        before: Default::default(),
        sale: facts,
    }))
}

/// Looks at the outboxes, the log and the order writers' positions again and again, over kept connections.
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
    /// Connects to the stores.
    ///
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

    /// Looks at what still waits.
    ///
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
        // A record that is written leaves its release behind, so releases are counted after the positions.
        let releases = self.positions.releases(&self.config, &self.sale.id).await?;
        Ok(Look { outbox, missing: self.target.as_ref().map(|target| behind(target, &stored)), releases })
    }
}
