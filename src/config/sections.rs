//! The sections of `config/default.toml` as types, and their ranges.

use std::net::{IpAddr, SocketAddr};
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
        writer: WriterConfig,
        relay: RelayConfig,
        shutdown: ShutdownConfig,
        log: LogConfig,
    }
);
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
    outbox_entries_max: u64,
    wait_s_max: u64,
    waiters_max: usize,
});
section!(LimitsConfig { user_per_s: u32, user_burst: u32, address_per_s: u32, address_burst: u32 });
section!(CatalogConfig { refresh_ms: u64 });
section!(ShardsConfig { shards: u16, partitions: u16, months_ahead: u16 });
section!(RedisConfig {
    url: String,
    password: Secret,
    #[serde(deserialize_with = "path")]
    password_file: Option<PathBuf>,
    key_prefix: String,
    response_timeout_ms: u64,
    connect_timeout_ms: u64,
    pool_connections_max: usize,
});
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
section!(WriterConfig {
    batch_records_max: usize,
    batch_wait_ms: u64,
    buffer_records_max: usize,
    retry_first_ms: u64,
    retry_last_ms: u64,
});
section!(RelayConfig { interval_ms: u64, min_age_ms: u64, batch_entries_max: usize });
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
        let instances = u16::try_from(self.mysql.instances.len())
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
        let ranges: [(&'static str, u64, std::ops::RangeInclusive<u64>); 19] = [
            ("admission.in_flight_max", wide(self.admission.in_flight_max), 1..=1_000_000),
            ("admission.reserve_batch_max", wide(self.admission.reserve_batch_max), 1..=128),
            ("admission.append_wait_ms", self.admission.append_wait_ms, 1..=10_000),
            ("admission.wait_s_max", self.admission.wait_s_max, 0..=60),
            ("catalog.refresh_ms", self.catalog.refresh_ms, 50..=60_000),
            ("shards.months_ahead", u64::from(self.shards.months_ahead), 1..=24),
            ("redis.response_timeout_ms", self.redis.response_timeout_ms, 10..=10_000),
            ("writer.batch_records_max", wide(self.writer.batch_records_max), 1..=1000),
            ("writer.batch_wait_ms", self.writer.batch_wait_ms, 0..=1000),
            ("writer.buffer_records_max", wide(self.writer.buffer_records_max), 1..=100_000),
            ("writer.retry_first_ms", self.writer.retry_first_ms, 1..=self.writer.retry_last_ms),
            ("redis.pool_connections_max", wide(self.redis.pool_connections_max), 1..=1000),
            ("mysql.pool_connections_max", u64::from(self.mysql.pool_connections_max), 1..=1000),
            ("mysql.acquire_timeout_ms", self.mysql.acquire_timeout_ms, 10..=60_000),
            ("mysql.read_timeout_ms", self.mysql.read_timeout_ms, 100..=60_000),
            ("mysql.write_timeout_ms", self.mysql.write_timeout_ms, 1000..=600_000),
            ("relay.interval_ms", self.relay.interval_ms, 10..=60_000),
            ("relay.batch_entries_max", wide(self.relay.batch_entries_max), 1..=10_000),
            ("shutdown.deadline_ms", self.shutdown.deadline_ms, 100..=600_000),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let problem = format!("must be from {} to {}, not {value}", range.start(), range.end());
                return Err(ConfigError::invalid(key, problem));
            }
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
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
