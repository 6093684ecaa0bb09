//! Tests of the plan with any log and any stock: a plan never holds more than is free, never passes a buyer's limit,
//! and decides every order once.

use proptest::prelude::*;

use super::*;
use crate::domain::{IdempotencyKey, Item, Money, Quantity, SaleState};

const LIMIT: u32 = 3;

fn sale() -> Sale {
    let item = |sku: &str| Item {
        sku_id: SkuId::parse(sku).expect("slug"),
        name: sku.to_owned(),
        stock: 1000,
        price: Money::new(100, "CNY").expect("money"),
    };
    Sale {
        id: SaleId::parse("drop").expect("slug"),
        name: "Drop".to_owned(),
        state: SaleState::Preheated,
        starts_ms: 1_700_000_000_000,
        ends_ms: 1_700_000_100_000,
        buyer_limit: LIMIT,
        unpaid_max: 3,
        access: crate::domain::Access::default(),
        payment_window_ms: 60_000,
        buckets: 1,
        epoch: 1,
        in_place: true,
        version: 1,
        items: vec![item("pad"), item("phone")],
    }
}

fn log() -> LogId {
    LogId::new([1; 16]).expect("not zeros")
}

fn map() -> ShardMap {
    ShardMap::new(4, 2, 2).expect("valid")
}

/// One record as numbers of user and key, whether it asks for the phone, and quantity; `None` for garbage.
fn any_record() -> impl Strategy<Value = Option<(u8, u8, bool, u32)>> {
    prop_oneof![
        9 => (0u8..12, 0u8..3, any::<bool>(), 1u32..=4).prop_map(Some),
        1 => Just(None),
    ]
}

fn log_record(offset: i64, what: Option<(u8, u8, bool, u32)>) -> LogRecord {
    let order = what.ok_or(Poison::Garbage).map(|(user, key, phone, quantity)| {
        let sale = sale();
        let user = UserId::parse(&format!("user-{user}")).expect("user");
        let key = IdempotencyKey::parse(&format!("key-{key}")).expect("key");
        let item = &sale.items[usize::from(phone)];
        OrderRecord {
            v: 1,
            order_id: OrderId::derive(map().shard_of(&user), sale.month(), &sale.id, &user, &key),
            sale_id: sale.id.clone(),
            sku_id: item.sku_id.clone(),
            user_id: user,
            quantity: Quantity::new(quantity).expect("quantity"),
            unit_price: item.price.clone(),
            epoch: 1,
            accepted_ms: sale.starts_ms,
            reference: None,
            awaited: false,
            node: None,
            trace: None,
            decided: None,
        }
    });
    LogRecord { offset, payload: Vec::new(), order }
}

fn units(orders: &[PlannedOrder], of: impl Fn(&PlannedOrder) -> bool) -> u32 {
    orders.iter().filter(|o| o.reason().is_none() && of(o)).map(|o| o.record.quantity.units()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_keeps_every_promise(
        whats in proptest::collection::vec(any_record(), 1..60),
        free_pad in 0u32..40,
        free_phone in 0u32..40,
        held_before in 0u32..=LIMIT,
        released in any::<bool>(),
    ) {
        let sale = sale();
        let sales = Sales::from([(sale.id.clone(), sale.clone())]);
        let records: Vec<LogRecord> = (0..).zip(whats).map(|(at, what)| log_record(at, what)).collect();
        let batch = LogBatch { part: Part::new(0), log: log(), start_offset: 0, fences: Arc::default(), records };
        let mut known = Known::default();
        let regular = UserId::parse("user-0").expect("user");
        known.claims.insert((sale.id.clone(), regular.clone()), (0..held_before).collect());
        if let Some(Ok(first)) = batch.records.first().map(|record| record.order.as_ref()) {
            let state = if released { OrderState::Cancelled } else { OrderState::AwaitingPayment };
            known.orders.insert(first.order_id, Some(state));
        }
        let free = |scarce: &Scarce| if scarce.1.as_str() == "pad" { free_pad } else { free_phone };
        let plan = plan(&batch, &map(), &sales, &known, free);

        for (scarce, held) in &plan.held {
            prop_assert!(*held <= free(scarce));
            prop_assert_eq!(*held, units(&plan.orders, |o| o.record.sku_id == scarce.1));
        }
        let mut claims: BTreeSet<(UserId, u32)> =
            (0..held_before).map(|unit| (regular.clone(), unit)).collect();
        let mut ids = BTreeSet::new();
        for order in &plan.orders {
            prop_assert!(ids.insert(order.record.order_id), "an order is decided once");
            prop_assert!(!known.orders.contains_key(&order.record.order_id));
            for unit in order.claims() {
                prop_assert!(*unit < LIMIT);
                prop_assert!(claims.insert((order.record.user_id.clone(), *unit)), "a unit is claimed once");
            }
            if order.reason().is_none() {
                prop_assert_eq!(u32::try_from(order.claims().len()), Ok(order.record.quantity.units()));
            }
        }
        let decided = plan.orders.len() + plan.skipped + plan.dead_letters.len();
        prop_assert_eq!(decided, batch.records.len(), "every record is accounted for");
        let offsets: Vec<i64> = plan.orders.iter().map(|order| order.offset).collect();
        prop_assert!(offsets.is_sorted(), "in offset order");
    }

    /// The store relies on this when it plans twice, the first time without a bound, to learn the demand.
    #[test]
    fn less_stock_never_holds_more_of_anything(
        whats in proptest::collection::vec(any_record(), 1..60),
        free_phone in 0u32..40,
    ) {
        let sale = sale();
        let sales = Sales::from([(sale.id.clone(), sale)]);
        let records: Vec<LogRecord> = (0..).zip(whats).map(|(at, what)| log_record(at, what)).collect();
        let batch = LogBatch { part: Part::new(0), log: log(), start_offset: 0, fences: Arc::default(), records };
        let known = Known::default();
        let wish = plan(&batch, &map(), &sales, &known, |_| u32::MAX);
        let bound = |scarce: &Scarce| if scarce.1.as_str() == "phone" { free_phone } else { u32::MAX };
        let bounded = plan(&batch, &map(), &sales, &known, bound);
        for (scarce, held) in &wish.held {
            let now = bounded.held.get(scarce).copied().unwrap_or(0);
            prop_assert!(now <= *held);
            if scarce.1.as_str() == "pad" {
                prop_assert_eq!(now, *held, "another SKU's shortage changes nothing here");
            }
        }
    }
}
