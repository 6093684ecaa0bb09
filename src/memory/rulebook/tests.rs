//! Tests of the rulebook: whom a rule counts, and when it holds.

use serde_json::{Value, json};

use std::net::IpAddr;

use super::*;
use crate::clock::Clock;
use crate::domain::{SaleId, UserId};

fn rule(id: &str, terms: Value) -> Rule {
    let mut terms = terms;
    terms["reason"] = json!("a test");
    let terms = RuleTerms::read(&terms.to_string()).expect("a rule");
    Rule { id: RuleId::parse(id).expect("a slug"), terms, version: 1 }
}

fn set(version: u64, rules: Vec<Rule>) -> RuleSet {
    RuleSet { version, rules }
}

struct Crowd {
    book: Rulebook,
    clock: Clock,
}

impl Crowd {
    fn new(rules: Vec<Rule>) -> Self {
        let book = Rulebook::new([(5, 2), (0, 0), (0, 0)], false, Arc::default());
        book.take(set(1, rules), 0);
        Self { book, clock: Clock::manual(0) }
    }

    fn ask(&self, way: Way, user: &str, address: &str, sale: &str) -> Result<(), Refused> {
        let (user, sale) = (UserId::parse(user).ok(), SaleId::parse(sale).ok());
        let address = address.parse().expect("an address");
        let asker = Asker { way, user: user.as_ref(), address, sale: sale.as_ref(), device: None };
        let passed = self.book.check(&asker, self.clock.monotonic(), self.clock.now_ms())?;
        assert!(passed.pending.is_none(), "nobody has to wait");
        Ok(())
    }

    fn passed(&self, way: Way, user: &str, address: &str, sale: &str) -> usize {
        (0..100).take_while(|_| self.ask(way, user, address, sale).is_ok()).count()
    }
}

fn bucket(scope: &str, about: Value, burst: u32) -> Value {
    json!({ "scope": scope, "match": about, "kind": "token_bucket", "value": { "rate": 1, "burst": burst } })
}

#[test]
fn a_way_knows_its_place() {
    assert!(Way::ALL.iter().enumerate().all(|(index, way)| way.index() == index));
}

#[test]
fn each_scope_counts_by_its_own_key() {
    let crowd = Crowd::new(vec![
        rule("all", bucket("all", json!({ "route": "sale_list" }), 3)),
        rule("route", bucket("route", json!({}), 50)),
        rule("sale", bucket("sale", json!({ "route": "sale_read" }), 4)),
        rule("user", bucket("user", json!({ "route": "order_list" }), 5)),
        rule("address", bucket("address", json!({ "route": "order_read" }), 6)),
    ]);
    assert_eq!(crowd.passed(Way::SaleList, "a", "1.1.1.1", ""), 3);
    assert_eq!(crowd.passed(Way::SaleList, "b", "1.1.1.2", ""), 0, "all together");
    assert_eq!(crowd.passed(Way::SaleRead, "a", "1.1.1.1", "one"), 4);
    assert_eq!(crowd.passed(Way::SaleRead, "a", "1.1.1.1", "two"), 4);
    assert_eq!(crowd.passed(Way::OrderList, "a", "1.1.1.1", ""), 5);
    assert_eq!(crowd.passed(Way::OrderList, "b", "1.1.1.1", ""), 5);
    assert_eq!(crowd.passed(Way::OrderRead, "a", "2001:db8::1", ""), 6);
    assert_eq!(crowd.passed(Way::OrderRead, "b", "2001:db8::2", ""), 0, "one subscriber's network");
    assert_eq!(crowd.passed(Way::OrderRead, "b", "2001:db8:0:1::2", ""), 6);
    assert_eq!(crowd.passed(Way::Cancel, "a", "1.1.1.1", ""), 50);
    assert_eq!(crowd.passed(Way::Pay, "a", "1.1.1.1", ""), 50, "another way");
}

#[test]
fn who_is_too_fast_takes_no_tokens_of_others() {
    let limit = |scope: &str, burst: u32| bucket(scope, json!({ "route": "purchase" }), burst);
    let crowd = Crowd::new(vec![
        rule("a-all", limit("all", 10)),
        rule("b-sale", limit("sale", 10)),
        rule("c-address", limit("address", 3)),
        rule("d-user", limit("user", 2)),
    ]);
    let refusals = (0..1000).filter(|_| crowd.ask(Way::Purchase, "bot", "1.1.1.1", "one").is_err());
    assert_eq!(refusals.count(), 998);
    let others = (0..20).filter(|n| {
        let (user, address) = (format!("user-{n}"), format!("10.0.0.{n}"));
        crowd.ask(Way::Purchase, &user, &address, "one").is_ok()
    });
    assert_eq!(others.count(), 8, "all but the two that the bot has bought for");
}

#[test]
fn the_configuration_holds_for_a_scope_that_has_no_rule() {
    let crowd = Crowd::new(vec![]);
    let refused = |rule: &str| Refused::TooFast {
        policy: Policy::new(&RuleId::parse(rule).expect("a slug"), 5, 2),
        retry_after: Duration::from_millis(200),
    };
    assert_eq!(crowd.passed(Way::Purchase, "a", "1.1.1.1", "s"), 2);
    assert_eq!(crowd.ask(Way::Purchase, "a", "1.1.1.1", "s"), Err(refused("user")));
    assert!(crowd.ask(Way::OrderRead, "a", "1.1.1.1", "s").is_ok(), "it is about purchases");
    let mut dry = bucket("user", json!({}), 9);
    dry["mode"] = json!("dry_run");
    crowd.book.take(set(2, vec![rule("mine", dry)]), 0);
    assert_eq!(crowd.passed(Way::Purchase, "b", "1.1.1.1", "s"), 2, "a dry run changes nothing");
    let mut mine = bucket("user", json!({}), 9);
    mine["until_ms"] = json!(50);
    crowd.book.take(set(3, vec![rule("mine", mine.clone())]), 0);
    assert_eq!(crowd.passed(Way::Purchase, "c", "1.1.1.1", "s"), 9);
    crowd.book.take(set(3, vec![rule("mine", mine)]), 50);
    assert_eq!(crowd.passed(Way::Purchase, "d", "1.1.1.1", "s"), 2, "its time is over");
}

#[test]
fn a_rule_with_the_name_of_one_of_the_configuration_counts_by_itself() {
    let mut dry = bucket("user", json!({}), 5);
    dry["mode"] = json!("dry_run");
    let crowd = Crowd::new(vec![rule("user", dry)]);
    assert_eq!(crowd.passed(Way::Purchase, "a", "1.1.1.1", "s"), 2, "as the configuration says");
}

#[test]
fn nobody_is_served_before_the_rules_were_read_and_what_has_ended_has_ended() {
    let book = Rulebook::new([(0, 0); 3], false, Arc::default());
    let (address, clock) = (IpAddr::from([192, 0, 2, 1]), Clock::manual(0));
    let asker = Asker { way: Way::SaleList, user: None, address, sale: None, device: None };
    let ask = || book.check(&asker, clock.monotonic(), clock.now_ms()).map(drop);
    assert_eq!(ask(), Err(Refused::NotRead));
    book.take(RuleSet::default(), 0);
    assert_eq!(ask(), Ok(()));
}

#[test]
fn a_changed_rule_keeps_its_count() {
    let crowd = Crowd::new(vec![rule("all", bucket("all", json!({}), 3))]);
    assert_eq!(crowd.passed(Way::SaleList, "a", "1.1.1.1", ""), 3);
    crowd.book.take(set(3, vec![rule("all", bucket("all", json!({}), 4))]), 0);
    assert_eq!(crowd.passed(Way::SaleList, "a", "1.1.1.1", ""), 1);
    crowd.book.take(set(4, vec![]), 0);
    assert_eq!(crowd.passed(Way::SaleList, "a", "1.1.1.1", ""), 100);
}

#[test]
fn who_is_blocked_is_refused_everywhere_and_who_is_allowed_nowhere() {
    let caller = |kind: &str, value: Value| json!({ "kind": kind, "value": value });
    let mut dry = caller("block", json!({ "user": "watched" }));
    dry["mode"] = json!("dry_run");
    let mut over = caller("block", json!({ "user": "once" }));
    over["until_ms"] = json!(0);
    let crowd = Crowd::new(vec![
        rule("all", bucket("all", json!({}), 1)),
        rule("net", caller("block", json!({ "address": "10.0.0.0/8" }))),
        rule("six", caller("block", json!({ "address": "2001:db8::/32" }))),
        rule("bad", caller("block", json!({ "user": "bad" }))),
        rule("good", caller("allow", json!({ "address": "10.1.1.1" }))),
        rule("dry", dry),
        rule("over", over),
    ]);
    let blocked = |rule: &str| Err(Refused::Blocked(RuleId::parse(rule).expect("a slug")));
    assert_eq!(crowd.ask(Way::SaleList, "a", "10.2.3.4", ""), blocked("net"));
    assert_eq!(crowd.ask(Way::SaleList, "a", "::ffff:10.2.3.4", ""), blocked("net"));
    assert_eq!(crowd.ask(Way::SaleList, "a", "2001:db8:7::1", ""), blocked("six"));
    assert_eq!(crowd.ask(Way::Purchase, "bad", "1.1.1.1", "s"), blocked("bad"));
    assert_eq!(crowd.passed(Way::SaleList, "bad", "10.1.1.1", ""), 100, "allowed, whatever others say");
    assert_eq!(crowd.passed(Way::SaleList, "watched", "1.1.1.1", ""), 1);
    assert!(crowd.ask(Way::SaleList, "once", "1.1.1.1", "").is_err(), "only the bucket is empty");
    assert_ne!(crowd.ask(Way::SaleList, "once", "1.1.1.1", ""), blocked("over"));
}

#[test]
fn asking_fifty_rules_allocates_nothing_whatever_they_say() {
    let about = |n: usize| json!({ "kind": "block", "value": { "user": format!("bot-{n}") } });
    let network = |n: usize| json!({ "kind": "allow", "value": { "address": format!("10.{n}.0.0/16") } });
    let mut rules: Vec<Rule> = (0..15).map(|n| rule(&format!("block-{n}"), about(n))).collect();
    rules.extend((0..10).map(|n| rule(&format!("allow-{n}"), network(n))));
    for scope in ["all", "route", "user", "address", "sale"] {
        rules.extend((0..5).map(|n| rule(&format!("{scope}-{n}"), bucket(scope, json!({}), 3))));
    }
    assert_eq!(rules.len(), 50);
    let crowd = Crowd::new(rules);
    let (user, sale) = (UserId::parse("ada").expect("a user"), SaleId::parse("drop").expect("a sale"));
    let address = IpAddr::from([192, 0, 2, 1]);
    let asker = Asker { way: Way::SaleRead, user: Some(&user), address, sale: Some(&sale), device: None };
    let (now, now_ms) = (crowd.clock.monotonic(), crowd.clock.now_ms());
    let mut answers = [0; 2];
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            answers[usize::from(crowd.book.check(&asker, now, now_ms).is_err())] += 1;
        }
    });
    assert_eq!((answers, counted.count_total), ([3, 97], 0));
    assert_eq!(
        allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total,
        1,
        "allocations are seen"
    );
}
