//! Puts the guards before the ports that buyers wait for. Workers call the ports themselves: they wait for nobody, rest
//! after a failure, and find out what is back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};

use crate::clock::Clock;
use crate::domain::payment::{PaymentPage, RefundState};
use crate::domain::reservation::{ReleaseRequest, Released, Reservation, ReserveRequest, Verdict};
use crate::domain::{
    BucketId, Decision, Instance, Money, Month, Order, OrderCursor, OrderId, OrderRecord, Part, Payment,
    PaymentId, PaymentRequest, PaymentTerms, Refund, ShardMap, UserId, WholeOrder,
};
use crate::memory::guards::{Guard, Guards, Outcome};
use crate::ports::{
    Booked, Copied, Effect, ErrorKind, Inventory, LogIdentity, Offsets, OpenPage, Opened, OrderCopies,
    OrderLog, OrderLogReader, Orders, PaymentProvider, PaymentStep, Payments, Ports, ProviderBooks,
    ProviderEvent, ProviderRules, Standing, StoreError, StoreResult, TokenGrant, TokenLeases, TokenWish,
    Wake,
};

/// A guard, and the clock by which it is asked.
#[derive(Clone)]
struct Watched {
    guard: Arc<Guard>,
    clock: Clock,
}

impl Watched {
    /// Makes a call, or refuses it.
    async fn call<T>(
        &self,
        context: &'static str,
        work: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        let now_ns = || self.clock.monotonic().ns();
        let mut permit = self.guard.enter(now_ns()).map_err(|refused| {
            let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
            StoreError { kind, effect, context, source: Box::new(refused) }
        })?;
        let slow = std::pin::pin!(self.clock.sleep(self.guard.slow_after()));
        // A call that hangs is known to be slow long before it ends.
        let done = match select(std::pin::pin!(work), slow).await {
            Either::Left((done, _)) => done,
            Either::Right(((), work)) => {
                permit.slow(now_ns());
                work.await
            }
        };
        let is_down = matches!(&done, Err(error) if error.kind == ErrorKind::Unavailable);
        permit.done(if is_down { Outcome::Failed } else { Outcome::Answered }, now_ns());
        done
    }
}

/// Puts guards before the ports of buyers, as far as there are any.
pub fn guarded(mut ports: Ports, guards: &Guards, map: ShardMap, clock: &Clock) -> Ports {
    let watched = |guard| Watched { guard, clock: clock.clone() };
    if let Some(guard) = guards.inventory().map(watched) {
        ports.inventory = Arc::new(GuardedInventory { of: ports.inventory, guard: guard.clone() });
        let copies = |of| -> Arc<dyn OrderCopies> { Arc::new(GuardedCopies { of, guard: guard.clone() }) };
        ports.order_copies = ports.order_copies.map(copies);
        let leases = |of| -> Arc<dyn TokenLeases> { Arc::new(GuardedLeases { of, guard }) };
        ports.token_leases = ports.token_leases.map(leases);
    }
    if let Some(guard) = guards.order_log().map(watched) {
        ports.order_log = Arc::new(GuardedLog { of: ports.order_log, guard });
    }
    let databases = map.all_instances().map(|instance| guards.database(instance.number()).map(watched));
    if let Some(databases) = databases.collect::<Option<Arc<[Watched]>>>() {
        let of = Databases { guards: databases, map };
        ports.orders = Arc::new(GuardedOrders { of: ports.orders, at: of.clone() });
        ports.payments = Arc::new(GuardedPayments { of: ports.payments, at: of });
    }
    ports
}

/// Puts a guard before the payment provider, if there is one.
pub fn guarded_provider(
    of: Arc<dyn PaymentProvider>,
    guards: &Guards,
    clock: &Clock,
) -> Arc<dyn PaymentProvider> {
    match guards.provider() {
        Some(guard) => Arc::new(GuardedProvider { of, guard: Watched { guard, clock: clock.clone() } }),
        None => of,
    }
}

struct GuardedLeases {
    of: Arc<dyn TokenLeases>,
    guard: Watched,
}

#[async_trait]
impl TokenLeases for GuardedLeases {
    async fn lease(&self, wishes: &[TokenWish]) -> StoreResult<Vec<TokenGrant>> {
        self.guard.call("lease tokens", self.of.lease(wishes)).await
    }
}

struct GuardedCopies {
    of: Arc<dyn OrderCopies>,
    guard: Watched,
}

#[async_trait]
impl OrderCopies for GuardedCopies {
    async fn find(&self, order: OrderId) -> StoreResult<Option<WholeOrder>> {
        self.guard.call("find copy", self.of.find(order)).await
    }

    async fn read(&self, order: OrderId) -> StoreResult<Copied> {
        self.guard.call("read copy", self.of.read(order)).await
    }

    async fn keep(&self, number: u64, copy: &WholeOrder) -> StoreResult<bool> {
        self.guard.call("keep copy", self.of.keep(number, copy)).await
    }

    async fn forget(&self, orders: &[OrderId]) -> StoreResult<()> {
        self.guard.call("forget copies", self.of.forget(orders)).await
    }
}

struct GuardedInventory {
    of: Arc<dyn Inventory>,
    guard: Watched,
}

#[async_trait]
impl Inventory for GuardedInventory {
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>> {
        self.guard.call("reserve", self.of.reserve(bucket, batch)).await
    }

    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>> {
        self.guard.call("read hold", self.of.reservation(buckets, order)).await
    }

    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>> {
        self.of.winners(bucket).await
    }

    async fn mark_decided(&self, bucket: &BucketId, decided: &[Decision]) -> StoreResult<()> {
        self.of.mark_decided(bucket, decided).await
    }

    async fn release(&self, bucket: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released> {
        self.of.release(bucket, orders).await
    }
}

struct GuardedLog {
    of: Arc<dyn OrderLog>,
    guard: Watched,
}

#[async_trait]
impl OrderLog for GuardedLog {
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()> {
        self.guard.call("append", self.of.append(order, payload)).await
    }

    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()> {
        self.of.append_imported(records).await
    }

    async fn identity(&self) -> StoreResult<LogIdentity> {
        self.of.identity().await
    }

    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets> {
        self.of.offsets_in_reach(parts).await
    }

    async fn flush(&self, timeout: Duration) -> StoreResult<()> {
        self.of.flush(timeout).await
    }

    fn reader(&self, wake: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
        self.of.reader(wake)
    }
}

/// The guards of the databases, by the number of the instance.
#[derive(Clone)]
struct Databases {
    guards: Arc<[Watched]>,
    map: ShardMap,
}

impl Databases {
    fn of_order(&self, order: OrderId) -> &Watched {
        self.of(self.map.instance_of(order.shard()))
    }

    fn of(&self, instance: Instance) -> &Watched {
        &self.guards[usize::from(instance.number())]
    }
}

struct GuardedOrders {
    of: Arc<dyn Orders>,
    at: Databases,
}

#[async_trait]
impl Orders for GuardedOrders {
    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>> {
        self.at.of_order(order).call("read order", self.of.order(order)).await
    }

    async fn is_dead_letter(&self, order: OrderId) -> StoreResult<bool> {
        let guard = self.at.of_order(order);
        guard.call("look for dead letter", self.of.is_dead_letter(order)).await
    }

    async fn orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        let guard = self.at.of(self.at.map.instance_of(self.at.map.shard_of(user)));
        guard.call("list orders", self.of.orders_of(user, months, below, limit)).await
    }

    async fn holds_month(&self, month: Month) -> StoreResult<bool> {
        self.of.holds_month(month).await
    }
}

struct GuardedPayments {
    of: Arc<dyn Payments>,
    at: Databases,
}

#[async_trait]
impl Payments for GuardedPayments {
    fn instances(&self) -> Vec<Instance> {
        self.of.instances()
    }

    async fn of(&self, order: OrderId) -> StoreResult<Vec<Payment>> {
        self.at.of_order(order).call("read payments", self.of.of(order)).await
    }

    async fn open(&self, order: OrderId, terms: &PaymentTerms) -> StoreResult<Opened> {
        self.at.of_order(order).call("open payment", self.of.open(order, terms)).await
    }

    async fn advance(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool> {
        self.of.advance(payment, step).await
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Payment>> {
        self.of.due(at, limit).await
    }
}

struct GuardedProvider {
    of: Arc<dyn PaymentProvider>,
    guard: Watched,
}

impl ProviderRules for GuardedProvider {
    fn refusal(&self, amount: &Money) -> Option<String> {
        self.of.refusal(amount)
    }

    fn read_event(&self, body: &[u8]) -> Option<ProviderEvent> {
        self.of.read_event(body)
    }
}

#[async_trait]
impl ProviderBooks for GuardedProvider {
    async fn captures(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<Booked>, Option<String>)> {
        self.of.captures(since_ms, after).await
    }

    async fn booked(&self, capture: &str) -> StoreResult<Option<Booked>> {
        self.of.booked(capture).await
    }

    async fn pages(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<OpenPage>, Option<String>)> {
        self.of.pages(since_ms, after).await
    }
}

#[async_trait]
impl PaymentProvider for GuardedProvider {
    async fn open(&self, request: &PaymentRequest) -> StoreResult<PaymentPage> {
        self.guard.call("open payment page", self.of.open(request)).await
    }

    async fn close(&self, payment: &Payment) -> StoreResult<Standing> {
        self.guard.call("close payment page", self.of.close(payment)).await
    }

    async fn standing(&self, payment: &Payment) -> StoreResult<Standing> {
        self.of.standing(payment).await
    }

    async fn refund(&self, refund: &Refund) -> StoreResult<RefundState> {
        self.of.refund(refund).await
    }
}
