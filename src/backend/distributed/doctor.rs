//! Looks at the servers that the shop stands on, for `seckill doctor`. It changes nothing of a shop: the probe of Redis
//! writes three keys of its own.
//!
//! Each server is asked for itself, and one that does not answer is one check that says so.

mod kafka;
mod mysql;
mod redis;
mod told;

use std::sync::Arc;

use futures::future::join3;

use super::mysql::{Guarded, Mysql};
use super::settings::Settings;
use super::watermarks::RedisWatermarks;
use crate::clock::Clock;
use crate::domain::Month;
use crate::domain::check::Check;
use crate::ports::StoreResult;

/// Looks at Redis, Kafka and all MySQL instances. `months` are those of which there should be orders tables, the first
/// one is now. The checks are in the order Redis, Kafka, MySQL.
///
/// # Errors
/// When an address of the configuration cannot be read.
pub async fn examine(settings: &Settings, months: &[Month], clock: &Clock) -> StoreResult<Vec<Check>> {
    let mysql = Mysql::new(&settings.mysql, settings.map, &settings.kafka.topic, Guarded::No, clock.clone())?;
    let mysql = Arc::new(mysql);
    let (redis, found) = redis::examine(&settings.redis, clock).await;
    let processes = match found {
        Some((link, processes)) => {
            // What the shop has seen of the instances. Nothing is told that Redis does not know.
            let known = RedisWatermarks::new(mysql.clone(), link).exchange().await;
            known.is_ok().then_some(processes)
        }
        None => None,
    };
    let examined = mysql::Examined { settings, mysql: &mysql, months, processes, clock };
    let (kafka, events, mysql) = join3(
        kafka::examine(settings, &mysql, clock),
        kafka::examine_events(settings, clock),
        examined.instances(),
    )
    .await;
    Ok([redis, kafka, events, mysql].concat())
}
