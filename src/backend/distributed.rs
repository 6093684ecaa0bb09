//! The distributed backend: Redis admits, Kafka queues, MySQL is the only truth.

mod kafka_order_log;
mod kafka_producer;
mod kafka_reader;
pub mod migrate;
mod mysql;
mod mysql_batch;
mod mysql_batch_rows;
mod mysql_grants;
mod mysql_ledger;
mod mysql_order_store;
mod mysql_sale_store;
mod redis_gates;
mod redis_inventory;
mod redis_link;
mod redis_outbox;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{KafkaConfig, MysqlConfig, RedisConfig};
use crate::domain::ShardMap;
use crate::ports::{
    Effect, ErrorKind, Gates, Inventory, Outbox, Ports, Probe, SaleStore, StoreError, StoreResult,
};

use kafka_order_log::KafkaOrderLog;
use mysql::Mysql;
use mysql_ledger::MysqlLedger;
use mysql_order_store::MysqlOrderStore;
use mysql_sale_store::MysqlSaleStore;
use redis_gates::RedisGates;
use redis_inventory::RedisInventory;
use redis_link::RedisLink;
use redis_outbox::RedisOutbox;

/// What this backend is configured with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub redis: RedisConfig,
    pub kafka: KafkaConfig,
    pub mysql: MysqlConfig,
    pub map: ShardMap,
}

/// Opens a backend whose databases and topic `seckill migrate` has made.
///
/// # Errors
/// When a component cannot be reached, was not migrated, or was migrated with another shard map.
pub async fn open(settings: &Settings, clock: Clock) -> StoreResult<Ports> {
    let mysql = Arc::new(Mysql::new(&settings.mysql, settings.map, &settings.kafka.topic)?);
    migrate::check_shard_map(&mysql).await?;
    let redis = open_redis(&settings.redis)?;
    let log = Arc::new(KafkaOrderLog::open(&settings.kafka, settings.map)?);
    let mut probes: Vec<Arc<dyn Probe>> = vec![redis.probe, log.clone()];
    probes.extend(mysql.probes());
    let orders = Arc::new(MysqlOrderStore::new(mysql.clone(), clock));
    Ok(Ports {
        inventory: redis.inventory,
        gates: redis.gates,
        outbox: redis.outbox,
        order_log: log,
        orders: orders.clone(),
        archive: orders,
        ledger: Arc::new(MysqlLedger::new(mysql.clone())),
        sales: Arc::new(MysqlSaleStore::new(mysql)),
        probes,
    })
}

/// The ports that Redis alone serves.
pub struct RedisPorts {
    pub inventory: Arc<dyn Inventory>,
    pub gates: Arc<dyn Gates>,
    pub outbox: Arc<dyn Outbox>,
    pub probe: Arc<dyn Probe>,
}

/// Opens only the Redis side. Connects at the first call.
///
/// # Errors
/// When the address cannot be read.
pub fn open_redis(config: &RedisConfig) -> StoreResult<RedisPorts> {
    let link = Arc::new(RedisLink::new(config)?);
    Ok(RedisPorts {
        inventory: Arc::new(RedisInventory::new(link.clone())),
        gates: Arc::new(RedisGates::new(link.clone())),
        outbox: Arc::new(RedisOutbox::new(link.clone())),
        probe: link,
    })
}

/// Opens only the directory, for commands that need neither Redis nor Kafka.
///
/// # Errors
/// As [`open`], of the first MySQL instance.
pub async fn open_directory(settings: &Settings) -> StoreResult<Arc<dyn SaleStore>> {
    let mysql = Arc::new(Mysql::new(&settings.mysql, settings.map, &settings.kafka.topic)?);
    migrate::check_shard_map(&mysql).await?;
    Ok(Arc::new(MysqlSaleStore::new(mysql)))
}

/// A failure that is no outage: a component answered what it never should.
fn broken(context: &'static str, detail: impl Into<String>) -> StoreError {
    let source: Box<dyn std::error::Error + Send + Sync> = detail.into().into();
    StoreError { kind: ErrorKind::Broken, effect: Effect::Unknown, context, source }
}
