//! What MySQL decided, as a history tells the bucket: marks, and units that come back.

use seckill::domain::Decision;
use seckill::domain::reservation::{Release, ReleaseRequest, Released};

use super::*;

impl History {
    /// Marks any order with any state, also an order that is unknown or decided.
    pub async fn mark_decided(&mut self, line: &Line) {
        self.note("mark_decided calls");
        let number = self.dice.random_range(1..=4);
        let decided: Vec<Decision> = (0..number)
            .map(|_| {
                let order = order_id(&self.bucket.sale, order_number(&mut self.dice, self.calls));
                let state = one_of(&mut self.dice, &OrderState::ALL).expect("eight");
                let keeps = self.dice.random_range(0..4);
                Decision { order, state, buyer_keeps: (state == OrderState::Rejected).then_some(keeps) }
            })
            .collect();
        let marked = self.model.mark_decided(&decided);
        if chance(&mut self.dice, 50) {
            let done = line.ports.inventory.mark_decided(&self.bucket, &decided).await;
            return wishes::expect_done(&self.place(), done, true);
        }
        let mut call = line.scripts.mark_decided.prepare_invoke();
        let keys = self.keys(line);
        call.key(keys.orders).key(keys.buyers).key(keys.gate).key(keys.unpaid);
        for decision in &decided {
            call.arg(decision.order.bytes().as_slice()).arg(letter(decision.state));
            call.arg(decision.buyer_keeps.map_or(String::new(), |units| units.to_string()));
        }
        assert_eq!(self.raw::<i64>(line, &call).await, count(marked), "{}", self.place());
    }

    /// Releases any orders with any state, also orders that are unknown, live or released, and orders twice.
    pub async fn release(&mut self, line: &Line) {
        self.note("release calls");
        let number = self.dice.random_range(1..=4);
        let orders: Vec<ReleaseRequest> = (0..number)
            .map(|_| {
                let order = order_id(&self.bucket.sale, order_number(&mut self.dice, self.calls));
                let state = one_of(&mut self.dice, &OrderState::ALL).expect("eight");
                let buyer_keeps = Some(self.dice.random_range(0..4));
                let restock = chance(&mut self.dice, 80);
                ReleaseRequest { decision: Decision { order, state, buyer_keeps }, restock }
            })
            .collect();
        let expected = self.model.release(&orders);
        let kind = match &expected {
            Released::GateShut | Released::KeysLost => "no release",
            Released::Each(each) if each.contains(&Release::Done) => "units that came back",
            Released::Each(_) => "nothing to release",
        };
        self.note(kind);
        if chance(&mut self.dice, 50) {
            let released = line.ports.inventory.release(&self.bucket, &orders).await;
            assert_eq!(released.expect("an answer"), expected, "{}", self.place());
            return;
        }
        let keys = self.keys(line);
        let mut call = line.scripts.release.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.buyers).key(keys.orders).key(keys.unpaid);
        for ReleaseRequest { decision, restock } in &orders {
            call.arg(decision.order.bytes().as_slice()).arg(letter(decision.state));
            call.arg(decision.buyer_keeps).arg(u8::from(*restock));
        }
        let answer: Value = self.raw(line, &call).await;
        let expected = match expected {
            Released::GateShut => Value::BulkString(b"gate_shut".to_vec()),
            Released::KeysLost => Value::BulkString(b"keys_lost".to_vec()),
            Released::Each(each) => Value::Array(each.into_iter().map(release_number).collect()),
        };
        assert_eq!(answer, expected, "{}", self.place());
    }
}

fn release_number(release: Release) -> Value {
    Value::Int(match release {
        Release::Done => 1,
        Release::Nothing => 0,
        Release::Contradicted => -1,
    })
}
