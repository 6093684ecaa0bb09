//! Tests of guards: when calls are refused, and when they are made again.

use super::*;
use crate::domain::RuleId;
use crate::domain::rule::RuleTerms;

fn guard(terms: &[serde_json::Value]) -> (Guards, Arc<Guard>) {
    let name = DependencyId::parse("redis").expect("a name");
    let guards = Guards::new(Roles { inventory: Some(name), ..Roles::default() });
    follow(&guards, terms);
    let guard = guards.inventory().expect("it");
    (guards, guard)
}

fn follow(guards: &Guards, terms: &[serde_json::Value]) {
    let rules: Vec<Rule> = terms
        .iter()
        .map(|terms| Rule {
            id: RuleId::parse("r").expect("a slug"),
            terms: RuleTerms::read(&terms.to_string()).expect("a rule"),
            version: 1,
        })
        .collect();
    guards.follow(rules.iter());
}

fn breaker(more: serde_json::Value) -> serde_json::Value {
    let mut value = serde_json::json!({ "dependency": "redis", "calls_min": 4, "probes": 2 });
    value.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::json!({ "kind": "breaker", "value": value, "reason": "a test" })
}

fn call(guard: &Arc<Guard>, at_ms: u64, took_ms: u64, outcome: Outcome) -> Result<(), Refused> {
    guard.enter(at_ms * MS).map(|permit| permit.done(outcome, (at_ms + took_ms) * MS))
}

#[test]
fn a_breaker_opens_when_half_of_the_calls_fail_and_closes_after_good_ones() {
    let (guards, guard) = guard(&[breaker(serde_json::json!({}))]);
    for at_ms in 0..4 {
        let outcome = if at_ms % 2 == 0 { Outcome::Answered } else { Outcome::Failed };
        assert_eq!(call(&guard, at_ms, 1, outcome), Ok(()));
    }
    assert_eq!(call(&guard, 10, 1, Outcome::Answered), Err(Refused::Open));
    assert_eq!(guards.standings(10 * MS)[0].phase, Phase::Open);
    assert_eq!(call(&guard, 1000, 1, Outcome::Answered), Err(Refused::Open), "not yet");
    let (first, second) = (guard.enter(1005 * MS), guard.enter(1005 * MS));
    assert_eq!(guard.enter(1005 * MS).err(), Some(Refused::Open), "two are tried, and no more");
    first.expect("tried").done(Outcome::Answered, 1006 * MS);
    second.expect("tried").done(Outcome::Answered, 1006 * MS);
    assert_eq!(guards.standings(1006 * MS)[0].phase, Phase::Closed);
    assert_eq!(call(&guard, 1007, 1, Outcome::Failed), Ok(()), "the window is a new one");
}

#[test]
fn a_breaker_that_nobody_asks_is_closed_after_a_minute() {
    let (guards, guard) = guard(&[breaker(serde_json::json!({}))]);
    for at_ms in 0..4 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    assert_eq!(call(&guard, 500, 1, Outcome::Answered), Err(Refused::Open), "who is refused has asked");
    guards.tidy(60_499 * MS);
    assert_eq!(guards.standings(60_499 * MS)[0].phase, Phase::Open);
    guards.tidy(60_500 * MS);
    assert_eq!(guards.standings(60_500 * MS)[0].phase, Phase::Closed);
}

#[test]
fn a_call_that_is_tried_and_fails_or_hangs_opens_it_again() {
    for hangs in [true, false] {
        let (guards, guard) = guard(&[breaker(serde_json::json!({}))]);
        for at_ms in 0..4 {
            assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
        }
        let mut permit = guard.enter(1010 * MS).expect("tried");
        if hangs {
            permit.slow(1510 * MS);
            assert_eq!(guards.standings(1510 * MS)[0].phase, Phase::Open, "before it ends");
        }
        permit.done(Outcome::Failed, 1511 * MS);
        assert_eq!(guards.standings(1511 * MS)[0].phase, Phase::Open);
        assert_eq!(guards.standings(1511 * MS)[0].in_flight, 0);
        assert_eq!(call(&guard, 2000, 1, Outcome::Answered), Err(Refused::Open));
        assert!(guard.enter(2600 * MS).is_ok());
    }
}

#[test]
fn a_call_that_nobody_waits_for_any_more_leaves_its_place() {
    let (_guards, guard) = guard(&[breaker(serde_json::json!({}))]);
    for at_ms in 0..4 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    for _ in 0..10 {
        drop(guard.enter(1010 * MS).expect("tried"));
    }
}

#[test]
fn slow_calls_open_it_and_few_or_old_ones_do_not() {
    let (_guards, slow) = guard(&[breaker(serde_json::json!({ "slow_ms": 50, "slow_percent": 100 }))]);
    for at_ms in 0..4 {
        assert_eq!(call(&slow, at_ms, 60, Outcome::Answered), Ok(()));
    }
    assert_eq!(call(&slow, 70, 1, Outcome::Answered), Err(Refused::Open));
    let (_guards, seldom) = guard(&[breaker(serde_json::json!({ "window_ms": 2000 }))]);
    for at_s in 0..20 {
        assert_eq!(call(&seldom, at_s * 1000, 1, Outcome::Failed), Ok(()), "three in a window");
    }
}

#[test]
fn a_rule_that_says_nothing_of_slow_calls_leaves_the_order_log_the_time_it_has_without_one() {
    for (name, slow_ms) in [("kafka", 2_000), ("redis", 500)] {
        let terms = serde_json::json!({ "dependency": name, "calls_min": 5 });
        let terms: BreakerTerms = serde_json::from_value(terms).expect("terms");
        let without = BreakerTerms::of(terms.dependency.clone());
        assert_eq!((terms.slow_ms(), without.slow_ms()), (slow_ms, slow_ms), "{name}");
    }
}

#[test]
fn an_operator_forces_it_and_a_dry_run_only_counts() {
    let (guards, guard) = guard(&[breaker(serde_json::json!({ "forced": "open" }))]);
    assert_eq!(call(&guard, 0, 1, Outcome::Answered), Err(Refused::Open));
    follow(&guards, &[breaker(serde_json::json!({ "forced": "closed" }))]);
    for at_ms in 1..40 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    let mut dry = breaker(serde_json::json!({}));
    dry["mode"] = "dry_run".into();
    follow(&guards, &[dry]);
    for at_ms in 41..80 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    assert_eq!(guards.standings(80 * MS)[0].phase, Phase::Open, "but it would be open");
    let mut dry = breaker(serde_json::json!({ "forced": "open" }));
    dry["mode"] = "dry_run".into();
    follow(&guards, &[dry]);
    assert_eq!(call(&guard, 90, 1, Outcome::Answered), Ok(()), "a dry run refuses nothing, whatever it says");
}

#[test]
fn a_rule_that_forces_leaves_the_numbers_to_the_others() {
    let own = breaker(serde_json::json!({ "calls_min": 2 }));
    let mut forced = breaker(serde_json::json!({ "forced": "closed" }));
    let (guards, guard) = guard(&[forced.clone(), own.clone()]);
    for at_ms in 0..4 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    forced["value"]["forced"] = "open".into();
    for rules in [&[forced.clone(), own.clone()], &[own.clone(), forced.clone()]] {
        follow(&guards, rules);
        assert_eq!(call(&guard, 3000, 1, Outcome::Answered), Err(Refused::Open));
    }
    follow(&guards, &[own]);
    for (at_ms, outcome) in [(9000, Outcome::Answered), (9001, Outcome::Answered)] {
        assert_eq!(call(&guard, at_ms, 1, outcome), Ok(()), "two good ones close it");
    }
    for at_ms in [20_000, 20_001] {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Failed), Ok(()));
    }
    assert_eq!(
        call(&guard, 20_002, 1, Outcome::Answered),
        Err(Refused::Open),
        "by its own number, 2 and not 4"
    );
}

#[test]
fn a_limit_follows_the_latency_between_its_floor_and_its_ceiling() {
    let value = serde_json::json!({ "dependency": "redis", "ceiling": 8, "floor": 2, "latency_ms": 10 });
    let rule = serde_json::json!({ "kind": "concurrency", "value": value, "reason": "a test" });
    let (guards, guard) = guard(&[rule]);
    let limit = || guards.standings(0)[0].limit;
    let fill = |at_ms: u64| (0..20).map_while(|_| guard.enter(at_ms * MS).ok()).collect::<Vec<_>>();
    assert_eq!(fill(0).len(), 8);
    assert_eq!(guard.enter(0).err(), None, "they went away");
    for cut in 0..10 {
        assert_eq!(call(&guard, cut * 200, 50, Outcome::Answered), Ok(()));
    }
    assert_eq!((limit(), fill(3000).len()), (Some(2), 2), "the floor");
    for at_ms in 3000..3200 {
        let permits = fill(at_ms);
        permits.into_iter().for_each(|permit| permit.done(Outcome::Answered, (at_ms + 1) * MS));
    }
    assert_eq!((limit(), fill(4000).len()), (Some(8), 8), "the ceiling");
}

#[test]
fn one_call_in_ten_may_be_made_again() {
    let (_guards, guard) = guard(&[]);
    let mut again = 0;
    for at_ms in 0..1000 {
        assert_eq!(call(&guard, at_ms, 1, Outcome::Answered), Ok(()));
        again += u32::from(guard.may_retry());
    }
    assert!((100..=110).contains(&again), "{again}");
}
