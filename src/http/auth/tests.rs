//! These tests show that a token proves its user or nothing at all.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::metrics::UNAUTHENTICATED_CAUSES;

#[cfg(feature = "public-keys")]
mod key_pairs;

const NOW_S: i64 = 4_000_000_000;
const SECRET: &[u8] = b"a secret of the tests, 32 bytes or more";

fn rules() -> TokenRules {
    TokenRules {
        audience: "seckill".to_owned(),
        issuer: None,
        leeway_s: 5,
        device_claim: None,
        verified_max: 100,
    }
}

fn secret_key() -> TokenKey {
    TokenKey { kid: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(SECRET) }
}

fn tokens(clock: &Clock) -> Tokens {
    Tokens::new(vec![secret_key()], &rules(), clock.clone())
}

fn claims() -> Value {
    json!({ "sub": "alice", "aud": "seckill", "exp": NOW_S })
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).expect("a token")
}

fn user(tokens: &Tokens, token: &str) -> Option<String> {
    tokens.shopper(Some(&format!("Bearer {token}"))).ok().map(|shopper| shopper.user.to_string())
}

#[test]
fn a_valid_token_proves_its_user() {
    assert_eq!(user(&tokens(&Clock::System), &hs256(&claims())).as_deref(), Some("alice"));
}

#[test]
fn operators_can_tell_the_causes_of_a_refusal_apart() {
    let rules = TokenRules { issuer: Some("idp".to_owned()), ..rules() };
    let tokens = Tokens::new(vec![secret_key()], &rules, Clock::System);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims["iss"] = json!("idp");
        claims[name] = value;
        hs256(&claims)
    };
    let other_key = EncodingKey::from_secret(b"another secret of 32 bytes or more..");
    let signed = encode(&Header::new(Algorithm::HS256), &claims(), &other_key).expect("a token");
    let rest = signed.split_once('.').expect("three parts").1.to_owned();
    let foreign = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS512","typ":"JWT"}"#));
    for (token, cause) in [
        (with("exp", json!(1_000_000_000)), Cause::Expired),
        (with("nbf", json!(NOW_S)), Cause::NotYetValid),
        (with("aud", json!("other")), Cause::Audience),
        (with("iss", json!("other")), Cause::Issuer),
        (with("sub", json!("")), Cause::Claims),
        (with("exp", json!("soon")), Cause::Claims),
        (foreign, Cause::UnknownKey),
        (signed, Cause::Signature),
        ("no.token".to_owned(), Cause::Malformed),
    ] {
        assert_eq!(tokens.verify(&token).map(|verified| verified.shopper.user), Err(cause), "{token}");
    }
    let words: Vec<&str> = UNAUTHENTICATED_CAUSES.to_vec();
    let all = [
        Cause::Missing,
        Cause::Malformed,
        Cause::UnknownKey,
        Cause::Signature,
        Cause::Expired,
        Cause::NotYetValid,
        Cause::Audience,
        Cause::Issuer,
        Cause::Claims,
        Cause::ApiKey,
        Cause::Session,
    ];
    assert_eq!(all.map(Cause::as_str).to_vec(), words, "every cause is on the page from the start");
}

#[test]
fn whatever_is_wrong_with_a_token_it_proves_nothing() {
    let tokens = tokens(&Clock::System);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        hs256(&claims)
    };
    let good = hs256(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let mallory = URL_SAFE_NO_PAD.encode(claims().to_string().replace("alice", "mallory"));
    for (what, token) in [
        ("expired", with("exp", json!(1_000_000_000))),
        ("not yet valid", with("nbf", json!(NOW_S))),
        ("for another audience", with("aud", json!("other"))),
        ("without an audience", hs256(&json!({ "sub": "alice", "exp": NOW_S }))),
        ("without an expiry", hs256(&json!({ "sub": "alice", "aud": "seckill" }))),
        ("without a user", hs256(&json!({ "aud": "seckill", "exp": NOW_S }))),
        ("with a user that is no user id", with("sub", json!("a b"))),
        ("unsigned", format!("{none}.{}.", parts[1])),
        ("of another payload", format!("{}.{mallory}.{}", parts[0], parts[2])),
        ("endless", format!("{good}{}", "x".repeat(5000))),
        ("empty", String::new()),
    ] {
        assert_eq!(user(&tokens, &token), None, "a token {what}");
    }
    assert!(tokens.shopper(None).is_err());
    assert!(tokens.shopper(Some(&good)).is_err(), "no scheme");
    assert!(tokens.shopper(Some(&format!("Basic {good}"))).is_err());
}

#[test]
fn a_remembered_token_is_forgotten_when_it_expires() {
    let clock = Clock::manual(1_900_000_000_000);
    let tokens = tokens(&clock);
    let token = hs256(&claims());
    assert!(user(&tokens, &token).is_some());
    clock.advance_ms((NOW_S + 5) * 1000 - 1 - clock.now_ms());
    assert!(user(&tokens, &token).is_some(), "its last millisecond, the leeway included");
    clock.advance_ms(1);
    assert_eq!(user(&tokens, &token), None);
}

#[test]
fn a_required_issuer_must_be_named() {
    let key = TokenKey { kid: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(SECRET) };
    let issuer = Some("shop".to_owned());
    let rules = TokenRules {
        audience: "seckill".to_owned(),
        issuer,
        leeway_s: 5,
        device_claim: None,
        verified_max: 100,
    };
    let tokens = Tokens::new(vec![key], &rules, Clock::System);
    let of = |issuer: &str| hs256(&json!({ "sub": "alice", "aud": "seckill", "exp": NOW_S, "iss": issuer }));
    assert!(user(&tokens, &of("shop")).is_some());
    assert_eq!(user(&tokens, &of("other")), None);
    assert_eq!(user(&tokens, &hs256(&claims())), None, "without an issuer");
}

#[test]
fn a_token_that_lists_what_must_be_understood_is_not_understood() {
    let header = Header { crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::HS256) };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET)).expect("a token");
    assert_eq!(user(&tokens(&Clock::System), &token), None);
}
