//! Tests that changes of orders and order writers are in no circle: on one SKU of one instance everything that locks
//! its rows goes on at the same time, and the server reports no deadlock.
//!
//! `SECKILL_HAMMER_S=60 cargo test --test it order_changes` does it for a minute.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use seckill::config::Mode;
use seckill::domain::order_life::OrderEvent;
use seckill::domain::{Capture, Instance, Month, Mover, OrderId, OrderRecord, PaymentTerms};
use seckill::ports::{BatchOutcome, Ending, Grace, Moved, Opened, Overdue, Ports, Taken};

use crate::conformance::writer::Bench;
use crate::harness::{Servers, config};

/// Records of one batch.
const BATCH: usize = 20;
/// How long an order waits for its payment.
const WINDOW_MS: i64 = 150;
/// Orders are overdue as soon as they are due.
const NONE: Grace = Grace { ms: 0, closing_ms: 0 };
/// Batches of a partition without `SECKILL_HAMMER_S`.
const BATCHES: usize = 25;

/// Returns for how many seconds to go on; `None` for a fixed number of batches.
#[expect(clippy::disallowed_methods, reason = "a test's own switch is no configuration of the product")]
fn hammer_s() -> Option<u64> {
    let text = std::env::var("SECKILL_HAMMER_S").ok()?;
    Some(text.parse().expect("SECKILL_HAMMER_S is a whole number"))
}

struct Hammer {
    bench: Bench,
    /// Orders that were written, oldest first.
    written: Mutex<VecDeque<OrderId>>,
    /// Records that no batch has yet, each of a batch to come.
    to_come: Mutex<Vec<OrderRecord>>,
    until: Option<Instant>,
    writing: std::sync::atomic::AtomicUsize,
}

impl Hammer {
    async fn new(buyer_limit: u32) -> Self {
        let one = config(Mode::Distributed, &[]).mysql.instances[0].clone();
        let flags = [
            ("mysql.instances", one.as_str()),
            ("shards.partitions", "4"),
            ("mysql.pool_connections_max", "16"),
        ];
        let mut bench =
            Bench::of(config(Mode::Distributed, &flags), &[("phone", 10_000_000)], buyer_limit).await;
        // Every order is due almost at once.
        let sale = bench.sales.get_mut(&bench.sale.id).expect("the sale");
        sale.payment_window_ms = WINDOW_MS;
        let servers = Servers::of(&bench.config);
        let set = format!("UPDATE {}.sales SET payment_window_ms = {WINDOW_MS}", servers.directory());
        servers.execute(0, &set).await;
        let seconds = hammer_s();
        Self {
            bench,
            written: Mutex::default(),
            to_come: Mutex::default(),
            until: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            writing: 4.into(),
        }
    }

    fn goes_on(&self, batches: usize) -> bool {
        self.until.map_or(batches < BATCHES, |until| Instant::now() < until)
    }

    fn is_written_to(&self) -> bool {
        self.writing.load(std::sync::atomic::Ordering::Relaxed) > 0
    }

    /// Writes batch after batch. Of some records the order is cancelled before or at the same time.
    async fn write(&self, part: u16) {
        let users: Vec<_> = (0..BATCH).map(|n| self.bench.user(part, n)).collect();
        let (mut start, mut batches) = (0, 0);
        while self.goes_on(batches) {
            let record = |user| self.bench.record(user, &format!("k{batches}"), 1);
            let records: Vec<OrderRecord> = users.iter().map(record).collect();
            self.to_come.lock().expect("sound").extend(records.iter().step_by(5).cloned());
            let batch = self.bench.batch(part, start, records.iter().map(OrderRecord::encode).collect());
            let outcome = self.bench.backend.order_writes.write(&batch, &self.bench.sales).await;
            let BatchOutcome::Written(written) = outcome.expect("no deadlock") else {
                panic!("position moved")
            };
            let waiting = written.orders.iter().filter(|order| order.decision.buyer_keeps.is_none());
            self.written.lock().expect("sound").extend(waiting.map(|order| order.record.order_id));
            (start, batches) = (batch.next_offset(), batches + 1);
        }
        self.writing.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }

    async fn cancel(&self) -> usize {
        let mut cancelled = 0;
        while self.is_written_to() {
            let unwritten = self.to_come.lock().expect("sound").pop();
            if let Some(record) = unwritten {
                let ending = Ending::Cancelled;
                let moved =
                    self.bench.backend.order_changes.end_unwritten(&record, ending, &Mover::BUYER).await;
                cancelled += usize::from(matches!(moved.expect("no deadlock"), Moved::Done { .. }));
            }
            let newest = self.written.lock().expect("sound").pop_back();
            if let Some(order) = newest {
                let moved =
                    self.bench.backend.order_changes.change(order, OrderEvent::Cancel, &Mover::BUYER).await;
                cancelled += usize::from(matches!(moved.expect("no deadlock"), Moved::Done { .. }));
            }
            tokio::task::yield_now().await;
        }
        cancelled
    }

    async fn sweep(&self) -> usize {
        let (changes, months) = (&self.bench.backend.order_changes, [self.month()]);
        let mut expired = 0;
        while self.is_written_to() {
            let overdue = Overdue { at: Instance::FIRST, months: &months, grace: NONE };
            let found = changes.overdue(overdue, 30).await.expect("a read");
            expired += changes.expire(Instance::FIRST, &found, NONE).await.expect("no deadlock").len();
        }
        expired
    }

    /// Pays orders, and pays some of them back. Answers how many were paid and how many refunded.
    async fn pay(&self) -> (usize, usize) {
        let Ports { payments, captures, refunds, .. } = &self.bench.backend;
        let terms = PaymentTerms {
            deployment: "hammer".to_owned(),
            return_url: String::new(),
            page_ms_min: 1_000,
            page_ms_max: 1_000,
        };
        let (mut paid, mut refunded) = (0, 0);
        while self.is_written_to() {
            let newest = self.written.lock().expect("sound").pop_back();
            let Some(order) = newest else {
                tokio::task::yield_now().await;
                continue;
            };
            let Opened::New(payment) = payments.open(order, &terms).await.expect("no deadlock") else {
                continue;
            };
            let (id, amount) = (payment.request.id, payment.request.amount);
            let capture = Capture { payment: id.to_string(), amount, reference: format!("pi_{id}") };
            let taken = captures.take(Some(&format!("evt_{id}")), id, &capture).await.expect("no deadlock");
            paid += usize::from(matches!(taken, Taken::Paid { .. }));
            if matches!(taken, Taken::Paid { .. }) && paid % 3 == 0 {
                let moved =
                    refunds.refund_order(order, paid % 2 == 0, &Mover::UNKNOWN).await.expect("no deadlock");
                refunded += usize::from(matches!(moved, Moved::Done { .. }));
            }
        }
        (paid, refunded)
    }

    fn month(&self) -> Month {
        self.bench.sale.month()
    }
}

async fn hammered(buyer_limit: u32) {
    let hammer = Hammer::new(buyer_limit).await;
    let writers = futures::future::join_all((0..4).map(|part| hammer.write(part)));
    let (_, one, other, swept, also, (paid, refunded), (more, too)) = tokio::join!(
        writers,
        hammer.cancel(),
        hammer.cancel(),
        hammer.sweep(),
        hammer.sweep(),
        hammer.pay(),
        hammer.pay()
    );
    let (cancelled, expired, paid, refunded) = (one + other, swept + also, paid + more, refunded + too);
    assert!(cancelled > 10 && expired > 10, "{cancelled} cancelled, {expired} expired");
    assert!(paid > 10 && refunded > 3, "{paid} paid, {refunded} refunded");
    hammer.bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn writers_that_put_rows_first_meet_no_change_in_a_circle() {
    hammered(1).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn writers_that_ask_the_ledger_first_meet_no_change_in_a_circle() {
    hammered(2).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_month_whose_table_was_dropped_keeps_no_order_from_expiring() {
    let hammer = Hammer::new(1).await;
    let bench = &hammer.bench;
    let batch = bench.batch(0, 0, vec![bench.record(&bench.user(0, 0), "k", 1).encode()]);
    let written = bench.backend.order_writes.write(&batch, &bench.sales).await.expect("written");
    assert!(matches!(written, BatchOutcome::Written(_)), "{written:?}");
    let long_ago = Month::of_ms(0);
    let overdue = Overdue { at: Instance::FIRST, months: &[long_ago, hammer.month()], grace: NONE };
    let found = async || bench.backend.order_changes.overdue(overdue, 10).await.expect("a read");
    crate::harness::eventually("the order is overdue", async || found().await.len() == 1).await;
    hammer.bench.finish().await;
}
