//! A token proves its user or nothing at all.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const NOW_S: i64 = 4_000_000_000;
const SECRET: &[u8] = b"a secret of the tests, 32 bytes or more";
/// A throw-away Ed25519 pair, made for this test by `openssl genpkey -algorithm ed25519`.
const PRIVATE_PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOznaTYIamE+lr2AaRu17a43HOCKyZf1BiyQj7OPYrf+\n-----END PRIVATE KEY-----\n";
const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEApqdFGc/JBsRliUWzTgZLMq+VvnZAf96zG74hnweyWmo=\n-----END PUBLIC KEY-----\n";

fn tokens(clock: &Clock) -> Tokens {
    let keys = vec![
        TokenKey { kid: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(SECRET) },
        TokenKey {
            kid: Some("ed-1".to_owned()),
            algorithm: Algorithm::EdDSA,
            key: DecodingKey::from_ed_pem(PUBLIC_PEM.as_bytes()).expect("a public key"),
        },
    ];
    let rules = TokenRules { audience: "seckill".to_owned(), issuer: None, leeway_s: 5, verified_max: 100 };
    Tokens::new(keys, &rules, clock.clone())
}

fn claims() -> Value {
    json!({ "sub": "alice", "aud": "seckill", "exp": NOW_S })
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).expect("a token")
}

fn ed25519(kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
    let key = EncodingKey::from_ed_pem(PRIVATE_PEM.as_bytes()).expect("a private key");
    encode(&header, &claims(), &key).expect("a token")
}

fn user(tokens: &Tokens, token: &str) -> Option<String> {
    tokens.shopper(Some(&format!("Bearer {token}"))).ok().map(|user| user.to_string())
}

#[test]
fn a_valid_token_proves_its_user_under_either_key() {
    let tokens = tokens(&Clock::System);
    assert_eq!(user(&tokens, &hs256(&claims())).as_deref(), Some("alice"));
    assert_eq!(user(&tokens, &ed25519(Some("ed-1"))).as_deref(), Some("alice"));
}

#[test]
fn a_key_with_an_id_accepts_only_tokens_that_name_it() {
    let tokens = tokens(&Clock::System);
    assert_eq!(user(&tokens, &ed25519(None)), None);
    assert_eq!(user(&tokens, &ed25519(Some("ed-2"))), None);
}

#[test]
fn a_public_key_cannot_be_used_as_a_secret() {
    let header = Header { kid: Some("ed-1".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged =
        encode(&header, &claims(), &EncodingKey::from_secret(PUBLIC_PEM.as_bytes())).expect("a token");
    assert_eq!(user(&tokens(&Clock::System), &forged), None);
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
        ("with a user that is no user id", with("sub", json!("a|b"))),
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
    let rules = TokenRules { audience: "seckill".to_owned(), issuer, leeway_s: 5, verified_max: 100 };
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
