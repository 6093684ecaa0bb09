//! What a history does while none of its calls is under way. It compares the whole bucket, and it finds out what became
//! of a call that may have got no answer.

use std::collections::BTreeSet;

use seckill::domain::inventory_model::Accepted;
use seckill::domain::reservation::Reservation;
use seckill::ports::BucketState;

use super::*;

impl History {
    /// Compares everything that stands in Redis with the model: raw, and through the ports that read it.
    pub async fn verify(&mut self, line: &Line) {
        let mut real = contents::read(&mut line.raw.clone(), &self.keys(line)).await;
        for accepted in &mut real.outbox {
            if let Some((model, _)) = self.entries.iter().find(|(_, name)| *name == accepted.entry) {
                accepted.entry = model.clone();
            }
        }
        for (order, hold) in &real.orders {
            self.learn_time(*order, hold.reserved_ms);
        }
        let (place, model) = (self.place(), &self.model);
        assert_eq!(real.gate, model.gate, "gate: left Redis, right model; {place}");
        assert_eq!(real.stock, model.stock, "stock: left Redis, right model; {place}");
        assert_eq!(real.buyers, model.buyers, "buyers: left Redis, right model; {place}");
        assert_eq!(real.orders, model.orders, "orders: left Redis, right model; {place}");
        assert_eq!(real.outbox, model.outbox, "outbox: left Redis, right model; {place}");
        self.verify_ports(line).await;
    }

    async fn verify_ports(&mut self, line: &Line) {
        let place = self.place();
        let failed = |error: StoreError| -> ! { panic!("{place}: {error}") };
        let ports = &line.ports;
        let winners = ports.inventory.winners(&self.bucket).await.unwrap_or_else(|e| failed(e));
        // A scan may return a winner twice.
        let winners: BTreeSet<UserId> = winners.into_iter().collect();
        let users: BTreeSet<UserId> = self.model.orders.values().map(|hold| hold.user.clone()).collect();
        assert_eq!(winners, users, "{place}");

        let buckets =
            ports.gates.buckets(&wishes::sale(&self.bucket.sale, self.epoch, &BTreeMap::new())).await;
        let mut buckets = buckets.expect("buckets");
        for bucket in &mut buckets {
            match bucket {
                BucketState::Lost { keys } => assert!(!std::mem::take(keys).is_empty(), "{place}"),
                BucketState::Whole { placing_since_ms, .. } => {
                    let state = self.model.gate.as_ref().map(|gate| gate.state);
                    assert_eq!(
                        placing_since_ms.take().is_some(),
                        state == Some(GateState::Placing),
                        "{place}"
                    );
                }
                BucketState::Absent => {}
            }
        }
        assert_eq!(buckets, [wishes::bucket_state(&self.model)], "{place}");

        let pending = ports.outbox.pending(&self.bucket, Duration::ZERO, 10_000).await;
        let pending = pending.unwrap_or_else(|e| failed(e));
        let pending: Vec<_> = pending.into_iter().map(|entry| (entry.epoch, entry.waiting)).collect();
        let waiting = |accepted: &Accepted| {
            // The hold of an order may have been lost with its key.
            let hold =
                |order: &OrderId| Some(self.model.orders.get(order)?.reservation(&self.bucket.sale, *order));
            let held = accepted.orders.iter().filter_map(hold);
            (accepted.epoch, held.filter(|held| held.state == OrderState::Reserved).collect())
        };
        let waiting: Vec<(u32, Vec<Reservation>)> = self.model.outbox.iter().map(waiting).collect();
        assert_eq!(pending, waiting, "{place}");
        let length = ports.outbox.len(&self.bucket).await.unwrap_or_else(|e| failed(e));
        assert_eq!(usize::try_from(length), Ok(self.model.outbox_orders()), "{place}");

        let order = order_id(&self.bucket.sale, order_number(&mut self.dice, self.calls));
        let found = ports.inventory.reservation(std::slice::from_ref(&self.bucket), order).await;
        let found = found.unwrap_or_else(|e| failed(e));
        let found = found.map(|it| (it.state, it.sku, it.user, it.quantity, it.reserved_ms));
        let held = self.model.orders.get(&order).cloned();
        let held = held.map(|it| (it.state, it.sku, it.user, it.quantity, it.reserved_ms));
        assert_eq!(found, held, "{place}");
    }

    /// Makes a call to a server that is about to be killed or is paused.
    pub async fn ask_cut(&mut self, ports: &RedisPorts) -> Cut {
        self.calls += 1;
        let batch = self.any_batch();
        let asked_ms = now_ms();
        let answers = ports.inventory.reserve(&self.bucket, batch.clone()).await;
        Cut { batch, asked_ms, answers }
    }

    /// Finds out what became of a call, which must be all or nothing, and asks again as a client would. `anew` says
    /// that the server was started again after the call.
    pub async fn resolve_cut(&mut self, line: &Line, cut: Cut, anew: bool) {
        let mut after = self.model.clone();
        let expected = after.reserve(&cut.batch, cut.asked_ms);
        if anew {
            leave_run(&mut after);
            self.leave_run();
        }
        match cut.answers {
            Ok(answers) => {
                self.note("cut: answered before");
                self.model = after;
                self.compare(&cut.batch, expected, &answers);
            }
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Unavailable, "{}: {error}", self.place());
                if self.learn_cut(line, &after).await {
                    self.note("cut: applied unseen");
                    assert_eq!(error.effect, Effect::Unknown, "{}: {error}", self.place());
                    self.model = after;
                } else {
                    self.note("cut: without effect");
                }
            }
        }
        self.verify(line).await;
        let expected = self.model.reserve(&cut.batch, now_ms());
        let answers = line.ports.inventory.reserve(&self.bucket, cut.batch.clone()).await;
        let answers = answers.unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        self.compare(&cut.batch, expected, &answers);
    }

    /// Notes that the server was started again: the bucket is on another run than the one it was put in place on.
    pub fn leave_run(&mut self) {
        leave_run(&mut self.model);
    }

    /// Returns whether a call without answer had an effect. When it had, this notes Redis's names of its outbox
    /// entries.
    async fn learn_cut(&mut self, line: &Line, after: &Bucket) -> bool {
        let real = contents::read(&mut line.raw.clone(), &self.keys(line)).await;
        // A call that accepted nothing may still have noted that keys are lost.
        if real.orders.len() == self.model.orders.len() && real.gate == self.model.gate {
            return false;
        }
        let made = after.outbox.iter().skip(self.model.outbox.len());
        let named = real.outbox.iter().skip(self.model.outbox.len());
        for (made, named) in made.zip(named) {
            self.learn_entry(made.entry.clone(), named.entry.clone());
        }
        true
    }
}

fn leave_run(bucket: &mut Bucket) {
    if let Some(gate) = &mut bucket.gate {
        gate.is_on_its_run = false;
    }
}

/// Splits a Redis stream id into its two numbers.
pub(super) fn stream_id(entry: &OutboxEntryId) -> (u64, u64) {
    let (time, sequence) = entry.0.split_once('-').expect("two numbers");
    (time.parse().expect("a number"), sequence.parse().expect("a number"))
}
