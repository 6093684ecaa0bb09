//! The sections of the servers: Redis, Kafka and MySQL.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config_error::ConfigError;
use super::readers::path;
use super::secret::Secret;

/// The connection to Redis.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// The server, as a `redis://` URL, or `rediss://` for TLS.
    pub url: String,
    /// The password; empty when it is not set.
    pub password: Secret,
    /// A file to read the password from.
    #[serde(deserialize_with = "path")]
    pub password_file: Option<PathBuf>,
    /// The authorities of the server's certificate, in PEM; those of this machine when it is not set.
    #[serde(deserialize_with = "path")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, in PEM, with those up to its authority.
    #[serde(deserialize_with = "path")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(deserialize_with = "path")]
    pub key_file: Option<PathBuf>,
    /// Stands before every key.
    pub key_prefix: String,
    /// After this long without an answer, the outcome of a call is unknown.
    pub response_timeout_ms: u64,
    /// How long a connection may take to be made.
    pub connect_timeout_ms: u64,
    /// The most connections of the pool.
    pub pool_connections_max: usize,
}

/// The order log in Kafka.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub brokers: String,
    /// Whether connections to them are made with TLS.
    pub tls: bool,
    /// The authorities of the server's certificate, in PEM; those of this machine when it is not set.
    #[serde(deserialize_with = "path")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, in PEM, with those up to its authority.
    #[serde(deserialize_with = "path")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(deserialize_with = "path")]
    pub key_file: Option<PathBuf>,
    /// How this program proves who it is.
    pub sasl_mechanism: SaslMechanism,
    /// The user of it.
    pub sasl_user: String,
    /// The user's password; empty when it is not set.
    pub sasl_password: Secret,
    /// A file to read the password from.
    #[serde(deserialize_with = "path")]
    pub sasl_password_file: Option<PathBuf>,
    /// The topic of the order log.
    pub topic: String,
    /// Replicas of every partition.
    pub replication_factor: u16,
    /// Replicas that must have a record before it is acknowledged.
    pub min_insync_replicas: u16,
    /// How long the topic keeps a record; -1 means for ever.
    pub retention_ms: i64,
    /// The topic of the events; empty for none.
    pub events_topic: String,
    /// How long it keeps a record; -1 means for ever.
    pub events_retention_ms: i64,
    /// The consumer group of the order writers.
    pub group: String,
    /// How long the producer collects records for one request.
    pub linger_ms: u32,
    /// How long the producer tries to deliver a record.
    pub message_timeout_ms: u32,
    /// The most records of this process without an acknowledgement.
    pub queue_messages_max: u32,
    /// The protocol of the consumer group.
    pub group_protocol: GroupProtocol,
    /// After this long without a heartbeat a consumer is out of its group.
    pub session_timeout_ms: u32,
    /// How often a consumer sends a heartbeat.
    pub heartbeat_interval_ms: u32,
}

/// How a client proves to Kafka who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaslMechanism {
    /// By nothing, or by the certificate of its TLS connection.
    None,
    /// By its password as it is.
    Plain,
    /// By a proof that it knows the password (RFC 5802), with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// The protocol of Kafka's consumer groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// The clients divide the partitions. Session and heartbeat times are the client's.
    Classic,
    /// The broker divides the partitions. Session and heartbeat times are the broker's.
    Consumer,
}

/// The connections to the MySQL instances.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// `host:port` of every instance, in order. The first one also holds the directory.
    pub instances: Vec<String>,
    /// The user on every instance.
    pub user: String,
    /// The user's password; empty when it is not set.
    pub password: Secret,
    /// A file to read the password from.
    #[serde(deserialize_with = "path")]
    pub password_file: Option<PathBuf>,
    /// Whether connections to them are made with TLS.
    pub tls: bool,
    /// The authorities of the server's certificate, in PEM; those of this machine when it is not set.
    #[serde(deserialize_with = "path")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, in PEM, with those up to its authority.
    #[serde(deserialize_with = "path")]
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(deserialize_with = "path")]
    pub key_file: Option<PathBuf>,
    /// Stands before the name of every database.
    pub database_prefix: String,
    /// The most connections to one instance for the order writers and operators.
    pub pool_connections_max: u32,
    /// The most connections to one instance for what buyers read.
    pub reader_connections_max: u32,
    /// How long a caller waits for a connection of the pool.
    pub acquire_timeout_ms: u64,
    /// How long a caller waits for the answer to a read.
    pub read_timeout_ms: u64,
    /// How long a caller waits for a whole change, such as a batch of orders.
    pub write_timeout_ms: u64,
}

/// Masks a URL that may hold a password.
pub(super) fn shown_url(url: &str) -> &str {
    if url.contains('@') { "***" } else { url }
}

/// Prints what the derived form would print, but masks the URL.
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

/// The files of a server's section that belong to TLS.
#[derive(Debug, Clone, Copy)]
pub struct TlsFiles<'a> {
    /// The name of the section.
    pub section: &'static str,
    /// `ca_file`
    pub ca: Option<&'a Path>,
    /// `cert_file`
    pub cert: Option<&'a Path>,
    /// `key_file`
    pub key: Option<&'a Path>,
}

impl RedisConfig {
    /// Answers whether the connection is made with TLS.
    pub fn is_tls(&self) -> bool {
        // The client's own words for it.
        let scheme = self.url.split("://").next().unwrap_or_default().to_ascii_lowercase();
        scheme == "rediss" || scheme == "valkeys"
    }

    /// Returns the files of its TLS.
    pub fn tls_files(&self) -> TlsFiles<'_> {
        TlsFiles::of("redis", &self.ca_file, &self.cert_file, &self.key_file)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.key_prefix.contains(['{', '}']) {
            return Err(ConfigError::invalid("redis.key_prefix", "must not contain { or }"));
        }
        self.tls_files().validate(("redis.url", self.is_tls()), "rediss://…", ("tls", cfg!(feature = "tls")))
    }
}

impl KafkaConfig {
    /// Returns the files of its TLS.
    pub fn tls_files(&self) -> TlsFiles<'_> {
        TlsFiles::of("kafka", &self.ca_file, &self.cert_file, &self.key_file)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.min_insync_replicas > self.replication_factor {
            return Err(ConfigError::invalid(
                "kafka.min_insync_replicas",
                "is more than kafka.replication_factor: the topic would take no record",
            ));
        }
        if self.events_topic == self.topic {
            return Err(ConfigError::invalid("kafka.events_topic", "must be another topic than kafka.topic"));
        }
        if self.heartbeat_interval_ms >= self.session_timeout_ms {
            return Err(ConfigError::invalid(
                "kafka.heartbeat_interval_ms",
                "must be less than kafka.session_timeout_ms",
            ));
        }
        let feature = ("kafka-tls", cfg!(feature = "kafka-tls"));
        self.tls_files().validate(("kafka.tls", self.tls), "true", feature)?;
        if self.brokers.contains("://") && (self.tls || self.sasl_mechanism != SaslMechanism::None) {
            let problem = "names a protocol, which kafka.tls and kafka.sasl_mechanism say: leave it out";
            return Err(ConfigError::invalid("kafka.brokers", problem));
        }
        let has_user = !self.sasl_user.is_empty();
        let has_password = !self.sasl_password.expose().is_empty();
        match self.sasl_mechanism {
            SaslMechanism::None if has_user || has_password => Err(ConfigError::invalid(
                "kafka.sasl_mechanism",
                "is \"none\", and kafka.sasl_user or its password is set: name the mechanism, or no user",
            )),
            SaslMechanism::None => Ok(()),
            _ if !feature.1 => Err(ConfigError::invalid(
                "kafka.sasl_mechanism",
                "needs a build with `--features kafka-tls`, which this is not",
            )),
            SaslMechanism::Plain if !self.tls => Err(ConfigError::invalid(
                "kafka.sasl_mechanism",
                "\"plain\" sends the password as it is: set kafka.tls = true, or take a scram mechanism",
            )),
            _ if has_user && has_password => Ok(()),
            _ => Err(ConfigError::invalid(
                "kafka.sasl_mechanism",
                "needs kafka.sasl_user, and kafka.sasl_password or kafka.sasl_password_file",
            )),
        }
    }
}

impl SaslMechanism {
    /// Returns the name that clients and servers know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl MysqlConfig {
    /// Returns the files of its TLS.
    pub fn tls_files(&self) -> TlsFiles<'_> {
        TlsFiles::of("mysql", &self.ca_file, &self.cert_file, &self.key_file)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let prefix = &self.database_prefix;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if prefix.len() > 40 || !prefix.bytes().all(is_plain) {
            return Err(ConfigError::invalid("mysql.database_prefix", "must be at most 40 of a-z 0-9 _"));
        }
        self.tls_files().validate(("mysql.tls", self.tls), "true", ("tls", cfg!(feature = "tls")))
    }
}

impl<'a> TlsFiles<'a> {
    fn of(
        section: &'static str,
        ca: &'a Option<PathBuf>,
        cert: &'a Option<PathBuf>,
        key: &'a Option<PathBuf>,
    ) -> Self {
        Self { section, ca: ca.as_deref(), cert: cert.as_deref(), key: key.as_deref() }
    }

    /// Checks them with the key that turns TLS on, whether it is on, the value that turns it on, and the feature of the
    /// build that TLS needs.
    fn validate(
        &self,
        (switch, is_on): (&'static str, bool),
        on: &str,
        (feature, is_built): (&str, bool),
    ) -> Result<(), ConfigError> {
        let Self { section, ca, cert, key } = self;
        if is_on && !is_built {
            let problem = format!("asks for TLS, which needs a build with `--features {feature}`");
            return Err(ConfigError::invalid(switch, problem));
        }
        if !is_on && [ca, cert, key].into_iter().any(Option::is_some) {
            let problem = format!("must be {on}, because files of {section} for TLS are named");
            return Err(ConfigError::invalid(switch, problem));
        }
        if cert.is_some() != key.is_some() {
            let problem = format!("{section}.cert_file and {section}.key_file belong together");
            return Err(ConfigError::invalid(switch, problem));
        }
        Ok(())
    }
}
