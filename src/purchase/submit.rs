//! Buying: protocol steps 1 to 6.
//!
//! Everything after the free checks runs in a spawned task: the HTTP server drops a handler's future when the
//! client resets, and a drop between reservation and publication must not decide anything.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shop;
use super::admission::TooFast;
use super::desk::{Answer, Counter, SharedEntry};
use crate::domain::reservation::{Fingerprint, OutboxEntryId, Reservation, ReserveRequest, Verdict};
use crate::domain::sale::Phase;
use crate::domain::{
    BucketId, IdempotencyKey, Order, OrderId, OrderRecord, OrderState, Quantity, Sale, SaleId, SkuId, UserId,
};
use crate::metrics::{RESERVE_BATCH, SHED};
use crate::ports::{Effect, StoreError, StoreResult};

/// One click.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// From the verified token, never from the request's body (I6).
    pub user: UserId,
    pub address: IpAddr,
    pub sale: SaleId,
    pub sku: SkuId,
    pub quantity: Quantity,
    pub key: IdempotencyKey,
}

/// What the shop answers. All but the last four are decisions; those are failures that say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    Accepted {
        order: Order,
        replayed: bool,
    },
    UnknownSale,
    UnknownSku,
    NotStarted {
        starts_ms: i64,
    },
    Paused,
    Ended,
    SoldOut,
    LimitReached {
        held: u32,
        limit: u32,
    },
    KeyReused,
    TooFast(TooFast),
    /// Nothing was taken.
    Overloaded,
    /// Nothing was taken.
    Unavailable,
    /// Nothing was taken: this process is going away.
    Draining,
    /// Something may have been taken: ask again with the same key.
    OutcomeUnknown,
}

impl Submitted {
    /// The word of `seckill_admission_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Accepted { replayed: true, .. } => "replayed",
            Self::Accepted { order, .. } if order.state == OrderState::Reserved => "reserved",
            Self::Accepted { .. } => "queued",
            Self::UnknownSale => "unknown_sale",
            Self::UnknownSku => "unknown_sku",
            Self::NotStarted { .. } => "not_started",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::SoldOut => "sold_out",
            Self::LimitReached { .. } => "limit_reached",
            Self::KeyReused => "key_reused",
            Self::TooFast(_) => "throttled",
            Self::Overloaded | Self::Draining => "overloaded",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}

/// What a purchase's task has to know of its sale.
#[derive(Clone, Copy)]
struct Terms {
    phase: Phase,
    epoch: u32,
    starts_ms: i64,
    buyer_limit: u32,
}

/// Whoever waits for what becomes of a purchase, and the place it takes until it is told.
struct Asker {
    answer: oneshot::Sender<Submitted>,
    place: OwnedSemaphorePermit,
}

impl Asker {
    fn tell(self, submitted: Submitted) {
        // First, so that it is free for who hears the answer.
        drop(self.place);
        // A client that has gone is told nothing; what was decided stands all the same.
        let _ = self.answer.send(submitted);
    }
}

impl Shop {
    /// Buys, or says why not. Idempotent by (sale, user, key).
    pub async fn submit(self: &Arc<Self>, purchase: &Purchase) -> Submitted {
        let submitted = match self.decide(purchase) {
            // Only a panic ends the task without an answer, and it may have come after the reservation.
            ControlFlow::Continue(answer) => answer.await.unwrap_or(Submitted::OutcomeUnknown),
            ControlFlow::Break(refused) => refused,
        };
        let is_known = submitted != Submitted::UnknownSale;
        self.desk.count(is_known.then_some(&purchase.sale), submitted.outcome());
        submitted
    }

    /// What needs no I/O, and then the task that does the rest. No `async fn`: what it holds would be part of every
    /// request's future.
    fn decide(self: &Arc<Self>, purchase: &Purchase) -> ControlFlow<Submitted, oneshot::Receiver<Submitted>> {
        let snapshot = self.catalog.snapshot();
        let now_ms = self.clock.now_ms();
        let Some((sale, phase)) = snapshot.visible(&purchase.sale, now_ms) else {
            return ControlFlow::Break(Submitted::UnknownSale);
        };
        let shard = self.map.shard_of(&purchase.user);
        let bucket = self.bucket(sale, shard);
        if let Some(refused) = self.refuse_locally(purchase, sale, phase, &bucket, now_ms) {
            return ControlFlow::Break(refused);
        }
        if self.admission.is_draining() {
            counter!(SHED, "reason" => "draining").increment(1);
            return ControlFlow::Break(Submitted::Draining);
        }
        if self.admission.is_outbox_full() {
            counter!(SHED, "reason" => "outbox_full").increment(1);
            return ControlFlow::Break(Submitted::Unavailable);
        }
        let Some(place) = self.admission.enter() else {
            counter!(SHED, "reason" => "in_flight").increment(1);
            return ControlFlow::Break(Submitted::Overloaded);
        };
        let order = OrderId::derive(shard, sale.month(), &sale.id, &purchase.user, &purchase.key);
        let Some(record) = record_of(purchase, sale, order, now_ms) else {
            return ControlFlow::Break(Submitted::UnknownSku);
        };
        let fingerprint = Fingerprint::of(&record.sku_id, record.quantity);
        let request = ReserveRequest { record, fingerprint };
        let Sale { epoch, starts_ms, buyer_limit, .. } = *sale;
        let terms = Terms { phase, epoch, starts_ms, buyer_limit };
        let (answer, receiver) = oneshot::channel();
        let asker = Asker { answer, place };
        self.tasks.spawn(self.clone().reserve_and_queue(terms, bucket, request, asker));
        ControlFlow::Continue(receiver)
    }

    /// Step 1: what needs no I/O. A buyer's repeated click passes all of it, because only Redis knows it.
    fn refuse_locally(
        &self,
        purchase: &Purchase,
        sale: &Sale,
        phase: Phase,
        bucket: &BucketId,
        now_ms: i64,
    ) -> Option<Submitted> {
        if sale.item(&purchase.sku).is_none() {
            return Some(Submitted::UnknownSku);
        }
        // Redis's clock decides; ours only spares it the crowd that is clearly early.
        if phase == Phase::Upcoming && now_ms + self.settings.opening_skew_ms < sale.starts_ms
            || sale.state.is_editable()
        {
            return Some(Submitted::NotStarted { starts_ms: sale.starts_ms });
        }
        if purchase.quantity.units() > sale.buyer_limit {
            return Some(Submitted::LimitReached { held: 0, limit: sale.buyer_limit });
        }
        if self.desk.sold_out.refuses(bucket, &purchase.sku, &purchase.user, now_ms) {
            return Some(Submitted::SoldOut);
        }
        self.admission.check_rate(&purchase.user, purchase.address).err().map(Submitted::TooFast)
    }

    /// The task of one purchase. Goes on after the asker was told, so that a late acknowledgement still empties the
    /// outbox.
    async fn reserve_and_queue(
        self: Arc<Self>,
        terms: Terms,
        bucket: BucketId,
        request: ReserveRequest,
        asker: Asker,
    ) {
        let counter = self.desk.counter(&bucket, terms.epoch);
        let record = request.record.clone();
        let order = record.order_id;
        let began = Instant::now();
        let (answer, attempts) = self.reserve(&counter, &bucket, request).await;
        self.desk.reserve_seconds.record(began.elapsed());
        let submitted = match answer {
            Ok((Verdict::Reserved { .. }, Some(entry))) => {
                if self.append(record, asker).await.is_ok() {
                    self.acknowledge(&counter, bucket, order, entry);
                }
                return;
            }
            Ok((Verdict::Replayed(held), _)) => self.replay(record, held, attempts == 1).await,
            Ok((Verdict::SoldOut { available, orders_seen }, _)) => {
                if available == 0 {
                    self.note_sold_out(&bucket, &record.sku_id, orders_seen);
                }
                Submitted::SoldOut
            }
            Ok((verdict, _)) => refusal(&verdict, terms),
            Err(error) if error.effect == Effect::NotApplied => Submitted::Unavailable,
            Err(_) => Submitted::OutcomeUnknown,
        };
        asker.tell(submitted);
    }

    /// Steps 3 and 6. A call without an answer is repeated once with the same ids. When no attempt can have
    /// taken anything the error says so. Also answers how many attempts it took.
    async fn reserve(
        self: &Arc<Self>,
        counter: &Counter,
        bucket: &BucketId,
        request: ReserveRequest,
    ) -> (Answer, u32) {
        let first = self.reserve_once(counter, bucket, request.clone()).await;
        match first {
            Err(error) if error.effect == Effect::Unknown => {
                let second = self.reserve_once(counter, bucket, request).await;
                // The first attempt's outcome stays open, whatever the second failed with.
                (second.map_err(|_| error), 2)
            }
            decided => (decided, 1),
        }
    }

    async fn reserve_once(
        self: &Arc<Self>,
        counter: &Counter,
        bucket: &BucketId,
        request: ReserveRequest,
    ) -> Answer {
        let (shop, bucket) = (self.clone(), bucket.clone());
        let receiver = counter.reserve.ask(&self.tasks, request, move |batch: Vec<ReserveRequest>| {
            let (shop, bucket) = (shop.clone(), bucket.clone());
            async move {
                let size = batch.len();
                histogram!(RESERVE_BATCH).record(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
                match shop.ports.inventory.reserve(&bucket, batch.into()).await {
                    Ok(verdicts) => SharedEntry::deal(verdicts),
                    Err(error) => {
                        tracing::warn!(%error, sale = %bucket.sale, requests = size, "reservation failed");
                        vec![Err(Arc::new(error)); size]
                    }
                }
            }
        });
        receiver.await.unwrap_or_else(|_| {
            Err(Arc::new(StoreError {
                kind: crate::ports::ErrorKind::Broken,
                effect: Effect::Unknown,
                context: "reserve",
                source: "the batch ended without an answer".into(),
            }))
        })
    }

    /// Step 4. Tells the asker after `append_wait_ms` at the latest, and then waits on; a record that is never
    /// acknowledged is the relay's work.
    async fn append(&self, record: OrderRecord, asker: Asker) -> StoreResult<()> {
        let began = Instant::now();
        let mut append = self.ports.order_log.append(record.order_id, record.encode());
        let wait = Duration::from_millis(self.settings.append_wait_ms);
        let in_time = tokio::time::timeout(wait, &mut append).await;
        let state = if let Ok(Ok(())) = in_time { OrderState::Queued } else { OrderState::Reserved };
        let order = record.order_id;
        asker.tell(Submitted::Accepted { order: pending_order(record, state), replayed: false });
        let appended = match in_time {
            Ok(appended) => appended,
            Err(_) => append.await,
        };
        match &appended {
            Ok(()) => self.desk.append_seconds.record(began.elapsed()),
            Err(error) => tracing::debug!(%error, %order, "left to the relay"),
        }
        appended
    }

    /// Step 5.
    fn acknowledge(
        self: &Arc<Self>,
        counter: &Counter,
        bucket: BucketId,
        order: OrderId,
        entry: Arc<SharedEntry>,
    ) {
        let shop = self.clone();
        drop(counter.acknowledge.ask(&self.tasks, (order, entry), move |batch| {
            let (shop, bucket) = (shop.clone(), bucket.clone());
            async move {
                // Counted here, where calls follow one another: what was counted before was marked before.
                let last = |(_, entry): &(_, Arc<SharedEntry>)| entry.is_last().then(|| entry.id.clone());
                let entries: Vec<OutboxEntryId> = batch.iter().filter_map(last).collect();
                let orders: Vec<OrderId> = batch.iter().map(|(order, _)| *order).collect();
                if let Err(error) = shop.ports.outbox.acknowledge(&bucket, &orders, &entries).await {
                    tracing::debug!(%error, orders = orders.len(), "orders left to the relay");
                }
                vec![(); orders.len()]
            }
        }));
    }

    /// The same click again: the order it made, in the state it has now. What our own second attempt finds is
    /// no replay to the client.
    async fn replay(&self, record: OrderRecord, held: Reservation, replayed: bool) -> Submitted {
        let order = match self.settled_order(&held).await {
            Some(order) => order,
            None => pending_order(record, held.state),
        };
        Submitted::Accepted { order, replayed }
    }

    fn note_sold_out(self: &Arc<Self>, bucket: &BucketId, sku: &SkuId, orders_seen: u64) {
        let until_ms = self.clock.now_ms().saturating_add(self.settings.sold_out_recheck_ms);
        if !self.desk.sold_out.note(bucket, sku, orders_seen, until_ms) {
            return;
        }
        let (shop, bucket, sku) = (self.clone(), bucket.clone(), sku.clone());
        self.tasks.spawn(async move {
            let winners = match shop.ports.inventory.winners(&bucket).await {
                Ok(winners) => Some((winners, orders_seen)),
                Err(error) => {
                    tracing::warn!(%error, "winners not read; Redis keeps answering");
                    None
                }
            };
            let until_ms = shop.clock.now_ms().saturating_add(shop.settings.sold_out_recheck_ms);
            shop.desk.sold_out.set_winners(&bucket, &sku, winners, until_ms);
        });
    }
}

fn record_of(purchase: &Purchase, sale: &Sale, order_id: OrderId, now_ms: i64) -> Option<OrderRecord> {
    Some(OrderRecord {
        v: OrderRecord::VERSION,
        order_id,
        sale_id: sale.id.clone(),
        sku_id: purchase.sku.clone(),
        user_id: purchase.user.clone(),
        quantity: purchase.quantity,
        unit_price: sale.item(&purchase.sku)?.price.clone(),
        epoch: sale.epoch,
        accepted_ms: now_ms,
        decided: None,
    })
}

fn pending_order(record: OrderRecord, state: OrderState) -> Order {
    Order {
        id: record.order_id,
        sale: record.sale_id,
        sku: record.sku_id,
        user: record.user_id,
        quantity: record.quantity,
        unit_price: record.unit_price,
        state,
        reason: None,
        accepted_ms: record.accepted_ms,
        expires_ms: None,
    }
}

fn refusal(verdict: &Verdict, terms: Terms) -> Submitted {
    match verdict {
        Verdict::KeyReused => Submitted::KeyReused,
        Verdict::LimitReached { held } => Submitted::LimitReached { held: *held, limit: terms.buyer_limit },
        Verdict::NotStarted => Submitted::NotStarted { starts_ms: terms.starts_ms },
        Verdict::Paused => Submitted::Paused,
        Verdict::Ended => Submitted::Ended,
        Verdict::UnknownSku => Submitted::UnknownSku,
        // An ended sale's Redis state may be gone; a sale that should be selling has lost its gate.
        Verdict::GateShut if terms.phase == Phase::Ended => Submitted::Ended,
        Verdict::GateShut | Verdict::StaleEpoch => Submitted::Unavailable,
        Verdict::SoldOut { .. } => Submitted::SoldOut,
        Verdict::Reserved { .. } | Verdict::Replayed(_) => Submitted::OutcomeUnknown,
    }
}
