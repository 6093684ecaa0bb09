//! What became of an order. Redis answers while it is pending, MySQL afterwards.

use std::time::{Duration, Instant};

use metrics::counter;

use super::catalog::is_selling;
use super::{Failure, Shop};
use crate::domain::reservation::Reservation;
use crate::domain::{BucketId, Month, Order, OrderCursor, OrderId, UserId};
use crate::metrics::SHED;

/// A pending reservation younger than this is believed without asking MySQL.
const FRESH_MS: i64 = 2_000;
/// Pause between two looks while a request waits for its order.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// Most months one page of a buyer's orders looks through.
const MONTHS_MAX: usize = 24;

/// A page of one buyer's orders, newest first.
#[derive(Debug)]
pub struct OrderPage {
    pub orders: Vec<Order>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<OrderCursor>,
}

impl Shop {
    /// A buyer's own order; `None` when there is none, also when it is somebody else's.
    ///
    /// # Errors
    /// When neither Redis nor MySQL could tell.
    pub async fn order(&self, user: &UserId, id: OrderId) -> Result<Option<Order>, Failure> {
        if !self.map.holds(id.shard()) || id.shard() != self.map.shard_of(user) {
            return Ok(None);
        }
        let held = self.held(id, true).await;
        if let Ok(Some(held)) = &held {
            if held.user != *user {
                return Ok(None);
            }
            let age_ms = self.clock.now_ms().saturating_sub(held.reserved_ms);
            if held.state.is_pending() && age_ms < FRESH_MS {
                return Ok(self.order_of(held));
            }
        }
        match self.ports.orders.order(id).await {
            Ok(Some(order)) => Ok(Some(order).filter(|order| order.user == *user)),
            Ok(None) => {
                // No row: perhaps one of a sale that is long over, whose writers were down all the time.
                let held = match held? {
                    Some(held) => Some(held),
                    None => self.held(id, false).await?.filter(|held| held.user == *user),
                };
                Ok(held.and_then(|held| self.order_of(&held)))
            }
            // The hold says at least that the order exists and what is known of it.
            Err(error) => match held {
                Ok(Some(held)) => Ok(self.order_of(&held)),
                _ => Err(Failure::of_read(error)),
            },
        }
    }

    /// Like [`Self::order`], but looks again until MySQL has decided or `wait_s` (bounded) are over.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn order_when_decided(
        &self,
        user: &UserId,
        id: OrderId,
        wait_s: u64,
    ) -> Result<Option<Order>, Failure> {
        let deadline = Instant::now() + Duration::from_secs(wait_s.min(self.settings.wait_s_max));
        let Ok(_place) = self.waiters.try_acquire() else {
            counter!(SHED, "reason" => "waiters").increment(1);
            return self.order(user, id).await;
        };
        let mut pause = LOOK_FIRST;
        loop {
            let order = self.order(user, id).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_draining() || !order.as_ref().is_some_and(|o| o.state.is_pending()) {
                return Ok(order);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// A page of at most `limit` orders. Pending ones are not in it: they have no row yet.
    ///
    /// # Errors
    /// When the buyer's shard could not be read.
    pub async fn orders(
        &self,
        user: &UserId,
        after: Option<OrderCursor>,
        limit: u32,
    ) -> Result<OrderPage, Failure> {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut orders: Vec<Order> = Vec::new();
        for month in self.months(after) {
            let below = after.filter(|cursor| cursor.month == month);
            let missing = limit.saturating_sub(u32::try_from(orders.len()).unwrap_or(limit));
            // One more than fits tells whether there is a next page.
            let page = self.ports.orders.orders_of(user, month, below, missing + 1).await;
            orders.extend(page.map_err(Failure::of_read)?);
            if orders.len() > wanted {
                break;
            }
        }
        let more = orders.len() > wanted;
        orders.truncate(wanted);
        let next = orders.last().filter(|_| more).map(|last| OrderCursor {
            month: last.id.month(),
            accepted_ms: last.accepted_ms,
            order: last.id,
        });
        Ok(OrderPage { orders, next })
    }

    /// Months that can hold orders, newest first, from the cursor's on.
    fn months(&self, after: Option<OrderCursor>) -> Vec<Month> {
        let snapshot = self.catalog.snapshot();
        let mut months: Vec<Month> = snapshot.sales.values().map(crate::domain::Sale::month).collect();
        months.retain(|month| after.is_none_or(|cursor| *month <= cursor.month));
        months.sort_unstable_by(|a, b| b.cmp(a));
        months.dedup();
        months.truncate(MONTHS_MAX);
        months
    }

    /// The row of a decided hold; `None` while it is pending or cannot be read.
    pub(super) async fn settled_order(&self, held: &Reservation) -> Option<Order> {
        let age_ms = self.clock.now_ms().saturating_sub(held.reserved_ms);
        if held.state.is_pending() && age_ms < FRESH_MS {
            return None;
        }
        self.ports.orders.order(held.id).await.ok().flatten()
    }

    /// An id names shard and month, not its sale: ask the buckets of that month's running sales, or of all.
    async fn held(&self, id: OrderId, running_only: bool) -> Result<Option<Reservation>, Failure> {
        let snapshot = self.catalog.snapshot();
        let now_ms = self.clock.now_ms();
        let sales = snapshot.sales.values();
        let buckets: Vec<BucketId> = sales
            .filter(|sale| sale.month() == id.month() && !sale.state.is_editable())
            .filter(|sale| !running_only || is_selling(sale, now_ms))
            .map(|sale| self.bucket(sale, id.shard()))
            .collect();
        self.ports.inventory.reservation(&buckets, id).await.map_err(Failure::of_read)
    }

    fn order_of(&self, held: &Reservation) -> Option<Order> {
        let snapshot = self.catalog.snapshot();
        let item = snapshot.sales.get(&held.sale)?.item(&held.sku)?;
        Some(Order {
            id: held.id,
            sale: held.sale.clone(),
            sku: held.sku.clone(),
            user: held.user.clone(),
            quantity: held.quantity,
            unit_price: item.price.clone(),
            state: held.state,
            reason: None,
            accepted_ms: held.reserved_ms,
            expires_ms: None,
        })
    }
}
