//! The sections of `config/default.toml` as types.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::auth::AuthConfig;
use super::config_error::ConfigError;
use super::inside::{DebugConfig, LogConfig, TracesConfig};
use super::payment::PaymentConfig;
use super::readers::{hosts, networks, origins, text};
use super::servers::{KafkaConfig, MysqlConfig, RedisConfig};
use super::upkeep::{NotifyConfig, RetentionConfig};
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
        /// `[backend]`
        backend: BackendConfig,
        /// `[http]`
        http: HttpConfig,
        /// `[admin]`
        admin: AdminConfig,
        /// `[auth]`
        auth: AuthConfig,
        /// `[admission]`
        admission: AdmissionConfig,
        /// `[limits]`
        limits: LimitsConfig,
        /// `[catalog]`
        catalog: CatalogConfig,
        /// `[cache]`
        cache: CacheConfig,
        /// `[push]`
        push: PushConfig,
        /// `[shards]`
        shards: ShardsConfig,
        /// `[redis]`
        redis: RedisConfig,
        /// `[kafka]`
        kafka: KafkaConfig,
        /// `[mysql]`
        mysql: MysqlConfig,
        /// `[embedded]`
        embedded: EmbeddedConfig,
        /// `[writer]`
        writer: WriterConfig,
        /// `[relay]`
        relay: RelayConfig,
        /// `[sale]`
        sale: SaleConfig,
        /// `[payment]`
        payment: PaymentConfig,
        /// `[events]`
        events: EventsConfig,
        /// `[notify]`
        notify: NotifyConfig,
        /// `[retention]`
        retention: RetentionConfig,
        /// `[start]`
        start: StartConfig,
        /// `[readiness]`
        readiness: ReadinessConfig,
        /// `[shutdown]`
        shutdown: ShutdownConfig,
        /// `[log]`
        log: LogConfig,
        /// `[traces]`
        traces: TracesConfig,
        /// `[debug]`
        debug: DebugConfig,
    }
);
section!(
    /// The backend.
    BackendConfig {
        /// The mode in which the shop runs.
        mode: Mode
    }
);

/// The mode of a shop: the services and files that it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Redis, Kafka and MySQL.
    Distributed,
    /// One process and one data folder.
    Embedded,
}

impl Mode {
    /// Returns the mode's word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distributed => "distributed",
            Self::Embedded => "embedded",
        }
    }
}

section!(
    /// The listener of shoppers.
    HttpConfig {
        /// The listener's address.
        bind: SocketAddr,
        /// Threads that parse requests; 0 means one per core.
        workers: usize,
        /// Connections that a worker keeps at once.
        connections_max: usize,
        /// How long a client may take to send a request's head.
        request_head_timeout_ms: u64,
        /// How long a client may take to send a request's body.
        body_timeout_ms: u64,
        /// How long a client may take nothing of an answer.
        write_timeout_ms: u32,
        /// How long an idle connection is kept.
        keep_alive_ms: u64,
        /// The networks of the peers whose `forwarded_header` is believed.
        #[serde(deserialize_with = "networks")]
        trusted_proxies: Vec<IpNet>,
        /// The only header in which a trusted proxy names its client.
        forwarded_header: ForwardedHeader,
        /// The header in which the shop's app names the shopper's device.
        #[serde(deserialize_with = "text")]
        device_header: Option<String>,
        /// The origins whose pages may call the API from a browser: `https://shop.example`, or `*` alone for all.
        #[serde(deserialize_with = "origins")]
        cors_origins: Vec<String>,
    }
);

/// The header in which a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`. Source: RFC 7239.
    Forwarded,
}

section!(
    /// The listener of operators.
    AdminConfig {
        /// The listener's address.
        bind: SocketAddr,
        /// The host names under which it answers, beside addresses and names without a dot.
        #[serde(deserialize_with = "hosts")]
        hosts: Vec<String>
    }
);
section!(
    /// The limits and waits of the front.
    AdmissionConfig {
        /// The most purchases between reservation and answer.
        in_flight_max: usize,
        /// The most purchases of one reserve call, in embedded mode of one commit.
        reserve_batch_max: usize,
        /// How long a sold-out answer is given without asking Redis again.
        sold_out_recheck_ms: u64,
        /// A purchase this long before the opening is let through to Redis, whose clock decides.
        opening_skew_ms: i64,
        /// How long an accepted order waits for the order log's acknowledgement before it is answered `reserved`.
        append_wait_ms: u64,
        /// The most orders in the outbox. While it is full, purchases are refused.
        outbox_orders_max: u64,
        /// The longest wait that `Prefer: wait` and `?wait=` are granted.
        wait_s_max: u64,
        /// The most requests that wait at once.
        waiters_max: usize,
    }
);
section!(
    /// The token buckets of one process. A rate of 0 means no limit.
    LimitsConfig {
        /// Purchases of one user per second.
        user_per_s: u32,
        /// Purchases that one user may send at once.
        user_burst: u32,
        /// Purchases from one address per second.
        address_per_s: u32,
        /// Purchases that may come from one address at once.
        address_burst: u32,
        /// Purchase tokens a second of one user; 0 for no limit.
        tokens_per_s: u32,
        /// Purchase tokens of one user at once.
        tokens_burst: u32
    }
);

impl LimitsConfig {
    /// Answers how many purchases pass a second, and at once: of a user, and of an address; and how many purchase
    /// tokens of a user.
    pub fn rates(&self) -> [(u32, u32); 3] {
        [
            (self.user_per_s, self.user_burst),
            (self.address_per_s, self.address_burst),
            (self.tokens_per_s, self.tokens_burst),
        ]
    }
}

section!(
    /// The catalog in memory.
    CatalogConfig {
        /// How often the catalog is read again.
        refresh_ms: u64
    }
);
section!(
    /// What is remembered of orders, so that reads do not reach the databases.
    CacheConfig {
        /// Most orders of which a process remembers what it has read; 0 for none.
        orders_max: u32,
        /// Whether reads use copies that Redis keeps.
        copies: bool
    }
);
section!(
    /// The streams of shoppers.
    PushConfig {
        /// Most streams of a process.
        streams_max: usize,
        /// Most streams of a buyer.
        user_max: usize,
        /// Most streams of an address.
        address_max: usize,
        /// How long nothing is sent before a heartbeat is.
        heartbeat_ms: u64,
        /// How long a stream is kept on which nothing happens.
        idle_ms: u64
    }
);
section!(
    /// The shard map. Its counts are frozen at the first migration.
    ShardsConfig {
        /// The number of shards, a power of two.
        shards: u16,
        /// The number of partitions of the order log, a power of two.
        partitions: u16,
        /// For how many months orders tables are made ahead of time, the current month included.
        months_ahead: u16
    }
);
section!(
    /// The data folder of embedded mode.
    EmbeddedConfig {
        /// The folder, which is made when it is absent.
        folder: PathBuf,
        /// How durable a commit is.
        synchronous: Synchronous
    }
);

/// What a commit waits for before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The disk. An answered order survives a power failure.
    Full,
    /// The operating system. An answered order survives a crash of the process. A power failure may take the last
    /// orders, and never half of one.
    Normal,
}

section!(
    /// The batches of the order writer.
    WriterConfig {
        /// The most records of one batch.
        batch_records_max: usize,
        /// How long a batch waits for more records.
        batch_wait_ms: u64,
        /// The most records that are read ahead per partition.
        buffer_records_max: usize,
        /// The first pause before a failed batch is taken again. Each pause is twice the one before it.
        retry_first_ms: u64,
        /// The longest of these pauses.
        retry_last_ms: u64,
    }
);
section!(
    /// The rounds of the relay.
    RelayConfig {
        /// The pause between two rounds over all outboxes.
        interval_ms: u64,
        /// Entries that are younger than this are left to their front.
        min_age_ms: u64,
        /// The most orders of one bucket, in whole entries, or releases of one instance in one round.
        batch_orders_max: usize,
        /// The pause between two looks for units that have to go back on sale.
        release_interval_ms: u64
    }
);
section!(
    /// What happens to sales by itself.
    SaleConfig {
        /// How long before its start a published sale is put in place; 0 leaves that to operators.
        preheat_before_ms: i64,
        /// How long after its end a sale is settled of which nothing is open; 0 leaves that to operators.
        settle_after_ms: i64
    }
);
section!(
    /// The readers of the events of orders.
    EventsConfig {
        /// Time between two looks for events that are to be passed on.
        interval_ms: u64,
        /// Time between two looks for events that are to be added to the views.
        views_interval_ms: u64,
        /// Networks that are not public, to which events may be sent all the same.
        #[serde(deserialize_with = "networks")]
        webhook_networks: Vec<IpNet>,
        /// How long a receiver may take to answer.
        webhook_timeout_ms: u64,
        /// After how long without anything taken a subscription is paused.
        webhook_pause_after_ms: u64
    }
);
section!(
    /// The start of a process.
    StartConfig {
        /// The longest wait for the servers without which nothing can begin.
        wait_ms: u64
    }
);
section!(
    /// What `/readyz` says.
    ReadinessConfig {
        /// After how long without one good probe a component is down.
        down_after_ms: u64
    }
);
section!(
    /// The end of a process.
    ShutdownConfig {
        /// How long the process goes on serving after SIGTERM while it says that it is not ready.
        notice_ms: u64,
        /// After this long, what still runs is abandoned. The notice does not count.
        deadline_ms: u64
    }
);
impl Config {
    /// Makes the shard map of these settings.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when the counts do not fit together.
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
}
