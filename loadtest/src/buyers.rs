//! What buyers do after they have won: they pay, pay twice, pay too late, cancel, or leave their order alone.
//!
//! A buyer has a limited time, and repeats a call whose answer is retryable. What the shop answers then is an
//! [`Ending`]; what it may not answer, and an answer that does not come in time, is a [`Fault`]. Connections are
//! bounded by the pools, so any number of buyers may act at once: they wait for a connection as clicks do.

mod behaviour;
mod ending;
mod errand;
mod pages;
#[cfg(test)]
mod tests;
mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use behaviour::{Behaviour, Shares};
pub use ending::{Ending, Fault};
pub use errand::Purchase;
pub use pages::{Pages, Reach};
pub use told::Told;

use crate::client::Client;
use crate::opening::{self, ServerClock};
use errand::{Errand, Opened};
use pages::Shown;

/// How long after an order's time is over a late buyer pays, in ms.
const LATE_MS: i64 = 1_000;

/// All buyers of a run, and what they need to act.
pub struct Buyers {
    client: Arc<Client>,
    pages: Pages,
    clock: ServerClock,
    /// What each user does, by number.
    behaviours: Vec<Behaviour>,
    /// How long a buyer tries.
    patience: Duration,
}

impl Buyers {
    /// Makes buyers who call the shop through `client`, and act as `behaviours` says, by the number of the user.
    pub fn new(
        client: Arc<Client>,
        pages: Pages,
        clock: ServerClock,
        behaviours: Vec<Behaviour>,
        patience: Duration,
    ) -> Self {
        Self { client, pages, clock, behaviours, patience }
    }

    /// Asks until an order is decided.
    ///
    /// # Errors
    /// When it is not decided in time.
    pub async fn decided(&self, purchase: &Purchase<'_>) -> Result<Told, Fault> {
        self.errand(purchase).decided().await
    }

    /// Does what the buyer does with an order that is decided as `told` says.
    ///
    /// # Errors
    /// When the shop or the provider does not answer in time, or answers what it should not.
    pub async fn act(&self, purchase: &Purchase<'_>, told: &Told) -> Result<Ending, Fault> {
        if let Some(ending) = told.ending() {
            return Ok(ending);
        }
        let errand = self.errand(purchase);
        match self.behaviour(purchase.user) {
            Behaviour::Pay => self.pay(&errand).await,
            Behaviour::PayTwice => self.pay_twice(&errand).await,
            Behaviour::PayLate => self.pay_late(&errand, told).await,
            Behaviour::Cancel => errand.cancel().await,
            Behaviour::Abandon => Ok(Ending::Abandoned),
        }
    }

    fn behaviour(&self, user: u32) -> Behaviour {
        let user = usize::try_from(user).unwrap_or(usize::MAX);
        self.behaviours.get(user).copied().unwrap_or(Behaviour::Abandon)
    }

    /// Sends a buyer off, whose time begins now.
    fn errand<'a>(&'a self, purchase: &'a Purchase<'a>) -> Errand<'a> {
        let until = Instant::now() + self.patience;
        Errand { client: &self.client, clock: self.clock, purchase, until }
    }

    async fn pay(&self, errand: &Errand<'_>) -> Result<Ending, Fault> {
        let page = match errand.open().await? {
            Opened::Page(page) => page,
            Opened::Ended(ending) => return Ok(ending),
        };
        match self.pages.press(&page, errand.until).await? {
            Shown::Pressed => errand.ended().await,
            Shown::Closed => Ok(Ending::TooLate),
        }
    }

    async fn pay_twice(&self, errand: &Errand<'_>) -> Result<Ending, Fault> {
        // Both futures are large, and stand in boxes so that other buyers do not carry room for them.
        let (first, second) = tokio::join!(Box::pin(errand.open()), Box::pin(errand.open()));
        let page = match (first?, second?) {
            (Opened::Page(first), Opened::Page(second)) if first != second => {
                return Err(Fault::new("pay", "two_pages"));
            }
            (Opened::Page(page), _) | (_, Opened::Page(page)) => page,
            (Opened::Ended(ending), Opened::Ended(_)) => return Ok(ending),
        };
        let press = || Box::pin(self.pages.press(&page, errand.until));
        let (first, second) = tokio::join!(press(), press());
        match (first?, second?) {
            (Shown::Closed, Shown::Closed) => Ok(Ending::TooLate),
            _ => errand.ended().await,
        }
    }

    async fn pay_late(&self, errand: &Errand<'_>, told: &Told) -> Result<Ending, Fault> {
        let page = match errand.open().await? {
            Opened::Page(page) => page,
            Opened::Ended(ending) => return Ok(ending),
        };
        let expires_ms = told.expires_at.as_deref().and_then(|text| opening::ms_of(text).ok());
        let expires_ms = expires_ms.ok_or_else(|| Fault::new("pay", "no_expires_at"))?;
        let late = self.clock.instant_of(expires_ms.saturating_add(LATE_MS));
        tokio::time::sleep_until(late.into()).await;
        // Waiting was no attempt, so the buyer's time begins anew.
        let errand = self.errand(errand.purchase);
        match self.pages.press(&page, errand.until).await? {
            Shown::Pressed => errand.ended().await,
            Shown::Closed => Ok(Ending::TooLate),
        }
    }
}
