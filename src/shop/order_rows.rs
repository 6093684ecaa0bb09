//! Reads the rows of orders for their buyers: what this process has read a moment ago, a copy that all processes share,
//! and the database, in this order.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use metrics::counter;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::domain::{OrderId, WholeOrder};
use crate::memory::order_cache::{Known, OrderCache, Unknown};
use crate::metrics::ORDER_READS;
use crate::ports::{Copied, OrderCopies, Orders, Payments, StoreError, StoreResult};
use crate::shutdown::Tasks;
use crate::trace;

/// The rows of orders.
pub struct OrderRows {
    cache: Arc<OrderCache>,
    source: Arc<Source>,
    clock: Clock,
    tasks: Tasks,
}

/// Copies cannot be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiesUnreadable;

/// Where rows are read.
pub struct Source {
    /// The rows.
    pub orders: Arc<dyn Orders>,
    /// The payments; `None` where the shop takes no money.
    pub payments: Option<Arc<dyn Payments>>,
    /// The copies, where there are any.
    pub copies: Option<Arc<dyn OrderCopies>>,
}

impl OrderRows {
    /// Makes it over what this process has read. `tasks` own the reads.
    pub fn new(cache: Arc<OrderCache>, source: Source, clock: Clock, tasks: Tasks) -> Self {
        Self { cache, source: Arc::new(source), clock, tasks }
    }

    /// Begins a read. It comes to its end also when everybody who waits for it has gone: it holds a connection, a place
    /// before a guard, and perhaps the right to make a copy.
    fn begin(&self, read: impl Future<Output = Known> + Send + 'static) -> BoxFuture<'static, Known> {
        let (answer, answered) = oneshot::channel();
        let read = trace::within(trace::purpose(), read);
        self.tasks.spawn_here(async move { drop(answer.send(read.await)) });
        let ended = || Unknown::Failed(Arc::new(StoreError::broken("read order", "the read has ended")));
        async move { answered.await.unwrap_or_else(|_| Err(ended())) }.boxed()
    }

    /// Answers an order whose row was read a moment ago. Costs no I/O.
    pub fn recent(&self, order: OrderId) -> Option<Arc<WholeOrder>> {
        self.cache.recent(order, self.clock.monotonic())
    }

    /// Answers an order of which there is a copy, at most a second late; `None` when there is none. Costs one request
    /// to Redis.
    ///
    /// # Errors
    /// When copies cannot be read now.
    pub async fn copied(&self, order: OrderId) -> Result<Option<Arc<WholeOrder>>, CopiesUnreadable> {
        if self.source.copies.is_none() {
            return Ok(None);
        }
        let read = || {
            let source = self.source.clone();
            self.begin(async move { source.copy(order).await })
        };
        match self.cache.read(order, self.clock.monotonic(), read).await {
            Ok(row) => Ok(row),
            Err(Unknown::NotCopied) => Ok(None),
            Err(Unknown::Failed(error)) => {
                tracing::debug!(%error, "copies cannot be read");
                Err(CopiesUnreadable)
            }
        }
    }

    /// Reads the row of an order, at most a second late. `None` when it has none. `copied` is what [`Self::copied`] has
    /// answered.
    ///
    /// # Errors
    /// When it is known nowhere but in the database, and that cannot be read.
    pub async fn read(
        &self,
        order: OrderId,
        copied: Result<(), CopiesUnreadable>,
    ) -> Result<Option<Arc<WholeOrder>>, Arc<StoreError>> {
        let read = || {
            let source = self.source.clone();
            self.begin(async move {
                source.read(order, copied).await.map_err(|error| Unknown::Failed(Arc::new(error)))
            })
        };
        loop {
            match self.cache.read(order, self.clock.monotonic(), read).await {
                Ok(row) => return Ok(row),
                Err(Unknown::Failed(error)) => return Err(error),
                // This joined somebody who only looked for a copy.
                Err(Unknown::NotCopied) => {}
            }
        }
    }

    /// Reads the row of an order as it is now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read_now(&self, order: OrderId) -> StoreResult<Option<WholeOrder>> {
        self.source.database(order).await
    }
}

impl Source {
    /// Looks for a copy.
    async fn copy(&self, order: OrderId) -> Known {
        let copies = self.copies.as_ref().ok_or(Unknown::NotCopied)?;
        let found = copies.find(order).await.map_err(|error| Unknown::Failed(Arc::new(error)))?;
        let found = found.ok_or(Unknown::NotCopied)?;
        counter!(ORDER_READS, "from" => "copies").increment(1);
        Ok(Some(Arc::new(found)))
    }

    /// Reads the copy, or else the database, of which it makes the copy if it may.
    async fn read(
        &self,
        order: OrderId,
        copied: Result<(), CopiesUnreadable>,
    ) -> StoreResult<Option<Arc<WholeOrder>>> {
        let copies = self.copies.as_ref().filter(|_| copied.is_ok());
        let Some(copies) = copies else { return self.database(order).await.map(wrapped) };
        let number = match copies.read(order).await {
            Ok(Copied::Found(whole)) => {
                counter!(ORDER_READS, "from" => "copies").increment(1);
                return Ok(Some(Arc::new(*whole)));
            }
            Ok(Copied::Wanted(number)) => Some(number),
            Ok(Copied::Awaited) => None,
            Err(error) => {
                tracing::debug!(%error, "copies cannot be read");
                None
            }
        };
        let row = self.database(order).await;
        // The copy is for others: whoever reads the order has it, whether or not it could be kept.
        let done = match (number, &row) {
            (Some(number), Ok(Some(whole))) => copies.keep(number, whole).await.map(drop),
            (Some(_), _) => copies.forget(&[order]).await,
            (None, _) => Ok(()),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a copy was not kept");
        }
        row.map(wrapped)
    }

    async fn database(&self, order: OrderId) -> StoreResult<Option<WholeOrder>> {
        counter!(ORDER_READS, "from" => "database").increment(1);
        let Some(order) = self.orders.order(order).await? else { return Ok(None) };
        let payments = match &self.payments {
            Some(payments) => payments.of(order.id).await?,
            None => Vec::new(),
        };
        Ok(Some(WholeOrder { order, payments }))
    }
}

fn wrapped(row: Option<WholeOrder>) -> Option<Arc<WholeOrder>> {
    row.map(Arc::new)
}
