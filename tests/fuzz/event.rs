//! Fuzzes the events of a payment provider: their signatures, compared with HMAC-SHA256 computed here, and their
//! bodies, compared with another reading of the same JSON.
//!
//! An input is a recipe. Its first line has words: `by=new|old|foreign` for who signs, `at=SECONDS` for when, from now,
//! `before=N` for so many wrong signatures before the right one, and `raw`, after which the header follows on a line of
//! its own. The body is the rest.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use seckill::clock::Clock;
use seckill::config::Secret;
use seckill::domain::signature::is_signed;
use seckill::ports::{News, ProviderEvent, ProviderRules};
use seckill::provider::stripe::Stripe;

use crate::engine::{Target, run};
use crate::grammar::{INTEGERS, Node, one_of, text_of};
use crate::json::{self, Doc};
use crate::token::hmac;

const NEW: &[u8] = b"whsec_the secret of the fuzz targets";
const OLD: &[u8] = b"whsec_the secret that was before it";
const FOREIGN: &[u8] = b"whsec_a secret of somebody else";
const NOW_S: i64 = 1_900_000_000;
const BYTES_MAX: usize = 4096;
const PAID: [&str; 2] = ["checkout.session.completed", "checkout.session.async_payment_succeeded"];
const KINDS: [&str; 12] = [
    PAID[0],
    PAID[0],
    PAID[0],
    PAID[1],
    "checkout.session.expired",
    "checkout.session.async_payment_failed",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.a-word-that-is-longer-than-the-column",
    "invoice.paid",
];
const STATES: [&str; 8] = ["complete", "complete", "open", "expired", "succeeded", "pending", "failed", "x"];

/// Makes the header, and says whether it proves the body.
fn header(words: &str, raw: &[u8], body: &[u8]) -> (String, bool) {
    let of = |name: &str| words.split(' ').find_map(|word| word.strip_prefix(name));
    if is_raw(words) {
        // Nobody guesses a signature.
        return (String::from_utf8_lossy(raw).into_owned(), false);
    }
    let secret = match of("by=") {
        Some("new") => NEW,
        Some("old") => OLD,
        _ => FOREIGN,
    };
    let offset_s: i32 = of("at=").and_then(|text| text.parse().ok()).unwrap_or(0);
    let at_s = NOW_S + i64::from(offset_s);
    let before: usize = of("before=").and_then(|text| text.parse().ok()).unwrap_or(0);
    let message = [at_s.to_string().as_bytes(), b".", body].concat();
    let hex: String = hmac(secret, &message).iter().map(|byte| format!("{byte:02x}")).collect();
    let is_proof = secret != FOREIGN && offset_s.unsigned_abs() <= 300 && before < 16;
    (format!("t={at_s},{}v1={hex},v0=x", "v1=00,".repeat(before.min(40))), is_proof)
}

fn is_raw(words: &str) -> bool {
    words.split(' ').any(|word| word == "raw")
}

/// Reads a member as the product does: of several with one name it takes the last.
fn last<'a>(doc: Option<&'a Doc>, name: &str) -> Option<&'a Doc> {
    let named = doc?.members()?.iter().rev().find(|(key, _)| key.as_deref() == Some(name));
    named.map(|(_, value)| value)
}

fn word<'a>(doc: Option<&'a Doc>, name: &str) -> Option<&'a str> {
    last(doc, name)?.text()
}

/// Checks that an event says nothing that its body does not say. Returns what it is.
fn check_event(event: &ProviderEvent, body: &Doc) -> &'static str {
    let object = last(last(Some(body), "data"), "object");
    assert_eq!(word(Some(body), "id"), Some(event.id.as_str()));
    assert_eq!(last(Some(body), "livemode"), Some(&Doc::Bool(event.is_live)));
    assert!((1..=255).contains(&event.id.len()), "an id of {} bytes", event.id.len());
    let kind = word(Some(body), "type").expect("an event has a type");
    let named = |name: &str| word(last(object, "metadata"), name).filter(|text| text.len() <= 255);
    assert_eq!(event.deployment.as_deref(), named("seckill_deployment"));
    let ours = named("seckill_payment");
    match &event.news {
        News::Captured(capture) => {
            assert!(PAID.contains(&kind), "{kind} is no payment");
            let states = (word(object, "status"), word(object, "payment_status"));
            assert_eq!(states, (Some("complete"), Some("paid")), "nothing was paid");
            let amount = last(object, "amount_total").and_then(Doc::whole);
            assert_eq!(amount, Some(i128::from(capture.amount.amount())));
            let currency = word(object, "currency").map(str::to_ascii_uppercase);
            assert_eq!(currency.as_deref(), Some(capture.amount.currency()));
            let intent = last(object, "payment_intent");
            let reference = intent.and_then(Doc::text).or_else(|| word(intent, "id"));
            assert_eq!(reference, Some(capture.reference.as_str()));
            assert!((1..=255).contains(&capture.reference.len()), "a reference of no use");
            assert_eq!(ours.unwrap_or_default(), capture.payment);
            "captured"
        }
        News::Closed(payment) => {
            assert!(kind.starts_with("checkout.session.") && !PAID.contains(&kind), "{kind} closes nothing");
            assert_eq!(ours.unwrap_or_default(), payment);
            "closed"
        }
        News::Refund { key, kind, capture } => {
            assert_eq!(ours, Some(key.as_str()));
            check_notice(kind, capture.as_deref());
            "refund"
        }
        News::Attention { kind, capture } => {
            check_notice(kind, capture.as_deref());
            "attention"
        }
        News::Other => "other",
    }
}

fn check_notice(kind: &str, capture: Option<&str>) {
    assert!(kind.len() <= 32 && kind.contains('.'), "{kind:?}");
    let is_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    assert!(capture.is_none_or(is_id), "{capture:?} leads elsewhere");
}

/// Cuts off the first line.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

fn check(input: &[u8], stripe: &Stripe) -> String {
    let (words, rest) = cut(input);
    let words = String::from_utf8_lossy(words);
    let (raw, body) = if is_raw(&words) { cut(rest) } else { (&[][..], rest) };
    let (header, is_proof) = header(&words, raw, body);
    let is_heard = is_signed(&header, body, &[NEW, OLD], NOW_S);
    assert_eq!(is_heard, is_proof, "{header}");
    if is_heard {
        let other = [body, b" "].concat();
        assert!(!is_signed(&header, &other, &[NEW, OLD], NOW_S), "a signature of another body");
        assert!(!is_signed(&header, body, &[FOREIGN, b""], NOW_S), "a signature of other secrets");
    }
    let event = stripe.read_event(body);
    if body.iter().filter(|byte| b"[{".contains(byte)).count() >= json::DEPTH_MAX {
        // The text is too deep for the reader of this test. The product has to answer all the same.
        return format!("deep {}", event.is_some());
    }
    let doc = json::parse(body);
    match (&event, &doc) {
        (Some(event), Some(doc)) => format!("{is_heard} {}", check_event(event, doc)),
        (Some(_), None) => panic!("an event that is no JSON"),
        (None, _) => {
            let doc = doc.as_ref();
            let is_of_no_concern = word(doc, "type") == Some("invoice.paid")
                && word(doc, "id").is_some_and(|id| (1..=255).contains(&id.len()))
                && matches!(last(doc, "livemode"), Some(Doc::Bool(_)))
                && doc.is_some_and(Doc::is_plain);
            assert!(!is_of_no_concern, "an event of no concern was no event");
            format!("{is_heard} none {} {}", doc.is_some(), word(doc, "type").is_some())
        }
    }
}

fn made(rng: &mut StdRng) -> Vec<u8> {
    let by = one_of(&["new", "new", "old", "foreign"], rng);
    let at = one_of(&[0, 0, 0, 299, 300, 301, -299, -300, -301, 86_400], rng);
    let before = one_of(&[0, 0, 0, 1, 15, 16, 17], rng);
    let mut event = Node::object(&[
        ("id", text("evt_1", rng)),
        ("type", Node::text(one_of(&KINDS, rng))),
        ("livemode", Node::raw(one_of(&["true", "false", "false"], rng))),
        ("data", Node::object(&[("object", object(rng))])),
    ]);
    if rng.random_bool(0.3) {
        event.perhaps_corrupt(rng);
    }
    format!("by={by} at={at} before={before}\n{}", event.write(rng)).into_bytes()
}

fn object(rng: &mut StdRng) -> Node {
    let mut metadata = Vec::new();
    if rng.random_bool(0.8) {
        metadata.push(("seckill_payment", text("pay_0000000000000000000000000_1", rng)));
    }
    if rng.random_bool(0.8) {
        metadata.push(("seckill_deployment", text("shop", rng)));
    }
    let intent = match rng.random_range(0..8) {
        0 => Node::object(&[("id", Node::text("pi_1"))]),
        1 => Node::raw("null"),
        2 => Node::text("../../v1/accounts"),
        _ => text("pi_1", rng),
    };
    Node::object(&[
        ("status", Node::text(one_of(&STATES, rng))),
        (
            "payment_status",
            Node::text(one_of(&["paid", "paid", "paid", "unpaid", "no_payment_required"], rng)),
        ),
        ("amount_total", Node::raw(if rng.random_bool(0.2) { one_of(INTEGERS, rng) } else { "19900" })),
        ("currency", text(one_of(&["cny", "CNY", "usd", "xx"], rng), rng)),
        ("payment_intent", intent),
        ("metadata", Node::object(&metadata)),
    ])
}

/// Makes the usual text, or now and then an odd one.
fn text(usual: &str, rng: &mut StdRng) -> Node {
    if rng.random_bool(0.05) { Node::text(&text_of(rng)) } else { Node::text(usual) }
}

#[test]
fn events_are_heard_only_when_signed_and_say_only_what_their_bodies_say() {
    let key = Secret::new("sk_test_1");
    let stripe = Stripe::new(("http://127.0.0.1:1", &key), "shop", 1000, Clock::System).expect("a client");
    let seen = run(&Target {
        name: "event",
        check: &|input| check(input, &stripe),
        generate: &made,
        bytes_max: BYTES_MAX,
        slowest: Duration::from_millis(50),
    });
    for news in ["captured", "closed", "refund", "attention", "other"] {
        assert!(seen.contains(&format!("true {news}")), "{news} was never met");
    }
}
