//! Starts the two listeners, and reads the keys that check shoppers' tokens.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::{Condition, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer, web};
use anyhow::Context as _;
use jsonwebtoken::{Algorithm, DecodingKey};
use socket2::{Domain, Protocol, Socket, Type};

#[cfg(feature = "public-keys")]
use super::published_keys::PublishedKeys;
use super::role::Role;
use crate::clock::Clock;
use crate::config::{self, AuthConfig, Config, PublicKeyAlgorithm};
use crate::http::admin::hosts;
use crate::http::auth::{TokenKey, TokenRules, Tokens};
use crate::http::client_address::{ClientAddresses, ForwardedHeader};
use crate::http::cors::Origins;
use crate::http::straight::straight;
use crate::http::{Context, Finish, LearnKeys, connections, middleware, router};
use crate::ports::Probe;
use crate::shutdown::Tasks;
use crate::worker::driver::Task;

#[cfg(not(feature = "public-keys"))]
const BUILT_WITHOUT: &str =
    "this program was built without public keys: build it with `--features public-keys`";
/// How long the thread that accepts may take to hear that it pauses. It logs an error when its listener closes earlier.
const PAUSED: Duration = Duration::from_millis(5);
/// How many connections wait at most until they are let in. The system may have a lower limit (`net.core.somaxconn`).
const BACKLOG: i32 = 8192;
/// How often connections are looked at that have no request in hand.
const CUT_EVERY: Duration = Duration::from_secs(1);

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
        device_claim: auth.device_claim.clone(),
        verified_max: auth.verified_tokens_max,
    }
}

fn token_keys(auth: &AuthConfig) -> anyhow::Result<Vec<TokenKey>> {
    let mut keys = Vec::new();
    let secrets =
        [(&auth.hs256_secret, &auth.hs256_kid), (&auth.hs256_previous_secret, &auth.hs256_previous_kid)];
    for (secret, kid) in secrets {
        if !secret.expose().is_empty() {
            let key = DecodingKey::from_secret(secret.expose().as_bytes());
            keys.push(TokenKey { kid: kid.clone(), algorithm: Algorithm::HS256, key });
        }
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
    anyhow::bail!(BUILT_WITHOUT)
}

/// Makes the finder of clients' addresses behind the configured proxies.
pub fn client_addresses(config: &Config) -> ClientAddresses {
    let header = match config.http.forwarded_header {
        config::ForwardedHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
        config::ForwardedHeader::Forwarded => ForwardedHeader::Forwarded,
    };
    ClientAddresses::new(config.http.trusted_proxies.clone(), header)
}

/// The keys that an identity provider publishes, as the parts of the process see them.
pub struct Published {
    /// For the handlers, whose tokens may name a new key.
    pub learn: LearnKeys,
    /// Reads them again and again.
    pub refresh: Arc<dyn Task>,
    /// Says whether there are any.
    pub probe: Arc<dyn Probe>,
}

/// Reads the published keys that the configuration names, and gives them to `tokens`; `None` when it names none, or no
/// shopper is served.
///
/// # Errors
/// When their file cannot be used.
#[cfg(feature = "public-keys")]
pub async fn published_keys(
    config: &Config,
    role: Role,
    tokens: &Arc<Tokens>,
    clock: &Clock,
    tasks: &Tasks,
) -> anyhow::Result<Option<Published>> {
    if role == Role::Worker {
        return Ok(None);
    }
    let Some(keys) = PublishedKeys::of(&config.auth, tokens, clock)? else {
        return Ok(None);
    };
    keys.read_first().await?;
    let (source, tasks) = (keys.clone(), tasks.clone());
    let learn: LearnKeys = Arc::new(move || Box::pin(source.clone().learn(tasks.clone())));
    Ok(Some(Published { learn, refresh: keys.clone(), probe: keys }))
}

/// Refuses a configuration that names published keys.
///
/// # Errors
/// When it does.
#[cfg(not(feature = "public-keys"))]
pub async fn published_keys(
    config: &Config,
    _: Role,
    _: &Arc<Tokens>,
    _: &Clock,
    _: &Tasks,
) -> anyhow::Result<Option<Published>> {
    let is_named = config.auth.jwks_file.is_some() || config.auth.jwks_url.is_some();
    anyhow::ensure!(!is_named, BUILT_WITHOUT);
    Ok(None)
}

/// The server of shoppers.
pub struct ShopperServer {
    /// Where it listens.
    pub address: SocketAddr,
    handle: ServerHandle,
    listener: Socket,
}

impl ShopperServer {
    /// Closes the listener. Connections that were let in are served on, and the threads of the server run on.
    pub async fn close(&self, clock: &Clock) {
        self.handle.pause().await;
        clock.sleep(PAUSED).await;
        // The server keeps a paused listener open, so that clients would wait in its queue for nothing.
        if let Err(error) = self.listener.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "the listener stays open until the server stops");
        }
    }

    /// Waits for requests under way, and ends the threads.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

/// Makes a listener whose queue holds a crowd that arrives at once. The kernel cuts its connections when a client takes
/// nothing for so long. Source: tcp(7), TCP_USER_TIMEOUT; connections have it of their listener.
fn listener(address: SocketAddr, write_timeout_ms: u32) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_millis(write_timeout_ms.into())))?;
    #[cfg(not(target_os = "linux"))]
    let _ = write_timeout_ms;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Starts the listener of shoppers as a task of `back`. Port 0 binds a free port. `finish` is its own: what strangers
/// keep under way takes no room from operators.
///
/// # Errors
/// When its address is taken.
pub fn shopper_server(
    config: &Config,
    context: web::Data<Context>,
    finish: Arc<dyn Finish>,
    back: &Tasks,
) -> anyhow::Result<ShopperServer> {
    let http = &config.http;
    let origins = Origins::new(&context.origins, context.device_header.as_ref());
    let clock = context.clock.clone();
    let quiet_max = Duration::from_millis(http.keep_alive_ms + http.request_head_timeout_ms);
    let build = move || {
        cut_quiet_ones(quiet_max, &context.clock);
        App::new()
            .app_data(context.clone())
            .app_data(web::Data::from(finish.clone()))
            .wrap(from_fn(straight))
            .app_data(origins.clone())
            .wrap(Condition::new(!origins.are_none(), origins.cors()))
            .wrap(from_fn(middleware::around))
            .configure(router::shopper_routes)
    };
    let mut server = HttpServer::new(build)
        .disable_signals()
        .on_connect(move |stream, kept| {
            if let Some(stream) = stream.downcast_ref::<TcpStream>() {
                kept.insert(connections::note(stream, &clock));
            }
        })
        .max_connections(http.connections_max)
        .client_request_timeout(Duration::from_millis(http.request_head_timeout_ms))
        // A client that has gone keeps no place among those who wait.
        .h1_allow_half_closed(false)
        .keep_alive(Duration::from_millis(http.keep_alive_ms))
        .shutdown_timeout(config.shutdown.deadline_ms.div_ceil(2000));
    if http.workers > 0 {
        server = server.workers(http.workers);
    }
    let refused = |source| CannotListen { address: http.bind, key: "http.bind", source };
    let listener = listener(http.bind, http.write_timeout_ms).map_err(refused)?;
    let server = server.listen(listener.try_clone()?.into())?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    run(server, back);
    Ok(ShopperServer { address, handle, listener })
}

/// Cuts the connections of this thread that have no request in hand for too long, for as long as the thread serves.
fn cut_quiet_ones(quiet_max: Duration, clock: &Clock) {
    let clock = clock.clone();
    actix_web::rt::spawn(async move {
        loop {
            clock.sleep(CUT_EVERY).await;
            connections::cut_quiet(quiet_max);
        }
    });
}

/// Starts the listener of operators as a task of `back`. Port 0 binds a free port.
///
/// # Errors
/// When its address is taken.
pub fn admin_server(
    config: &Config,
    context: web::Data<Context>,
    finish: Arc<dyn Finish>,
    back: &Tasks,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let bind = config.admin.bind;
    let build = move || {
        App::new()
            .app_data(context.clone())
            .app_data(web::Data::from(finish.clone()))
            .wrap(from_fn(hosts::known))
            .wrap(from_fn(middleware::around))
            .configure(router::admin_routes)
    };
    let refused = |source| CannotListen { address: bind, key: "admin.bind", source };
    let listener = listener(bind, config.http.write_timeout_ms).map_err(refused)?;
    let server =
        HttpServer::new(build).disable_signals().workers(1).shutdown_timeout(1).listen(listener.into())?;
    let address = *server.addrs().first().context("the listener has no address")?;
    let server = server.run();
    let handle = server.handle();
    run(server, back);
    Ok((address, handle))
}

fn run(server: Server, back: &Tasks) {
    back.spawn(async {
        if let Err(error) = server.await {
            tracing::error!(%error, "a listener has ended: restart the process");
        }
    });
}
