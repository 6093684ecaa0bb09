//! Reads the sale as shoppers see it, and finds the instant of its opening on this machine's clock.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::Client;

/// How often the server's clock is read. The reading with the shortest round trip counts.
const READINGS: u32 = 7;

/// A sale as shoppers see it.
#[derive(Debug, Clone, Deserialize)]
pub struct SaleView {
    /// The phase of the sale.
    pub status: String,
    /// The opening, as RFC 3339.
    pub starts_at: String,
    /// The SKUs of the sale.
    pub items: Vec<ItemView>,
}

/// An item of a sale as shoppers see it.
#[derive(Debug, Clone, Deserialize)]
pub struct ItemView {
    /// The SKU.
    pub sku_id: String,
}

#[derive(Deserialize)]
struct TimeView {
    now_ms: i64,
}

async fn read<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<T> {
    let reply = match client.get(path, None).await.result {
        Ok(reply) => reply,
        Err(why) => bail!("GET {path}: {why:?}: is the server up?"),
    };
    if reply.status != 200 {
        bail!("GET {path} answered {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
    }
    serde_json::from_slice(&reply.body).with_context(|| format!("GET {path}: unexpected body"))
}

/// Reads a sale.
///
/// # Errors
/// When the server is down or knows no such sale.
pub async fn sale(client: &Client, sale: &str) -> anyhow::Result<SaleView> {
    read(client, &format!("/api/v1/sales/{sale}")).await
}

impl SaleView {
    /// Returns the opening in ms since 1970, by the server's clock.
    ///
    /// # Errors
    /// When `starts_at` is not RFC 3339.
    pub fn starts_ms(&self) -> anyhow::Result<i64> {
        let at = OffsetDateTime::parse(&self.starts_at, &Rfc3339)
            .with_context(|| format!("starts_at {:?} is not RFC 3339", self.starts_at))?;
        Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000)?)
    }
}

/// Finds the instant in which the server's clock shows `at_ms`. The uncertainty of the reading is added, so that the
/// instant is never too early: a click before the opening is refused. `None` means that the instant is past.
///
/// # Errors
/// When the server's clock cannot be read.
pub async fn instant_of(client: &Client, at_ms: i64) -> anyhow::Result<Option<Instant>> {
    let mut best: Option<(Duration, Instant, i64)> = None;
    for _ in 0..READINGS {
        let asked = Instant::now();
        let view: TimeView = read(client, "/api/v1/time").await?;
        let way = asked.elapsed();
        if best.is_none_or(|(shortest, _, _)| way < shortest) {
            best = Some((way, asked, view.now_ms));
        }
    }
    let (way, asked, now_ms) = best.context("no reading of the server's clock")?;
    // The server had read `now_ms` before its answer came. So its clock shows at least that from then on.
    let left_ms = u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0);
    let opening = asked + way + Duration::from_millis(left_ms);
    Ok((left_ms > 0 && opening > Instant::now()).then_some(opening))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_reads_as_milliseconds() {
        let view = |starts_at: &str| SaleView {
            status: "upcoming".to_owned(),
            starts_at: starts_at.to_owned(),
            items: Vec::new(),
        };
        assert_eq!(view("2026-01-01T00:00:00.007Z").starts_ms().expect("a time"), 1_767_225_600_007);
        assert!(view("soon").starts_ms().is_err());
    }
}
