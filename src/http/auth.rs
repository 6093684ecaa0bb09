//! Authentication: shoppers prove who they are by a JWT, operators by an API key.
//!
//! Invariant (I6): a user id comes out of a verified token and from nowhere else. Every key accepts exactly one
//! algorithm, so a token cannot choose how it is checked.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::fast::RandomState;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use metrics::counter;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::problem::{Code, Problem};
use crate::chance;
use crate::clock::Clock;
use crate::domain::{DeviceId, UserId};
use crate::metrics::UNAUTHENTICATED;

#[cfg(not(feature = "public-keys"))]
pub mod hs256;
#[cfg(feature = "public-keys")]
pub mod jwk_set;

/// The longest token that is checked. Ours are never longer, and checking a longer one costs more than it is worth.
const TOKEN_BYTES_MAX: usize = 4096;

/// One key that shoppers' tokens may be signed with.
pub struct TokenKey {
    /// The key's id. When it is set, a token must name it in its header.
    pub kid: Option<String>,
    /// The only algorithm that this key accepts.
    pub algorithm: Algorithm,
    /// The key itself.
    pub key: DecodingKey,
}

/// The rules by which tokens are checked.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// The `aud` that a token must have.
    pub audience: String,
    /// The `iss` that a token must have; `None` accepts any, and a token without one.
    pub issuer: Option<String>,
    /// The clock difference that is forgiven when `exp` and `nbf` are checked, in seconds.
    pub leeway_s: u64,
    /// The claim that names the shopper's device; `None` when none does.
    pub device_claim: Option<String>,
    /// The most verified tokens that are remembered.
    pub verified_max: usize,
}

impl TokenRules {
    /// Adds to a key what is checked of the tokens that it has signed.
    fn of(&self, key: TokenKey) -> (TokenKey, Validation) {
        let mut validation = Validation::new(key.algorithm);
        // The library compares an `iss` that is there and lets a token without one pass.
        let required = ["exp", "aud", "sub", "iss"];
        let required = if self.issuer.is_some() { &required[..] } else { &required[..3] };
        validation.set_required_spec_claims(required);
        validation.set_audience(&[&self.audience]);
        // The library would ask the wall clock; `verify` asks ours.
        validation.validate_exp = false;
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
        }
        (key, validation)
    }
}

/// Checks tokens, and remembers the verified ones until they expire.
pub struct Tokens {
    keys: Vec<(TokenKey, Validation)>,
    /// The keys that an identity provider has published last.
    published: RwLock<Arc<[(TokenKey, Validation)]>>,
    /// How often keys were published. What was verified before that is verified again.
    publications: AtomicU64,
    rules: TokenRules,
    verified: Cache<Box<str>, Verified, UnitWeighter, RandomState>,
    clock: Clock,
    leeway_ms: i64,
}

/// Why a credential is refused. Only operators learn it, from `seckill_unauthenticated_total` and the debug log: the
/// difference would help an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is none, or it is no bearer token.
    Missing,
    /// It is too long, or not of the form that it has to have.
    Malformed,
    /// No key is known by its key id and algorithm.
    UnknownKey,
    /// Its signature is not that of the key.
    Signature,
    /// It has expired.
    Expired,
    /// It is valid later.
    NotYetValid,
    /// It is for another audience.
    Audience,
    /// It is from another issuer.
    Issuer,
    /// A claim is missing, or not of the form that it has to have; the user id, too.
    Claims,
    /// Its API key is unknown or has ended.
    ApiKey,
    /// Its session is unknown or over.
    Session,
    /// Its ticket is unknown, was taken or is too old.
    Ticket,
}

impl Cause {
    /// Returns the word of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Claims => "claims",
            Self::ApiKey => "api_key",
            Self::Session => "session",
            Self::Ticket => "ticket",
        }
    }

    /// Counts a refusal, and returns the one problem of all causes.
    pub fn refuse(self) -> Problem {
        counter!(UNAUTHENTICATED, "cause" => self.as_str()).increment(1);
        tracing::debug!(cause = self.as_str(), "credential refused");
        Problem::new(Code::Unauthenticated)
    }

    fn of(error: &jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAudience => Self::Audience,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::MissingRequiredClaim(_) | ErrorKind::Json(_) => Self::Claims,
            ErrorKind::InvalidAlgorithm => Self::UnknownKey,
            _ => Self::Malformed,
        }
    }
}

/// Who a token speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shopper {
    /// The user.
    pub user: UserId,
    /// The device, when the token names one, or the request does.
    pub device: Option<DeviceId>,
    /// Whether it is the token that names it. A client may write anything into a request.
    pub is_device_proven: bool,
    /// When the token ends, ms since 1970, the leeway included.
    pub until_ms: i64,
}

impl Shopper {
    /// Answers the device, when the token names it.
    pub fn proven_device(&self) -> Option<&DeviceId> {
        self.device.as_ref().filter(|_| self.is_device_proven)
    }
}

#[derive(Clone)]
struct Verified {
    shopper: Shopper,
    /// When the token is valid: from `nbf` until `exp`, the leeway included.
    valid_ms: Range<i64>,
    /// How often keys had been published when it was verified.
    publications: u64,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970, with or without a fraction; so is `nbf`. Source: RFC 7519 §2, NumericDate.
    exp: f64,
    #[serde(default)]
    nbf: f64,
}

/// Turns seconds into milliseconds. What does not fit is the nearest that does.
fn whole_ms(seconds: f64) -> i64 {
    let ms = time::Duration::saturating_seconds_f64(seconds).whole_milliseconds();
    i64::try_from(ms).unwrap_or(if ms < 0 { i64::MIN } else { i64::MAX })
}

impl Tokens {
    /// Makes a checker that accepts tokens which one of `keys` has signed.
    pub fn new(keys: Vec<TokenKey>, rules: &TokenRules, clock: Clock) -> Self {
        #[cfg(not(feature = "public-keys"))]
        hs256::install();
        Self {
            keys: keys.into_iter().map(|key| rules.of(key)).collect(),
            published: RwLock::new(Arc::new([])),
            publications: AtomicU64::new(0),
            rules: rules.clone(),
            verified: Cache::with(
                rules.verified_max,
                u64::try_from(rules.verified_max).unwrap_or(u64::MAX),
                UnitWeighter,
                RandomState::default(),
                DefaultLifecycle::default(),
            ),
            clock,
            leeway_ms: i64::try_from(rules.leeway_s.saturating_mul(1000)).unwrap_or(i64::MAX),
        }
    }

    /// Takes the keys that an identity provider publishes now, instead of those that it published before. Tokens that a
    /// withdrawn key has signed are refused from now on.
    pub fn publish(&self, keys: Vec<TokenKey>) {
        let keys: Arc<[_]> = keys.into_iter().map(|key| self.rules.of(key)).collect();
        *self.published.write().expect("no code panics while holding it") = keys;
        self.publications.fetch_add(1, Ordering::Release);
    }

    /// Verifies the token of an `Authorization` header, and returns whom it speaks of.
    ///
    /// # Errors
    /// The cause, which only operators may learn ([`Cause::refuse`]).
    pub fn shopper(&self, authorization: Option<&str>) -> Result<Shopper, Cause> {
        self.holder(authorization.and_then(bearer).ok_or(Cause::Missing)?)
    }

    /// Verifies a token, and returns whom it speaks of.
    ///
    /// # Errors
    /// As [`Self::shopper`].
    pub fn holder(&self, token: &str) -> Result<Shopper, Cause> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Cause::Malformed);
        }
        if let Some(verified) = self.verified.get(token)
            && verified.valid_ms.contains(&self.clock.now_ms())
            && verified.publications == self.publications.load(Ordering::Relaxed)
        {
            return Ok(verified.shopper);
        }
        let verified = self.verify(token)?;
        let shopper = verified.shopper.clone();
        self.verified.insert(token.into(), verified);
        Ok(shopper)
    }

    fn verify(&self, token: &str) -> Result<Verified, Cause> {
        let header = decode_header(token).map_err(|_| Cause::Malformed)?;
        // A token must be refused when its `crit` lists something that we do not understand, and we understand none of
        // it. Source: RFC 7515 §4.1.11.
        if header.crit.is_some() {
            return Err(Cause::Malformed);
        }
        let fits = |(key, _): &&(TokenKey, Validation)| {
            key.algorithm == header.alg && (key.kid.is_none() || key.kid == header.kid)
        };
        // Counted before the keys are read: who publishes meanwhile makes this one be verified again.
        let publications = self.publications.load(Ordering::Acquire);
        let published = self.published.read().expect("no code panics while holding it").clone();
        let (mut decoded, mut is_named) = (Err(Cause::UnknownKey), false);
        for (key, validation) in self.keys.iter().chain(published.iter()).filter(fits) {
            is_named |= key.kid.is_some();
            decoded = decode::<Claims>(token, &key.key, validation).map_err(|error| Cause::of(&error));
            // During a rotation two secrets fit, and one of them has signed it.
            if !matches!(decoded, Err(Cause::Signature)) {
                break;
            }
        }
        // A key without an id fits every token, and says nothing about the key that this one names.
        if matches!(decoded, Err(Cause::Signature)) && header.kid.is_some() && !is_named {
            return Err(Cause::UnknownKey);
        }
        let claims = decoded?.claims;
        let expires_ms = whole_ms(claims.exp).saturating_add(self.leeway_ms);
        let begins_ms = whole_ms(claims.nbf).saturating_sub(self.leeway_ms);
        let now_ms = self.clock.now_ms();
        if now_ms >= expires_ms {
            return Err(Cause::Expired);
        }
        if now_ms < begins_ms {
            return Err(Cause::NotYetValid);
        }
        let user = UserId::parse(&claims.sub).map_err(|_| Cause::Claims)?;
        let device = self.rules.device_claim.as_deref().and_then(|name| claim(token, name));
        let shopper = Shopper { user, is_device_proven: device.is_some(), device, until_ms: expires_ms };
        Ok(Verified { shopper, valid_ms: begins_ms..expires_ms, publications })
    }
}

/// Reads a claim of a token that was verified. One that is no device id is none.
fn claim(token: &str, name: &str) -> Option<DeviceId> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&payload).ok()?;
    DeviceId::parse(claims.get(name)?.as_str()?).ok()
}

/// Returns the credential of a `Bearer` header.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, credential) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case("Bearer ").then(|| credential.trim())
}

/// Hashes an API key. Keys are stored and looked up by this hash, so the timing of a look-up tells nothing of a key.
pub fn api_key_hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Makes a text of 256 random bits.
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(chance::bytes::<32>())
}

/// Makes the text of a new API key.
pub fn new_api_key() -> String {
    format!("sk_{}", random_text())
}

#[cfg(test)]
mod tests;
