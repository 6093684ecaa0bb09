//! Plays one random history of one bucket. Each call goes to Redis and to the model, and both must say the same.

mod decided;
mod quiet;
mod rebuilt;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::aio::MultiplexedConnection;
use redis::{Script, ScriptInvocation, Value};
use seckill::backend::distributed::RedisPorts;
use seckill::domain::inventory_model::{Bucket, Gate, GateChange, GateState, Preheated};
use seckill::domain::reservation::{OutboxEntryId, ReserveRequest, Verdict};
use seckill::domain::{BucketId, OrderId, OrderState, Sale, SaleId, SaleState, UserId};
use seckill::ports::{Effect, ErrorKind, Placed, StoreError, StoreResult};

use self::quiet::stream_id;
use super::contents::{self, Keys, letter};
use crate::wishes::{self, SKUS, chance, now_ms, one_of, order_id, order_number, sku};

/// The most by which Redis's reading of the machine's clock may differ from ours.
const CLOCK_SLACK_MS: i64 = 60_000;

/// The two ways to one server: the product's ports, and the scripts called directly. The ports do not pass on the bare
/// answers of the scripts.
pub struct Line {
    pub ports: RedisPorts,
    pub raw: MultiplexedConnection,
    pub prefix: String,
    pub scripts: Scripts,
}

pub struct Scripts {
    pub preheat: Script,
    gate: Script,
    reserve: Script,
    acknowledge: Script,
    mark_decided: Script,
    release: Script,
}

impl Scripts {
    pub fn new() -> Self {
        Self {
            preheat: Script::new(include_str!("../../../lua/preheat.lua")),
            gate: Script::new(include_str!("../../../lua/gate.lua")),
            reserve: Script::new(include_str!("../../../lua/reserve.lua")),
            acknowledge: Script::new(include_str!("../../../lua/acknowledge.lua")),
            mark_decided: Script::new(include_str!("../../../lua/mark_decided.lua")),
            release: Script::new(include_str!("../../../lua/release.lua")),
        }
    }
}

/// How often each kind of call was made and each kind of answer was given.
pub type Tally = BTreeMap<&'static str, u64>;

/// An outbox entry of the history: its names in the model and in Redis.
type Entry = (OutboxEntryId, OutboxEntryId);

pub struct History {
    seed: u64,
    number: u64,
    dice: StdRng,
    bucket: BucketId,
    epoch: u32,
    model: Bucket,
    entries: Vec<Entry>,
    /// Redis's time of each reservation, once it was seen. From then on it must not change.
    times: HashMap<OrderId, i64>,
    calls: u32,
    /// For which epoch the bucket was cleared; `None` when it is open again.
    rebuilding: Option<u32>,
    pub tally: Tally,
}

/// A call during which the server was killed or paused.
pub struct Cut {
    batch: Arc<[ReserveRequest]>,
    asked_ms: i64,
    answers: StoreResult<Vec<Verdict>>,
}

fn count(length: usize) -> i64 {
    i64::try_from(length).expect("few")
}

impl History {
    pub fn new(seed: u64, number: u64) -> Self {
        let sale = SaleId::parse(&format!("h{number}")).expect("a slug");
        Self {
            seed,
            number,
            dice: StdRng::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            bucket: BucketId { sale, bucket: 0 },
            epoch: 1,
            model: Bucket::default(),
            entries: Vec::new(),
            times: HashMap::new(),
            calls: 0,
            rebuilding: None,
            tally: Tally::new(),
        }
    }

    fn place(&self) -> String {
        let Self { seed, number, calls, .. } = self;
        format!("history {number}, call {calls}; SECKILL_MODEL_SEED={seed} repeats it")
    }

    fn keys(&self, line: &Line) -> Keys {
        Keys::of(&line.prefix, &self.bucket)
    }

    fn note(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub async fn run(&mut self, line: &Line, calls: u32) {
        for _ in 0..calls {
            self.disturb(line).await;
            self.calls += 1;
            self.note("calls");
            let is_lost = self.model.gate.as_ref().is_some_and(|gate| gate.lost);
            let is_shut = is_lost || self.model.admission(now_ms()).is_err();
            match self.dice.random_range(0..100) {
                0..25 if is_shut => self.heal(line).await,
                0..68 => self.reserve(line).await,
                68..79 => self.acknowledge(line).await,
                79..85 => self.mark_decided(line).await,
                85..90 => self.release(line).await,
                90..93 => {
                    let states = [GateState::Open, GateState::Paused, GateState::Ended, GateState::Unknown];
                    let state = one_of(&mut self.dice, &states).expect("four");
                    self.set_gate(line, state).await;
                }
                93..96 => self.preheat(line).await,
                96 => match self.dice.random_range(0..3) {
                    0 => self.renew(line).await,
                    1 => self.count(line).await,
                    _ => self.rebuild(line).await,
                },
                _ => self.ask_wrongly(line).await,
            }
        }
    }

    async fn raw<T: redis::FromRedisValue>(&self, line: &Line, call: &ScriptInvocation<'_>) -> T {
        let answer = call.invoke_async(&mut line.raw.clone()).await;
        answer.unwrap_or_else(|error| panic!("{}: {error}", self.place()))
    }

    /// Does what no script does: it loses or damages a gate, renews its lease or lets it lapse, or loses a key.
    async fn disturb(&mut self, line: &Line) {
        let key = self.keys(line).gate;
        let mut command = match self.dice.random_range(0..1000) {
            0..15 => {
                self.model.gate = None;
                redis::cmd("DEL").arg(&key).take()
            }
            15..20 => {
                let Some(gate) = &mut self.model.gate else { return };
                gate.terms = None;
                let fields = ["opens_ms", "closes_ms", "buyer_limit", "lease_ms"];
                let field = one_of(&mut self.dice, &fields).expect("four");
                if chance(&mut self.dice, 50) {
                    redis::cmd("HDEL").arg(&key).arg(field).take()
                } else {
                    redis::cmd("HSET").arg(&key).arg(field).arg("soon").take()
                }
            }
            20..40 => {
                let lease_ms = wishes::lease_ms(&mut self.dice);
                let Some(terms) = self.model.gate.as_mut().and_then(|gate| gate.terms.as_mut()) else {
                    return;
                };
                terms.lease_ms = lease_ms;
                redis::cmd("HSET").arg(&key).arg("lease_ms").arg(lease_ms).take()
            }
            40..42 => {
                // A key that was evicted, or removed by hand.
                let keys = self.keys(line);
                match one_of(&mut self.dice, &["stock", "buyers", "orders"]).expect("three") {
                    "stock" => {
                        self.model.stock.clear();
                        redis::cmd("DEL").arg(keys.stock).take()
                    }
                    "buyers" => {
                        self.model.buyers.clear();
                        redis::cmd("DEL").arg(keys.buyers).take()
                    }
                    _ => {
                        self.model.orders.clear();
                        self.times.clear();
                        redis::cmd("DEL").arg(keys.orders).take()
                    }
                }
            }
            _ => return,
        };
        let done: Result<Value, _> = command.take().query_async(&mut line.raw.clone()).await;
        done.unwrap_or_else(|error| panic!("{}: {error}", self.place()));
    }

    /// Repairs a gate that lets nobody pass, so that a history does not end in refusals.
    async fn heal(&mut self, line: &Line) {
        let is_whole = |gate: &Gate| gate.terms.is_some() && !gate.lost && gate.state != GateState::Open;
        if self.model.gate.as_ref().is_some_and(is_whole) {
            return self.set_gate(line, GateState::Open).await;
        }
        if self.rebuilding.is_some() || chance(&mut self.dice, 30) {
            return self.rebuild(line).await;
        }
        self.model.gate = None;
        let lost: Result<i64, _> =
            redis::cmd("DEL").arg(self.keys(line).gate).query_async(&mut line.raw.clone()).await;
        lost.unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        self.preheat(line).await;
        self.set_gate(line, GateState::Open).await;
    }

    async fn preheat(&mut self, line: &Line) {
        self.note("preheat calls");
        let mut terms = wishes::terms(&mut self.dice);
        let mut stock = BTreeMap::new();
        for name in SKUS {
            // Not always are both SKUs put in place, so that what a lost gate left behind shows.
            if chance(&mut self.dice, 90) {
                stock.insert(sku(name), self.dice.random_range(0..=24));
            }
        }
        let epoch = (self.epoch + self.dice.random_range(0..3)).saturating_sub(1).max(1);
        let is_raw = chance(&mut self.dice, 50);
        if !is_raw {
            terms.lease_ms = 0;
        }
        let expected = match self.rebuilding {
            Some(_) => Preheated::Conflict,
            None => self.model.preheat(epoch, terms, &stock),
        };
        if expected == Preheated::Created {
            self.epoch = epoch;
        }
        if is_raw {
            let keys = self.keys(line);
            let mut call = line.scripts.preheat.prepare_invoke();
            call.key(keys.gate)
                .key(keys.stock)
                .key(keys.orders)
                .key(keys.unpaid)
                .key(keys.references)
                .key(keys.rebuild)
                .arg(epoch)
                .arg(terms.opens_ms)
                .arg(terms.closes_ms);
            call.arg(terms.buyer_limit).arg(terms.lease_ms).arg(terms.unpaid_max);
            for (sku, units) in &stock {
                call.arg(sku.as_str()).arg(*units);
            }
            let answer = self.raw::<String>(line, &call).await;
            assert_eq!(answer == "conflict", expected == Preheated::Conflict, "{}: {answer}", self.place());
            let placed = self.placed(line).await;
            assert!(answer == "conflict" || answer == placed, "{}: {answer}", self.place());
        } else {
            let mut sale = wishes::sale(&self.bucket.sale, epoch, &stock);
            (sale.starts_ms, sale.ends_ms) = (terms.opens_ms, terms.closes_ms);
            (sale.buyer_limit, sale.unpaid_max) = (terms.buyer_limit, terms.unpaid_max);
            wishes::expect_done(
                &self.place(),
                line.ports.gates.preheat(&sale).await.map(drop),
                expected != Preheated::Conflict,
            );
        }
    }

    /// Reads how the bucket was put in place, as its gate says it; empty when nobody put it in place.
    async fn placed(&self, line: &Line) -> String {
        let mut read = redis::cmd("HGET");
        read.arg(self.keys(line).gate).arg("placed");
        let placed: Option<String> = read.query_async(&mut line.raw.clone()).await.expect("Redis");
        placed.unwrap_or_default()
    }

    async fn set_gate(&mut self, line: &Line, state: GateState) {
        self.note("gate calls");
        let newest = self.model.gate.as_ref().and_then(|gate| gate.version).unwrap_or(0);
        let version = (newest + self.dice.random_range(0..4)).saturating_sub(1);
        let (written, sale_state) = match state {
            GateState::Placing => ("placing", None),
            GateState::Open => ("open", Some(SaleState::Preheated)),
            GateState::Paused => ("paused", Some(SaleState::Paused)),
            GateState::Ended => ("ended", Some(SaleState::Ended)),
            GateState::Unknown => ("frozen", None),
        };
        let is_placer = chance(&mut self.dice, 80);
        let expected = self.model.set_gate(state, version, is_placer);
        let placed = if is_placer { self.placed(line).await } else { String::new() };
        if let Some(sale_state) = sale_state.filter(|_| chance(&mut self.dice, 50)) {
            let sale = Sale {
                state: sale_state,
                version,
                ..wishes::sale(&self.bucket.sale, self.epoch, &BTreeMap::new())
            };
            let is_done = wishes::is_gate_set(expected, sale_state);
            return wishes::expect_done(
                &self.place(),
                line.ports.gates.set_gates(&sale, &[Placed(placed)]).await,
                is_done,
            );
        }
        let mut call = line.scripts.gate.prepare_invoke();
        call.key(self.keys(line).gate).arg(written).arg(version).arg(placed);
        let expected = match expected {
            GateChange::Set => "set",
            GateChange::Older => "older",
            GateChange::Missing => "missing",
            GateChange::Placing => "placing",
        };
        assert_eq!(self.raw::<String>(line, &call).await, expected, "{}", self.place());
    }

    fn any_batch(&mut self) -> Arc<[ReserveRequest]> {
        wishes::batch(&mut self.dice, &self.bucket.sale, self.calls)
    }

    async fn reserve(&mut self, line: &Line) {
        self.note("reserve calls");
        let batch = self.any_batch();
        let expected = self.model.reserve(&batch, now_ms());
        let answers = line.ports.inventory.reserve(&self.bucket, batch.clone()).await;
        let answers = answers.unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        self.compare(&batch, expected, &answers);
    }

    fn compare(&mut self, batch: &[ReserveRequest], expected: Vec<Verdict>, answers: &[Verdict]) {
        assert_eq!(expected.len(), answers.len(), "{}", self.place());
        for ((request, mut expected), answer) in batch.iter().zip(expected).zip(answers) {
            let order = request.record.order_id;
            self.note(wishes::word(&expected));
            match (&mut expected, answer) {
                (
                    Verdict::Reserved { outbox_entry, reserved_ms, .. },
                    Verdict::Reserved { outbox_entry: real, reserved_ms: real_ms, .. },
                ) => {
                    self.learn_entry(outbox_entry.clone(), real.clone());
                    *outbox_entry = real.clone();
                    *reserved_ms = self.learn_time(order, *real_ms);
                }
                (Verdict::Replayed(reservation), Verdict::Replayed(real)) => {
                    reservation.reserved_ms = self.learn_time(order, real.reserved_ms);
                }
                _ => {}
            }
            assert_eq!(*answer, expected, "{}: {request:?}", self.place());
        }
    }

    /// Notes the entry of a call. All orders of a call name one entry, and it is newer than those of the calls before.
    fn learn_entry(&mut self, model: OutboxEntryId, real: OutboxEntryId) {
        let entry = (model, real);
        let Some(newest) = self.entries.last().filter(|newest| **newest != entry) else {
            return if self.entries.is_empty() {
                self.entries.push(entry)
            };
        };
        let is_newer = stream_id(&entry.1) > stream_id(&newest.1) && entry.0 != newest.0;
        assert!(is_newer, "{}: entry {entry:?} after {newest:?}", self.place());
        self.entries.push(entry);
    }

    /// Returns the time that `order` must have. It is the time that was seen first, which must be about the model's.
    fn learn_time(&mut self, order: OrderId, real_ms: i64) -> i64 {
        let Some(hold) = self.model.orders.get_mut(&order) else { return real_ms };
        if let Some(known_ms) = self.times.get(&order) {
            return *known_ms;
        }
        let off_ms = (real_ms - hold.reserved_ms).abs();
        assert!(off_ms <= CLOCK_SLACK_MS, "{order}: reserved {off_ms} ms from when it was asked for");
        hold.reserved_ms = real_ms;
        self.times.insert(order, real_ms);
        real_ms
    }

    /// Acknowledges entries that are there, that were removed before, or that never were. It names all of their orders,
    /// as a front or a relay does, or some, or none, or orders of other entries.
    async fn acknowledge(&mut self, line: &Line) {
        self.note("acknowledge calls");
        let (mut orders, mut known, mut named) = (Vec::new(), Vec::new(), Vec::new());
        let recent = self.entries.len().saturating_sub(12);
        for _ in 0..self.dice.random_range(1..=4) {
            let from = if chance(&mut self.dice, 80) { recent } else { 0 };
            let never = (OutboxEntryId("0".to_owned()), OutboxEntryId("0-1".to_owned()));
            let chosen = one_of(&mut self.dice, &self.entries[from..]);
            let (model, real) = chosen.filter(|_| chance(&mut self.dice, 90)).unwrap_or(never);
            let percent = one_of(&mut self.dice, &[100, 100, 60, 0]).expect("four");
            let entry = self.model.outbox.iter().find(|accepted| accepted.entry == model);
            let carried = entry.into_iter().flat_map(|accepted| &accepted.orders);
            orders.extend(carried.copied().filter(|_| chance(&mut self.dice, percent)));
            if chance(&mut self.dice, 30) {
                orders.push(order_id(&self.bucket.sale, order_number(&mut self.dice, self.calls)));
            }
            if chance(&mut self.dice, 80) {
                known.push(model);
                named.push(real);
            }
        }
        let removed = self.model.acknowledge(&orders, &known);
        self.note(if removed > 0 { "entries removed" } else { "no entry removed" });
        if chance(&mut self.dice, 50) {
            let done = line.ports.outbox.acknowledge(&self.bucket, &orders, &named).await;
            return wishes::expect_done(&self.place(), done, true);
        }
        let keys = self.keys(line);
        let mut call = line.scripts.acknowledge.prepare_invoke();
        let orders: Vec<&[u8]> = orders.iter().map(|order| order.bytes().as_slice()).collect();
        let named: Vec<&str> = named.iter().map(|entry| entry.0.as_str()).collect();
        call.key(keys.outbox).key(keys.orders).key(keys.outbox_orders);
        call.arg(orders.len()).arg(orders).arg(named);
        assert_eq!(self.raw::<i64>(line, &call).await, count(removed), "{}", self.place());
    }

    /// Sends purchases that the product cannot even express straight to the script. None of them may change anything.
    async fn ask_wrongly(&mut self, line: &Line) {
        self.note("malformed calls");
        let refused = self.model.admit(now_ms()).err();
        let refused = refused.as_ref().map_or("invalid", wishes::denial_word);
        let mut asked: Vec<(Vec<u8>, &str, String, &str)> = wishes::malformed(&mut self.dice)
            .into_iter()
            .map(|(id, quantity, fingerprint)| (id, quantity, fingerprint.to_owned(), refused))
            .collect();
        let held: Vec<(&OrderId, &str)> =
            self.model.orders.iter().map(|(id, hold)| (id, hold.fingerprint.as_str())).collect();
        if let Some((id, fingerprint)) = one_of(&mut self.dice, &held) {
            let (first, last) = (&fingerprint[..1], &fingerprint[15..]);
            let other = |digit: &str| if digit == "0" { "1" } else { "0" };
            for (near, expected) in [
                (fingerprint.to_owned(), "replayed"),
                (format!("{}{}", other(first), &fingerprint[1..]), "key_reused"),
                (format!("{}{}", &fingerprint[..15], other(last)), "key_reused"),
                (fingerprint[..15].to_owned(), "key_reused"),
                (format!("{fingerprint}0"), "key_reused"),
            ] {
                asked.push((id.bytes().to_vec(), "nan", near, expected));
            }
        }
        let keys = self.keys(line);
        let mut call = line.scripts.reserve.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.buyers);
        call.key(keys.orders).key(keys.outbox).key(keys.outbox_orders).key(keys.unpaid);
        let ids: Vec<&[u8]> = asked.iter().map(|(id, ..)| id.as_slice()).collect();
        let wish = |(_, quantity, fingerprint, _): &_| format!("{fingerprint}|{quantity}|{}", SKUS[0]);
        let wishes: Vec<String> = asked.iter().map(wish).collect();
        call.arg(ids).arg(vec!["mallory"; asked.len()]).arg(wishes);
        let answers: Vec<Value> = self.raw(line, &call).await;
        assert_eq!((&answers[0], answers.len()), (&Value::Nil, 1 + asked.len()), "{}", self.place());
        for (answer, question) in answers[1..].iter().zip(&asked) {
            let word = match answer {
                Value::Array(values) => &values[0],
                word => word,
            };
            let word = redis::from_redis_value_ref::<String>(word).expect("a word");
            assert_eq!(word, question.3, "{}: {question:?}", self.place());
        }
    }
}
