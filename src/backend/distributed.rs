//! In the distributed backend Redis admits, Kafka queues, and MySQL is the only truth.

mod adjusting;
pub mod doctor;
mod kafka_client;
mod kafka_connection;
mod kafka_event_queue;
mod kafka_event_topic;
mod kafka_identity;
mod kafka_member;
mod kafka_order_log;
mod kafka_producer;
mod kafka_reader;
mod kafka_told;
pub mod migrate;
mod mysql;
mod mysql_adjustments;
mod mysql_alarms;
mod mysql_archive;
mod mysql_audit_log;
mod mysql_batch;
mod mysql_batch_rows;
mod mysql_books;
mod mysql_captures;
mod mysql_dead_letters;
mod mysql_error;
mod mysql_events;
mod mysql_fences;
mod mysql_grants;
mod mysql_guard;
mod mysql_journal;
mod mysql_keys;
mod mysql_ledger;
mod mysql_order_changes;
mod mysql_order_moves;
mod mysql_order_store;
mod mysql_payments;
mod mysql_positions;
mod mysql_rebuilds;
mod mysql_refunds;
mod mysql_releases;
mod mysql_retention;
mod mysql_rules;
mod mysql_sale_store;
mod mysql_shares;
mod mysql_subscriptions;
mod mysql_text;
mod mysql_views;
pub mod reach;
pub mod recover;
mod redis_announcements;
mod redis_attempts;
mod redis_books;
mod redis_gates;
mod redis_inventory;
mod redis_link;
mod redis_nodes;
mod redis_order_copies;
mod redis_outbox;
mod redis_refills;
mod redis_stream_tickets;
mod redis_token_leases;
mod settings;
mod settling;
mod tls;
#[cfg(feature = "tls")]
mod tls_client;
mod watermarks;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::RedisConfig;
use crate::ports::{
    AuditLog, Books, EventTopic, Gates, Inventory, Keys, OrderEvents, OrderLog, Outbox, Ports, Positions,
    Probe, Recovery, Refills, StoreResult, Views, Watermarks,
};

use adjusting::DistributedAdjustments;
pub use kafka_client::Unawaited;
use kafka_event_topic::KafkaEventTopic;
use kafka_order_log::KafkaOrderLog;
use mysql::{Guarded, Mysql};
use mysql_alarms::MysqlAlarms;
use mysql_archive::MysqlArchive;
use mysql_audit_log::MysqlAuditLog;
use mysql_books::MysqlBooks;
use mysql_captures::MysqlCaptures;
use mysql_dead_letters::MysqlDeadLetters;
use mysql_events::MysqlEvents;
use mysql_keys::MysqlKeys;
use mysql_ledger::MysqlLedger;
use mysql_order_changes::MysqlOrderChanges;
use mysql_order_store::MysqlOrderStore;
use mysql_payments::MysqlPayments;
use mysql_positions::MysqlPositions;
use mysql_rebuilds::MysqlRebuilds;
use mysql_refunds::MysqlRefunds;
use mysql_releases::MysqlReleases;
use mysql_retention::MysqlRetention;
use mysql_rules::MysqlRules;
use mysql_sale_store::MysqlSaleStore;
use mysql_subscriptions::MysqlSubscriptions;
use mysql_views::MysqlViews;
use redis_announcements::RedisAnnouncements;
use redis_attempts::RedisAttempts;
use redis_books::RedisBooks;
use redis_gates::RedisGates;
use redis_inventory::RedisInventory;
use redis_link::RedisLink;
use redis_nodes::RedisNodes;
use redis_order_copies::RedisOrderCopies;
use redis_outbox::RedisOutbox;
use redis_refills::RedisRefills;
use redis_stream_tickets::RedisStreamTickets;
use redis_token_leases::RedisTokenLeases;
pub use settings::Settings;
use settling::DistributedSettling;
use watermarks::RedisWatermarks;

/// How long a bucket sells after its lease was prolonged last. Every process prolongs it twice a second.
const LEASE: Duration = Duration::from_secs(2);

/// Opens a backend whose databases and topic `seckill migrate` has made. Redis and all MySQL instances but the first
/// are reached at their first call.
///
/// # Errors
/// When Kafka or the first MySQL instance cannot be reached, was not migrated, or was migrated with another shard map,
/// when Redis evicts keys, and when an address cannot be read.
pub async fn open(settings: &Settings, clock: Clock) -> StoreResult<Ports> {
    let mysql = guarded_mysql(settings, clock.clone())?;
    let redis = open_redis(&settings.redis, clock.clone())?;
    redis.link.refuse_eviction().await?;
    let watermarks = RedisWatermarks::new(mysql.clone(), redis.link.clone());
    // Redis says what was seen of the instances before this process was.
    if let Err(error) = watermarks.look().await {
        tracing::warn!(%error, "not every instance has said how old its data are");
    }
    migrate::check_directory(&mysql).await?;
    let event_topic = open_event_topic(settings, clock.clone())?;
    let log = Arc::new(KafkaOrderLog::open(&settings.kafka, settings.map, clock.clone())?);
    let mut probes: Vec<Arc<dyn Probe>> = vec![redis.probe, log.clone()];
    probes.extend(mysql.probes());
    let settling = Arc::new(DistributedSettling { mysql: mysql.clone(), redis: redis.link.clone() });
    let orders = Arc::new(MysqlOrderStore::new(mysql.clone()));
    let keys = Arc::new(MysqlKeys::new(mysql.clone()));
    Ok(Ports {
        node: mysql.node,
        inventory: redis.inventory,
        gates: redis.gates,
        outbox: redis.outbox,
        order_log: log,
        order_writes: orders.clone(),
        order_changes: Arc::new(MysqlOrderChanges::new(mysql.clone())),
        dead_letters: Arc::new(MysqlDeadLetters::new(mysql.clone())),
        events: Arc::new(MysqlEvents::new(mysql.clone())),
        views: Arc::new(MysqlViews::new(mysql.clone())),
        subscriptions: Arc::new(MysqlSubscriptions::new(mysql.clone())),
        rules: Arc::new(MysqlRules::new(mysql.clone())),
        nodes: Arc::new(RedisNodes::new(redis.link.clone())),
        announcements: Some(Arc::new(RedisAnnouncements::new(
            redis.link.clone(),
            mysql.node.mark(),
            clock.clone(),
        ))),
        attempts: Arc::new(RedisAttempts { link: redis.link.clone() }),
        stream_tickets: Arc::new(RedisStreamTickets { link: redis.link.clone() }),
        token_leases: Some(Arc::new(RedisTokenLeases::new(redis.link.clone()))),
        order_copies: Some(Arc::new(RedisOrderCopies::new(redis.link.clone()))),
        event_topic,
        payments: Arc::new(MysqlPayments::new(mysql.clone())),
        captures: Arc::new(MysqlCaptures::new(mysql.clone())),
        refunds: Arc::new(MysqlRefunds::new(mysql.clone())),
        orders,
        archive: Arc::new(MysqlArchive { mysql: mysql.clone() }),
        ledger: Arc::new(MysqlLedger::new(mysql.clone())),
        releases: Some(Arc::new(MysqlReleases::new(mysql.clone()))),
        positions: Arc::new(MysqlPositions::new(mysql.clone())),
        recovery: Some(Recovery {
            rebuilds: Arc::new(MysqlRebuilds::new(mysql.clone())),
            refills: redis.refills,
            watermarks: Arc::new(watermarks),
        }),
        books: Books {
            inventory: Arc::new(RedisBooks::new(redis.link.clone())),
            databases: Arc::new(MysqlBooks::new(mysql.clone())),
        },
        sales: Arc::new(MysqlSaleStore::new(mysql.clone())),
        adjustments: Arc::new(DistributedAdjustments::new(mysql.clone(), redis.link.clone())),
        settling,
        retention: Arc::new(MysqlRetention { mysql: mysql.clone() }),
        sessions: keys.clone(),
        keys,
        audit_log: Arc::new(MysqlAuditLog::new(mysql.clone())),
        alarms: Arc::new(MysqlAlarms { mysql: mysql.clone() }),
        probes,
    })
}

fn open_event_topic(settings: &Settings, clock: Clock) -> StoreResult<Option<Arc<dyn EventTopic>>> {
    if settings.kafka.events_topic.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(KafkaEventTopic::open(&settings.kafka, settings.map, clock)?)))
}

/// Holds the ports that Redis alone serves.
pub struct RedisPorts {
    /// Reserves units.
    pub inventory: Arc<dyn Inventory>,
    /// Opens and closes what the inventory sells.
    pub gates: Arc<dyn Gates>,
    /// Keeps accepted orders until the log has them.
    pub outbox: Arc<dyn Outbox>,
    /// Prolongs leases, and fills buckets anew.
    pub refills: Arc<dyn Refills>,
    /// Asks whether Redis does its part.
    pub probe: Arc<dyn Probe>,
    link: Arc<RedisLink>,
}

/// Opens only the Redis side. It connects at the first call.
///
/// # Errors
/// When the address or a file of TLS cannot be read.
pub fn open_redis(config: &RedisConfig, clock: Clock) -> StoreResult<RedisPorts> {
    let link = Arc::new(RedisLink::new(config, clock)?);
    Ok(RedisPorts {
        inventory: Arc::new(RedisInventory::new(link.clone())),
        gates: Arc::new(RedisGates::new(link.clone())),
        outbox: Arc::new(RedisOutbox::new(link.clone())),
        refills: Arc::new(RedisRefills::new(link.clone(), LEASE)),
        probe: link.clone(),
        link,
    })
}

/// Opens only the directory, for commands that need neither Redis nor Kafka.
///
/// # Errors
/// As [`open`], but of MySQL alone.
pub async fn open_keys(settings: &Settings, clock: Clock) -> StoreResult<Arc<dyn Keys>> {
    Ok(Arc::new(MysqlKeys::new(open_mysql(settings, clock).await?)))
}

/// Opens the audit log.
///
/// # Errors
/// As [`open`], but of MySQL alone.
pub async fn open_audit_log(settings: &Settings, clock: Clock) -> StoreResult<Arc<dyn AuditLog>> {
    Ok(Arc::new(MysqlAuditLog::new(open_mysql(settings, clock).await?)))
}

/// Opens the events, the views and the audit log.
///
/// # Errors
/// As [`open`], but of MySQL alone.
pub async fn open_events(
    settings: &Settings,
    clock: Clock,
) -> StoreResult<(Arc<dyn OrderEvents>, Arc<dyn Views>, Arc<dyn AuditLog>)> {
    let mysql = open_mysql(settings, clock).await?;
    let audit_log = Arc::new(MysqlAuditLog::new(mysql.clone()));
    Ok((Arc::new(MysqlEvents::new(mysql.clone())), Arc::new(MysqlViews::new(mysql)), audit_log))
}

/// Opens the positions, the audit log, and the order log when its topic is there.
///
/// # Errors
/// As [`open`], but not of Redis, and not when the topic is gone.
pub async fn open_positions(
    settings: &Settings,
    clock: Clock,
) -> StoreResult<(Arc<dyn Positions>, Arc<dyn AuditLog>, Option<Arc<dyn OrderLog>>)> {
    let mysql = open_mysql(settings, clock.clone()).await?;
    let log: Option<Arc<dyn OrderLog>> = match kafka_identity::read(&settings.kafka, &clock).await? {
        Some(_) => Some(Arc::new(KafkaOrderLog::open(&settings.kafka, settings.map, clock)?)),
        None => None,
    };
    let audit_log = Arc::new(MysqlAuditLog::new(mysql.clone()));
    Ok((Arc::new(MysqlPositions::new(mysql)), audit_log, log))
}

/// Makes the pools, which connect at their first use, to no instance that was set back.
fn guarded_mysql(settings: &Settings, clock: Clock) -> StoreResult<Arc<Mysql>> {
    let (config, map, topic) = (&settings.mysql, settings.map, &settings.kafka.topic);
    Mysql::new(config, map, topic, Guarded::Yes, clock).map(Arc::new)
}

/// Makes the pools, and checks that the databases are this version's and this shard map's.
async fn open_mysql(settings: &Settings, clock: Clock) -> StoreResult<Arc<Mysql>> {
    let mysql = guarded_mysql(settings, clock)?;
    migrate::check_directory(&mysql).await?;
    Ok(mysql)
}
