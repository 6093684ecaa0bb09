//! Mints shopper tokens. They are minted before the run starts, because a run does not measure signing.

use anyhow::bail;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use hyper::header::HeaderValue;
use serde::Serialize;
use sha2::Sha256;

use crate::config::TokenConfig;

/// How long a token is valid, which is enough for any run and its settling.
const LIFETIME_S: i64 = 6 * 3600;

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

/// Signs tokens for any user.
pub struct Mint {
    /// The encoded header of every token.
    header: String,
    key: Hmac<Sha256>,
    audience: String,
    issuer: Option<String>,
    now_s: i64,
}

impl Mint {
    /// Makes a mint whose tokens are issued at `now_ms`.
    ///
    /// # Errors
    /// When no secret is configured: there is no default one.
    pub fn new(config: &TokenConfig, now_ms: i64) -> anyhow::Result<Self> {
        if config.secret.is_empty() {
            bail!("auth.hs256_secret is not set: export the server's SECKILL__AUTH__HS256_SECRET");
        }
        let kid = Some(config.kid.as_str()).filter(|kid| !kid.is_empty());
        Ok(Self {
            header: part(&Header { typ: "JWT", alg: "HS256", kid })?,
            key: Hmac::new_from_slice(config.secret.as_bytes())?,
            audience: config.audience.clone(),
            issuer: Some(config.issuer.clone()).filter(|issuer| !issuer.is_empty()),
            now_s: now_ms / 1000,
        })
    }

    /// Mints the `Authorization` header of a user: a JSON Web Token signed with HS256. Source: RFC 7515 §3.1.
    ///
    /// # Errors
    /// When the claims cannot be encoded or are no header value.
    pub fn bearer(&self, user: &str) -> anyhow::Result<HeaderValue> {
        let claims = Claims {
            sub: user,
            aud: &self.audience,
            iat: self.now_s,
            exp: self.now_s + LIFETIME_S,
            iss: self.issuer.as_deref(),
        };
        let signed = format!("{}.{}", self.header, part(&claims)?);
        let signature = self.key.clone().chain_update(&signed).finalize().into_bytes();
        Ok(HeaderValue::from_str(&format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature)))?)
    }
}

fn part(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value)?))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_token_verifies_with_the_configured_claims() {
        let config = TokenConfig {
            secret: "s".repeat(32),
            kid: "k1".to_owned(),
            audience: "seckill".to_owned(),
            issuer: String::new(),
        };
        let mint = Mint::new(&config, crate::clock::now_ms()).expect("a secret");
        let header = mint.bearer("u1-7").expect("signs");
        let token = header.to_str().expect("text").strip_prefix("Bearer ").expect("bearer").to_owned();
        assert_eq!(decode_header(&token).expect("a header").kid.as_deref(), Some("k1"));
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["seckill"]);
        let key = DecodingKey::from_secret(config.secret.as_bytes());
        let claims = decode::<Value>(&token, &key, &validation).expect("verifies").claims;
        assert_eq!(claims["sub"], "u1-7");
        assert!(claims.get("iss").is_none());
        let without = TokenConfig { secret: String::new(), ..config };
        assert!(Mint::new(&without, 0).is_err());
    }
}
