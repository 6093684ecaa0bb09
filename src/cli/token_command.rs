//! `seckill token …` makes shopper tokens for local use. They are signed with the configured HS256 secret.

use clap::Subcommand;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use super::output;
use crate::clock::Clock;
use crate::config::{AuthConfig, Config};
use crate::domain::UserId;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Mint a token and print it.
    Mint {
        /// The shopper.
        #[arg(long)]
        user: String,
        /// Seconds until it expires.
        #[arg(long, default_value_t = 3600)]
        ttl_s: i64,
    },
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    iat: i64,
    exp: i64,
}

impl TokenCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When no secret is configured, or the user is not a user id.
    pub fn run(self, config: &Config, clock: &Clock) -> anyhow::Result<()> {
        let Self::Mint { user, ttl_s } = self;
        output::data(&mint(&config.auth, &UserId::parse(&user)?, clock.now_ms() / 1000, ttl_s)?);
        Ok(())
    }
}

/// Mints a token that expires `ttl_s` seconds after `now_s`. A server with this configuration accepts it until then.
///
/// # Errors
/// When no secret is configured.
pub fn mint(auth: &AuthConfig, user: &UserId, now_s: i64, ttl_s: i64) -> anyhow::Result<String> {
    let secret = auth.hs256_secret.expose();
    anyhow::ensure!(
        !secret.is_empty(),
        "auth.hs256_secret is not set: tokens can only be minted with the secret that the server checks"
    );
    #[cfg(not(feature = "public-keys"))]
    crate::http::auth::hs256::install();
    let claims = Claims {
        sub: user.as_str(),
        aud: &auth.audience,
        iss: auth.issuer.as_deref(),
        iat: now_s,
        exp: now_s.saturating_add(ttl_s),
    };
    let header = Header { kid: auth.hs256_kid.clone(), ..Header::new(Algorithm::HS256) };
    Ok(encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}
