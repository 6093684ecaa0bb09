//! Answers what became of an order. Redis knows it while the order is pending, and MySQL afterwards.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::order_rows::CopiesUnreadable;
use super::{Failure, Shop};
use crate::domain::reservation::Reservation;
use crate::domain::{
    BucketId, Decision, Month, Order, OrderCursor, OrderId, OrderRecord, Sale, UserId, WholeOrder,
};
use crate::metrics::{ORDER_READS, SHED};
use crate::ports::StoreError;

/// A pending hold that is younger than this is believed, and MySQL is not asked.
const FRESH_MS: i64 = 2_000;
/// A pending hold that is older than this may be delayed, and its dead letter is looked for. Writers that merely lag do
/// not make everybody look.
const DELAYED_AFTER_MS: i64 = 5_000;
/// The first pause between two looks of a request that waits for its order; each pause is twice the one before.
const LOOK_FIRST: Duration = Duration::from_millis(20);
/// The longest pause between two looks, while few wait.
const LOOK_LAST: Duration = Duration::from_millis(250);
/// How often all that wait look together in a second, at most. More of them would leave purchases no time.
const LOOKS_PER_S: u32 = 5_000;
/// Most months that one page of a buyer's orders looks through.
const MONTHS_MAX: usize = 12;

/// How old what is read of a row may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A second.
    MaybeLate,
    /// Nothing at all.
    Now,
}

/// A page of one buyer's orders, newest first.
#[derive(Debug)]
pub struct OrderPage {
    /// The orders, at most as many as were asked for.
    pub orders: Vec<Order>,
    /// Where the next page starts; `None` on the last page.
    pub next: Option<OrderCursor>,
}

impl Shop {
    /// Reads a buyer's own order with its payments; `None` when there is none, also when it is somebody else's. An
    /// order that has a row is known at most a second late, and most often costs nothing. Otherwise it costs one
    /// request to Redis, and those to MySQL unless the order is fresh and pending.
    ///
    /// # Errors
    /// When neither Redis nor MySQL could tell, or this process has never read the directory.
    pub async fn order(&self, user: &UserId, id: OrderId) -> Result<Option<Arc<WholeOrder>>, Failure> {
        if id.shard() != self.map.shard_of(user) {
            return Ok(None);
        }
        Ok(self.find(id, Reading::MaybeLate).await?.filter(|whole| whole.order.user == *user))
    }

    /// Reads the order of a buyer who changes it. One that has a row is read in the database alone, so that nobody
    /// needs Redis to pay.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub(super) async fn order_to_change(&self, user: &UserId, id: OrderId) -> Result<Option<Order>, Failure> {
        if id.shard() != self.map.shard_of(user) {
            return Ok(None);
        }
        match self.ports.orders.order(id).await.map_err(Failure::of_read)? {
            Some(order) => Ok(Some(order).filter(|order| order.user == *user)),
            None => Ok(self.order(user, id).await?.map(|whole| whole.order.clone())),
        }
    }

    /// Reads anybody's order as it is now, for operators.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn any_order(&self, id: OrderId) -> Result<Option<Arc<WholeOrder>>, Failure> {
        self.find(id, Reading::Now).await
    }

    async fn find(&self, id: OrderId, reading: Reading) -> Result<Option<Arc<WholeOrder>>, Failure> {
        if !self.map.holds(id.shard()) {
            return Ok(None);
        }
        // The sales say in which buckets a hold may be.
        if !self.catalog().is_read {
            return Err(Failure::Unavailable);
        }
        let mut copied = Ok(());
        if reading == Reading::MaybeLate {
            if let Some(whole) = self.rows.recent(id) {
                return Ok(Some(whole));
            }
            // A copy is one look. A hold is one for each sale that it may be of.
            match self.rows.copied(id).await {
                Ok(Some(whole)) => return Ok(Some(whole)),
                Ok(None) => {}
                Err(unreadable) => copied = Err(unreadable),
            }
        }
        let held = self.held(id, true).await;
        if let Ok(Some(held)) = &held
            && self.is_fresh(held)
        {
            counter!(ORDER_READS, "from" => "hold").increment(1);
            return Ok(self.order_of(held));
        }
        let known_hold = held.as_ref().ok().and_then(Option::as_ref);
        match self.row(id, (reading, copied), known_hold).await {
            Ok(Some(whole)) => Ok(Some(whole)),
            Ok(None) => {
                // The order has no row. Perhaps its sale is long over, and the writers were down all the time.
                let held = match held? {
                    Some(held) => Some(held),
                    None => self.held(id, false).await?,
                };
                let Some(held) = held else { return Ok(None) };
                let is_delayed = self.is_delayed(&held).await;
                Ok(self.order_of(&held).map(|mut whole| {
                    Arc::make_mut(&mut whole).order.is_delayed = is_delayed;
                    whole
                }))
            }
            // The hold says at least that the order exists, and what is known of it.
            Err(error) => match held {
                Ok(Some(held)) => Ok(self.order_of(&held)),
                _ => Err(Failure::of_shared_read(&error)),
            },
        }
    }

    /// Reads the row of an order, of which `held` is known.
    async fn row(
        &self,
        id: OrderId,
        (reading, copied): (Reading, Result<(), CopiesUnreadable>),
        held: Option<&Reservation>,
    ) -> Result<Option<Arc<WholeOrder>>, Arc<StoreError>> {
        let now = async || self.rows.read_now(id).await.map(|row| row.map(Arc::new)).map_err(Arc::new);
        // What has no row yet may have it at any moment.
        if reading == Reading::Now || held.is_some_and(|held| held.state.is_pending()) {
            return now().await;
        }
        match self.rows.read(id, copied).await {
            // It was read before the order was decided.
            Ok(None) if held.is_some() => now().await,
            row => row,
        }
    }

    /// Reads an order like [`Self::order`], but looks again until the order is not pending or is delayed, `wait_s`
    /// seconds (bounded by [`Self::wait_s`]) are over, or the process drains. Looks only once when too many requests
    /// wait already. Between the first look and the last one, databases are read only of an order that was decided.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub async fn order_when_decided(
        &self,
        user: &UserId,
        id: OrderId,
        wait_s: u64,
    ) -> Result<Option<Arc<WholeOrder>>, Failure> {
        let deadline = self.clock.monotonic() + Duration::from_secs(self.wait_s(wait_s));
        let Ok(_place) = self.waiters.try_acquire() else {
            counter!(SHED, "reason" => "waiters").increment(1);
            return self.order(user, id).await;
        };
        let (mut pause, mut whole) = (LOOK_FIRST, self.order(user, id).await?);
        loop {
            let left = deadline.since(self.clock.monotonic());
            let order = whole.as_ref().map(|whole| &whole.order);
            let may_change = order.is_some_and(|order| order.state.is_pending() && !order.is_delayed);
            if left.is_zero() || self.is_draining() || !may_change {
                return Ok(whole);
            }
            let own = pause.max(self.share_of_looks());
            self.clock.sleep(own.min(left)).await;
            let is_last = own >= left;
            pause = (pause * 2).min(LOOK_LAST);
            // A crowd that waits for orders must not keep their writers from the databases.
            if is_last || !self.is_held_pending(id).await {
                whole = self.order(user, id).await?;
            }
        }
    }

    /// Answers how long a request that waits has to leave Redis to the others that do.
    fn share_of_looks(&self) -> Duration {
        let waiting = self.settings.waiters_max.saturating_sub(self.waiters.available_permits());
        Duration::from_secs(1) * u32::try_from(waiting).unwrap_or(u32::MAX) / LOOKS_PER_S
    }

    /// Answers whether the inventory says of an order that it is not decided.
    async fn is_held_pending(&self, id: OrderId) -> bool {
        matches!(self.held(id, true).await, Ok(Some(held)) if held.state.is_pending())
    }

    /// Reads a page of at most `limit` orders. Pending ones are not in it, because they have no row yet. A page looks
    /// through a bounded number of months, so it may hold fewer orders than `limit`, or none, while there is a next
    /// one.
    ///
    /// # Errors
    /// When the buyer's shard could not be read, or this process has never read the directory.
    pub async fn orders(
        &self,
        user: &UserId,
        after: Option<OrderCursor>,
        limit: u32,
    ) -> Result<OrderPage, Failure> {
        // The sales say which months there are.
        if !self.catalog().is_read {
            return Err(Failure::Unavailable);
        }
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut months = self.months(after);
        let rest = months.split_off(months.len().min(MONTHS_MAX));
        // One order more than fits tells whether there is a next page.
        let orders = self.ports.orders.orders_of(user, &months, after, limit.saturating_add(1)).await;
        let mut orders = orders.map_err(Failure::of_read)?;
        let more = orders.len() > wanted;
        orders.truncate(wanted);
        let next = if more {
            orders.last().map(|last| OrderCursor {
                month: last.id.month(),
                accepted_ms: last.accepted_ms,
                order: last.id,
            })
        } else {
            // Before the newest order that the next month could have.
            rest.first().map(|month| OrderCursor {
                month: *month,
                accepted_ms: i64::MAX,
                order: OrderId::last_of(self.map.shard_of(user), *month),
            })
        };
        Ok(OrderPage { orders, next })
    }

    /// Lists the months that can have orders, newest first, from the cursor's on.
    fn months(&self, after: Option<OrderCursor>) -> Vec<Month> {
        let snapshot = self.catalog();
        let sold = snapshot.sales.values().filter(|sale| !sale.state.is_editable());
        let mut months: Vec<Month> =
            sold.map(Sale::month).chain(snapshot.settled.values().copied()).collect();
        months.retain(|month| after.is_none_or(|cursor| *month <= cursor.month));
        months.sort_unstable_by(|a, b| b.cmp(a));
        months.dedup();
        months
    }

    /// Reads the row of a hold; `None` while the hold is fresh and pending, and when there is no row or it cannot be
    /// read.
    pub(super) async fn decided_order(&self, held: &Reservation) -> Option<Order> {
        if self.is_fresh(held) {
            return None;
        }
        self.ports.orders.order(held.id).await.ok().flatten()
    }

    /// Answers whether a hold that has no row stays pending until a person acts, because its record is a dead letter.
    /// `false` while the hold has not waited for long, and when that cannot be read.
    pub(super) async fn is_delayed(&self, held: &Reservation) -> bool {
        let may_be = held.state.is_pending() && self.age_ms(held) >= DELAYED_AFTER_MS;
        may_be && self.ports.orders.is_dead_letter(held.id).await.unwrap_or(false)
    }

    /// Answers whether a hold is pending and so young that it most likely has no row yet.
    fn is_fresh(&self, held: &Reservation) -> bool {
        held.state.is_pending() && self.age_ms(held) < FRESH_MS
    }

    fn age_ms(&self, held: &Reservation) -> i64 {
        self.clock.now_ms().saturating_sub(held.reserved_ms)
    }

    /// Reads the hold of an order. An id names shard and month but not its sale, so the buckets of all sales of the
    /// month are asked, or only those of sales that sell.
    async fn held(&self, id: OrderId, running_only: bool) -> Result<Option<Reservation>, Failure> {
        let snapshot = self.catalog();
        let now_ms = self.clock.now_ms();
        let sales = snapshot.sales.values();
        let buckets: Vec<BucketId> = sales
            .filter(|sale| sale.month() == id.month() && !sale.state.is_editable())
            .filter(|sale| !running_only || sale.is_selling(now_ms))
            .map(|sale| self.bucket(sale, id.shard()))
            .collect();
        self.ports.inventory.reservation(&buckets, id).await.map_err(Failure::of_read)
    }

    /// Makes the record of an order from its hold; `None` when there is no hold, or it is of no sale that is known.
    pub(super) async fn unwritten(&self, id: OrderId) -> Result<Option<OrderRecord>, Failure> {
        let Some(held) = self.held(id, false).await? else { return Ok(None) };
        let snapshot = self.catalog();
        let Some(sale) = snapshot.sales.get(&held.sale) else { return Ok(None) };
        Ok(held.record(sale, sale.epoch))
    }

    /// Tells the inventory what was decided of an order, so that its buyer reads it. Best effort: what is owed is told
    /// again.
    pub(super) async fn mark(&self, order: &Order, decision: Decision) {
        let snapshot = self.catalog();
        let Some(sale) = snapshot.sales.get(&order.sale) else { return };
        let bucket = self.bucket(sale, order.id.shard());
        if let Err(error) = self.ports.inventory.mark_decided(&bucket, &[decision]).await {
            tracing::debug!(%error, order = %order.id, "not marked");
        }
    }

    /// Makes the order of a hold; `None` when the catalog does not know the sale or the item.
    fn order_of(&self, held: &Reservation) -> Option<Arc<WholeOrder>> {
        let snapshot = self.catalog();
        let item = snapshot.sales.get(&held.sale)?.item(&held.sku)?;
        let order = Order {
            id: held.id,
            sale: held.sale.clone(),
            sku: held.sku.clone(),
            user: held.user.clone(),
            quantity: held.quantity,
            unit_price: item.price.clone(),
            reference: held.reference.clone(),
            state: held.state,
            reason: None,
            accepted_ms: held.reserved_ms,
            expires_ms: None,
            is_delayed: false,
        };
        Some(Arc::new(WholeOrder::from(order)))
    }
}
