//! The stack that the tests break, the proxies before it, and the way back to a whole stack.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use seckill::app::Role;
use seckill::config::{Config, Mode};
use seckill::domain::{SkuId, UserId};
use tokio::sync::{Mutex, MutexGuard};

use crate::harness::{Servers, TestShop, config, migrated, open, remove};
use crate::proxy::{Proxy, Weather};

static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);

/// The ports of scripts/outage-stack.
const REDIS: u16 = 26379;
pub const MYSQL: [u16; 2] = [23306, 23307];
const KAFKA: u16 = 29092;
const KAFKA_ADVERTISED: u16 = 29094;

/// How a server goes away.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    /// The server is killed (kill -9). It comes back by a new start on its data.
    Killed,
    /// The server is stopped (SIGSTOP). Its connections stand and nobody answers.
    Frozen,
    /// The server runs, and every connection to it is cut.
    Cut,
}

pub const LOSSES: [Loss; 3] = [Loss::Killed, Loss::Frozen, Loss::Cut];

/// The stack and the proxies of one test. When it is dropped, every server runs again.
pub struct World {
    /// The product's configuration, which reaches every server through its proxy.
    pub config: Config,
    pub redis: Proxy,
    pub mysql: [Proxy; 2],
    pub kafka: Proxy,
    lost: Vec<(&'static str, Loss)>,
    _alone: MutexGuard<'static, ()>,
}

fn stack(arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/outage-stack");
    let output = Command::new(program).args(arguments).output().expect("scripts/outage-stack runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "scripts/outage-stack {arguments:?}: {text}");
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl World {
    /// Starts a whole stack, migrates its databases, and makes a configuration with `flags` that goes through the
    /// proxies.
    pub async fn new(flags: &[(&str, &str)]) -> Self {
        let alone = ALONE.lock().await;
        tokio::task::block_in_place(|| stack(&["up"]));
        let mut config = config(Mode::Distributed, flags);
        let redis = Proxy::start(0, local(REDIS)).await;
        let mysql = [Proxy::start(0, local(MYSQL[0])).await, Proxy::start(0, local(MYSQL[1])).await];
        let kafka = Proxy::start(KAFKA_ADVERTISED, local(KAFKA)).await;
        config.redis.url = format!("redis://{}", redis.address);
        config.kafka.brokers = kafka.address.to_string();
        config.mysql.instances = mysql.iter().map(|proxy| proxy.address.to_string()).collect();
        // A test that failed may have left a server that only reads.
        for instance in 0..MYSQL.len() {
            Servers::of(&config).execute(instance, "SET GLOBAL read_only = OFF").await;
        }
        migrated(&config).await;
        Self { config, redis, mysql, kafka, lost: Vec::new(), _alone: alone }
    }

    pub async fn shop(&self) -> TestShop {
        TestShop::start_on(self.config.clone(), open(&self.config).await, Role::All).await
    }

    pub fn database(&self) -> Servers {
        Servers::of(&self.config)
    }

    pub fn proxy(&self, part: &str) -> &Proxy {
        match part {
            "redis" => &self.redis,
            "mysql-a" => &self.mysql[0],
            "mysql-b" => &self.mysql[1],
            _ => &self.kafka,
        }
    }

    pub fn lose(&mut self, part: &'static str, loss: Loss) {
        self.lost.push((part, loss));
        match loss {
            Loss::Killed => tokio::task::block_in_place(|| stack(&["kill", part])),
            Loss::Frozen => tokio::task::block_in_place(|| stack(&["pause", part])),
            Loss::Cut => self.proxy(part).set(Weather::Cut),
        }
    }

    /// Removes everything from Redis.
    pub async fn lose_keys(&self) {
        let client = redis::Client::open(format!("redis://{}", local(REDIS))).expect("a client");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
        let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.expect("Redis");
    }

    pub fn restore(&mut self) {
        for (part, loss) in std::mem::take(&mut self.lost) {
            match loss {
                Loss::Killed => tokio::task::block_in_place(|| stack(&["up", part])),
                Loss::Frozen => tokio::task::block_in_place(|| stack(&["resume", part])),
                Loss::Cut => self.proxy(part).set(Weather::Fair),
            }
        }
    }

    pub fn mysql_weather(&self, weather: Weather) {
        self.mysql.iter().for_each(|proxy| proxy.set(weather));
    }

    /// Returns a SKU whose home is this instance.
    pub fn sku_at_home_on(&self, instance: u16) -> String {
        let map = self.config.shard_map().expect("a map");
        let skus = (0..).map(|n| SkuId::parse(&format!("sku-{n}")).expect("a slug"));
        let mut at_home = skus.filter(|sku| map.home_of(sku).number() == instance);
        at_home.next().expect("endless").to_string()
    }

    /// Returns `count` users whose orders are on this instance.
    pub fn users_of(&self, instance: u16, count: usize) -> Vec<String> {
        let map = self.config.shard_map().expect("a map");
        let users = (0..).map(|n| UserId::parse(&format!("user-{n}")).expect("a user"));
        let theirs = users.filter(|user| map.instance_of(map.shard_of(user)).number() == instance);
        theirs.take(count).map(|user| user.to_string()).collect()
    }

    pub async fn finish(mut self) {
        self.restore();
        remove(&self.config).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A frozen server is resumed even when the test failed half-way: the next test begins with `up`, which does not
        // resume it.
        for (part, loss) in std::mem::take(&mut self.lost) {
            if matches!(loss, Loss::Frozen) {
                stack(&["resume", part]);
            }
        }
    }
}
