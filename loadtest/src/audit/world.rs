//! A small sale in which all stores agree. The tests damage this good state to make their bad states.

mod events;

use std::collections::{BTreeMap, BTreeSet};

pub use events::tell;

use super::holds::fingerprint;
use crate::config::Mode;
use crate::evidence::{
    Action, Booked, BucketFacts, Claim, DeadLetter, EventFacts, Evidence, GrantRow, Hold, HttpFacts,
    InstanceBooks, ItemFacts, LedgerRow, ListAnswer, LogFacts, LogRecord, Move, OrderAnswer, OrderRow,
    OwedRow, PartitionFacts, PaymentRow, PaymentState, Place, PoolRow, RecordFacts, RefundRow, RefundState,
    RowState, SaleFacts,
};
use crate::ids::{Layout, OrderId, month_of_ms, yyyymm};
use crate::journal::{Class, Entry, Kind};

pub const SALE: &str = "friday";
pub const PHONE: &str = "phone-x";
const CASE: &str = "case";
/// 15 May 2026.
pub const STARTS_MS: i64 = 1_778_803_200_000;
pub const LIMIT: i64 = 2;
/// How many unpaid orders a buyer of the small sale may give up.
pub const UNPAID_MAX: i64 = 3;
const BUCKETS: u16 = 2;
const WINDOW_MS: i64 = 900_000;
pub const SERVERS: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

/// The shard map of the small sale.
pub fn layout() -> Layout {
    Layout::new(8, 4, 2).expect("a layout")
}

fn items() -> Vec<ItemFacts> {
    let item = |sku: &str, stock| ItemFacts {
        sku: sku.to_owned(),
        stock,
        unit_price: 19_900,
        currency: "CNY".to_owned(),
    };
    vec![item(CASE, 5), item(PHONE, 20)]
}

/// Derives the id of an order of the small sale.
pub fn id_of(user: &str, key: &str) -> OrderId {
    let month = month_of_ms(STARTS_MS).expect("in the calendar");
    OrderId::derive(layout().shard_of(user), month, SALE, user, key)
}

/// Returns the place where a user's rows must be.
pub fn place_of(user: &str) -> Place {
    let shard = layout().shard_of(user);
    Place { server: SERVERS[usize::from(layout().instance_of(shard))].into(), shard }
}

/// Makes an order row that is as it must be.
pub fn row(user: &str, key: &str, sku: &str, quantity: i64, state: RowState) -> OrderRow {
    let id = id_of(user, key);
    OrderRow {
        place: place_of(user),
        yyyymm: yyyymm(id.month()),
        id,
        sku: sku.to_owned(),
        user: user.to_owned(),
        quantity,
        unit_price: 19_900,
        currency: "CNY".to_owned(),
        reference: Some("cart 7".to_owned()),
        state,
        reason: (state == RowState::Rejected).then(|| "limit".to_owned()),
        epoch: 1,
        accepted_ms: STARTS_MS + 5,
        created_ms: STARTS_MS + 9,
        expires_ms: STARTS_MS + 9 + WINDOW_MS,
    }
}

/// Ten buyers: eight with one phone, `u-8` with two cases (paid), `u-9` with a phone and a rejected one.
pub fn good() -> Evidence {
    let mut rows: Vec<OrderRow> =
        (0..8).map(|n| row(&format!("u-{n}"), "k", PHONE, 1, RowState::AwaitingPayment)).collect();
    rows.push(row("u-8", "k", CASE, 2, RowState::Paid));
    rows.push(row("u-9", "k", PHONE, 1, RowState::AwaitingPayment));
    rows.push(row("u-9", "k2", PHONE, 2, RowState::Rejected));
    of_rows(rows)
}

/// Makes the evidence for these rows: every other store is as it must be.
pub fn of_rows(rows: Vec<OrderRow>) -> Evidence {
    let sale = SaleFacts {
        id: SALE.to_owned(),
        state: "preheated".to_owned(),
        starts_ms: STARTS_MS,
        ends_ms: STARTS_MS + 3_600_000,
        buyer_limit: LIMIT,
        unpaid_max: UNPAID_MAX,
        payment_window_ms: WINDOW_MS,
        buckets: BUCKETS,
        epoch: 1,
        rebuilt: BTreeMap::new(),
        items: items(),
        actions: vec![Action { at_ms: STARTS_MS - 60_000, word: "preheat".to_owned() }],
        read_ms: STARTS_MS + 120_000,
    };
    let mut journal: Vec<Entry> = rows.iter().map(|row| entry(row, Class::Won)).collect();
    journal.push(entry(&rows[0], Class::Replayed));
    let mut nobody = entry(&rows[0], Class::SoldOut);
    (nobody.user, nobody.order_id, nobody.code) = ("u-late".to_owned(), None, Some("fewer_left".to_owned()));
    (nobody.quantity, nobody.accepted_at) = (99, None);
    journal.push(nobody);
    let (log, positions) = log(&rows);
    let mut books = books(&rows);
    for (part, next) in positions {
        books[usize::from(part / 2)].positions.insert(part, next);
    }
    let (payments, refunds) = money(&rows);
    let back = |payment: &PaymentRow| refunds.iter().any(|refund| refund.order == payment.order);
    let booked = |payment: &PaymentRow| booked(payment, if back(payment) { payment.amount } else { 0 });
    let mut evidence = Evidence {
        mode: Mode::Distributed,
        layout: layout(),
        servers: SERVERS.map(str::to_owned).to_vec(),
        claims: claims(&rows),
        moves: rows.iter().flat_map(moves).collect(),
        events: EventFacts::default(),
        provider: Some(payments.iter().map(booked).collect()),
        payments,
        refunds,
        orphans: Vec::new(),
        other_sales: BTreeSet::new(),
        books,
        log: Some(log),
        buckets: Some(buckets(&sale, &rows)),
        http: Some(http(&rows)),
        journal: Some(journal),
        before: BTreeSet::new(),
        sale,
        rows,
    };
    tell(&mut evidence);
    evidence
}

/// Makes the journal's entry of a row's request.
pub fn entry(row: &OrderRow, class: Class) -> Entry {
    // The tests use these keys only, so the key of a row is the one that derives its id.
    let key = ["k", "k2", "k3"].into_iter().find(|key| id_of(&row.user, key) == row.id).expect("a known key");
    Entry {
        user: row.user.clone(),
        sale: SALE.to_owned(),
        sku: row.sku.clone(),
        quantity: u32::try_from(row.quantity).expect("positive"),
        reference: row.reference.clone(),
        key: key.to_owned(),
        kind: Kind::First,
        at_us: 0,
        slip_us: 0,
        wait_us: 0,
        latency_us: 900,
        http_status: 202,
        code: None,
        order_id: Some(row.id.to_string()),
        order_status: Some("queued".to_owned()),
        accepted_at: Some("2026-05-15T00:00:00.005Z".to_owned()),
        class,
    }
}

fn claims(rows: &[OrderRow]) -> Vec<Claim> {
    let live = rows.iter().filter(|row| row.state.is_live());
    live.flat_map(|row| {
        (0..row.quantity).map(|unit| Claim {
            place: row.place.clone(),
            user: row.user.clone(),
            unit,
            order: row.id,
        })
    })
    .collect()
}

fn moves(row: &OrderRow) -> Vec<Move> {
    let kinds: &[&str] = match row.state {
        RowState::AwaitingPayment => &["persisted"],
        RowState::Paid => &["persisted", "paid"],
        RowState::Cancelled => &["persisted", "cancelled"],
        RowState::Expired => &["persisted", "expired"],
        RowState::Refunded => &["persisted", "paid", "refunded"],
        RowState::Rejected => &["rejected"],
    };
    let at_ms = |kind: &str| match kind {
        "expired" => row.expires_ms + 30_000,
        "refunded" => row.created_ms + 120_000,
        "paid" | "cancelled" => row.created_ms + 60_000,
        _ => row.created_ms,
    };
    let step = |kind: &&str| Move {
        place: row.place.clone(),
        order: row.id,
        kind: (*kind).to_owned(),
        at_ms: at_ms(kind),
    };
    kinds.iter().map(step).collect()
}

/// Makes the payments of the orders that were paid, and the refunds of those that were paid back.
fn money(rows: &[OrderRow]) -> (Vec<PaymentRow>, Vec<RefundRow>) {
    let (mut payments, mut refunds) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|row| matches!(row.state, RowState::Paid | RowState::Refunded)) {
        let payment = payment(row, 1, PaymentState::Captured);
        if row.state == RowState::Refunded {
            refunds.push(refund(&payment, RefundRow::OPERATOR, RefundState::Done));
        }
        payments.push(payment);
    }
    (payments, refunds)
}

/// Makes an attempt to pay an order.
pub fn payment(row: &OrderRow, attempt: i64, state: PaymentState) -> PaymentRow {
    PaymentRow {
        place: row.place.clone(),
        order: row.id,
        attempt,
        state,
        id: row.id.payment(attempt),
        deployment: "shop".to_owned(),
        amount: row.unit_price * row.quantity,
        currency: row.currency.clone(),
        reference: Some(format!("cs_{}_{attempt}", row.id)),
        capture: (state == PaymentState::Captured).then(|| format!("pi_{}_{attempt}", row.id)),
    }
}

/// Makes the refund of what a payment has captured.
pub fn refund(payment: &PaymentRow, reason: &str, state: RefundState) -> RefundRow {
    RefundRow {
        place: payment.place.clone(),
        order: payment.order,
        attempt: payment.attempt,
        amount: payment.amount,
        currency: payment.currency.clone(),
        capture: payment.capture.clone().unwrap_or_default(),
        reason: reason.to_owned(),
        state,
    }
}

/// Makes what the provider has booked for a captured payment.
pub fn booked(payment: &PaymentRow, refunded: i64) -> Booked {
    Booked {
        payment: payment.id.clone(),
        deployment: payment.deployment.clone(),
        reference: payment.capture.clone().unwrap_or_default(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        refunded,
    }
}

/// Books a grant on its giver and on its taker.
fn give(books: &mut [InstanceBooks], sku: &str, (giver, taker): (u16, u16), units: i64) {
    if units == 0 {
        return;
    }
    let id = format!("{sku}/{giver}/{taker}/{units}").into_bytes();
    let grant = GrantRow { id, sku: sku.to_owned(), taker, units, from_ledger: false };
    if giver != taker {
        books[usize::from(giver)].grants.push(grant.clone());
    }
    books[usize::from(taker)].grants.push(grant);
}

fn books(rows: &[OrderRow]) -> Vec<InstanceBooks> {
    let mut books = vec![InstanceBooks::default(); SERVERS.len()];
    let instance_of = |row: &OrderRow| usize::from(layout().instance_of(row.place.shard));
    for item in items() {
        let home = layout().home_of(&item.sku);
        let mut left = [0, 1].map(|instance| layout().share_of(&item.sku, item.stock, instance));
        let mut short = [0, 0];
        for taker in [0, 1] {
            let at = usize::from(taker);
            let here = rows.iter().filter(|row| row.sku == item.sku && instance_of(row) == at);
            let units = |state| here.clone().filter(|row| row.state == state).map(|row| row.quantity).sum();
            let (held, sold): (i64, i64) = (units(RowState::AwaitingPayment), units(RowState::Paid));
            let ledger = LedgerRow { sku: item.sku.clone(), allotted: held + sold, held, sold, withheld: 0 };
            books[at].ledger.push(ledger);
            let own = left[at].min(held + sold);
            left[at] -= own;
            short[at] = held + sold - own;
            give(&mut books, &item.sku, (taker, taker), own);
        }
        for taker in [0, 1] {
            let at = usize::from(taker);
            let fetched = left[1 - at].min(short[at]);
            left[1 - at] -= fetched;
            give(&mut books, &item.sku, (1 - taker, taker), fetched);
            // Units that a test sells beyond the stock come from the home.
            left[usize::from(home)] -= short[at] - fetched;
            give(&mut books, &item.sku, (home, taker), short[at] - fetched);
        }
        for instance in [0, 1] {
            let (at, stock) = (usize::from(instance), layout().share_of(&item.sku, item.stock, instance));
            books[at].pools.push(PoolRow { sku: item.sku.clone(), stock, granted: stock - left[at] });
        }
    }
    for row in rows.iter().filter(|row| !row.state.is_live()) {
        books[instance_of(row)].owed.push(OwedRow { order: row.id, restock: true });
    }
    books
}

/// Makes the record of a row.
pub fn record(row: &OrderRow) -> RecordFacts {
    RecordFacts {
        id: row.id,
        sku: row.sku.clone(),
        user: row.user.clone(),
        quantity: row.quantity,
        unit_price: row.unit_price,
        currency: row.currency.clone(),
        reference: row.reference.clone(),
        epoch: row.epoch,
        accepted_ms: row.accepted_ms,
    }
}

fn log(rows: &[OrderRow]) -> (LogFacts, BTreeMap<u16, i64>) {
    let mut ends: BTreeMap<u16, i64> = (0..4).map(|part| (part, 0)).collect();
    let mut records = Vec::new();
    for row in rows {
        let part = layout().partition_of(row.place.shard);
        let end = ends.get_mut(&part).expect("four partitions");
        records.push(LogRecord { part, offset: *end, order: Some(record(row)) });
        *end += 1;
    }
    let partitions = ends.values().map(|end| PartitionFacts { low: 0, end: *end }).collect();
    (LogFacts { partitions, records }, ends)
}

/// Puts a record that cannot become an order at the end of partition 0. It has been read and is a dead letter.
pub fn with_dead_letter(evidence: &mut Evidence) {
    let log = evidence.log.as_mut().expect("good has a log");
    let offset = log.partitions[0].end;
    log.partitions[0].end += 1;
    log.records.push(LogRecord { part: 0, offset, order: None });
    evidence.books[0].positions.insert(0, offset + 1);
    evidence.books[0].dead_letters.push(DeadLetter { part: 0, offset, reason: "garbage".to_owned() });
}

fn buckets(sale: &SaleFacts, rows: &[OrderRow]) -> Vec<Option<BucketFacts>> {
    let gate: BTreeMap<String, String> = [
        ("epoch", "1".to_owned()),
        ("state", "open".to_owned()),
        ("opens_ms", sale.starts_ms.to_string()),
        ("closes_ms", sale.ends_ms.to_string()),
        ("buyer_limit", sale.buyer_limit.to_string()),
        ("lease_ms", "0".to_owned()),
    ]
    .map(|(field, value)| (field.to_owned(), value))
    .into();
    let mut buckets = vec![BucketFacts { gate, ..BucketFacts::default() }; usize::from(BUCKETS)];
    for item in &sale.items {
        // The first bucket gets the unit that does not divide.
        buckets[0].stock.insert(item.sku.clone(), item.stock - item.stock / 2);
        buckets[1].stock.insert(item.sku.clone(), item.stock / 2);
    }
    for row in rows {
        let bucket = &mut buckets[usize::from(layout().bucket_of(row.place.shard, BUCKETS))];
        let hold = Hold {
            state: match row.state {
                RowState::AwaitingPayment => 'a',
                // Marking is best effort, so an older mark may stay.
                RowState::Paid => 'a',
                RowState::Cancelled => 'c',
                RowState::Expired => 'e',
                RowState::Refunded => 'f',
                RowState::Rejected => 'x',
            },
            released: false,
            fingerprint: fingerprint(&row.sku, row.quantity, row.reference.as_deref()),
            quantity: row.quantity,
            sku: row.sku.clone(),
            user: row.user.clone(),
        };
        bucket.holds.insert(row.id, hold);
        let held = if row.state.is_live() { row.quantity } else { 0 };
        *bucket.buyers.entry(row.user.clone()).or_default() += held;
        *bucket.stock.entry(row.sku.clone()).or_default() -= row.quantity;
    }
    buckets.into_iter().map(Some).collect()
}

fn http(rows: &[OrderRow]) -> HttpFacts {
    let answer = |row: &OrderRow| OrderAnswer {
        order: row.id,
        http_status: 200,
        status: row.state.as_str().to_owned(),
        sku: row.sku.clone(),
        quantity: row.quantity,
    };
    let user = &rows[0].user;
    let own = rows.iter().filter(|row| row.user == *user).map(|row| row.id.to_string());
    HttpFacts {
        orders: rows.iter().take(2).map(answer).collect(),
        lists: vec![ListAnswer {
            user: user.clone(),
            http_status: 200,
            orders: own.collect(),
            complete: true,
        }],
        strangers: vec![(rows[0].id, 404)],
    }
}
