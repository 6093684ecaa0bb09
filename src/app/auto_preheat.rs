//! Puts published sales in place before they start, so that nobody has to think of it. The task stands here because no
//! worker may use the shop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::{Clock, Moment};
use crate::domain::{Sale, SaleId, SaleState};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};
use crate::shop::Shop;
use crate::worker::driver::{Progress, Task};

/// How long a sale must have stayed as it is. While somebody works on it, it is not frozen under their hands.
const AT_REST: Duration = Duration::from_secs(10);

/// The task that puts published sales in place.
pub struct AutoPreheat {
    /// Knows the sales, and puts them in place.
    pub shop: Arc<Shop>,
    /// Says how long a sale was not changed.
    pub clock: Clock,
    /// How long before its start a sale is put in place, in ms.
    pub before_ms: i64,
    /// Time between two rounds.
    pub period: Duration,
    /// The versions of sales that were seen last, and since when.
    pub seen: Mutex<HashMap<SaleId, (u64, Moment)>>,
}

#[async_trait]
impl Task for AutoPreheat {
    fn name(&self) -> &'static str {
        "auto_preheat"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Puts every sale in place that is due.
    ///
    /// # Errors
    /// When a sale could not be put in place. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let catalog = self.shop.catalog();
        let due: Vec<&Sale> = catalog.sales.values().filter(|sale| self.is_due(sale)).collect();
        self.forget_except(&due);
        let (mut done, mut failure) = (0, Ok(()));
        for sale in due.into_iter().filter(|sale| self.is_at_rest(sale)) {
            match self.shop.preheat_by_itself(&sale.id).await {
                Ok(()) => done += 1,
                Err(detail) => {
                    let source = format!("{}: {detail}", sale.id).into();
                    let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
                    failure = Err(StoreError { kind, effect, context: "put a sale in place", source });
                }
            }
        }
        failure.map(|()| Progress::of(done))
    }
}

impl AutoPreheat {
    fn is_due(&self, sale: &Sale) -> bool {
        is_due(sale, self.shop.now_ms(), self.before_ms)
    }

    /// Answers whether this process has seen no change of a sale for [`AT_REST`].
    fn is_at_rest(&self, sale: &Sale) -> bool {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock().expect("no code panics while holding it");
        let (version, since) = seen.entry(sale.id.clone()).or_insert((sale.version, now));
        if *version != sale.version {
            (*version, *since) = (sale.version, now);
        }
        now.since(*since) >= AT_REST
    }

    fn forget_except(&self, due: &[&Sale]) {
        let mut seen = self.seen.lock().expect("no code panics while holding it");
        seen.retain(|id, _| due.iter().any(|sale| sale.id == *id));
    }
}

/// Answers whether a sale starts soon, or should have started, and is not in place.
fn is_due(sale: &Sale, now_ms: i64, before_ms: i64) -> bool {
    let is_waiting = matches!(sale.state, SaleState::Published | SaleState::Preheated) && !sale.in_place;
    is_waiting && now_ms >= sale.starts_ms.saturating_sub(before_ms) && now_ms < sale.ends_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Item, Money, SkuId};

    #[test]
    fn a_sale_is_due_from_some_time_before_its_start_until_its_end() {
        let price = Money::new(1, "CNY").expect("money");
        let item = Item { sku_id: SkuId::parse("x").expect("slug"), name: "X".to_owned(), stock: 1, price };
        let mut sale = Sale {
            id: SaleId::parse("s").expect("slug"),
            name: "S".to_owned(),
            state: SaleState::Published,
            starts_ms: 10_000,
            ends_ms: 20_000,
            buyer_limit: 1,
            unpaid_max: 3,
            access: crate::domain::Access::default(),
            payment_window_ms: 60_000,
            buckets: 1,
            epoch: 1,
            in_place: false,
            version: 1,
            items: vec![item],
        };
        let due = |sale: &Sale| [8_999, 9_000, 19_999, 20_000].map(|now_ms| is_due(sale, now_ms, 1000));
        assert_eq!(due(&sale), [false, true, true, false]);
        sale.state = SaleState::Preheated;
        assert_eq!(due(&sale), [false, true, true, false], "a preheat that was not finished");
        sale.in_place = true;
        assert_eq!(due(&sale), [false; 4]);
        sale.in_place = false;
        for state in [SaleState::Draft, SaleState::Paused, SaleState::Ended] {
            sale.state = state;
            assert_eq!(due(&sale), [false; 4], "{state:?}");
        }
    }
}
