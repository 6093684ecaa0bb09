//! Reads the stores. Each store has a collector. Together the collectors make the evidence, and none of them judges.

mod event;
pub mod http;
#[cfg(feature = "distributed")]
mod kafka;
mod look;
#[cfg(feature = "distributed")]
mod mysql;
#[cfg(feature = "distributed")]
mod mysql_events;
#[cfg(feature = "distributed")]
mod mysql_fields;
#[cfg(feature = "distributed")]
mod mysql_payments;
#[cfg(feature = "distributed")]
mod mysql_rows;
mod payment;
mod provider;
mod record;
#[cfg(feature = "distributed")]
mod redis;
#[cfg(feature = "distributed")]
mod services;
pub mod settle;
#[cfg(feature = "embedded")]
mod sqlite;
#[cfg(feature = "embedded")]
mod sqlite_events;
#[cfg(feature = "embedded")]
mod sqlite_fields;
#[cfg(feature = "embedded")]
mod sqlite_payments;
#[cfg(feature = "embedded")]
mod sqlite_rows;

#[cfg(not(any(feature = "distributed", feature = "embedded")))]
compile_error!("stores to audit are needed: build with the feature `distributed`, `embedded` or both");

use std::collections::BTreeSet;

use anyhow::Context;

#[cfg(not(all(feature = "distributed", feature = "embedded")))]
use crate::config::built_without;
use crate::config::{Config, Mode};
use crate::evidence::{Evidence, SaleFacts};
use crate::ids::OrderId;
use crate::journal::Entry;

/// Reads all evidence but the answers over HTTP. The payment provider's books are read last, so that they have every
/// capture and every refund that the stores tell of.
///
/// # Errors
/// When a store or the provider cannot be read, or no sale has this id.
pub async fn stores(
    config: &Config,
    sale: &str,
    journal: Option<Vec<Entry>>,
    before: BTreeSet<OrderId>,
) -> anyhow::Result<Evidence> {
    let evidence = match config.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => services::stores(config, sale).await?,
        #[cfg(feature = "embedded")]
        Mode::Embedded => sqlite::stores(config, sale).await?,
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => return Err(built_without(absent)),
    };
    let evidence = evidence.with_context(|| format!("the directory knows no sale {sale}"))?;
    let provider = match &config.provider {
        Some(api) => Some(provider::read(api).await?),
        None => None,
    };
    Ok(Evidence { journal, before, provider, ..evidence }.with_first_moves())
}

/// Reads a sale as the directory defines it. `None` means that there is no such sale.
///
/// # Errors
/// When the directory cannot be read.
pub async fn sale(config: &Config, sale: &str) -> anyhow::Result<Option<SaleFacts>> {
    match config.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => mysql::sale(config, sale).await,
        #[cfg(feature = "embedded")]
        Mode::Embedded => sqlite::sale(config, sale).await,
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}

/// Reads the ids of all orders of a sale, wherever they stand.
///
/// # Errors
/// When a store cannot be read.
pub async fn order_ids(config: &Config, sale: &str) -> anyhow::Result<BTreeSet<OrderId>> {
    match config.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => mysql::order_ids(config, sale).await,
        #[cfg(feature = "embedded")]
        Mode::Embedded => sqlite::order_ids(config, sale).await,
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => Err(built_without(absent)),
    }
}
