//! Runs the audit on states that no working system produces. Each of them is the good state with one thing broken, and
//! the audit must find exactly the rules that the test names. A rule that stays silent sees nothing, and a rule too
//! many hides the cause.

mod buyers;
mod events;
mod log;
mod payments;
mod provider;
mod redis;
mod rows;
mod units;

use std::collections::BTreeSet;

use super::world::{PHONE, good, of_rows, row, tell, with_dead_letter};
use super::{Rule, audit, notes};
use crate::evidence::{BucketFacts, Evidence, HttpFacts, InstanceBooks, LogFacts, OrderRow, RowState};
use crate::journal::Entry;

fn rules(evidence: &Evidence) -> BTreeSet<Rule> {
    audit(evidence).into_iter().map(|violation| violation.rule).collect()
}

/// Breaks the good state and compares what is found.
fn broken(expected: &[Rule], damage: impl FnOnce(&mut Evidence)) {
    broken_from(good(), expected, damage);
}

/// Breaks another good state and compares what is found. Its events tell the moves as they are then.
fn broken_from(mut evidence: Evidence, expected: &[Rule], damage: impl FnOnce(&mut Evidence)) {
    damage(&mut evidence);
    tell(&mut evidence);
    broken_told_from(evidence, expected, |_| ());
}

/// Breaks the good state after its moves were told, and compares what is found.
fn broken_told(expected: &[Rule], damage: impl FnOnce(&mut Evidence)) {
    broken_told_from(good(), expected, damage);
}

/// Breaks another good state after its moves were told, and compares what is found.
fn broken_told_from(mut evidence: Evidence, expected: &[Rule], damage: impl FnOnce(&mut Evidence)) {
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
fn every_rule_has_its_own_text() {
    let texts: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(texts.len(), Rule::ALL.len());
}
