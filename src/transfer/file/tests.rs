use super::*;
use crate::domain::decided::Decided;
use crate::domain::exported::OrderNodes;
use crate::domain::{IdempotencyKey, Item, Money, Quantity, RejectReason, TakenStep};

const STOCK: u32 = 3;

fn map() -> ShardMap {
    ShardMap::new(8, 4, 1).expect("a map")
}

fn sale() -> Sale {
    let price = Money::new(100, "CNY").expect("money");
    Sale {
        id: SaleId::parse("drop").expect("slug"),
        name: "Drop".to_owned(),
        state: SaleState::Ended,
        starts_ms: 1_778_803_200_000,
        ends_ms: 1_778_806_800_000,
        buyer_limit: 2,
        unpaid_max: 3,
        access: crate::domain::Access::default(),
        payment_window_ms: 60_000,
        buckets: 1,
        epoch: 1,
        in_place: true,
        version: 4,
        items: vec![Item {
            sku_id: SkuId::parse("phone").expect("slug"),
            name: "Phone".to_owned(),
            stock: STOCK,
            price,
        }],
    }
}

fn order(user: &str, key: &str, rejected: Option<RejectReason>) -> Line {
    let sale = sale();
    let user_id = UserId::parse(user).expect("user");
    let key = IdempotencyKey::parse(key).expect("key");
    let shard = map().shard_of(&user_id);
    let state = if rejected.is_some() { OrderState::Rejected } else { OrderState::AwaitingPayment };
    let (created_ms, expires_ms) = (1_778_803_200_100, 1_778_803_260_100);
    let decided = Decided { state, rejected, created_ms, expires_ms, steps: Vec::new() };
    let record = OrderRecord {
        v: OrderRecord::VERSION_DECIDED,
        order_id: OrderId::derive(shard, sale.month(), &sale.id, &user_id, &key),
        sku_id: sale.items[0].sku_id.clone(),
        quantity: Quantity::new(1).expect("quantity"),
        unit_price: sale.items[0].price.clone(),
        sale_id: sale.id,
        user_id,
        epoch: 1,
        accepted_ms: 1_778_803_200_001,
        reference: None,
        awaited: false,
        node: None,
        trace: None,
        decided: Some(Box::new(decided)),
    };
    Line::Order(Exported { record, payments: Vec::new(), nodes: OrderNodes::default() })
}

/// Makes a file: a header, a sale, its orders by their ids, and an end that counts them.
fn whole(mut orders: Vec<Line>) -> Vec<Line> {
    let id = |line: &Line| match line {
        Line::Order(order) => Some(order.record.order_id),
        _ => None,
    };
    orders.sort_by_key(id);
    let end = Line::End { sales: 1, orders: u64::try_from(orders.len()).expect("few") };
    let mut lines = vec![Line::Header { v: 2, shards: 8, exported_ms: 1 }, Line::Sale(sale())];
    lines.extend(orders);
    lines.push(end);
    lines
}

fn check(written: &[Line]) -> Result<Contents, String> {
    let mut text = Vec::new();
    for line in written {
        write(&mut text, line).expect("written");
    }
    Contents::check(lines(text.as_slice()), map()).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_whole_file_is_taken_with_its_counts() {
    let orders =
        vec![order("a", "1", None), order("b", "1", None), order("b", "2", Some(RejectReason::SoldOut))];
    let contents = check(&whole(orders)).expect("whole");
    assert_eq!((contents.sales.len(), contents.orders), (1, 3));
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    let refused = |lines: Vec<Line>, says: &str| {
        let error = check(&lines).expect_err(says);
        assert!(error.contains(says), "{error} should say {says}");
    };
    refused(Vec::new(), "empty");
    let lines = whole(vec![order("a", "1", None)]);
    refused(lines[1..].to_vec(), "header");
    refused(lines[..3].to_vec(), "cut off");
    refused([&lines[..2], &lines[3..]].concat(), "the end says");
    refused([&lines[..], &lines[2..3]].concat(), "after the end");
    refused([&lines[..1], &lines[2..]].concat(), "line 2: order");
    refused([&lines[..1], &lines[2..3], &lines[1..2], &lines[3..]].concat(), "does not stand below its sale");
    refused(whole(vec![order("a", "1", None), order("a", "1", None)]), "not above the order before");
    let many = (0..=STOCK).map(|n| order(&format!("u{n}"), "1", None)).collect();
    refused(whole(many), "more units");
    let greedy = (0..STOCK).map(|n| order("a", &n.to_string(), None)).collect();
    refused(whole(greedy), "more than the limit");
    let other_map = vec![Line::Header { v: 2, shards: 16, exported_ms: 1 }];
    refused(other_map, "16 shards");
    let newer = vec![Line::Header { v: 3, shards: 8, exported_ms: 1 }];
    refused(newer, "version 3");
    let running = Line::Sale(Sale { state: SaleState::Preheated, ..sale() });
    refused([&lines[..1], &[running]].concat(), "is preheated");
    let Line::Order(undecided) = order("a", "1", None) else { unreachable!("an order") };
    let changed = |change: &dyn Fn(&mut OrderRecord)| {
        let mut order = undecided.clone();
        change(&mut order.record);
        whole(vec![Line::Order(order)])
    };
    let stranger = UserId::parse("somebody-else").expect("user");
    refused(changed(&|record| record.user_id = stranger.clone()), "is not of buyer");
    refused(changed(&|record| record.decided = None), "never decided");
    refused(changed(&|record| record.v = OrderRecord::VERSION), "a record of version 1");
    let state = |state: OrderState, kinds: &'static [&'static str]| {
        let step =
            |kind: &&str| TakenStep { kind: (*kind).to_owned(), by: None, why: None, at_ms: 5, node: None };
        changed(&|record| {
            let decided = record.decided.as_mut().expect("decided");
            (decided.state, decided.steps) = (state, kinds.iter().map(step).collect());
        })
    };
    assert!(check(&state(OrderState::Cancelled, &["persisted", "cancelled"])).is_ok());
    refused(state(OrderState::Expired, &["persisted"]), "do not lead there");
    refused(state(OrderState::Paid, &["persisted", "paid"]), "0 payments keep their money");
}
