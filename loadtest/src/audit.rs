//! The audit. It takes what the stores say, and it finds the promises that are broken.
//!
//! The audit is a pure function: it reads no clock and no store, so every rule is tested on a bad state that is made by
//! hand. Rules that compare stores with each other hold only when all is quiet. While records wait in the log or the
//! outbox, the audit passes these rules over, and it reports that something waits.

mod claims;
mod events;
mod holds;
mod index;
mod log;
mod payments;
mod provider;
mod requests;
mod rows;
mod shopfront;
mod stock;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod world;

use std::fmt;

use serde::Serialize;

use crate::config::Mode;
use crate::evidence::Evidence;
use index::Index;

macro_rules! rules {
    ($($rule:ident $text:literal $promise:literal $says:literal;)*) => {
        /// One rule. Its word is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule { $($rule,)* }

        impl Rule {
            /// All rules, in the table's order.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Returns the rule's word, as reports show it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$rule => $text,)* }
            }

            /// Returns the promise of docs/protocol/promises.md that the rule serves, or another word for its subject.
            pub fn promise(self) -> &'static str {
                match self { $(Self::$rule => $promise,)* }
            }

            /// Returns the sentence that must be true.
            pub fn says(self) -> &'static str {
                match self { $(Self::$rule => $says,)* }
            }
        }
    };
}

rules! {
    SoldOverStock "sold_over_stock" "I1" "live units of a SKU are at most its stock";
    PoolDiffers "pool_differs" "I1" "every instance has one pool of a SKU, with its share of the stock";
    PoolOvergranted "pool_overgranted" "I1" "a pool grants at most its stock";
    GrantsUnbalanced "grants_unbalanced" "I1" "units granted by the pool = units of grants = units allotted";
    GrantNotApplied "grant_not_applied" "I1" "every grant to another instance was applied there, when quiet";
    LedgerOverAllotment "ledger_over_allotment" "I1" "0 <= held + sold + withheld <= allotted";
    LedgerDiffers "ledger_differs" "I1" "held and sold of each instance = its awaiting and paid orders";
    WithheldDiffers "withheld_differs" "I2" "at most the units of refunded orders are withheld";
    RedisStockNegative "redis_stock_negative" "I1" "available units in Redis are never negative";
    RedisStockDiffers "redis_stock_differs" "I2" "available in Redis = stock - live - owed - withheld, when quiet";
    RedisBuyersDiffer "redis_buyers_differ" "I2" "a buyer's units in Redis = live + owed, less what was rejected, when quiet";
    HoldWithoutRow "hold_without_row" "I2" "every hold in Redis became a row, when quiet";
    RowWithoutHold "row_without_hold" "I2" "every live order has its hold in Redis, when quiet";
    RedisHoldDiffers "redis_hold_differs" "I2" "a hold says the same as its row";
    RedisStateContradicts "redis_state_contradicts" "I2" "a decided state in Redis is what MySQL decided";
    GateDiffers "gate_differs" "I2" "a running sale's gates carry its epoch, window and limit";
    WrongBucket "wrong_bucket" "I2" "a hold is in the bucket of its shard";
    AcceptedWithoutRow "accepted_without_row" "I3" "every accepted answer has its order row, when quiet";
    RecordWithoutRow "record_without_row" "I3" "every record before the position has a row or a dead letter";
    PositionBeyondLog "position_beyond_log" "I3" "a stored position is inside the log";
    DuplicateOrder "duplicate_order" "I4" "an order id stands once over all shards and months";
    AnswerIdDiffers "answer_id_differs" "I4" "an answer's order id is the one its buyer and key derive";
    KeyHasTwoOrders "key_has_two_orders" "I4" "the same key gets the same order";
    KeysShareOrder "keys_share_order" "I4" "different keys get different orders";
    ReplayDiffers "replay_differs" "I4" "every answer to a key tells the same story";
    AcceptedTwice "accepted_twice" "I4" "one key is accepted once; every other answer says it is a replay";
    LimitExceeded "limit_exceeded" "I5" "live units of a buyer are at most the buyer limit";
    ClaimsDiffer "claims_differ" "I5" "a live order has as many claims as units, numbered below the limit";
    ClaimWithoutLiveOrder "claim_without_live_order" "I5" "a claim belongs to a live order of that buyer";
    RowWithoutRequest "row_without_request" "I6" "every row has a request of that buyer";
    RowDiffersFromRequest "row_differs_from_request" "I6" "a row has the SKU, quantity and reference that were asked for";
    RefusedButPersisted "refused_but_persisted" "I3" "an order whose every answer was a refusal has no row";
    PaidWithoutCapture "paid_without_capture" "I7" "a paid order keeps a capture, a refunded one gave one back";
    PaidTwice "paid_twice" "I7" "an order has at most one capture without a refund";
    CaptureKept "capture_kept" "I7" "a capture that pays no order has a refund";
    RefundDiffers "refund_differs" "I7" "a refund pays back the capture of its payment, and all of it";
    PaymentDiffers "payment_differs" "I7" "a payment asks for what its order costs, under its own id";
    PaymentWithoutOrder "payment_without_order" "I7" "a payment belongs to an order, and stands where its row stands";
    PaymentForNothing "payment_for_nothing" "I7" "an order that costs nothing has no payments";
    PaymentsOpen "payments_open" "I7" "an order has at most one payment without a final answer";
    AttemptsDiffer "attempts_differ" "I7" "the payments of an order are numbered from 1 without gaps";
    EndedOrderPayable "ended_order_payable" "I7" "an order that was cancelled or has expired has no open payment";
    CaptureDiffers "capture_differs" "I7" "the captured payments, and no others, name a capture";
    CaptureShared "capture_shared" "I7" "no capture stands on two payments, or on one and an orphan that is paid back";
    CaptureNotTaken "capture_not_taken" "I7" "every booked capture is that of a payment or an orphan, or on its way";
    CaptureNotBooked "capture_not_booked" "I7" "every captured payment is booked by the provider, with its amount";
    RefundNotBooked "refund_not_booked" "I7" "what is refunded is paid back in the provider's books, in full";
    RefundUnasked "refund_unasked" "I7" "nothing is paid back in the provider's books that is not owed";
    LiveOrderReleased "live_order_released" "I8" "no units of a live order are on sale again or wait for it";
    LeftAfterSettle "left_after_settle" "I2" "the inventory has nothing of a settled sale";
    OutboxNotEmpty "outbox_not_empty" "I9" "the outbox is empty, when quiet";
    OutboxCountDiffers "outbox_count_differs" "I9" "an empty outbox counts no orders, when quiet";
    RecordsUnread "records_unread" "I9" "the order writers have read the log to its end, when quiet";
    WrongShard "wrong_shard" "placement" "rows and claims are in the shard of their id and of their buyer";
    WrongMonth "wrong_month" "placement" "rows are in the month of their id and of the sale's start";
    WrongInstance "wrong_instance" "placement" "a shard's rows are on the instance that owns the shard";
    WrongPartition "wrong_partition" "placement" "records are in the partition of their shard";
    PriceDiffers "price_differs" "content" "a row has the item's price";
    ReasonDiffers "reason_differs" "content" "a reason stands exactly on the rejected";
    AcceptedBeforeOpening "accepted_before_opening" "content" "nothing is accepted before the opening";
    AcceptedAfterEnd "accepted_after_end" "content" "nothing is accepted at the end or after it";
    AcceptedWhileShut "accepted_while_shut" "content" "nothing is accepted while the sale is paused, or once it was ended";
    ExpiryDiffers "expiry_differs" "content" "a payment is due one payment window after the row was made";
    ExpiredEarly "expired_early" "content" "no order expires before its payment was due";
    MovesDiffer "moves_differ" "content" "a row's moves are those of its state";
    MoveWithoutRow "move_without_row" "content" "every move belongs to a row";
    MoveUntold "move_untold" "events" "every move is told by an event";
    MoveToldTwice "move_told_twice" "events" "a move is told once";
    EventWithoutMove "event_without_move" "events" "every event tells a move";
    EventStatesDiffer "event_states_differ" "events" "an event goes from its state to its state along an arrow";
    EventDiffers "event_differs" "events" "an event says what its move and its row say";
    EventsDoNotFollow "events_do_not_follow" "events" "an order's events lead from one to the next, and to its row's state";
    EventMisplaced "event_misplaced" "events" "an event is in the partition of its order";
    EventNumbersDiffer "event_numbers_differ" "events" "the events of a partition are numbered without gaps";
    EventDamaged "event_damaged" "events" "every event can be read";
    ReaderAhead "reader_ahead" "events" "no reader is beyond the last event";
    ViewDiffers "view_differs" "events" "a view is the sum of the events that its reader has had";
    RowWithoutRecord "row_without_record" "content" "every row has a record in the order log";
    RowDiffersFromRecord "row_differs_from_record" "content" "a row says the same as its record";
    RefusedThoughLeft "refused_though_left" "honesty" "nobody hears that units are gone which are left";
    LimitNotReached "limit_not_reached" "honesty" "who is refused at the limit has no room below it";
    UnpaidMaxNotReached "unpaid_max_not_reached" "honesty" "who is refused for unpaid orders has given up as many";
    HttpOrderDiffers "http_order_differs" "honesty" "GET of an order says what its row says";
    HttpListIncomplete "http_list_incomplete" "honesty" "a buyer's list holds all of the buyer's rows";
    HttpOrderLeaks "http_order_leaks" "honesty" "nobody can read another buyer's order";
}

/// The rules that a data folder cannot break. A folder is one instance, so nothing is granted between instances, and no
/// row can stand on another one. A reservation is a record of the log, so there is no outbox. The row of an order is
/// the state of its reservation.
const SERVICES_ONLY: [Rule; 7] = [
    Rule::PoolOvergranted,
    Rule::GrantsUnbalanced,
    Rule::GrantNotApplied,
    Rule::RedisStateContradicts,
    Rule::OutboxNotEmpty,
    Rule::OutboxCountDiffers,
    Rule::WrongInstance,
];

/// Returns how many rules have something to judge.
pub fn judged(mode: Mode) -> usize {
    match mode {
        Mode::Distributed => Rule::ALL.len(),
        Mode::Embedded => Rule::ALL.len() - SERVICES_ONLY.len(),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule that is broken.
    pub rule: Rule,
    /// The place where it is broken, and what stands there.
    pub detail: String,
}

/// The violations that were found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, rule: Rule, detail: String) {
        self.0.push(Violation { rule, detail });
    }

    /// Adds a violation unless the rule holds. `detail` is called only when the rule is broken.
    fn check(&mut self, holds: bool, rule: Rule, detail: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, detail());
        }
    }
}

/// Judges the evidence. The violations come by rule, in the order of [`Rule::ALL`]. An empty answer is a pass.
pub fn audit(evidence: &Evidence) -> Vec<Violation> {
    let index = Index::new(evidence);
    let mut found = Findings::default();
    stock::check(&index, &mut found);
    rows::check(&index, &mut found);
    events::check(&index, &mut found);
    claims::check(&index, &mut found);
    log::check(&index, &mut found);
    holds::check(&index, &mut found);
    requests::check(&index, &mut found);
    payments::check(&index, &mut found);
    provider::check(&index, &mut found);
    shopfront::check(&index, &mut found);
    found.0.sort_by_key(|violation| violation.rule);
    found.0
}

/// Lists what a reader must know beside the violations: what was not judged, and what an operator should look at.
pub fn notes(evidence: &Evidence) -> Vec<String> {
    let index = Index::new(evidence);
    let mut notes = Vec::new();
    if !index.is_quiet() {
        notes.push("not quiet: rules that compare stores with each other were passed over".to_owned());
    }
    if evidence.mode == Mode::Embedded {
        let absent = SERVICES_ONLY.map(Rule::as_str).join(", ");
        notes.push(format!("embedded: not judged, as a folder has no such thing: {absent}"));
    }
    let letters: usize = evidence.books.iter().map(|books| books.dead_letters.len()).sum();
    if letters > 0 {
        notes.push(format!("{letters} dead letters on this topic wait for an operator"));
    }
    let owed: usize = evidence.books.iter().map(|books| books.owed.len()).sum();
    if owed > 0 {
        notes.push(format!("{owed} releases wait in release_outbox"));
    }
    let set_aside: u64 = index.buckets().map(|(_, bucket)| bucket.set_aside).sum();
    if set_aside > 0 {
        notes.push(format!("{set_aside} outbox entries were set aside and wait for an operator"));
    }
    notes.extend(payments::notes(evidence));
    notes.extend(provider::notes(&index));
    match &evidence.log {
        None => notes.push("order log not read".to_owned()),
        Some(log) if log.partitions.iter().any(|part| part.low > 0) => {
            notes.push(
                "the log's head is deleted: rows without a record were not looked for there".to_owned(),
            );
        }
        Some(_) => {}
    }
    match &evidence.buckets {
        None => notes.push("inventory not read".to_owned()),
        Some(buckets) if buckets.iter().all(Option::is_none) => {
            notes.push("no bucket of the sale is in place".to_owned());
        }
        Some(_) => {}
    }
    if evidence.http.is_none() {
        notes.push("no answers read over HTTP".to_owned());
    }
    if evidence.journal.is_none() {
        notes.push("no journal: rows were not compared with requests".to_owned());
    }
    notes
}
