//! Tests of the token buckets: a client that is too fast gets 429, and nobody else does.

use seckill::config::Mode;
use std::net::IpAddr;

use futures::future::join_all;
use seckill::app::Role;

use crate::client::Answer;
use crate::harness::{TestShop, config, eventually, migrated, open};

use super::{Findings, ONE};

in_both_modes!(
    a_buyer_who_is_too_fast_waits_and_others_do_not,
    an_address_is_limited_whoever_it_says_it_forwards_for,
    behind_a_trusted_proxy_the_right_most_untrusted_address_counts,
);

/// The clicks at once. They are far more than a bucket of 2 refills while they are under way.
const HURRY: usize = 25;

async fn hurry(
    shop: &TestShop,
    user: impl Fn(usize) -> String,
    forwarded: impl Fn(usize) -> String,
) -> Vec<Answer> {
    join_all((0..HURRY).map(async |n| {
        let (user, key, forwarded) = (user(n), format!("hurry-{n}"), forwarded(n));
        let headers = [("X-Forwarded-For", forwarded.as_str())];
        shop.place(&user, "drop", &key, ONE, &headers).await
    }))
    .await
}

fn refused(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 429).count()
}

async fn shop_with(mode: Mode, flags: &[(&str, &str)]) -> TestShop {
    let shop = TestShop::start_with(mode, flags).await;
    shop.open_sale("drop", 99, &[("phone", 1000)]).await;
    shop
}

async fn a_buyer_who_is_too_fast_waits_and_others_do_not(mode: Mode) {
    let shop = shop_with(mode, &[("limits.user_per_s", "1"), ("limits.user_burst", "2")]).await;
    let answers = hurry(&shop, |_| "alice".to_owned(), |_| "1.1.1.1".to_owned()).await;
    let mut findings = Findings::default();
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    findings.rule("burst", (2..HURRY - 5).contains(&accepted), &format!("{accepted} of {HURRY} accepted"));
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        findings.check("too fast", answer, (429, "rate_limited"));
        let (ms, after) =
            (answer.json()["retry_after_ms"].as_u64(), answer.header("Retry-After").parse::<u64>());
        let (ms, after) = (ms.unwrap_or(0), after.unwrap_or(0));
        findings.rule(
            "times",
            (1..=60_000).contains(&ms) && after == ms.div_ceil(1000),
            &format!("{answer:?}"),
        );
        findings.rule("policy", answer.json()["policy"] == "user", &format!("{answer:?}"));
    }
    findings.done();
    assert_eq!(shop.buy("bob", "drop", "phone", "k1").await.status, 202, "another buyer is not affected");
    assert_eq!(shop.get("alice", "/api/v1/orders").await.status, 200, "reads are not limited");
    // A refusal holds no units and remembers no key: the same key buys later.
    let late = answers.iter().position(|answer| answer.status == 429).expect("one was refused");
    eventually("the bucket is filled again", async || {
        shop.buy("alice", "drop", "phone", &format!("hurry-{late}")).await.status == 202
    })
    .await;
    let left = 1000 - i64::try_from(accepted).expect("few") - 2;
    assert_eq!(shop.stock("drop").await["phone"]["available"], left);
    shop.finish().await;
}

async fn an_address_is_limited_whoever_it_says_it_forwards_for(mode: Mode) {
    let shop = shop_with(mode, &[("limits.address_per_s", "1"), ("limits.address_burst", "2")]).await;
    let answers = hurry(&shop, |n| format!("u{n}"), |n| format!("9.9.9.{n}")).await;
    assert!(refused(&answers) >= 5, "a peer that is no proxy chose its own address: {answers:?}");
    let mut findings = Findings::default();
    for answer in answers.iter().filter(|answer| answer.status != 202) {
        findings.check("too fast", answer, (429, "rate_limited"));
        findings.rule("policy", answer.json()["policy"] == "address", &format!("{answer:?}"));
    }
    findings.done();
    shop.finish().await;
}

async fn behind_a_trusted_proxy_the_right_most_untrusted_address_counts(mode: Mode) {
    let mut config = config(mode, &[("limits.address_per_s", "1"), ("limits.address_burst", "2")]);
    config.http.trusted_proxies = vec![IpAddr::from([127, 0, 0, 1]).into()];
    migrated(&config).await;
    let backend = open(&config).await;
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 99, &[("phone", 1000)]).await;
    let user = |n| format!("u{n}");
    let own = hurry(&shop, user, |n| format!("9.9.1.{n}")).await;
    assert_eq!(refused(&own), 0, "each came from an address of its own: {own:?}");
    let behind = hurry(&shop, |n| format!("v{n}"), |n| format!("9.9.2.{n}, 127.0.0.1")).await;
    assert_eq!(refused(&behind), 0, "a trusted entry is skipped: {behind:?}");
    let claimed = hurry(&shop, |n| format!("w{n}"), |n| format!("9.9.3.{n}, 8.8.8.8")).await;
    assert!(refused(&claimed) >= 5, "what the client itself wrote was believed: {claimed:?}");
    let network = hurry(&shop, |n| format!("x{n}"), |n| format!("2001:db8:1:1::{n:x}")).await;
    assert!(refused(&network) >= 5, "a /64 is one address: {network:?}");
    let other = hurry(&shop, |n| format!("y{n}"), |n| format!("2001:db8:2:{n:x}::1")).await;
    assert_eq!(refused(&other), 0, "{other:?}");
    for garbage in ["", ",", "unknown", "9.9.9.999", "127.0.0.1", "9.9.9.9:80", "[::1]:80"] {
        let answers = hurry(&shop, |n| format!("z{n}"), |_| garbage.to_owned()).await;
        assert!(
            answers.iter().all(|answer| matches!(answer.status, 200 | 202 | 429)),
            "{garbage}: {answers:?}"
        );
        assert!(refused(&answers) >= 5, "{garbage} is no address to hide behind: {answers:?}");
    }
    shop.finish().await;
}
