//! A shop that also has a public key.

use super::*;

/// A throw-away Ed25519 pair. `openssl genpkey -algorithm ed25519` made it for this test.
const PRIVATE_PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIOznaTYIamE+lr2AaRu17a43HOCKyZf1BiyQj7OPYrf+\n-----END PRIVATE KEY-----\n";
const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEApqdFGc/JBsRliUWzTgZLMq+VvnZAf96zG74hnweyWmo=\n-----END PUBLIC KEY-----\n";

fn tokens() -> Tokens {
    let pair = TokenKey {
        kid: Some("ed-1".to_owned()),
        algorithm: Algorithm::EdDSA,
        key: DecodingKey::from_ed_pem(PUBLIC_PEM.as_bytes()).expect("a public key"),
    };
    Tokens::new(vec![secret_key(), pair], &rules(), Clock::System)
}

fn ed25519(kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
    let key = EncodingKey::from_ed_pem(PRIVATE_PEM.as_bytes()).expect("a private key");
    encode(&header, &claims(), &key).expect("a token")
}

#[test]
fn a_valid_token_proves_its_user_under_either_key() {
    let tokens = tokens();
    assert_eq!(user(&tokens, &hs256(&claims())).as_deref(), Some("alice"));
    assert_eq!(user(&tokens, &ed25519(Some("ed-1"))).as_deref(), Some("alice"));
}

#[test]
fn a_key_with_an_id_accepts_only_tokens_that_name_it() {
    let tokens = tokens();
    assert_eq!(user(&tokens, &ed25519(None)), None);
    assert_eq!(user(&tokens, &ed25519(Some("ed-2"))), None);
}

#[test]
fn a_public_key_cannot_be_used_as_a_secret() {
    let header = Header { kid: Some("ed-1".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged =
        encode(&header, &claims(), &EncodingKey::from_secret(PUBLIC_PEM.as_bytes())).expect("a token");
    assert_eq!(user(&tokens(), &forged), None);
}

#[test]
fn tokens_of_a_withdrawn_key_are_refused_although_they_were_remembered() {
    let tokens = Tokens::new(Vec::new(), &rules(), Clock::System);
    let published = || TokenKey {
        kid: Some("ed-1".to_owned()),
        algorithm: Algorithm::EdDSA,
        key: DecodingKey::from_ed_pem(PUBLIC_PEM.as_bytes()).expect("a public key"),
    };
    let token = ed25519(Some("ed-1"));
    assert_eq!(user(&tokens, &token), None);
    tokens.publish(vec![published()]);
    assert_eq!(user(&tokens, &token).as_deref(), Some("alice"));
    tokens.publish(Vec::new());
    assert_eq!(user(&tokens, &token), None);
}
