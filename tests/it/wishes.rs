//! Makes what a random history asks for. There are few users, SKUs and order ids, so that requests meet each other.
//! Times are hours away from now, so that the millisecond of a call never matters.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use seckill::clock::Clock;
use seckill::domain::inventory_model::{Bucket, GateChange, Terms};
use seckill::domain::reservation::{Denial, Fingerprint, ReserveRequest, Verdict};
use seckill::domain::{
    IdempotencyKey, Item, Money, Month, OrderId, OrderRecord, Quantity, Reference, Sale, SaleId, SaleState,
    Shard, SkuId, UserId,
};
use seckill::ports::{BucketState, ErrorKind, StoreResult};

pub const HOUR_MS: i64 = 3_600_000;

/// The order ids that are in play at a time.
const ORDERS: u32 = 40;
const USERS: u32 = 6;
/// The SKUs that are put in place, and one that never is.
pub const SKUS: [&str; 2] = ["pad", "phone"];
const UNKNOWN_SKU: &str = "ghost";

/// Every kind of answer that both inventories give. A run in which one of them is rare has tested little.
pub const ANSWERS: [&str; 10] = [
    "reserved",
    "replayed",
    "key_reused",
    "limit_reached",
    "too_many_unpaid",
    "sold_out",
    "unknown_sku",
    "not_started",
    "paused",
    "ended",
];

/// Returns the seeds of a run: these and one from the clock, or the one of `SECKILL_MODEL_SEED`.
#[expect(clippy::disallowed_methods, reason = "a test's own switch is no configuration of the product")]
pub fn seeds(fixed: &[u64]) -> Vec<u64> {
    match std::env::var("SECKILL_MODEL_SEED") {
        Ok(seed) => vec![seed.parse().expect("SECKILL_MODEL_SEED is a whole number")],
        Err(_) => {
            let of_the_clock = u64::try_from(now_ms()).expect("after 1970");
            fixed.iter().copied().chain([of_the_clock]).collect()
        }
    }
}

pub fn now_ms() -> i64 {
    Clock::System.now_ms()
}

pub fn sku(name: &str) -> SkuId {
    SkuId::parse(name).expect("a slug")
}

/// Returns `true` in `percent` of a hundred cases.
pub fn chance(dice: &mut StdRng, percent: u32) -> bool {
    dice.random_range(0..100) < percent
}

/// Draws an order number. The numbers in play move on with the calls of a history. If they stayed the same, every order
/// would soon be known and every buyer at the limit.
pub fn order_number(dice: &mut StdRng, calls: u32) -> u32 {
    calls + dice.random_range(0..ORDERS)
}

fn user(order: u32) -> UserId {
    UserId::parse(&format!("u{}.{}:a_B@c-d", order / ORDERS, order % USERS)).expect("a user")
}

pub fn order_id(sale: &SaleId, order: u32) -> OrderId {
    let key = IdempotencyKey::parse(&format!("k{order}")).expect("a key");
    let shard = Shard::new(u16::try_from(order % 4).expect("below four"));
    OrderId::derive(shard, Month::new(600), sale, &user(order), &key)
}

/// Makes a batch of 1 to 64 requests, mostly few.
pub fn batch(dice: &mut StdRng, sale: &SaleId, calls: u32) -> Arc<[ReserveRequest]> {
    let size = match dice.random_range(0..100) {
        0..40 => 1,
        40..88 => dice.random_range(2..=8),
        _ => dice.random_range(9..=64),
    };
    (0..size).map(|_| request(dice, sale, calls)).collect()
}

/// Makes a request. Mostly it has the body that this order always has, so that it is replayed. Sometimes it has another
/// body, and rarely that of another user, whom a hash collision would bring there.
fn request(dice: &mut StdRng, sale: &SaleId, calls: u32) -> ReserveRequest {
    let order = order_number(dice, calls);
    let body = if chance(dice, 80) { order } else { dice.random_range(0..1000) };
    let sku = match body % 9 {
        0 => sku(UNKNOWN_SKU),
        odd if odd % 2 == 1 => sku(SKUS[0]),
        _ => sku(SKUS[1]),
    };
    let quantity = Quantity::new(1 + (body / 9) % 4).expect("1 to 4");
    let buyer = if chance(dice, 4) { order + 1 } else { order };
    // One in five bodies has a reference, with a bar in it.
    let named = || Reference::parse(&format!("cart {body}|ö")).expect("a reference");
    let reference = (body % 5 == 0).then(named);
    let fingerprint = Fingerprint::of(&sku, quantity, reference.as_ref());
    let record = OrderRecord {
        v: OrderRecord::VERSION,
        order_id: order_id(sale, order),
        sale_id: sale.clone(),
        sku_id: sku,
        user_id: user(buyer),
        quantity,
        unit_price: Money::new(19_900, "CNY").expect("money"),
        reference,
        epoch: 0,
        accepted_ms: i64::from(calls),
        awaited: false,
        node: None,
        trace: None,
        decided: None,
    };
    ReserveRequest { record, fingerprint }
}

pub fn terms(dice: &mut StdRng) -> Terms {
    let now_ms = now_ms();
    let opens_ms = match dice.random_range(0..100) {
        0..8 => now_ms + HOUR_MS,
        8..16 => now_ms - 2 * HOUR_MS,
        _ => now_ms - HOUR_MS,
    };
    let closes_ms = if opens_ms == now_ms - HOUR_MS { now_ms + HOUR_MS } else { opens_ms + HOUR_MS };
    let (buyer_limit, unpaid_max) = (dice.random_range(1..=6), dice.random_range(0..=6));
    Terms { opens_ms, closes_ms, buyer_limit, unpaid_max, lease_ms: lease_ms(dice) }
}

/// Draws a lease: none, one that has lapsed, or one that ends far in the future.
pub fn lease_ms(dice: &mut StdRng) -> i64 {
    match dice.random_range(0..100) {
        0..10 => now_ms() - HOUR_MS,
        10..40 => now_ms() + HOUR_MS,
        _ => 0,
    }
}

/// Makes a sale for the bucket of a history. The caller sets what matters of it.
pub fn sale(id: &SaleId, epoch: u32, stock: &BTreeMap<SkuId, u32>) -> Sale {
    let price = Money::new(19_900, "CNY").expect("money");
    let item = |(sku, units): (&SkuId, &u32)| Item {
        sku_id: sku.clone(),
        name: sku.to_string(),
        stock: *units,
        price: price.clone(),
    };
    Sale {
        id: id.clone(),
        name: "A history".to_owned(),
        state: SaleState::Preheated,
        starts_ms: 1,
        ends_ms: 2,
        buyer_limit: 1,
        unpaid_max: 0,
        access: seckill::domain::Access::default(),
        payment_window_ms: HOUR_MS,
        buckets: 1,
        epoch,
        in_place: true,
        version: 1,
        items: stock.iter().map(item).collect(),
    }
}

/// Returns what the port must say of the model's bucket. The names of lost keys are left out.
pub fn bucket_state(model: &Bucket) -> BucketState {
    match &model.gate {
        None => BucketState::Absent,
        Some(_) if model.has_lost_keys() => BucketState::Lost { keys: Vec::new() },
        Some(_) => {
            let available = model.stock.iter().map(|(sku, units)| (sku.clone(), i64::from(*units))).collect();
            let placing_since_ms = None;
            BucketState::Whole { available, under_way: Vec::new(), placing_since_ms }
        }
    }
}

/// Returns whether the port calls a change of the gate done, when the change was to follow a sale into this state. A
/// gate that is missing need not be ended.
pub fn is_gate_set(change: GateChange, state: SaleState) -> bool {
    match change {
        GateChange::Set | GateChange::Older | GateChange::Placing => true,
        GateChange::Missing => state == SaleState::Ended,
    }
}

/// Asserts that a call of a port did what was asked, or did not, as `is_done` says. A conflict is a failure of the port
/// and no outage.
pub fn expect_done(place: &str, answer: StoreResult<()>, is_done: bool) {
    let kind = answer.as_ref().err().map(|error| error.kind);
    assert_eq!(kind, (!is_done).then_some(ErrorKind::Broken), "{place}: {answer:?}");
}

pub fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Reserved { .. } => "reserved",
        Verdict::Replayed(_) => "replayed",
        Verdict::Denied(denial) => denial_word(denial),
    }
}

pub fn denial_word(denial: &Denial) -> &'static str {
    match denial {
        Denial::KeyReused => "key_reused",
        Denial::LimitReached { .. } => "limit_reached",
        Denial::TooManyUnpaid { .. } => "too_many_unpaid",
        Denial::SoldOut { .. } => "sold_out",
        Denial::NotStarted => "not_started",
        Denial::Paused => "paused",
        Denial::Ended => "ended",
        Denial::GateShut => "gate_shut",
        Denial::KeysLost => "keys_lost",
        Denial::UnknownSku => "unknown_sku",
    }
}

/// Makes purchases that no front of ours sends: order id, quantity and fingerprint.
#[cfg(feature = "distributed")]
pub fn malformed(dice: &mut StdRng) -> Vec<(Vec<u8>, &'static str, &'static str)> {
    const FINGERPRINT: &str = "0123456789abcdef";
    const QUANTITIES: [&str; 16] =
        ["0", "-1", "nan", "1.5", "100", "", "+1", " 1", "1e1", "01", "0x1", "1 ", "1\n", "inf", "-nan", "١"];
    let mut fresh = |length: usize| -> Vec<u8> { (0..length).map(|_| dice.random()).collect() };
    let mut calls: Vec<_> = QUANTITIES.iter().map(|&text| (fresh(16), text, FINGERPRINT)).collect();
    calls.extend([0, 1, 15, 17, 32].map(|length| (fresh(length), "1", FINGERPRINT)));
    calls.extend(["", "0123456789abcde", "0123456789abcdef0"].map(|text| (fresh(16), "1", text)));
    calls
}

/// Draws one entry of a list. An empty list gives `None`.
pub fn one_of<T: Clone>(dice: &mut StdRng, list: &[T]) -> Option<T> {
    list.choose(dice).cloned()
}
