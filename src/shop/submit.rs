//! Buying: steps 1 to 6 of docs/protocol/steps.md.
//!
//! Everything after the checks without I/O runs in a spawned task. The reason: the HTTP server drops a handler's future
//! when the client resets the connection, and a drop between reservation and publication must not decide anything.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shop;
use super::bucket_queues::{Answer, Answered, BucketQueue, SharedEntry};
use super::purchase::{Accepted, Purchase, Refusal};
use crate::clock::Moment;
use crate::domain::purchase_token::TokenFault;
use crate::domain::reservation::{Denial, Fingerprint, OutboxEntryId, Reservation, ReserveRequest};
use crate::domain::rule::Way;
use crate::domain::sale::Phase;
use crate::domain::{BucketId, Order, OrderId, OrderRecord, OrderState, Quantity, Reference, Sale, SkuId};
use crate::memory::rulebook::{Asker, Passes, Standing};
use crate::metrics::{RESERVE_BATCH, SHED};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};
use crate::trace::{self, Kind, Purpose, Span};

/// The answer to a purchase.
pub(super) type Submitted = Result<Accepted, Refusal>;

/// Whether the rules of traffic were asked about a purchase.
enum Asked {
    No,
    /// They were, and answered how much is left of the buyer's scarcest limit.
    Yes(Option<Standing>),
}

/// What a purchase goes on with.
enum Decided {
    /// With the answer of the task that reserves and queues.
    Reserves(oneshot::Receiver<Submitted>, Option<Standing>),
    /// With what a rule has it wait for.
    Waits(Box<Passes>),
}

/// What the body of a purchase asks for.
pub(super) type Body<'a> = (&'a SkuId, Quantity, Option<&'a Reference>);

/// What the task of a purchase has to know of its sale.
#[derive(Clone, Copy)]
struct Terms {
    phase: Phase,
    starts_ms: i64,
    buyer_limit: u32,
    in_place: bool,
    buckets: u16,
}

/// Where the answer to a purchase goes, and the place that the purchase takes until it is answered.
struct ReplyTo {
    answer: oneshot::Sender<Submitted>,
    place: OwnedSemaphorePermit,
}

impl ReplyTo {
    /// Answers the purchase and frees its place.
    fn tell(self, submitted: Submitted) {
        // The place is freed first, so that a client that has the answer finds it free.
        drop(self.place);
        // A client that is gone gets no answer. What was decided stands all the same.
        let _ = self.answer.send(submitted);
    }
}

/// Waits for the answer of the task that reserves and queues.
async fn told(answer: oneshot::Receiver<Submitted>, standing: Option<Standing>) -> Submitted {
    // Only a panic ends the task without an answer, and the panic may have come after the reservation.
    let submitted = answer.await.unwrap_or(Err(Refusal::OutcomeUnknown));
    submitted.map(|accepted| Accepted { standing, ..accepted })
}

/// Answers a purchase whose key has made an order already: with it, when it is what the body asks for.
pub(super) fn replayed(order: Order, asked: Body<'_>) -> Submitted {
    if (&order.sku, order.quantity, order.reference.as_ref()) == asked {
        Ok(Accepted::new(order, true))
    } else {
        Err(Refusal::KeyReused)
    }
}

/// Answers who asks for a purchase.
pub(super) fn asker(purchase: &Purchase) -> Asker<'_> {
    let Purchase { user, address, sale, device, .. } = purchase;
    Asker {
        way: Way::Purchase,
        user: Some(user),
        address: *address,
        sale: Some(sale),
        device: device.as_ref(),
    }
}

impl Shop {
    /// Buys, or answers why not. Idempotent by sale, user and key.
    ///
    /// # Errors
    /// The refusal. Only [`Refusal::OutcomeUnknown`] leaves open whether there is an order.
    pub async fn submit(self: &Arc<Self>, purchase: &Purchase) -> Result<Accepted, Refusal> {
        let submitted = match self.decide(purchase, Asked::No) {
            Ok(Decided::Reserves(answer, standing)) => told(answer, standing).await,
            Ok(Decided::Waits(passes)) => Box::pin(self.submit_later(*passes, purchase)).await,
            // Their futures are large, and all others would carry room for them.
            Err(Refusal::UnknownSale) => Box::pin(self.submit_to_settled(purchase)).await,
            Err(Refusal::TokenInvalid(TokenFault::Expired)) => Box::pin(self.submit_expired(purchase)).await,
            Err(refusal) => Err(refusal),
        };
        let is_known = submitted != Err(Refusal::UnknownSale);
        let outcome = submitted.as_ref().map_or_else(Refusal::outcome, Accepted::outcome);
        self.queues.count(is_known.then_some(&purchase.sale), outcome);
        submitted
    }

    /// Buys after a rule has let the purchase wait. Everything but the rules is looked at again, because it may be
    /// otherwise now.
    async fn submit_later(self: &Arc<Self>, passes: Passes, purchase: &Purchase) -> Submitted {
        let standing = self.traffic.wait(passes, &asker(purchase)).await.map_err(Refusal::Ruled)?;
        match self.decide(purchase, Asked::Yes(standing))? {
            Decided::Reserves(answer, standing) => told(answer, standing).await,
            // Rules that were asked let nobody wait.
            Decided::Waits(_) => Err(Refusal::Unavailable),
        }
    }

    /// Runs the checks that need no I/O, then spawns the task that reserves and queues. This is no `async fn`, because
    /// its variables would be part of every request's future.
    fn decide(self: &Arc<Self>, purchase: &Purchase, rules: Asked) -> Result<Decided, Refusal> {
        let snapshot = self.catalog();
        let now_ms = self.clock.now_ms();
        let Some((sale, phase)) = snapshot.visible(&purchase.sale, now_ms) else {
            // A front that has not read the directory yet does not know which sales there are.
            return Err(if snapshot.is_read { Refusal::UnknownSale } else { Refusal::Unavailable });
        };
        if !self.memory.rules.is_read() {
            return Err(Refusal::Unavailable);
        }
        if !self.traffic.shows(&sale.id, Some((&purchase.user, purchase.proven_device()))) {
            return Err(Refusal::UnknownSale);
        }
        let shard = self.map.shard_of(&purchase.user);
        let bucket = self.bucket(sale, shard);
        self.check_locally(purchase, sale, phase, &bucket, now_ms)?;
        let standing = match rules {
            Asked::Yes(standing) => standing,
            Asked::No => {
                let passes = self.traffic.ask(&asker(purchase)).map_err(Refusal::Ruled)?;
                if passes.pending.is_some() {
                    return Ok(Decided::Waits(Box::new(passes)));
                }
                passes.standing
            }
        };
        if self.admission.is_draining() {
            counter!(SHED, "reason" => "draining").increment(1);
            return Err(Refusal::Draining);
        }
        // An order that the log does not take is answered at once, so many may come between two looks at the outbox.
        let unsent = snapshot.stock.outbox_orders + self.memory.catalog.late();
        if unsent >= self.settings.outbox_orders_max {
            self.note_no_room("outbox_full");
            return Err(Refusal::Unavailable);
        }
        let Some(place) = self.admission.enter() else {
            self.note_no_room("in_flight");
            return Err(Refusal::Overloaded);
        };
        let order = OrderId::derive(shard, sale.month(), &sale.id, &purchase.user, &purchase.key);
        let Some(mut record) = purchase.record(sale, (order, self.ports.node.mark()), now_ms) else {
            return Err(Refusal::UnknownSku);
        };
        let purpose = trace::purpose();
        record.trace = purpose.trace.map(Box::new);
        let fingerprint = Fingerprint::of(&record.sku_id, record.quantity, record.reference.as_ref());
        let request = ReserveRequest { record, fingerprint };
        let Sale { starts_ms, buyer_limit, in_place, buckets, .. } = *sale;
        let terms = Terms { phase, starts_ms, buyer_limit, in_place, buckets };
        let (answer, receiver) = oneshot::channel();
        let reply_to = ReplyTo { answer, place };
        let task = self.clone().reserve_and_queue(terms, bucket, request, reply_to);
        self.tasks.spawn_here(trace::within(purpose, task));
        Ok(Decided::Reserves(receiver, standing))
    }

    fn note_no_room(&self, reason: &'static str) {
        counter!(SHED, "reason" => reason).increment(1);
        self.admission.ladder.note_refused(self.clock.monotonic());
    }

    /// Answers a purchase of a settled sale: with the order that the same key made, or that the sale is over.
    async fn submit_to_settled(self: &Arc<Self>, purchase: &Purchase) -> Submitted {
        let Some(month) = self.catalog().settled.get(&purchase.sale).copied() else {
            return Err(Refusal::UnknownSale);
        };
        if !self.traffic.shows(&purchase.sale, Some((&purchase.user, purchase.proven_device()))) {
            return Err(Refusal::UnknownSale);
        }
        self.traffic.pass(&asker(purchase)).await.map_err(Refusal::Ruled)?;
        let Some(_place) = self.admission.enter() else {
            self.note_no_room("in_flight");
            return Err(Refusal::Overloaded);
        };
        let Purchase { user, sale, key, sku, quantity, reference, .. } = purchase;
        let order = OrderId::derive(self.map.shard_of(user), month, sale, user, key);
        self.replay_of_row(order, (sku, *quantity, reference.as_ref())).await
    }

    /// Answers a purchase of a sale of which the inventory has nothing any more. `asked` is what its body asks for.
    async fn replay_of_row(&self, order: OrderId, asked: Body<'_>) -> Submitted {
        match self.ports.orders.order(order).await {
            Ok(Some(order)) => replayed(order, asked),
            Ok(None) => Err(Refusal::Ended),
            Err(_) => Err(Refusal::Unavailable),
        }
    }

    /// Checks the sale and the sold-out flag (step 1). The rules are asked after it. A buyer's repeated request passes
    /// all of them but the rules, because only Redis knows that it is repeated.
    fn check_locally(
        &self,
        purchase: &Purchase,
        sale: &Sale,
        phase: Phase,
        bucket: &BucketId,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        if sale.item(&purchase.sku).is_none() {
            return Err(Refusal::UnknownSku);
        }
        // The clock of Redis decides. Ours only spares it the purchases that are clearly too early.
        let is_early = now_ms + self.settings.opening_skew_ms < sale.starts_ms;
        if phase == Phase::Upcoming && (is_early || !sale.in_place) {
            return Err(Refusal::NotStarted { starts_ms: sale.starts_ms });
        }
        if phase == Phase::Delayed {
            return Err(Refusal::Delayed);
        }
        if self.queues.sold_out.refuses(bucket, &purchase.sku, &purchase.user) {
            return Err(Refusal::SoldOut);
        }
        // A sale that is over sells nothing, and tells who bought.
        if sale.access.purchase_token && phase != Phase::Ended {
            return self.check_token(purchase, sale, phase, now_ms);
        }
        Ok(())
    }

    /// Reserves and queues one purchase, in a task of its own. It goes on after the buyer has the answer, so that a
    /// late acknowledgement still removes the outbox entry.
    async fn reserve_and_queue(
        self: Arc<Self>,
        terms: Terms,
        bucket: BucketId,
        request: ReserveRequest,
        reply_to: ReplyTo,
    ) {
        let looks = self.memory.catalog.looks();
        let queue = self.queues.queue(&bucket);
        let mut record = request.record.clone();
        let order = record.order_id;
        let began = self.clock.monotonic();
        let mut span = Span::follow(record.trace(), "reserve", Kind::Internal);
        let (mut answer, mut attempts) = self.reserve(&queue, &bucket, request.clone()).await;
        if terms.buckets > 1 {
            (answer, attempts) = self.with_other_buckets(&queue, &bucket, request, (answer, attempts)).await;
        }
        self.queues.reserve_seconds.record(self.clock.monotonic().since(began));
        match &answer {
            Ok(answered) => span.set("seckill.verdict", || answered.word()),
            Err(error) => span.fail(error),
        }
        drop(span);
        let submitted = match answer {
            Ok(Answered::Reserved { entry, reserved_ms, epoch }) => {
                self.queues.sold_out.note_winner(&bucket, &record.user_id);
                // One clock says when an order was accepted, whoever tells it: this answer, a later one, or the row.
                (record.accepted_ms, record.epoch) = (reserved_ms, epoch);
                if self.append(record, reply_to, looks).await.is_ok() {
                    self.acknowledge(&queue, bucket, order, entry);
                }
                return;
            }
            Ok(Answered::Replayed(held)) => Ok(self.replay(record, held, attempts == 1).await),
            Ok(Answered::Denied { denial, asked }) => {
                if let Denial::SoldOut { available: 0, orders_seen } = denial {
                    self.note_sold_out(&bucket, &record.sku_id, orders_seen, asked);
                }
                match refusal(&denial, terms) {
                    // Another process may have settled the sale just now.
                    Refusal::Ended if denial == Denial::GateShut => {
                        let asked = (&record.sku_id, record.quantity, record.reference.as_ref());
                        self.replay_of_row(order, asked).await
                    }
                    refusal => Err(refusal),
                }
            }
            Err(error) if error.effect == Effect::NotApplied => Err(Refusal::Unavailable),
            Err(_) => Err(Refusal::OutcomeUnknown),
        };
        reply_to.tell(submitted);
    }

    /// Answers whether a call without an answer may be repeated: one in ten may, or a crowd would make an inventory
    /// that is too slow slower.
    fn may_retry(&self) -> bool {
        self.memory.guards.inventory().is_none_or(|guard| guard.may_retry())
    }

    /// Reserves (steps 3 and 6), and answers also how many attempts that took. A call without an answer is repeated
    /// once with the same ids. The error is `NotApplied` when no attempt can have taken anything.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        queue: &BucketQueue,
        bucket: &BucketId,
        request: ReserveRequest,
    ) -> (Answer, u32) {
        let first = self.reserve_once(queue, bucket, request.clone()).await;
        match first {
            Err(error) if error.effect == Effect::Unknown && self.may_retry() => {
                match self.reserve_once(queue, bucket, request).await {
                    // The first attempt may still be applied, when what refuses the second is over by then. So its
                    // outcome stays open, also when the second failed.
                    Ok(Answered::Denied { denial, .. }) if !denial.is_lasting() => (Err(error), 2),
                    Err(_) => (Err(error), 2),
                    answered => (answered, 2),
                }
            }
            decided => (decided, 1),
        }
    }

    /// Reserves in one call, together with the purchases that wait at the same time.
    async fn reserve_once(
        self: &Arc<Self>,
        queue: &BucketQueue,
        bucket: &BucketId,
        request: ReserveRequest,
    ) -> Answer {
        let (shop, bucket) = (self.clone(), bucket.clone());
        let receiver = queue.reserve.ask(&self.tasks, request, move |batch: Vec<ReserveRequest>| {
            let (shop, bucket) = (shop.clone(), bucket.clone());
            async move {
                let size = batch.len();
                histogram!(RESERVE_BATCH).record(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
                let asked = shop.clock.monotonic();
                let traced = batch.iter().filter_map(|request| request.record.trace());
                let mut span = Span::of_batch("reserve batch", Kind::Internal, traced);
                span.set("seckill.sale", || bucket.sale.as_str());
                span.set("seckill.requests", || size);
                let purpose = Purpose { request: None, trace: span.context() };
                match trace::within(purpose, shop.ports.inventory.reserve(&bucket, batch.into())).await {
                    Ok(verdicts) => SharedEntry::deal(verdicts, asked),
                    Err(error) => {
                        tracing::warn!(%error, sale = %bucket.sale, requests = size, "reservation failed");
                        vec![Err(Arc::new(error)); size]
                    }
                }
            }
        });
        receiver.await.unwrap_or_else(|_| {
            Err(Arc::new(StoreError {
                kind: ErrorKind::Broken,
                effect: Effect::Unknown,
                context: "reserve",
                source: "the batch ended without an answer".into(),
            }))
        })
    }

    /// Appends the record to the order log (step 4). The buyer has the answer after `append_wait_ms` at the latest, and
    /// then this waits on. The relay delivers a record that is never acknowledged.
    async fn append(&self, mut record: OrderRecord, reply_to: ReplyTo, looks: u64) -> StoreResult<()> {
        let began = self.clock.monotonic();
        let mut span = Span::follow(record.trace(), "append", Kind::Producer);
        span.set("messaging.operation.type", || "send");
        span.set("seckill.order", || record.order_id.to_string());
        record.trace = span.context().map(Box::new);
        let mut append = self.ports.order_log.append(record.order_id, record.encode());
        let wait = Duration::from_millis(self.settings.append_wait_ms);
        let in_time = self.clock.timeout(wait, &mut append).await;
        let state = if let Ok(Ok(())) = in_time { OrderState::Queued } else { OrderState::Reserved };
        let order = record.order_id;
        if state == OrderState::Reserved {
            self.memory.catalog.note_late(looks);
        }
        if order.is_among(self.settings.logged_per_million) {
            tracing::info!(%order, sale = %record.sale_id, state = state.as_str(), "order accepted");
        }
        reply_to.tell(Ok(Accepted::new(record.into_order(state), false)));
        let appended = match in_time {
            Ok(appended) => appended,
            Err(_) => append.await,
        };
        match &appended {
            Ok(()) => self.queues.append_seconds.record(self.clock.monotonic().since(began)),
            Err(error) => {
                span.fail(error);
                tracing::debug!(%error, %order, "left to the relay");
            }
        }
        appended
    }

    /// Marks the order queued, and removes its outbox entry with the last order of it (step 5). Nobody waits for that.
    fn acknowledge(
        self: &Arc<Self>,
        queue: &BucketQueue,
        bucket: BucketId,
        order: OrderId,
        entry: Arc<SharedEntry>,
    ) {
        let shop = self.clone();
        drop(queue.acknowledge.ask(&self.tasks, (order, entry), move |batch| {
            let (shop, bucket) = (shop.clone(), bucket.clone());
            async move {
                // Acknowledgements are counted here, where one call follows another: an order that was counted before
                // was marked before.
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

    /// Answers a repeated request with the order that the first one made, in the state that it has now. An order that
    /// our own second attempt finds is no replay to the client, so the caller gives `replayed`.
    async fn replay(&self, record: OrderRecord, held: Reservation, replayed: bool) -> Accepted {
        let order = match self.decided_order(&held).await {
            Some(order) => order,
            None => Order {
                is_delayed: self.is_delayed(&held).await,
                ..OrderRecord { accepted_ms: held.reserved_ms, ..record }.into_order(held.state)
            },
        };
        Accepted::new(order, replayed)
    }

    /// Notes that a SKU was sold out after `asked`. When the winners are not known, spawns the task that reads them.
    fn note_sold_out(self: &Arc<Self>, bucket: &BucketId, sku: &SkuId, orders_seen: u64, asked: Moment) {
        let until = asked + self.settings.sold_out_recheck;
        if !self.queues.sold_out.note(bucket, sku, orders_seen, until) {
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
            shop.queues.sold_out.set_winners(&bucket, &sku, winners, until);
        });
    }
}

/// Translates a denial of the inventory.
fn refusal(denial: &Denial, terms: Terms) -> Refusal {
    match denial {
        Denial::KeyReused => Refusal::KeyReused,
        Denial::TooManyUnpaid { unpaid } => Refusal::TooManyUnpaid { unpaid: *unpaid },
        Denial::LimitReached { held } => Refusal::LimitReached { held: *held, limit: terms.buyer_limit },
        Denial::NotStarted => Refusal::NotStarted { starts_ms: terms.starts_ms },
        Denial::Paused => Refusal::Paused,
        Denial::Ended => Refusal::Ended,
        Denial::UnknownSku => Refusal::UnknownSku,
        // The Redis state of an ended sale may be gone. A sale that should be selling has lost its gate.
        Denial::GateShut if terms.phase == Phase::Ended => Refusal::Ended,
        Denial::GateShut if !terms.in_place => Refusal::Delayed,
        Denial::GateShut | Denial::KeysLost => Refusal::Unavailable,
        Denial::SoldOut { available: 0, .. } => Refusal::SoldOut,
        Denial::SoldOut { available, .. } => {
            Refusal::FewerLeft { left: (*available).min(terms.buyer_limit.saturating_sub(1)) }
        }
    }
}
