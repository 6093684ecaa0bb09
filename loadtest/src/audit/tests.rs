//! The audit on states that no working system produces. Each is the good state with one thing broken, and
//! must yield exactly the rules named beside it: a rule that stays silent is blind, and one that chimes in
//! hides the cause.

use std::collections::BTreeSet;

use super::world::{PHONE, SALE, good, id_of, of_rows, place_of, row, with_dead_letter};
use super::{Rule, audit, notes};
use crate::evidence::{
    BucketFacts, Claim, Evidence, HttpFacts, InstanceBooks, LogFacts, Move, OrderRow, OwedRow, RowState,
};
use crate::journal::{Class, Entry};

fn rules(evidence: &Evidence) -> BTreeSet<Rule> {
    audit(evidence).into_iter().map(|violation| violation.rule).collect()
}

/// Breaks the good state and compares what is found.
fn broken(expected: &[Rule], damage: impl FnOnce(&mut Evidence)) {
    let mut evidence = good();
    damage(&mut evidence);
    let expected: BTreeSet<Rule> = expected.iter().copied().collect();
    assert_eq!(rules(&evidence), expected, "{:#?}", audit(&evidence));
}

fn log(evidence: &mut Evidence) -> &mut LogFacts {
    evidence.log.as_mut().expect("good has a log")
}

fn bucket_of<'a>(evidence: &'a mut Evidence, user: &str) -> &'a mut BucketFacts {
    let number = evidence.layout.bucket_of(evidence.layout.shard_of(user), evidence.sale.buckets);
    bucket(evidence, number)
}

fn bucket(evidence: &mut Evidence, number: u16) -> &mut BucketFacts {
    let buckets = evidence.buckets.as_mut().expect("good has buckets");
    buckets[usize::from(number)].as_mut().expect("good has all buckets")
}

fn http(evidence: &mut Evidence) -> &mut HttpFacts {
    evidence.http.as_mut().expect("good has HTTP answers")
}

fn journal(evidence: &mut Evidence) -> &mut Vec<Entry> {
    evidence.journal.as_mut().expect("good has a journal")
}

fn row_of<'a>(evidence: &'a mut Evidence, user: &str) -> &'a mut OrderRow {
    evidence.rows.iter_mut().find(|row| row.user == user).expect("a buyer of the good state")
}

fn books_of<'a>(evidence: &'a mut Evidence, user: &str) -> &'a mut InstanceBooks {
    let instance = evidence.layout.instance_of(evidence.layout.shard_of(user));
    &mut evidence.books[usize::from(instance)]
}

fn home_of_phone(evidence: &mut Evidence) -> &mut InstanceBooks {
    let home = evidence.layout.home_of(PHONE);
    &mut evidence.books[usize::from(home)]
}

#[test]
fn the_good_state_is_good() {
    assert_eq!(audit(&good()), []);
    assert!(notes(&good()).iter().any(|note| note.contains("1 releases wait")));
}

#[test]
fn a_sale_of_one_order_is_good() {
    let rows = vec![row("u-0", "k", PHONE, 1, RowState::AwaitingPayment)];
    assert_eq!(audit(&of_rows(rows)), []);
}

#[test]
fn a_dead_letter_accounts_for_its_record() {
    let mut evidence = good();
    with_dead_letter(&mut evidence);
    assert_eq!(audit(&evidence), []);
    assert!(notes(&evidence).iter().any(|note| note.contains("1 dead letters")));
}

#[test]
fn every_state_an_order_can_reach_is_good() {
    for state in RowState::ALL {
        let rows = vec![row("u-0", "k", PHONE, 2, state), row("u-1", "k", PHONE, 1, state)];
        let evidence = of_rows(rows);
        assert_eq!(audit(&evidence), [], "{state:?}");
    }
}

#[test]
fn more_sold_than_the_stock() {
    // Consistent in itself: the pool was opened with more than the promoter's stock.
    let rows = (0..13).map(|n| row(&format!("b-{n}"), "k", PHONE, 1, RowState::AwaitingPayment)).collect();
    let mut evidence = of_rows(rows);
    home_of_phone(&mut evidence).pools.iter_mut().for_each(|pool| pool.stock += i64::from(pool.sku == PHONE));
    // Redis was preheated with the same wrong number.
    for number in 0..2 {
        let available = bucket(&mut evidence, number).stock.get_mut(PHONE).expect("preheated");
        *available = 0;
    }
    let expected = [Rule::SoldOverStock, Rule::PoolDiffers, Rule::RedisStockDiffers];
    assert_eq!(rules(&evidence), expected.into(), "{:#?}", audit(&evidence));
}

#[test]
fn a_pool_that_granted_more_than_it_had() {
    broken(&[Rule::PoolOvergranted, Rule::GrantsUnbalanced], |evidence| {
        home_of_phone(evidence).pools.iter_mut().for_each(|pool| pool.granted += 100);
    });
}

#[test]
fn a_pool_away_from_its_home() {
    broken(&[Rule::PoolDiffers, Rule::GrantsUnbalanced], |evidence| {
        let home = usize::from(evidence.layout.home_of(PHONE));
        let at = evidence.books[home].pools.iter().position(|pool| pool.sku == PHONE).expect("opened");
        let pool = evidence.books[home].pools.remove(at);
        evidence.books[1 - home].pools.push(pool);
    });
}

#[test]
fn a_grant_taken_and_never_applied() {
    broken(&[Rule::GrantsUnbalanced], |evidence| {
        let taker = 1 - evidence.layout.home_of(PHONE);
        let home = home_of_phone(evidence);
        let mut stray = home.grants[0].clone();
        (stray.id, stray.sku, stray.taker, stray.units) = (vec![9], PHONE.to_owned(), taker, 1);
        home.grants.push(stray);
        home.pools.iter_mut().filter(|pool| pool.sku == PHONE).for_each(|pool| pool.granted += 1);
    });
}

#[test]
fn a_ledger_that_lost_a_unit() {
    broken(&[Rule::LedgerDiffers], |evidence| {
        let ledger = &mut books_of(evidence, "u-0").ledger;
        ledger.iter_mut().filter(|row| row.sku == PHONE).for_each(|row| row.held -= 1);
    });
}

#[test]
fn a_ledger_above_its_allotment() {
    broken(&[Rule::LedgerOverAllotment, Rule::GrantsUnbalanced], |evidence| {
        let ledger = &mut books_of(evidence, "u-0").ledger;
        ledger.iter_mut().filter(|row| row.sku == PHONE).for_each(|row| row.allotted -= 1);
    });
}

#[test]
fn a_leaked_unit_in_redis() {
    broken(&[Rule::RedisStockDiffers], |evidence| {
        *bucket(evidence, 0).stock.get_mut(PHONE).expect("preheated") -= 1;
    });
}

#[test]
fn negative_stock_in_one_bucket() {
    broken(&[Rule::RedisStockNegative], |evidence| {
        // The sum over the buckets is right.
        let first = bucket(evidence, 0).stock.get_mut(PHONE).expect("preheated");
        let moved = *first + 1;
        *first = -1;
        *bucket(evidence, 1).stock.get_mut(PHONE).expect("preheated") += moved;
    });
}

#[test]
fn a_buyer_who_holds_more_in_redis_than_in_rows() {
    broken(&[Rule::RedisBuyersDiffer], |evidence| {
        *bucket_of(evidence, "u-3").buyers.get_mut("u-3").expect("a buyer") += 1;
    });
}

#[test]
fn a_hold_that_never_became_a_row() {
    broken(&[Rule::HoldWithoutRow], |evidence| {
        let id = id_of("u-3", "lost");
        let mut hold = bucket_of(evidence, "u-3").holds[&id_of("u-3", "k")].clone();
        (hold.state, hold.user) = ('r', "u-3".to_owned());
        bucket_of(evidence, "u-3").holds.insert(id, hold);
    });
}

#[test]
fn a_live_order_that_redis_forgot() {
    broken(&[Rule::RowWithoutHold], |evidence| {
        bucket_of(evidence, "u-3").holds.remove(&id_of("u-3", "k"));
    });
}

#[test]
fn a_hold_with_another_quantity() {
    broken(&[Rule::RedisHoldDiffers], |evidence| {
        bucket_of(evidence, "u-3").holds.get_mut(&id_of("u-3", "k")).expect("held").quantity = 2;
    });
}

#[test]
fn a_rejected_order_marked_payable_in_redis() {
    broken(&[Rule::RedisStateContradicts], |evidence| {
        bucket_of(evidence, "u-9").holds.get_mut(&id_of("u-9", "k2")).expect("held").state = 'a';
    });
    // A mark that never came is no contradiction: marking is best effort.
    broken(&[], |evidence| {
        bucket_of(evidence, "u-9").holds.get_mut(&id_of("u-9", "k2")).expect("held").state = 'q';
    });
}

#[test]
fn a_gate_of_another_epoch_and_a_gate_that_is_gone() {
    broken(&[Rule::GateDiffers], |evidence| {
        bucket(evidence, 1).gate.insert("epoch".to_owned(), "2".to_owned());
    });
    broken(&[Rule::GateDiffers], |evidence| {
        evidence.buckets.as_mut().expect("good has buckets")[1] = None;
    });
}

#[test]
fn a_hold_in_the_wrong_bucket() {
    broken(&[Rule::WrongBucket], |evidence| {
        let id = id_of("u-3", "k");
        let number = evidence.layout.bucket_of(id.shard(), 2);
        let hold = bucket(evidence, number).holds.remove(&id).expect("held");
        bucket(evidence, 1 - number).holds.insert(id, hold);
    });
}

#[test]
fn an_accepted_order_that_is_nowhere() {
    broken(&[Rule::AcceptedWithoutRow], |evidence| {
        let mut lost = journal(evidence)[0].clone();
        lost.user = "u-lost".to_owned();
        lost.order_id = Some(id_of("u-lost", "k").to_string());
        journal(evidence).push(lost);
    });
}

#[test]
fn a_read_record_without_row() {
    broken(&[Rule::RecordWithoutRow], |evidence| {
        with_dead_letter(evidence);
        evidence.books[0].dead_letters.clear();
    });
}

#[test]
fn a_position_behind_the_end_of_the_log() {
    broken(&[Rule::PositionBeyondLog], |evidence| {
        *evidence.books[1].positions.get_mut(&3).expect("partition 3") += 7;
    });
}

#[test]
fn records_that_nobody_read() {
    broken(&[Rule::RecordsUnread], |evidence| {
        let last = log(evidence).records[0].part;
        let books = evidence.books.iter_mut().find(|books| books.positions.contains_key(&last));
        *books.expect("a stored position").positions.get_mut(&last).expect("stored") -= 1;
    });
}

#[test]
fn an_entry_that_stays_in_the_outbox() {
    broken(&[Rule::OutboxNotEmpty], |evidence| bucket(evidence, 0).outbox = 1);
}

#[test]
fn an_order_that_stands_twice() {
    broken(&[Rule::DuplicateOrder, Rule::WrongMonth], |evidence| {
        let mut twin = evidence.rows.iter().find(|row| row.state == RowState::Rejected).expect("one").clone();
        twin.yyyymm = 202_606;
        evidence.rows.push(twin);
    });
}

#[test]
fn an_answer_with_an_underived_id() {
    broken(&[Rule::AnswerIdDiffers], |evidence| {
        let id = id_of("u-1", "other-key").to_string();
        journal(evidence)[1].order_id = Some(id);
    });
}

#[test]
fn the_same_key_with_two_ids() {
    broken(&[Rule::KeyHasTwoOrders], |evidence| {
        let replay = journal(evidence).iter_mut().find(|entry| entry.class == Class::Replayed);
        replay.expect("one").order_id = Some(id_of("u-0", "k9").to_string());
    });
}

#[test]
fn two_keys_with_one_id() {
    broken(&[Rule::KeysShareOrder], |evidence| {
        let shared = journal(evidence)[0].order_id.clone();
        journal(evidence)[1].order_id = shared;
    });
}

#[test]
fn a_double_click_accepted_twice() {
    broken(&[Rule::AcceptedTwice], |evidence| {
        let replay = journal(evidence).iter_mut().find(|entry| entry.class == Class::Replayed);
        replay.expect("one").class = Class::Won;
    });
}

#[test]
fn a_buyer_above_the_limit() {
    // Every store agrees that u-0 holds three; only the limit says two.
    let mut rows: Vec<OrderRow> = Vec::new();
    for key in ["k", "k2", "k3"] {
        rows.push(row("u-0", key, PHONE, 1, RowState::AwaitingPayment));
    }
    let mut evidence = of_rows(rows);
    for (claim, unit) in evidence.claims.iter_mut().zip([0, 1, 1]) {
        claim.unit = unit;
    }
    assert_eq!(rules(&evidence), [Rule::LimitExceeded].into(), "{:#?}", audit(&evidence));
}

#[test]
fn a_live_order_without_claim_and_a_claim_without_order() {
    broken(&[Rule::ClaimsDiffer], |evidence| drop(evidence.claims.remove(0)));
    broken(&[Rule::ClaimWithoutLiveOrder], |evidence| {
        let order = id_of("u-9", "k2");
        let claim = Claim { place: place_of("u-9"), user: "u-9".to_owned(), unit: 1, order };
        evidence.claims.push(claim);
    });
}

#[test]
fn an_order_that_nobody_asked_for() {
    broken(&[Rule::RowWithoutRequest], |evidence| journal(evidence).retain(|entry| entry.user != "u-5"));
    // One that stood before the run is somebody else's business.
    broken(&[], |evidence| {
        evidence.before.insert(id_of("u-5", "k"));
        journal(evidence).retain(|entry| entry.user != "u-5");
    });
}

#[test]
fn an_order_of_another_sku_than_asked_for() {
    broken(&[Rule::RowDiffersFromRequest], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            entry.sku = "case".to_owned();
        }
    });
}

#[test]
fn a_buyer_told_sold_out_whose_order_stands() {
    broken(&[Rule::RefusedButPersisted], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::SoldOut, None);
        }
    });
    // Without an answer nothing was promised.
    broken(&[], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::Unknown, None);
        }
    });
}

#[test]
fn a_release_queued_for_a_live_order() {
    broken(&[Rule::LiveOrderReleased], |evidence| {
        books_of(evidence, "u-2").owed.push(OwedRow { order: id_of("u-2", "k") });
    });
}

#[test]
fn an_order_in_the_wrong_shard() {
    broken(&[Rule::WrongShard], |evidence| {
        // The neighbour on the same instance; its moves moved along.
        let order = id_of("u-4", "k");
        row_of(evidence, "u-4").place.shard ^= 1;
        let shard = row_of(evidence, "u-4").place.shard;
        evidence.moves.iter_mut().filter(|step| step.order == order).for_each(|step| step.place.shard = shard);
    });
}

#[test]
fn an_order_in_the_wrong_month() {
    broken(&[Rule::WrongMonth], |evidence| row_of(evidence, "u-4").yyyymm = 202_606);
}

#[test]
fn an_order_on_the_wrong_instance() {
    broken(&[Rule::WrongInstance], |evidence| {
        row_of(evidence, "u-4").place.server = "127.0.0.1:9".into();
    });
}

#[test]
fn a_record_in_the_wrong_partition() {
    broken(&[Rule::WrongPartition], |evidence| {
        let record = &mut log(evidence).records[0];
        let from = record.part;
        record.part = (from + 1) % 4;
        record.offset = 0;
        let to = record.part;
        // An empty partition has no position yet.
        for books in &mut evidence.books {
            if let Some(position) = books.positions.get_mut(&to) {
                *position = (*position).max(1);
            }
        }
        let end = &mut log(evidence).partitions[usize::from(to)].end;
        *end = (*end).max(1);
    });
}

#[test]
fn an_order_at_another_price() {
    broken(&[Rule::PriceDiffers, Rule::RowDiffersFromRecord], |evidence| {
        row_of(evidence, "u-4").unit_price = 1;
    });
    // Also when the log agrees.
    broken(&[Rule::PriceDiffers], |evidence| {
        row_of(evidence, "u-4").unit_price = 1;
        let records = log(evidence).records.iter_mut().filter_map(|record| record.order.as_mut());
        records.filter(|order| order.user == "u-4").for_each(|order| order.unit_price = 1);
    });
}

#[test]
fn a_rejection_without_reason() {
    broken(&[Rule::ReasonDiffers], |evidence| {
        evidence.rows.iter_mut().for_each(|row| row.reason = None);
    });
}

#[test]
fn an_order_accepted_before_the_opening() {
    broken(&[Rule::AcceptedBeforeOpening], |evidence| {
        let early = evidence.sale.starts_ms - 5_000;
        row_of(evidence, "u-4").accepted_ms = early;
        let records = log(evidence).records.iter_mut().filter_map(|record| record.order.as_mut());
        records.filter(|order| order.user == "u-4").for_each(|order| order.accepted_ms = early);
    });
}

#[test]
fn moves_that_do_not_lead_to_the_state() {
    broken(&[Rule::MovesDiffer], |evidence| drop(evidence.moves.remove(0)));
    broken(&[Rule::MovesDiffer], |evidence| {
        let step = Move { kind: "expired".to_owned(), ..evidence.moves[0].clone() };
        evidence.moves.push(step);
    });
    broken(&[Rule::MoveWithoutRow], |evidence| {
        let step = Move { order: id_of("u-0", "gone"), ..evidence.moves[0].clone() };
        evidence.moves.push(step);
    });
}

#[test]
fn a_row_that_no_record_asked_for() {
    broken(&[Rule::RowWithoutRecord], |evidence| {
        log(evidence).records.retain(|record| record.order.as_ref().is_none_or(|order| order.user != "u-4"));
    });
}

#[test]
fn a_shop_that_lies_to_shoppers() {
    broken(&[Rule::HttpOrderDiffers], |evidence| http(evidence).orders[0].status = "queued".to_owned());
    broken(&[Rule::HttpListIncomplete], |evidence| http(evidence).lists[0].orders.clear());
    broken(&[], |evidence| {
        // There is a next page, which may hold it.
        http(evidence).lists[0].orders.clear();
        http(evidence).lists[0].complete = false;
    });
    broken(&[Rule::HttpOrderLeaks], |evidence| http(evidence).strangers[0].1 = 200);
}

#[test]
fn another_sale_in_the_journal_is_passed_over() {
    broken(&[], |evidence| {
        let mut other = journal(evidence)[0].clone();
        other.sale = format!("{SALE}-2");
        journal(evidence).push(other);
    });
}

#[test]
fn every_rule_has_its_own_text() {
    let texts: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(texts.len(), Rule::ALL.len());
}
