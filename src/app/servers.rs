//! Starts the two listeners, and reads the keys that check shoppers' tokens.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey};

use super::role::Role;
use crate::clock::Clock;
use crate::config::{AuthConfig, Config, PublicKeyAlgorithm};
use crate::http::auth::{TokenKey, TokenRules, Tokens};
use crate::http::{Context, middleware, router};
use crate::shutdown::Tasks;

/// A listener could not bind its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key})")]
pub struct CannotListen {
    /// The address.
    pub address: SocketAddr,
    /// The key of the configuration that names the address.
    pub key: &'static str,
    /// What the operating system said.
    pub source: std::io::Error,
}

/// Makes the checker of shoppers' tokens. The role `worker` serves no shoppers, so its checker has no keys.
///
/// # Errors
/// When a key cannot be read.
pub fn tokens(config: &Config, role: Role, clock: &Clock) -> anyhow::Result<Tokens> {
    let keys = if role == Role::Worker { Vec::new() } else { token_keys(&config.auth)? };
    Ok(Tokens::new(keys, &token_rules(&config.auth), clock.clone()))
}

fn token_rules(auth: &AuthConfig) -> TokenRules {
    TokenRules {
        audience: auth.audience.clone(),
        issuer: auth.issuer.clone(),
        leeway_s: auth.leeway_s,
        verified_max: auth.verified_tokens_max,
    }
}

fn token_keys(auth: &AuthConfig) -> anyhow::Result<Vec<TokenKey>> {
    let mut keys = Vec::new();
    let secret = auth.hs256_secret.expose();
    if !secret.is_empty() {
        let key = DecodingKey::from_secret(secret.as_bytes());
        keys.push(TokenKey { kid: auth.hs256_kid.clone(), algorithm: Algorithm::HS256, key });
    }
    if let Some(path) = &auth.public_key_file {
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read auth.public_key_file {}", path.display()))?;
        let (algorithm, key) = public_key(auth.public_key_algorithm, &pem)
            .with_context(|| format!("{} cannot be used as a public key", path.display()))?;
        keys.push(TokenKey { kid: auth.public_key_kid.clone(), algorithm, key });
    }
    Ok(keys)
}

#[cfg(feature = "public-keys")]
fn public_key(algorithm: PublicKeyAlgorithm, pem: &[u8]) -> anyhow::Result<(Algorithm, DecodingKey)> {
    Ok(match algorithm {
        PublicKeyAlgorithm::EdDSA => (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)?),
        PublicKeyAlgorithm::RS256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)?),
    })
}

#[cfg(not(feature = "public-keys"))]
fn public_key(_: PublicKeyAlgorithm, _: &[u8]) -> anyhow::Result<(Algorithm, DecodingKey)> {
    anyhow::bail!("this program was built without public keys: build it with `--features public-keys`")
}

/// Starts the listener of shoppers as a task of `back`. Port 0 binds a free port.
///
/// # Errors
/// When its address is taken.
pub fn shopper_server(
    config: &Config,
    context: web::Data<Context>,
    back: &Tasks,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let http = &config.http;
    let build = move || {
        App::new()
            .app_data(context.clone())
            .wrap(actix_web::middleware::from_fn(middleware::around))
            .configure(router::shopper_routes)
    };
    let mut server = HttpServer::new(build)
        .disable_signals()
        .backlog(8192)
        .max_connections(http.connections_max)
        .client_request_timeout(Duration::from_millis(http.request_head_timeout_ms))
        .keep_alive(Duration::from_millis(http.keep_alive_ms))
        .shutdown_timeout(config.shutdown.deadline_ms.div_ceil(2000));
    if http.workers > 0 {
        server = server.workers(http.workers);
    }
    let refused = |source| CannotListen { address: http.bind, key: "http.bind", source };
    let server = server.bind(http.bind).map_err(refused)?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    back.spawn(server);
    Ok((address, handle))
}

/// Starts the listener of operators as a task of `back`. Port 0 binds a free port.
///
/// # Errors
/// When its address is taken.
pub fn admin_server(
    config: &Config,
    context: web::Data<Context>,
    back: &Tasks,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let bind = config.admin.bind;
    let build = move || {
        App::new()
            .app_data(context.clone())
            .wrap(actix_web::middleware::from_fn(middleware::around))
            .configure(router::admin_routes)
    };
    let server = HttpServer::new(build)
        .disable_signals()
        .workers(1)
        .shutdown_timeout(1)
        .bind(bind)
        .map_err(|source| CannotListen { address: bind, key: "admin.bind", source })?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    back.spawn(server);
    Ok((address, handle))
}
