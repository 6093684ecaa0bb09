//! Asks the payment provider again and again, until there are final answers. The tasks stand here because no worker may
//! use the shop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::clock::Clock;
use crate::ports::StoreResult;
use crate::shop::Shop;
use crate::worker::driver::{Progress, Task};

/// How often payments, refunds and captures that are due are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the provider's books are compared with ours.
const BOOKS_PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// How far back the books are compared, in ms: three days, so that one missed comparison is made up for.
const BOOKS_MS: i64 = 3 * 24 * 3_600_000;

type Round = Box<dyn Fn(Arc<Shop>) -> BoxFuture<'static, StoreResult<usize>> + Send + Sync>;

struct PaymentTask {
    name: &'static str,
    period: Duration,
    shop: Arc<Shop>,
    round: Round,
}

/// Makes the tasks.
pub fn payment_tasks(shop: &Arc<Shop>, clock: &Clock) -> Vec<Arc<dyn Task>> {
    let task = |name, period, round| -> Arc<dyn Task> {
        Arc::new(PaymentTask { name, period, shop: shop.clone(), round })
    };
    let clock = clock.clone();
    let books: Round = Box::new(move |shop| {
        let since_ms = clock.now_ms().saturating_sub(BOOKS_MS);
        Box::pin(async move { shop.reconcile_payments(since_ms).await.map(|done| done.found) })
    });
    vec![
        task(
            "payment_watch",
            PERIOD,
            Box::new(|shop| Box::pin(async move { shop.ask_about_payments().await })),
        ),
        task("refund_payer", PERIOD, Box::new(|shop| Box::pin(async move { shop.pay_back().await }))),
        task("orphan_captures", PERIOD, Box::new(|shop| Box::pin(async move { shop.retry_orphans().await }))),
        task("payment_books", BOOKS_PERIOD, books),
    ]
}

#[async_trait]
impl Task for PaymentTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn run_once(&self) -> StoreResult<Progress> {
        (self.round)(self.shop.clone()).await.map(Progress::of)
    }
}
