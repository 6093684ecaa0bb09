//! Asks the payment provider again and again, until there are final answers. The tasks stand here because no worker may
//! use the shop.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::clock::Clock;
use crate::ports::StoreResult;
use crate::shop::Shop;
use crate::shop::payment_rounds::Round;
use crate::worker::driver::{Progress, Task};

/// How often payments, refunds and captures that are due are looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How often the refunds that have failed are counted.
const REFUND_WATCH_PERIOD: Duration = Duration::from_secs(10);
/// How often it is looked whether the provider's books are to be compared with ours; and how soon after a failure.
const BOOKS_PERIOD: Duration = Duration::from_secs(600);
/// How long after a comparison the next one is made, in ms.
const BOOKS_EVERY_MS: i64 = 24 * 3_600_000;
/// How far back the books are compared, in ms: three days, so that one missed comparison is made up for.
const BOOKS_MS: i64 = 3 * 24 * 3_600_000;

type Work = Box<dyn Fn(Arc<Shop>) -> BoxFuture<'static, StoreResult<Round>> + Send + Sync>;

struct PaymentTask {
    name: &'static str,
    period: Duration,
    shop: Arc<Shop>,
    work: Work,
}

/// Makes the tasks.
pub fn payment_tasks(shop: &Arc<Shop>, clock: &Clock) -> Vec<Arc<dyn Task>> {
    let task = |name, period, work| -> Arc<dyn Task> {
        Arc::new(PaymentTask { name, period, shop: shop.clone(), work })
    };
    let (clock, last_ms) = (clock.clone(), Arc::new(AtomicI64::new(i64::MIN)));
    let books: Work = Box::new(move |shop| {
        let (now_ms, last_ms) = (clock.now_ms(), last_ms.clone());
        Box::pin(async move {
            if now_ms.saturating_sub(last_ms.load(Ordering::Relaxed)) < BOOKS_EVERY_MS {
                return Ok(Round::default());
            }
            let compared = shop.reconcile_payments(now_ms.saturating_sub(BOOKS_MS)).await?;
            last_ms.store(now_ms, Ordering::Relaxed);
            Ok(Round { done: compared.found, is_full: false })
        })
    });
    vec![
        task(
            "payment_watch",
            PERIOD,
            Box::new(|shop| Box::pin(async move { shop.ask_about_payments().await })),
        ),
        task("refund_payer", PERIOD, Box::new(|shop| Box::pin(async move { shop.pay_back().await }))),
        task(
            "refund_watch",
            REFUND_WATCH_PERIOD,
            Box::new(|shop| Box::pin(async move { shop.watch_refunds().await })),
        ),
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
        let Round { done, is_full } = (self.work)(self.shop.clone()).await?;
        Ok(Progress { done, again_in: is_full.then_some(Duration::ZERO) })
    }
}
