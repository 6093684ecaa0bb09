//! The section `[auth]`: by what shoppers' tokens and purchase tokens are known.

use std::path::PathBuf;

use serde::Deserialize;

use super::readers::{path, text};
use super::secret::Secret;

/// The keys and rules by which shoppers' tokens are checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The secret of HS256, of at least 32 bytes; empty when it is not set.
    pub hs256_secret: Secret,
    /// A file to read the secret from.
    #[serde(deserialize_with = "path")]
    pub hs256_secret_file: Option<PathBuf>,
    /// The id of the secret. A token must name it when it is set.
    #[serde(deserialize_with = "text")]
    pub hs256_kid: Option<String>,
    /// The secret before a rotation, which is accepted as well; empty when there is none.
    pub hs256_previous_secret: Secret,
    /// A file to read the previous secret from.
    #[serde(deserialize_with = "path")]
    pub hs256_previous_secret_file: Option<PathBuf>,
    /// The id of the previous secret.
    #[serde(deserialize_with = "text")]
    pub hs256_previous_kid: Option<String>,
    /// A public key in PEM form.
    #[serde(deserialize_with = "path")]
    pub public_key_file: Option<PathBuf>,
    /// The only algorithm that the public key accepts.
    pub public_key_algorithm: PublicKeyAlgorithm,
    /// The id of the public key. A token must name it when it is set.
    #[serde(deserialize_with = "text")]
    pub public_key_kid: Option<String>,
    /// A JWK Set with more public keys.
    #[serde(deserialize_with = "path")]
    pub jwks_file: Option<PathBuf>,
    /// The address of such a set.
    #[serde(deserialize_with = "text")]
    pub jwks_url: Option<String>,
    /// The secret of purchase tokens, of at least 32 bytes; empty when it is not set.
    pub purchase_token_secret: Secret,
    /// A file to read it from.
    #[serde(deserialize_with = "path")]
    pub purchase_token_secret_file: Option<PathBuf>,
    /// Its number, which its tokens name.
    pub purchase_token_key: u8,
    /// The secret before a rotation, whose tokens are accepted as well; empty when there is none.
    pub purchase_token_previous_secret: Secret,
    /// A file to read it from.
    #[serde(deserialize_with = "path")]
    pub purchase_token_previous_secret_file: Option<PathBuf>,
    /// Its number.
    pub purchase_token_previous_key: u8,
    /// The `aud` that a token must have.
    pub audience: String,
    /// The `iss` that a token must have; `None` accepts any.
    #[serde(deserialize_with = "text")]
    pub issuer: Option<String>,
    /// The claim that names the shopper's device.
    #[serde(deserialize_with = "text")]
    pub device_claim: Option<String>,
    /// The clock difference that is forgiven when `exp` and `nbf` are checked.
    pub leeway_s: u64,
    /// The most verified tokens that are remembered.
    pub verified_tokens_max: usize,
}

/// The algorithm of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PublicKeyAlgorithm {
    /// Ed25519.
    EdDSA,
    /// RSA with SHA-256.
    RS256,
}
