//! Compares the embedded inventory with its specification, `domain::inventory_model`. Random histories are played side
//! by side in one folder, so that their calls share transactions. Every answer and the whole state are compared.
//!
//! The mode differs from the model in a few things. A reservation is in the order log at once, so it is queued and no
//! outbox entry waits. No lease runs. The row of an order is its state.
//!
//! A failure names its seed. `SECKILL_MODEL_SEED=<seed> cargo test --test it sqlite_model` plays it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seckill::app;
use seckill::backend::embedded;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::inventory_model::{Bucket, GateState, Preheated, Terms};
use seckill::domain::reservation::{ReserveRequest, Verdict};
use seckill::domain::{
    BucketId, Decision, OrderId, OrderRecord, OrderState, Sale, SaleId, SaleState, ShardMap, SkuId, UserId,
};
use seckill::ports::{BucketState, Ports};

use crate::harness::{DataFolder, Stage as _, config};
use crate::wishes::{self, SKUS, now_ms, one_of, order_id, order_number, sku};

const SEEDS: [u64; 2] = [1, 20_240_611];
const HISTORIES: u64 = 12;
const CALLS: u32 = 250;

type Tally = BTreeMap<&'static str, u64>;

/// The folder that the histories share.
struct Shared {
    ports: Ports,
    folder: DataFolder,
    clock: Clock,
    map: ShardMap,
}

struct History {
    seed: u64,
    number: u64,
    dice: StdRng,
    bucket: BucketId,
    epoch: u32,
    /// The model. Its outbox is emptied after every call, and what was in it goes to `log`.
    model: Bucket,
    /// The records that must be in the order log, per partition.
    log: BTreeMap<u16, Vec<Vec<u8>>>,
    calls: u32,
    tally: Tally,
}

impl History {
    fn new(seed: u64, number: u64) -> Self {
        let sale = SaleId::parse(&format!("h{seed}-{number}")).expect("a slug");
        Self {
            seed,
            number,
            dice: StdRng::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            bucket: BucketId { sale, bucket: 0 },
            epoch: 1,
            model: Bucket::default(),
            log: BTreeMap::new(),
            calls: 0,
            tally: Tally::new(),
        }
    }

    fn place(&self) -> String {
        let Self { seed, number, calls, .. } = self;
        format!("history {number}, call {calls}; SECKILL_MODEL_SEED={seed} repeats it")
    }

    async fn run(&mut self, shared: &Shared) {
        for _ in 0..CALLS {
            self.calls += 1;
            let is_shut = self.model.admission(shared.clock.now_ms()).is_err();
            match self.dice.random_range(0..100) {
                0..30 if is_shut => self.set_gate(shared, GateState::Open).await,
                0..76 => self.reserve(shared).await,
                76..84 => self.mark_decided(shared).await,
                84..90 => {
                    let states = [GateState::Open, GateState::Paused, GateState::Ended];
                    let state = one_of(&mut self.dice, &states).expect("three");
                    self.set_gate(shared, state).await;
                }
                _ => self.preheat(shared).await,
            }
        }
    }

    async fn preheat(&mut self, shared: &Shared) {
        let terms = Terms { lease_ms: 0, ..wishes::terms(&mut self.dice) };
        let stock: BTreeMap<SkuId, u32> =
            SKUS.into_iter().map(|name| (sku(name), self.dice.random_range(0..=24))).collect();
        let epoch = (self.epoch + self.dice.random_range(0..3)).saturating_sub(1).max(1);
        let expected = self.model.preheat(epoch, terms, &stock);
        if expected == Preheated::Created {
            self.epoch = epoch;
        }
        let mut sale = wishes::sale(&self.bucket.sale, epoch, &stock);
        (sale.starts_ms, sale.ends_ms) = (terms.opens_ms, terms.closes_ms);
        (sale.buyer_limit, sale.unpaid_max) = (terms.buyer_limit, terms.unpaid_max);
        wishes::expect_done(
            &self.place(),
            shared.ports.gates.preheat(&sale).await.map(drop),
            expected != Preheated::Conflict,
        );
    }

    async fn set_gate(&mut self, shared: &Shared, state: GateState) {
        let newest = self.model.gate.as_ref().and_then(|gate| gate.version).unwrap_or(0);
        let version = (newest + self.dice.random_range(0..4)).saturating_sub(1);
        let state_of_sale = match state {
            GateState::Placing | GateState::Open => SaleState::Preheated,
            GateState::Paused => SaleState::Paused,
            GateState::Ended | GateState::Unknown => SaleState::Ended,
        };
        let is_done = wishes::is_gate_set(self.model.set_gate(state, version, true), state_of_sale);
        let sale = Sale {
            state: state_of_sale,
            version,
            ..wishes::sale(&self.bucket.sale, self.epoch, &BTreeMap::new())
        };
        wishes::expect_done(&self.place(), shared.ports.gates.set_gates(&sale, &[]).await, is_done);
    }

    async fn reserve(&mut self, shared: &Shared) {
        let batch: Arc<[ReserveRequest]> = wishes::batch(&mut self.dice, &self.bucket.sale, self.calls);
        let expected = self.model.reserve(&batch, shared.clock.now_ms());
        let answers = shared.ports.inventory.reserve(&self.bucket, batch.clone()).await;
        let answers = answers.unwrap_or_else(|error| panic!("{}: {error}", self.place()));
        let taken = batch.iter().zip(&answers).filter_map(|(request, answer)| match answer {
            // The record has the time and the epoch that the answer tells.
            Verdict::Reserved { reserved_ms, epoch, .. } => {
                Some(OrderRecord { accepted_ms: *reserved_ms, epoch: *epoch, ..request.record.clone() })
            }
            _ => None,
        });
        self.note_log(shared.map, taken.collect());
        assert_eq!(expected.len(), answers.len(), "{}", self.place());
        for (mut expected, answer) in expected.into_iter().zip(answers) {
            *self.tally.entry(wishes::word(&expected)).or_default() += 1;
            match (&mut expected, &answer) {
                // The name of the entry is of no use, because nothing is ever acknowledged.
                (
                    Verdict::Reserved { outbox_entry, reserved_ms, .. },
                    Verdict::Reserved { outbox_entry: real, reserved_ms: real_ms, .. },
                ) => {
                    (*outbox_entry, *reserved_ms) = (real.clone(), *real_ms);
                }
                (Verdict::Replayed(held), _) if held.state == OrderState::Reserved => {
                    held.state = OrderState::Queued;
                }
                _ => {}
            }
            assert_eq!(expected, answer, "left model, right SQLite; {}", self.place());
        }
    }

    /// Moves what was reserved from the model's outbox to the log, where the mode has it at once.
    fn note_log(&mut self, map: ShardMap, taken: Vec<OrderRecord>) {
        for record in &taken {
            let part = map.part_of(record.order_id.shard()).number();
            self.log.entry(part).or_default().push(record.encode());
        }
        let orders: Vec<OrderId> = taken.iter().map(|record| record.order_id).collect();
        let entries: Vec<_> = self.model.outbox.iter().map(|accepted| accepted.entry.clone()).collect();
        self.model.acknowledge(&orders, &entries);
    }

    /// Makes the row that the order writer makes of a reservation.
    async fn mark_decided(&mut self, shared: &Shared) {
        let order = order_id(&self.bucket.sale, order_number(&mut self.dice, self.calls));
        let states: Vec<OrderState> =
            OrderState::ALL.into_iter().filter(|state| !state.is_pending()).collect();
        let state = one_of(&mut self.dice, &states).expect("six");
        // The writer frees buyers in its own transaction, which is not made here.
        let buyer_keeps = Some(u32::MAX);
        if self.model.mark_decided(&[Decision { order, state, buyer_keeps }]) == 0 {
            return;
        }
        let row = format!(
            "INSERT INTO orders (order_id, month, sale_id, sku_id, user_id, quantity, unit_price, currency, state, \
             epoch, accepted_ms, created_ms, expires_ms) SELECT order_id, 600, sale_id, sku_id, user_id, quantity, \
             1, 'CNY', '{0}', 1, 1, 1, 1 FROM reservations WHERE order_id = '{order}' \
             ON CONFLICT (order_id) DO UPDATE SET state = '{0}'",
            state.as_str()
        );
        shared.folder.try_execute(&row).await.expect("a row");
        // The writer counts what was left unpaid in that transaction, too.
        let user = &self.model.orders[&order].user;
        if let Some(unpaid) = self.model.unpaid.get(user) {
            let sale = &self.bucket.sale;
            let count = format!(
                "UPDATE buyers SET unpaid = {unpaid} WHERE sale_id = '{sale}' AND user_id = '{user}'"
            );
            shared.folder.try_execute(&count).await.expect("a count");
        }
    }

    /// Compares everything that stands in the folder with the model: raw, and through the ports that read it.
    async fn verify(&mut self, shared: &Shared) {
        let place = self.place();
        let (folder, model, sale) = (&shared.folder, &self.model, &self.bucket.sale);
        let rows = async |columns: &str, table: &str| {
            let text = format!("SELECT {columns} FROM {table} WHERE sale_id = '{sale}' ORDER BY 1");
            folder.texts(&text).await
        };
        let gate = model.gate.iter().map(|gate| {
            let terms = gate.terms.expect("never damaged");
            let version = gate.version.map_or("-".to_owned(), |version| version.to_string());
            let Terms { opens_ms, closes_ms, buyer_limit, unpaid_max, .. } = terms;
            let state = format!("{:?}", gate.state).to_lowercase();
            format!(
                "{} {state} {version} {opens_ms} {closes_ms} {buyer_limit} {unpaid_max} {}",
                gate.epoch,
                model.orders.len()
            )
        });
        let columns = "epoch || ' ' || state || ' ' || COALESCE(version, '-') || ' ' || opens_ms || ' ' || \
             closes_ms || ' ' || buyer_limit || ' ' || unpaid_max || ' ' || orders_made";
        assert_eq!(rows(columns, "gates").await, gate.collect::<Vec<_>>(), "gate; {place}");
        let stock: Vec<String> = model.stock.iter().map(|(sku, units)| format!("{sku} {units}")).collect();
        assert_eq!(rows("sku_id || ' ' || available", "stock").await, stock, "stock; {place}");
        let buyers: BTreeSet<String> =
            model.buyers.iter().map(|(user, units)| format!("{user} {units}")).collect();
        let written: BTreeSet<String> = rows("user_id || ' ' || units", "buyers").await.into_iter().collect();
        assert_eq!(written, buyers, "buyers; {place}");
        let holds: BTreeSet<String> = model
            .orders
            .iter()
            .map(|(id, hold)| {
                let (sku, user, units, print) =
                    (&hold.sku, &hold.user, hold.quantity.units(), hold.fingerprint);
                format!("{id} {sku} {user} {units} {} {}", print.as_str(), hold.reserved_ms)
            })
            .collect();
        let columns = "order_id || ' ' || sku_id || ' ' || user_id || ' ' || quantity || ' ' || fingerprint || ' ' \
             || reserved_ms";
        let written: BTreeSet<String> = rows(columns, "reservations").await.into_iter().collect();
        assert_eq!(written, holds, "reservations; {place}");
        for (part, records) in &self.log {
            let text = format!(
                "SELECT CAST(payload AS TEXT) FROM order_log WHERE part = {part} \
                 AND payload->>'sale_id' = '{sale}' ORDER BY log_offset"
            );
            let records: Vec<String> =
                records.iter().map(|record| String::from_utf8_lossy(record).into_owned()).collect();
            assert_eq!(folder.texts(&text).await, records, "log of partition {part}; {place}");
        }
        self.verify_ports(shared, &place).await;
    }

    async fn verify_ports(&self, shared: &Shared, place: &str) {
        let (ports, model) = (&shared.ports, &self.model);
        let winners = ports.inventory.winners(&self.bucket).await.expect("winners");
        let users: BTreeSet<UserId> = model.orders.values().map(|hold| hold.user.clone()).collect();
        assert_eq!(winners.into_iter().collect::<BTreeSet<_>>(), users, "{place}");
        let buckets =
            ports.gates.buckets(&wishes::sale(&self.bucket.sale, self.epoch, &BTreeMap::new())).await;
        let mut buckets = buckets.expect("buckets");
        for bucket in &mut buckets {
            if let BucketState::Lost { keys } = bucket {
                assert!(!std::mem::take(keys).is_empty(), "{place}");
            }
        }
        assert_eq!(buckets, [wishes::bucket_state(model)], "{place}");
        assert_eq!(ports.outbox.len(&self.bucket).await.expect("a length"), 0, "{place}");
        for (order, hold) in &model.orders {
            let found = ports.inventory.reservation(std::slice::from_ref(&self.bucket), *order).await;
            let found = found.expect("a read").map(|it| (it.state, it.sku, it.user, it.quantity));
            let held = (hold.state, hold.sku.clone(), hold.user.clone(), hold.quantity);
            assert_eq!(found, Some(held), "{place}");
        }
    }
}

/// Asserts that the records of every partition stand at 0, 1, 2, … without a gap, and that each can be decoded.
async fn assert_log_is_whole(shared: &Shared) {
    let gaps = "SELECT COUNT(*) FROM (SELECT COUNT(*) AS n, MAX(log_offset) AS last FROM order_log GROUP BY part) \
         WHERE n <> last + 1";
    assert_eq!(shared.folder.number(gaps).await, 0, "gaps in the log");
    let parts: Vec<_> = shared.map.all_parts().collect();
    let offsets = shared.ports.order_log.offsets(&parts).await.expect("offsets");
    let ends: i64 = offsets.values().map(|offsets| offsets.end).sum();
    assert_eq!(shared.folder.sum("COUNT(*)", "order_log").await, ends, "what is told, and what is written");
    for payload in shared.folder.texts("SELECT CAST(payload AS TEXT) FROM order_log").await {
        let record = OrderRecord::decode(payload.as_bytes()).expect("a record");
        let id: OrderId = record.order_id;
        assert_eq!(record.encode(), payload.as_bytes(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_embedded_inventory_does_what_the_model_says() {
    let config = config(Mode::Embedded, &[]);
    let clock = Clock::manual(now_ms());
    let settings = app::embedded_settings(&config).expect("settings");
    let ports = embedded::open(&settings, clock.clone()).await.expect("an open folder").ports;
    let folder = DataFolder::of(&config);
    let shared = Shared { ports, folder, clock, map: config.shard_map().expect("a map") };
    let mut tally = Tally::new();
    for seed in wishes::seeds(&SEEDS) {
        let mut histories: Vec<History> = (0..HISTORIES).map(|number| History::new(seed, number)).collect();
        for _ in 0..2 {
            join_all(histories.iter_mut().map(|history| history.run(&shared))).await;
            shared.clock.advance_ms(7);
            for history in &mut histories {
                history.verify(&shared).await;
            }
        }
        for (what, times) in histories.iter().flat_map(|history| &history.tally) {
            *tally.entry(what).or_default() += times;
        }
    }
    assert_log_is_whole(&shared).await;
    println!("{tally:#?}");
    let rare: Vec<&str> =
        wishes::ANSWERS.into_iter().filter(|kind| tally.get(kind).copied().unwrap_or(0) < 30).collect();
    assert!(rare.is_empty(), "rare: {rare:?} in {tally:#?}");
    drop(shared.ports);
    shared.folder.remove().await;
}
