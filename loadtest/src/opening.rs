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
    /// What a purchase needs.
    #[serde(default)]
    pub policy: PolicyView,
    /// The SKUs of the sale.
    pub items: Vec<ItemView>,
}

/// What a purchase in a sale needs.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PolicyView {
    /// Whether it needs a purchase token.
    #[serde(default)]
    pub purchase_token: bool,
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
        ms_of(&self.starts_at).context("starts_at")
    }
}

/// Reads a time of the API, in ms since 1970.
///
/// # Errors
/// When the text is not RFC 3339.
pub fn ms_of(text: &str) -> anyhow::Result<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("{text:?} is not RFC 3339"))?;
    Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000)?)
}

/// The server's clock, as it was read on this machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct ServerClock {
    read: Instant,
    shows_ms: i64,
}

impl ServerClock {
    /// Makes a clock that shows at least `shows_ms` from `read` on.
    pub fn new(read: Instant, shows_ms: i64) -> Self {
        Self { read, shows_ms }
    }

    /// Reads the clock. The uncertainty of the reading is added.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read(client: &Client) -> anyhow::Result<Self> {
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
        Ok(Self::new(asked + way, now_ms))
    }

    /// Returns the instant in which the clock shows `at_ms`, and never an earlier one. For a time that was past when
    /// the clock was read, it is the instant of the reading.
    pub fn instant_of(&self, at_ms: i64) -> Instant {
        let left_ms = u64::try_from(at_ms.saturating_sub(self.shows_ms)).unwrap_or(0);
        self.read + Duration::from_millis(left_ms)
    }
}

/// Finds the instant in which the server's clock shows `at_ms`, which is never too early: a click before the opening is
/// refused. `None` means that the instant is past.
///
/// # Errors
/// When the server's clock cannot be read.
pub async fn instant_of(client: &Client, at_ms: i64) -> anyhow::Result<Option<Instant>> {
    let clock = ServerClock::read(client).await?;
    let opening = clock.instant_of(at_ms);
    Ok((at_ms > clock.shows_ms && opening > Instant::now()).then_some(opening))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_reads_as_milliseconds() {
        let view = |starts_at: &str| SaleView {
            status: "upcoming".to_owned(),
            starts_at: starts_at.to_owned(),
            policy: PolicyView::default(),
            items: Vec::new(),
        };
        assert_eq!(view("2026-01-01T00:00:00.007Z").starts_ms().expect("a time"), 1_767_225_600_007);
        assert!(view("soon").starts_ms().is_err());
    }

    #[test]
    fn a_time_that_is_past_is_the_instant_of_the_reading() {
        let read = Instant::now();
        let clock = ServerClock::new(read, 5_000);
        assert_eq!(clock.instant_of(5_250), read + Duration::from_millis(250));
        assert_eq!(clock.instant_of(4_000), read);
    }
}
