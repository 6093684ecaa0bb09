//! Lets the load tool's audit judge what a test left behind.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use loadtest::audit::{Violation, audit};
use loadtest::client::{Client, Target};
use loadtest::clock;
use loadtest::collect::{self, settle};
use loadtest::config::{Config as AuditConfig, Mode as AuditMode, ProviderConfig, TlsFiles, TokenConfig};
use loadtest::evidence::Evidence;
use loadtest::ids::Layout;
use loadtest::token::Mint;
use seckill::config::{Config, Mode};

use super::stage;

/// How long the orders of a test may take to be written after its last answer.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 4;

fn audit_config(config: &Config) -> AuditConfig {
    let (mode, instances) = match config.backend.mode {
        Mode::Distributed => (AuditMode::Distributed, config.mysql.instances.len()),
        Mode::Embedded => (AuditMode::Embedded, 1),
    };
    let instances = u16::try_from(instances).expect("a few");
    let shards = &config.shards;
    AuditConfig {
        mode,
        folder: config.embedded.folder.clone(),
        http_bind: config.http.bind.to_string(),
        redis_url: config.redis.url.clone(),
        redis_password: config.redis.password.expose().to_owned(),
        redis_tls: TlsFiles::default(),
        key_prefix: config.redis.key_prefix.clone(),
        brokers: config.kafka.brokers.clone(),
        kafka_tls: None,
        kafka_login: None,
        topic: config.kafka.topic.clone(),
        instances: config.mysql.instances.clone(),
        mysql_user: config.mysql.user.clone(),
        mysql_password: config.mysql.password.expose().to_owned(),
        mysql_tls: None,
        database_prefix: config.mysql.database_prefix.clone(),
        provider: None,
        layout: Layout::new(shards.shards, shards.partitions, instances).expect("a layout"),
        token: TokenConfig {
            secret: config.auth.hs256_secret.expose().to_owned(),
            kid: config.auth.hs256_kid.clone().unwrap_or_default(),
            audience: config.auth.audience.clone(),
            issuer: config.auth.issuer.clone().unwrap_or_default(),
        },
    }
}

/// Whether the payment provider's books are audited. Those of a test that makes up captures know nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Books {
    Audited,
    LeftAlone,
}

fn provider(config: &Config, books: Books) -> Option<ProviderConfig> {
    let payment = &config.payment;
    let provider =
        ProviderConfig { url: payment.provider_url.clone(), api_key: payment.api_key.expose().to_owned() };
    (books == Books::Audited).then_some(provider)
}

/// Waits until every sale that was put in place is quiet, and asserts the promises of each. When the listener of
/// shoppers is given, the orders are also read there.
///
/// # Panics
/// When a sale is never quiet, or breaks a promise.
pub async fn assert_kept(config: &Config, shopper: Option<SocketAddr>, books: Books) {
    let audited = AuditConfig { provider: provider(config, books), ..audit_config(config) };
    let mut violations = Vec::new();
    for sale in stage(config).sales_in_place().await {
        let facts = collect::sale(&audited, &sale).await.expect("a directory").expect("the sale");
        let settled = settle::settle(&audited, &facts, SETTLE_MAX).await.expect("stores");
        assert!(settled.quiet, "{sale} is not quiet after {SETTLE_MAX:?}");
        let mut evidence = evidence(&audited, &sale).await;
        if let Some(shopper) = shopper {
            let mint = Mint::new(&audited.token, clock::now_ms()).expect("a secret");
            let target = Target::resolve(&format!("http://{shopper}"), false).await.expect("loopback");
            let client = Client::new(target, CONNECTIONS, 0, ANSWER_MAX);
            evidence.http = collect::http::read(&client, &mint, &evidence.rows).await.expect("answers");
        }
        violations.extend(audit(&evidence));
    }
    assert_none(&violations);
}

/// Asserts the promises about rows alone, for a test that writes batches by hand, without inventory and log.
///
/// # Panics
/// When the rows break a promise.
pub async fn assert_rows_kept(config: &Config, sale: &str) {
    let evidence = Evidence { log: None, buckets: None, ..evidence_of(config, sale).await };
    assert_none(&audit(&evidence));
}

/// Reads what the stores say about a sale.
pub async fn evidence_of(config: &Config, sale: &str) -> Evidence {
    evidence(&audit_config(config), sale).await
}

async fn evidence(config: &AuditConfig, sale: &str) -> Evidence {
    collect::stores(config, sale, None, BTreeSet::new()).await.expect("stores to audit")
}

fn assert_none(violations: &[Violation]) {
    let lines: Vec<String> =
        violations.iter().map(|found| format!("{}: {}", found.rule, found.detail)).collect();
    assert!(lines.is_empty(), "{} promises broken:\n  {}", lines.len(), lines.join("\n  "));
}
