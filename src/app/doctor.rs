//! Looks at everything that a process needs before it is started, for `seckill doctor`.

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};

use super::Role;
#[cfg(feature = "embedded")]
use super::open::embedded_settings;
#[cfg(feature = "distributed")]
use super::open::{backend_settings, months_ahead};
#[cfg(feature = "distributed")]
use crate::backend::distributed;
#[cfg(feature = "embedded")]
use crate::backend::embedded;
use crate::clock::Clock;
use crate::config::{Config, Mode, ProviderKind, Secret};
use crate::domain::check::{Check, Checks};

/// Open files beside those of connections: databases, logs, libraries.
const OTHER_FILES: u64 = 200;
/// A network of proxies that is larger than this has strangers in it. Source: a /8 is the largest private network.
const PROXY_PREFIX_LEAST: u8 = 8;

/// Looks at the configuration, at what the system gives a process of this role, and at all stores. It changes nothing
/// that a shop has.
///
/// # Errors
/// When an address of the configuration cannot be read, or this program was built without the configured mode.
pub async fn examine(config: &Config, role: Role) -> anyhow::Result<Vec<Check>> {
    let mut checks = process(config, role);
    let clock = Clock::System;
    checks.extend(match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => {
            distributed::doctor::examine(&backend_settings(config)?, &months_ahead(config), &clock).await?
        }
        #[cfg(feature = "embedded")]
        Mode::Embedded => embedded::doctor::examine(&embedded_settings(config)?, &clock).await,
        #[cfg(not(all(feature = "distributed", feature = "embedded")))]
        absent => anyhow::bail!("this program was built without the {} mode", absent.as_str()),
    });
    Ok(checks)
}

fn process(config: &Config, role: Role) -> Vec<Check> {
    let mut checks = Checks::of("process");
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    of_files(&mut checks, config, role, soft);
    of_secrets(&mut checks, config);
    if role != Role::Worker {
        let given = config.require_secrets();
        let detail = given
            .as_ref()
            .map_or_else(ToString::to_string, |()| "shoppers' tokens can be checked".to_owned());
        checks.need("keys", given.is_ok(), detail, "see Shoppers' keys in docs/operations.md");
        of_proxies(&mut checks, config);
        let is_any = config.http.cors_origins.iter().any(|origin| origin == "*");
        checks.want(
            "origins",
            !is_any,
            if is_any {
                "pages of every origin may call the API"
            } else {
                "only named origins may call the API"
            },
            "name the shop's origins in http.cors_origins",
        );
    }
    let admin = config.admin.bind.ip();
    checks.want(
        "admin",
        admin.is_loopback() || is_private(&IpNet::from(admin)),
        format!("operators are served on {}", config.admin.bind),
        "bind admin.bind to loopback or to a private address: it serves the admin API, /metrics and health",
    );
    of_payments(&mut checks, config);
    checks.want(
        "calls",
        config.backend.mode == Mode::Embedded || !config.notify.url.is_empty(),
        match config.notify.url.as_str() {
            "" => "nobody is called",
            _ => "a person is called",
        },
        "set notify.url, unless Alertmanager calls somebody; `seckill notify test` tries it",
    );
    checks.found()
}

/// Looks whether a process may have as many open files as connections.
fn of_files(checks: &mut Checks, config: &Config, role: Role, soft: u64) {
    let workers = match config.http.workers {
        // A worker serves no shoppers.
        _ if role == Role::Worker => 0,
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    };
    let connections = u64::try_from(workers.saturating_mul(config.http.connections_max)).unwrap_or(u64::MAX);
    let wanted = connections.saturating_add(OTHER_FILES);
    let detail = format!("may have {soft} open files, and {connections} connections by http.connections_max");
    checks.want(
        "open_files",
        soft >= wanted,
        detail,
        format!("raise the limit to {wanted} (ulimit -n, LimitNOFILE=), or lower http.connections_max"),
    );
}

/// Looks whether each secret is used for one thing, and cannot be guessed.
fn of_secrets(checks: &mut Checks, config: &Config) {
    let auth = &config.auth;
    let secrets: [(&str, &Secret); 4] = [
        ("auth.hs256_secret", &auth.hs256_secret),
        ("auth.purchase_token_secret", &auth.purchase_token_secret),
        ("payment.webhook_secret", &config.payment.webhook_secret),
        ("notify.secret", &config.notify.secret),
    ];
    let given: Vec<_> = secrets.into_iter().filter(|(_, secret)| !secret.expose().is_empty()).collect();
    let is_shared = |(name, secret): &&(&str, &Secret)| {
        given.iter().any(|(other, same)| other != name && same.expose() == secret.expose())
    };
    let shared: Vec<&str> = given.iter().filter(is_shared).map(|(name, _)| *name).collect();
    checks.need(
        "secrets",
        shared.is_empty(),
        match shared.len() {
            0 => "every secret is used for one thing".to_owned(),
            _ => format!("{} are the same", shared.join(" and ")),
        },
        "give each a secret of its own: openssl rand -hex 32",
    );
    let monotone = given.iter().find(|(_, secret)| is_guessable(secret.expose()));
    checks.need(
        "secret_strength",
        monotone.is_none(),
        match monotone {
            None => "no secret is plainly guessable".to_owned(),
            Some((name, _)) => format!("{name} has hardly any different characters"),
        },
        "openssl rand -hex 32",
    );
}

/// Answers whether a secret of 32 bytes or more has so few different ones that nobody can have drawn it.
fn is_guessable(secret: &str) -> bool {
    let mut bytes = secret.as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    bytes.len() < 8
}

fn of_proxies(checks: &mut Checks, config: &Config) {
    let proxies = &config.http.trusted_proxies;
    let wide: Vec<String> =
        proxies.iter().filter(|net| net.prefix_len() < PROXY_PREFIX_LEAST).map(ToString::to_string).collect();
    let public: Vec<String> =
        proxies.iter().filter(|net| !is_private(net)).map(ToString::to_string).collect();
    checks.need(
        "proxies",
        wide.is_empty(),
        match (wide.len(), proxies.len()) {
            (0, 0) => "no proxy is believed".to_owned(),
            (0, _) => "only networks of proxies are believed".to_owned(),
            _ => format!("{} are believed to be proxies", wide.join(", ")),
        },
        "name the proxies' own addresses in http.trusted_proxies: anybody in them may say to be any client",
    );
    checks.want(
        "proxy_networks",
        public.is_empty() || !wide.is_empty(),
        match public.len() {
            0 => "no network of proxies is public".to_owned(),
            _ => format!("{} are public", public.join(", ")),
        },
        "see that only proxies of yours have these addresses",
    );
    let is_alone = proxies.is_empty() && !config.http.bind.ip().is_loopback();
    checks.want(
        "edge",
        !is_alone,
        match is_alone {
            true => format!("shoppers reach {} without a proxy", config.http.bind),
            false => "a proxy, or this machine alone, reaches the shoppers' listener".to_owned(),
        },
        "put a proxy with TLS before it (docs/proxies.md), and name it in http.trusted_proxies",
    );
}

/// Answers whether all addresses of a network are of this machine, of a private network, or of a link.
fn is_private(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => {
            let address = net.network();
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        IpNet::V6(net) => {
            let address = net.network();
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

fn of_payments(checks: &mut Checks, config: &Config) {
    let payment = &config.payment;
    let (is_well, detail) = match payment.provider {
        ProviderKind::None => (true, "nobody takes money: only sales that cost nothing can be opened"),
        ProviderKind::Simulator => {
            (config.backend.mode == Mode::Embedded, "payments are simulated: no money moves")
        }
        ProviderKind::Stripe => (true, "Stripe takes the money"),
    };
    checks.want(
        "payments",
        is_well,
        detail,
        "set payment.provider to who takes the money, unless this is a trial",
    );
    let required = payment.require();
    checks.need(
        "payment_keys",
        required.is_ok(),
        required.map_or_else(|error| error.to_string(), |()| "the provider can be called".to_owned()),
        "see [payment] in config/default.toml",
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load_with;
    use crate::domain::check::Level;

    fn levels(changed: &[(&str, &str)]) -> BTreeMap<String, Level> {
        let sound = [
            ("SECKILL__AUTH__HS256_SECRET", "0123456789abcdef0123456789abcdef"),
            ("SECKILL__NOTIFY__URL", "https://calls.example/seckill"),
            ("SECKILL__NOTIFY__SECRET", "fedcba9876543210fedcba9876543210"),
        ];
        let all: BTreeMap<&str, &str> = sound.into_iter().chain(changed.iter().copied()).collect();
        let all: Vec<_> = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config = load_with(None, &all, &[]).expect("valid").config;
        let mut found = process(&config, Role::All);
        // The limit of this machine is not known.
        found.retain(|check| check.name != "process.open_files");
        let mut files = Checks::of("process");
        let soft = if changed.iter().any(|(name, _)| *name == "SECKILL__HTTP__CONNECTIONS_MAX") {
            1024
        } else {
            u64::MAX
        };
        of_files(&mut files, &config, Role::All, soft);
        found.extend(files.found());
        found.into_iter().map(|check| (check.name.into_owned(), check.level)).collect()
    }

    #[test]
    fn no_check_is_made_twice_and_a_worker_needs_no_key_of_shoppers() {
        let config = load_with(None, &[], &[]).expect("valid").config;
        for (role, keys) in [(Role::All, Some(Level::Error)), (Role::Worker, None)] {
            let found = process(&config, role);
            let names: BTreeMap<_, _> =
                found.iter().map(|check| (check.name.as_ref(), check.level)).collect();
            assert_eq!(names.len(), found.len(), "{found:?}");
            assert_eq!(names.get("process.keys").copied(), keys, "{role:?}");
        }
    }

    #[test]
    fn each_setting_of_a_process_is_red_when_it_is_wrong_and_only_then() {
        assert!(levels(&[]).values().all(|level| *level == Level::Ok), "{:?}", levels(&[]));
        let same = "0123456789abcdef0123456789abcdef";
        for (name, value, check, level) in [
            ("HTTP__CONNECTIONS_MAX", "25000", "process.open_files", Level::Warning),
            ("AUTH__HS256_SECRET", "", "process.keys", Level::Error),
            ("AUTH__PURCHASE_TOKEN_SECRET", same, "process.secrets", Level::Error),
            (
                "AUTH__HS256_SECRET",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "process.secret_strength",
                Level::Error,
            ),
            ("HTTP__CORS_ORIGINS", "*", "process.origins", Level::Warning),
            ("HTTP__TRUSTED_PROXIES", "0.0.0.0/0", "process.proxies", Level::Error),
            ("HTTP__TRUSTED_PROXIES", "203.0.113.0/24", "process.proxy_networks", Level::Warning),
            ("HTTP__BIND", "0.0.0.0:8080", "process.edge", Level::Warning),
            ("ADMIN__BIND", "0.0.0.0:9090", "process.admin", Level::Warning),
            ("NOTIFY__URL", "", "process.calls", Level::Warning),
        ] {
            let found = levels(&[(&format!("SECKILL__{name}"), value)]);
            let ill: Vec<_> = found.iter().filter(|(_, level)| **level != Level::Ok).collect();
            assert_eq!(ill, [(&check.to_owned(), &level)], "{name} {value}");
        }
    }
}
