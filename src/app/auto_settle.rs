//! Settles sales that have been over for long, so that nothing of them stays where the crowd is served. The task stands
//! here because no worker may use the shop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use crate::domain::{Sale, SaleId, SaleState};
use crate::metrics::SALES_UNSETTLED;
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};
use crate::shop::Shop;
use crate::worker::driver::{Progress, Task};

/// The task that settles sales.
pub struct AutoSettle {
    /// Knows the sales, and settles them.
    pub shop: Arc<Shop>,
    /// How long after its end a sale is settled, in ms.
    pub after_ms: i64,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for AutoSettle {
    fn name(&self) -> &'static str {
        "auto_settle"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Settles every sale that is due and of which nothing is open.
    ///
    /// # Errors
    /// When a sale should be settled and cannot. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let now_ms = self.shop.now_ms();
        let catalog = self.shop.catalog();
        let due = catalog.sales.values().filter(|sale| is_due(sale, now_ms, self.after_ms));
        let mut due: Vec<SaleId> = due.map(|sale| sale.id.clone()).collect();
        // What was cut off is finished.
        due.extend(self.shop.uncleared().await.unwrap_or_default());
        let (mut done, mut unsettled, mut failure) = (0, 0, Ok(()));
        for sale in due {
            match self.shop.settle_by_itself(&sale).await {
                Ok(is_settled) => done += usize::from(is_settled),
                Err(detail) => {
                    unsettled += 1;
                    let source = format!("{sale}: {detail}").into();
                    let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
                    failure = Err(StoreError { kind, effect, context: "settle a sale", source });
                }
            }
        }
        gauge!(SALES_UNSETTLED).set(f64::from(unsettled));
        failure.map(|()| Progress::of(done))
    }
}

/// Answers whether a sale that was put in place has been over for so long. One that was imported was put in place
/// elsewhere, and its orders may still be coming: operators settle it.
fn is_due(sale: &Sale, now_ms: i64, after_ms: i64) -> bool {
    let was_in_place = matches!(sale.state, SaleState::Preheated | SaleState::Paused | SaleState::Ended);
    was_in_place && sale.in_place && now_ms >= sale.ends_ms.saturating_add(after_ms)
}
