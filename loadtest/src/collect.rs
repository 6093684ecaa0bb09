//! Reads the stores. One collector each, none of which judges; together they make the evidence.

pub mod http;
pub mod kafka;
pub mod mysql;
mod mysql_rows;
pub mod redis;
pub mod settle;

use std::collections::BTreeSet;

use anyhow::bail;

use crate::config::Config;
use crate::evidence::Evidence;
use crate::ids::OrderId;
use crate::journal::Entry;

/// Reads everything that needs no HTTP. Redis first, the log last: what happens in between then looks like a
/// mark that has not come yet or a record that nobody has read, and not like a loss.
///
/// # Errors
/// When a store cannot be read, or no sale has this id.
pub async fn stores(
    config: &Config,
    sale: &str,
    journal: Option<Vec<Entry>>,
    before: BTreeSet<OrderId>,
) -> anyhow::Result<Evidence> {
    let Some(facts) = mysql::sale(config, sale).await? else {
        bail!("the directory knows no sale {sale}");
    };
    let buckets = redis::read(config, &facts).await?;
    let instances = mysql::instances(config, sale).await?;
    let log = kafka::read(config, sale).await?;
    Ok(Evidence {
        layout: config.layout,
        servers: config.instances.clone(),
        rows: instances.rows,
        claims: instances.claims,
        moves: instances.moves,
        books: instances.books,
        log: Some(log),
        buckets: Some(buckets),
        http: None,
        journal,
        before,
        sale: facts,
    })
}
