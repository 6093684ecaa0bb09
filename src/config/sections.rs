//! The sections of `config/default.toml` as types, and their ranges.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::{ConfigError, Secret};
use crate::domain::ShardMap;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
    };
}

section!(
    /// The whole configuration, one field per section.
    Config {
        backend: BackendConfig,
        http: HttpConfig,
        admin: AdminConfig,
        auth: AuthConfig,
        admission: AdmissionConfig,
        limits: LimitsConfig,
        catalog: CatalogConfig,
        shards: ShardsConfig,
        redis: RedisConfig,
        kafka: KafkaConfig,
        mysql: MysqlConfig,
        embedded: EmbeddedConfig,
        writer: WriterConfig,
        relay: RelayConfig,
        shutdown: ShutdownConfig,
        log: LogConfig,
    }
);
section!(BackendConfig { mode: Mode });

/// What the shop stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Redis, Kafka and MySQL.
    Distributed,
    /// One process and one data folder.
    Embedded,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distributed => "distributed",
            Self::Embedded => "embedded",
        }
    }
}

section!(HttpConfig {
    bind: SocketAddr,
    workers: usize,
    connections_max: usize,
    request_head_timeout_ms: u64,
    keep_alive_ms: u64,
    trusted_proxies: Vec<IpAddr>,
});
section!(AdminConfig { bind: SocketAddr });
section!(AuthConfig {
    hs256_secret: Secret,
    #[serde(deserialize_with = "path")]
    hs256_secret_file: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    hs256_kid: Option<String>,
    #[serde(deserialize_with = "path")]
    public_key_file: Option<PathBuf>,
    public_key_algorithm: PublicKeyAlgorithm,
    #[serde(deserialize_with = "text")]
    public_key_kid: Option<String>,
    audience: String,
    #[serde(deserialize_with = "text")]
    issuer: Option<String>,
    leeway_s: u64,
    verified_tokens_max: usize,
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PublicKeyAlgorithm {
    EdDSA,
    RS256,
}

section!(AdmissionConfig {
    in_flight_max: usize,
    reserve_batch_max: usize,
    sold_out_recheck_ms: i64,
    opening_skew_ms: i64,
    append_wait_ms: u64,
    outbox_orders_max: u64,
    wait_s_max: u64,
    waiters_max: usize,
});
section!(LimitsConfig { user_per_s: u32, user_burst: u32, address_per_s: u32, address_burst: u32 });
section!(CatalogConfig { refresh_ms: u64 });
section!(ShardsConfig { shards: u16, partitions: u16, months_ahead: u16 });
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    pub url: String,
    pub password: Secret,
    #[serde(deserialize_with = "path")]
    pub password_file: Option<PathBuf>,
    pub key_prefix: String,
    pub response_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub pool_connections_max: usize,
}

section!(KafkaConfig {
    brokers: String,
    topic: String,
    replication_factor: u16,
    min_insync_replicas: u16,
    retention_ms: i64,
    group: String,
    linger_ms: u32,
    message_timeout_ms: u32,
    queue_messages_max: u32,
    group_protocol: GroupProtocol,
    session_timeout_ms: u32,
    heartbeat_interval_ms: u32,
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    Classic,
    Consumer,
}

section!(MysqlConfig {
    instances: Vec<String>,
    user: String,
    password: Secret,
    #[serde(deserialize_with = "path")]
    password_file: Option<PathBuf>,
    database_prefix: String,
    pool_connections_max: u32,
    acquire_timeout_ms: u64,
    read_timeout_ms: u64,
    write_timeout_ms: u64,
});
section!(EmbeddedConfig { folder: PathBuf, synchronous: Synchronous });

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The disk: an answered order survives a power failure.
    Full,
    /// The operating system: an answered order survives a crash of the process; a power failure may take the
    /// last ones, and never half of one.
    Normal,
}

section!(WriterConfig {
    batch_records_max: usize,
    batch_wait_ms: u64,
    buffer_records_max: usize,
    retry_first_ms: u64,
    retry_last_ms: u64,
});
section!(RelayConfig { interval_ms: u64, min_age_ms: u64, batch_orders_max: usize });
section!(ShutdownConfig { deadline_ms: u64 });
section!(LogConfig { filter: String, format: String });

fn text<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(input)?).filter(|text| !text.is_empty()))
}

fn path<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(text(input)?.map(PathBuf::from))
}

impl Config {
    /// The shard map of these settings.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for counts that cannot form one.
    pub fn shard_map(&self) -> Result<ShardMap, ConfigError> {
        let instances = match self.backend.mode {
            Mode::Distributed => self.mysql.instances.len(),
            Mode::Embedded => 1,
        };
        let instances = u16::try_from(instances)
            .map_err(|_| ConfigError::invalid("mysql.instances", "has too many entries"))?;
        ShardMap::new(self.shards.shards, self.shards.partitions, instances)
            .map_err(|fault| ConfigError::invalid("shards", fault.to_string()))
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.shard_map()?;
        let secret = self.auth.hs256_secret.expose();
        if !secret.is_empty() && secret.len() < 32 {
            return Err(ConfigError::invalid("auth.hs256_secret", "must have at least 32 bytes"));
        }
        for (key, value, range) in self.ranges() {
            if !range.contains(&value) {
                let problem = format!("must be from {} to {}, not {value}", range.start(), range.end());
                return Err(ConfigError::invalid(key, problem));
            }
        }
        if self.kafka.min_insync_replicas > self.kafka.replication_factor {
            return Err(ConfigError::invalid(
                "kafka.min_insync_replicas",
                "is more than kafka.replication_factor: the topic would take no record",
            ));
        }
        if self.kafka.heartbeat_interval_ms >= self.kafka.session_timeout_ms {
            return Err(ConfigError::invalid(
                "kafka.heartbeat_interval_ms",
                "must be less than kafka.session_timeout_ms",
            ));
        }
        if self.embedded.folder.as_os_str().is_empty() {
            return Err(ConfigError::invalid("embedded.folder", "must name a folder"));
        }
        if !["auto", "json", "pretty"].contains(&self.log.format.as_str()) {
            return Err(ConfigError::invalid("log.format", "must be auto, json or pretty"));
        }
        let prefix = &self.mysql.database_prefix;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if prefix.len() > 40 || !prefix.bytes().all(is_plain) {
            return Err(ConfigError::invalid("mysql.database_prefix", "must be at most 40 of a-z 0-9 _"));
        }
        if self.redis.key_prefix.contains(['{', '}']) {
            return Err(ConfigError::invalid("redis.key_prefix", "must not contain { or }"));
        }
        Ok(())
    }

    /// What every number may be. Beyond it the process would not start, not answer, or take memory without end.
    fn ranges(&self) -> Vec<(&'static str, i128, RangeInclusive<i128>)> {
        let Self { http, auth, admission, redis, kafka, mysql, writer, relay, .. } = self;
        let retry_last_ms = wide(writer.retry_last_ms);
        vec![
            ("http.workers", wide(http.workers), 0..=1024),
            ("http.connections_max", wide(http.connections_max), 1..=1_000_000),
            ("http.request_head_timeout_ms", wide(http.request_head_timeout_ms), 1..=600_000),
            ("http.keep_alive_ms", wide(http.keep_alive_ms), 1..=3_600_000),
            ("auth.leeway_s", wide(auth.leeway_s), 0..=600),
            ("auth.verified_tokens_max", wide(auth.verified_tokens_max), 1..=10_000_000),
            ("admission.in_flight_max", wide(admission.in_flight_max), 1..=1_000_000),
            ("admission.reserve_batch_max", wide(admission.reserve_batch_max), 1..=128),
            ("admission.sold_out_recheck_ms", wide(admission.sold_out_recheck_ms), 0..=60_000),
            ("admission.opening_skew_ms", wide(admission.opening_skew_ms), 0..=60_000),
            ("admission.append_wait_ms", wide(admission.append_wait_ms), 1..=10_000),
            ("admission.outbox_orders_max", wide(admission.outbox_orders_max), 1..=100_000_000),
            ("admission.wait_s_max", wide(admission.wait_s_max), 0..=60),
            ("admission.waiters_max", wide(admission.waiters_max), 0..=1_000_000),
            ("catalog.refresh_ms", wide(self.catalog.refresh_ms), 50..=60_000),
            ("shards.months_ahead", wide(self.shards.months_ahead), 1..=24),
            ("redis.response_timeout_ms", wide(redis.response_timeout_ms), 10..=10_000),
            ("redis.connect_timeout_ms", wide(redis.connect_timeout_ms), 10..=60_000),
            ("redis.pool_connections_max", wide(redis.pool_connections_max), 1..=1000),
            ("kafka.replication_factor", wide(kafka.replication_factor), 1..=32_767),
            ("kafka.min_insync_replicas", wide(kafka.min_insync_replicas), 1..=32_767),
            ("kafka.retention_ms", wide(kafka.retention_ms), -1..=i64::MAX.into()),
            ("kafka.linger_ms", wide(kafka.linger_ms), 0..=900_000),
            ("kafka.message_timeout_ms", wide(kafka.message_timeout_ms), 1..=i32::MAX.into()),
            ("kafka.queue_messages_max", wide(kafka.queue_messages_max), 1..=i32::MAX.into()),
            ("kafka.session_timeout_ms", wide(kafka.session_timeout_ms), 1..=3_600_000),
            ("kafka.heartbeat_interval_ms", wide(kafka.heartbeat_interval_ms), 1..=3_600_000),
            ("mysql.pool_connections_max", wide(mysql.pool_connections_max), 1..=1000),
            ("mysql.acquire_timeout_ms", wide(mysql.acquire_timeout_ms), 10..=60_000),
            ("mysql.read_timeout_ms", wide(mysql.read_timeout_ms), 100..=60_000),
            ("mysql.write_timeout_ms", wide(mysql.write_timeout_ms), 1000..=600_000),
            ("writer.batch_records_max", wide(writer.batch_records_max), 1..=1000),
            ("writer.batch_wait_ms", wide(writer.batch_wait_ms), 0..=1000),
            ("writer.buffer_records_max", wide(writer.buffer_records_max), 1..=100_000),
            ("writer.retry_last_ms", retry_last_ms, 1..=600_000),
            ("writer.retry_first_ms", wide(writer.retry_first_ms), 1..=retry_last_ms),
            ("relay.interval_ms", wide(relay.interval_ms), 10..=60_000),
            ("relay.min_age_ms", wide(relay.min_age_ms), 0..=600_000),
            ("relay.batch_orders_max", wide(relay.batch_orders_max), 1..=1000),
            ("shutdown.deadline_ms", wide(self.shutdown.deadline_ms), 100..=600_000),
        ]
    }
}

fn wide(number: impl TryInto<i128>) -> i128 {
    number.try_into().unwrap_or(i128::MAX)
}

/// A URL without what may be a password in it.
pub(super) fn shown_url(url: &str) -> &str {
    if url.contains('@') { "***" } else { url }
}

/// As derived, but for the URL.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, password, password_file, key_prefix, .. } = self;
        f.debug_struct("RedisConfig")
            .field("url", &shown_url(url))
            .field("password", password)
            .field("password_file", password_file)
            .field("key_prefix", key_prefix)
            .finish_non_exhaustive()
    }
}
