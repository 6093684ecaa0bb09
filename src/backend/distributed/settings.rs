//! Holds the settings of the distributed backend.

use crate::config::{KafkaConfig, MysqlConfig, RedisConfig};
use crate::domain::ShardMap;

/// Holds the settings of this backend.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The section `[redis]`: where Redis is, and how long a call may take.
    pub redis: RedisConfig,
    /// The section `[kafka]`: where Kafka is, and how the order log is kept.
    pub kafka: KafkaConfig,
    /// The section `[mysql]`: where the instances are, and how long a call may take.
    pub mysql: MysqlConfig,
    /// How users are spread over shards, partitions and instances.
    pub map: ShardMap,
}
