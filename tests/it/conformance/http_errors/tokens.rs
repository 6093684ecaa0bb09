//! A caller without a valid token gets one and the same 401, whatever is wrong with the token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use seckill::clock::Clock;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{API_KEY, READ_ONLY_KEY, SECRET, TestShop, token, token_of};

use super::{Findings, JSON, KEY, NONE, ONE, finish_unchanged, market, purchase};

in_both_modes!(
    every_bad_token_gets_the_same_answer,
    a_token_is_checked_only_with_the_key_and_algorithm_that_its_kid_names,
);

const ED25519_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAh/SQIhl2irtO9b2wb1iN5ZXNuX2w4DrI/U8cx+IHBI8=
-----END PUBLIC KEY-----
";
/// A key that is used nowhere else.
const ED25519_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIFkrgQaC3pSQJB4fNVfnghHhyMN0oXPSKo5q/gaQk3mR
-----END PRIVATE KEY-----
";
const CONTROL: (u16, &str) = (400, "validation_failed");

fn claims() -> Value {
    json!({ "sub": "alice", "aud": "seckill", "exp": Clock::System.now_ms() / 1000 + 3600 })
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Makes a token whose header is not the one that was signed.
fn forged(header: &Value, signature: &str) -> String {
    format!("{}.{}.{signature}", encoded(header), encoded(&claims()))
}

/// Lists `(what, value of Authorization)`.
fn bad_credentials() -> Vec<(String, String)> {
    let good = token("alice");
    let parts: Vec<&str> = good.split('.').collect();
    let mut bob = claims();
    bob["sub"] = "bob".into();
    let stranger = "another secret of 32 bytes or more, or so";
    let hs512 =
        encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    let mut credentials = vec![
        ("no scheme".to_owned(), good.clone()),
        ("basic".to_owned(), format!("Basic {good}")),
        ("scheme only".to_owned(), "Bearer".to_owned()),
        ("empty".to_owned(), String::new()),
    ];
    let tokens = [
        ("no token", String::new()),
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("four parts", format!("{good}.x")),
        ("not base64", "$$$.$$$.$$$".to_owned()),
        ("wrong key", token_of(&claims(), stranger)),
        ("other algorithm", hs512.expect("a token")),
        ("tampered payload", format!("{}.{}.{}", parts[0], encoded(&bob), parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("half a signature", good[..good.len() - 10].to_owned()),
        ("alg none", forged(&json!({ "alg": "none", "typ": "JWT" }), "")),
        ("alg None", forged(&json!({ "alg": "None" }), "")),
        ("alg none, signed", forged(&json!({ "alg": "none" }), parts[2])),
        ("no alg", forged(&json!({ "typ": "JWT" }), parts[2])),
        ("alg null", forged(&json!({ "alg": null }), parts[2])),
        ("alg RS256", forged(&json!({ "alg": "RS256" }), parts[2])),
        ("a key of an operator", API_KEY.to_owned()),
        ("a key of a reader", READ_ONLY_KEY.to_owned()),
        ("long garbage", "x".repeat(7000)),
        ("list of claims", token_of(&json!(["alice"]), SECRET)),
    ];
    credentials.extend(tokens.map(|(what, token)| (what.to_owned(), format!("Bearer {token}"))));
    credentials.extend(bad_claims());
    credentials
}

fn bad_claims() -> Vec<(String, String)> {
    let mut credentials = Vec::new();
    let now_s = Clock::System.now_ms() / 1000;
    let long = "u".repeat(256);
    let wrong = [
        ("exp", json!(now_s - 60)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!("tomorrow")),
        ("exp", Value::Null),
        ("nbf", json!(now_s + 600)),
        ("aud", json!("another")),
        ("aud", json!("")),
        ("aud", json!(["another"])),
        ("aud", json!("Seckill")),
        ("aud", Value::Null),
        ("sub", json!("")),
        ("sub", json!(long)),
        ("sub", json!("a b")),
        ("sub", json!("a\u{0}")),
        ("sub", json!("a\nb")),
        ("sub", json!("爱")),
        ("sub", json!(5)),
        ("sub", json!(["alice"])),
        ("sub", Value::Null),
    ];
    for (claim, value) in wrong {
        let mut claims = claims();
        let what = format!("{claim} {value}");
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(claim)),
            value => claims[claim] = value,
        }
        credentials.push((what, format!("Bearer {}", token_of(&claims, SECRET))));
    }
    credentials
}

/// Returns what a client sees of an answer, without the ids that differ from answer to answer.
fn without_ids(answer: &Answer) -> (Value, Vec<String>) {
    let mut body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    if let Some(members) = body.as_object_mut() {
        members.retain(|name, _| name != "request_id" && name != "trace_id");
    }
    let varying = ["x-request-id", "date", "content-length"];
    let names = answer.headers.iter().filter(|(name, _)| !varying.contains(&name.as_str()));
    let mut headers: Vec<String> = names.map(|(name, value)| format!("{name}: {value:?}")).collect();
    // A server may send its headers in any order.
    headers.sort_unstable();
    (body, headers)
}

async fn every_bad_token_gets_the_same_answer(mode: Mode) {
    let (shop, id, before) = market(mode).await;
    let mut findings = Findings::default();
    let nothing = purchase(&shop, &[KEY, JSON], ONE).await;
    findings.check("none", &nothing, (401, "unauthenticated"));
    for (what, credential) in bad_credentials() {
        let auth = ("Authorization", credential.as_str());
        let mut answers = vec![purchase(&shop, &[auth, KEY, JSON], ONE).await];
        for path in ["/api/v1/orders".to_owned(), format!("/api/v1/orders/{id}")] {
            answers.push(call(shop.shopper, "GET", &path, &[auth], "").await);
        }
        for answer in &answers {
            findings.check(&what, answer, (401, "unauthenticated"));
            let same = without_ids(answer).0 == without_ids(&nothing).0;
            findings.rule(&what, same, &format!("tells more than other 401s: {answer:?}"));
        }
        let same = without_ids(&answers[0]) == without_ids(&nothing);
        findings.rule(&what, same, &format!("headers tell more than other 401s: {:?}", answers[0]));
    }
    let good = format!("Bearer {}", token("alice"));
    findings.check("control", &purchase(&shop, &[("Authorization", &good), KEY, JSON], NONE).await, CONTROL);
    finish_unchanged(shop, &before, findings).await;
}

fn signed(header: &Header, key: &EncodingKey) -> String {
    encode(header, &claims(), key).expect("a token")
}

fn with_kid(algorithm: Algorithm, kid: &str) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    header
}

/// Lists `(what, token, whether it is good)` for a shop with the keys `main` (HS256) and `pub` (EdDSA).
fn tokens_with_kid() -> Vec<(String, String, bool)> {
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let stranger = EncodingKey::from_secret(b"another secret of 32 bytes or more, or so");
    let public = EncodingKey::from_secret(ED25519_PUBLIC.as_bytes());
    let pair = EncodingKey::from_ed_pem(ED25519_PRIVATE.as_bytes()).expect("a key");
    let (hs, ed) = (Algorithm::HS256, Algorithm::EdDSA);
    let mut pointing = with_kid(hs, "main");
    pointing.jku = Some("http://127.0.0.1:9/keys".to_owned());
    let mut tokens = vec![
        ("the secret".to_owned(), signed(&with_kid(hs, "main"), &secret), true),
        ("the key pair".to_owned(), signed(&with_kid(ed, "pub"), &pair), true),
        ("no kid".to_owned(), signed(&Header::new(hs), &secret), false),
        ("no kid, key pair".to_owned(), signed(&Header::new(ed), &pair), false),
        ("the public key as a secret".to_owned(), signed(&with_kid(hs, "pub"), &public), false),
        ("the public key as a secret, other kid".to_owned(), signed(&with_kid(hs, "main"), &public), false),
        ("the secret under the pair's kid".to_owned(), signed(&with_kid(hs, "pub"), &secret), false),
        ("the pair under the secret's kid".to_owned(), signed(&with_kid(ed, "main"), &pair), false),
        ("a stranger's key with jku".to_owned(), signed(&pointing, &stranger), false),
    ];
    let long = "k".repeat(4000);
    for kid in [
        "",
        "other",
        "MAIN",
        "main ",
        "main\u{0}",
        "../../../dev/null",
        "main' OR '1'='1",
        "pub,main",
        long.as_str(),
    ] {
        let what = format!("kid {}", &kid[..kid.len().min(20)]);
        tokens.push((what.clone(), signed(&with_kid(hs, kid), &secret), false));
        tokens.push((what, signed(&with_kid(hs, kid), &EncodingKey::from_secret(b"")), false));
    }
    tokens
}

async fn a_token_is_checked_only_with_the_key_and_algorithm_that_its_kid_names(mode: Mode) {
    let file = std::env::temp_dir().join(format!("seckill-it-{}-{}.pem", std::process::id(), mode.as_str()));
    std::fs::write(&file, ED25519_PUBLIC).expect("written");
    let path = file.to_str().expect("a path");
    let keys = [("auth.hs256_kid", "main"), ("auth.public_key_file", path), ("auth.public_key_kid", "pub")];
    let shop = TestShop::start_with(mode, &keys).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let mut findings = Findings::default();
    for (what, token, good) in tokens_with_kid() {
        let bearer = format!("Bearer {token}");
        let answer = purchase(&shop, &[("Authorization", &bearer), KEY, JSON], NONE).await;
        findings.check(&what, &answer, if good { CONTROL } else { (401, "unauthenticated") });
    }
    findings.done();
    std::fs::remove_file(&file).expect("removed");
    shop.finish().await;
}
