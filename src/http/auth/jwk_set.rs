//! Reads the public keys that an identity provider publishes as a JWK Set. Source: RFC 7517 §5.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::TokenKey;

/// The most keys of a set. A provider publishes a handful.
const KEYS_MAX: usize = 100;
/// A shorter RSA modulus is not safe any more. Source: RFC 7518 §3.3.
const RSA_BYTES_MIN: usize = 256;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Why a text gives no keys. The last keys stay in use then.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// The text is not a JSON object with a list `keys`.
    #[error("it is not a JWK Set")]
    NotASet,
    /// The set has more than 100 keys.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
    /// The set has no key that could verify a token.
    #[error("it has no RS256 or EdDSA (Ed25519) key for signatures")]
    NoneUsable,
}

/// Reads the keys that can verify tokens: RSA for RS256 and Ed25519 for EdDSA. All others are passed over, above all
/// secrets, which nobody may publish.
///
/// # Errors
/// [`NoKeys`] when there is none.
pub fn parse(text: &[u8]) -> Result<Vec<TokenKey>, NoKeys> {
    let Set { keys } = serde_json::from_slice(text).map_err(|_| NoKeys::NotASet)?;
    if keys.len() > KEYS_MAX {
        return Err(NoKeys::TooMany);
    }
    let keys: Vec<TokenKey> =
        keys.into_iter().filter_map(|key| token_key(&serde_json::from_value(key).ok()?)).collect();
    if keys.is_empty() { Err(NoKeys::NoneUsable) } else { Ok(keys) }
}

fn token_key(jwk: &Jwk) -> Option<TokenKey> {
    let common = &jwk.common;
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
            (modulus.len() >= RSA_BYTES_MIN).then_some((Algorithm::RS256, KeyAlgorithm::RS256))?
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let is_for_signatures =
        common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|list| list.contains(&KeyOperations::Verify));
    if !is_for_signatures || common.key_algorithm.is_some_and(|algorithm| algorithm != named) {
        return None;
    }
    Some(TokenKey { kid: common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ED25519: &str = "pqdFGc_JBsRliUWzTgZLMq-VvnZAf96zG74hnweyWmo";

    fn kids(keys: Value) -> Result<Vec<Option<String>>, NoKeys> {
        let set = json!({ "keys": keys, "more": 1 }).to_string();
        Ok(parse(set.as_bytes())?.into_iter().map(|key| key.kid).collect())
    }

    fn ed25519(kid: &str, more: Value) -> Value {
        let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": ED25519, "kid": kid });
        let more = more.as_object().expect("an object").clone();
        key.as_object_mut().expect("an object").extend(more);
        key
    }

    #[test]
    fn keys_for_signatures_are_read_and_all_others_passed_over() {
        let long = URL_SAFE_NO_PAD.encode([0x91; 256]);
        let short = URL_SAFE_NO_PAD.encode([0x91; 128]);
        let keys = json!([
            ed25519("plain", json!({})),
            ed25519("marked", json!({ "use": "sig", "alg": "EdDSA", "key_ops": ["verify"] })),
            { "kty": "RSA", "n": long, "e": "AQAB", "kid": "rsa" },
            ed25519("for-encryption", json!({ "use": "enc" })),
            ed25519("for-signing", json!({ "key_ops": ["sign"] })),
            ed25519("another-algorithm", json!({ "alg": "RS256" })),
            { "kty": "RSA", "n": short, "e": "AQAB", "kid": "too-short" },
            { "kty": "RSA", "n": long, "e": "AQAB", "kid": "rs512", "alg": "RS512" },
            { "kty": "oct", "k": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldA", "kid": "secret", "alg": "HS256" },
            { "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "ec" },
            { "kty": "of-tomorrow", "kid": "new" },
            "no key at all",
        ]);
        let kids = kids(keys).expect("keys");
        assert_eq!(kids.iter().flatten().collect::<Vec<_>>(), ["plain", "marked", "rsa"]);
    }

    #[test]
    fn a_text_without_usable_keys_is_refused() {
        assert_eq!(parse(b"<html>").err(), Some(NoKeys::NotASet));
        assert_eq!(parse(b"{}").err(), Some(NoKeys::NotASet));
        assert_eq!(kids(json!([])), Err(NoKeys::NoneUsable));
        assert_eq!(kids(json!([ed25519("e", json!({ "use": "enc" }))])), Err(NoKeys::NoneUsable));
        assert_eq!(kids(json!(vec![ed25519("e", json!({})); KEYS_MAX + 1])), Err(NoKeys::TooMany));
    }
}
