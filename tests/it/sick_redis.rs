//! Tests of a Redis that answers and does not do its part: it only reads, refuses scripts, or evicts keys.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use seckill::app;
use seckill::backend::distributed::{self, RedisPorts};
use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::{BucketId, Sale, SaleId};
use seckill::ports::{Effect, Fault};

use crate::harness::{config, migrated, remove};
use crate::own_redis::OwnRedis;
use crate::wishes;

struct Sick {
    redis: OwnRedis,
    config: Config,
    ports: RedisPorts,
}

impl Sick {
    async fn start() -> Self {
        let redis = OwnRedis::start(&[]).await;
        let config = config(Mode::Distributed, &[("redis.url", &redis.url())]);
        let ports = distributed::open_redis(&config.redis, Clock::System).expect("an address");
        assert_eq!(ports.probe.check().await, Ok(()), "it is well at first");
        let stock = BTreeMap::from([(wishes::sku("pad"), 1000), (wishes::sku("phone"), 1000)]);
        let now_ms = wishes::now_ms();
        let (starts_ms, ends_ms) = (now_ms - wishes::HOUR_MS, now_ms + wishes::HOUR_MS);
        let sale = wishes::sale(&SaleId::parse("drop").expect("a slug"), 1, &stock);
        let sale = Sale { starts_ms, ends_ms, buyer_limit: 99, ..sale };
        let placed = ports.gates.preheat(&sale).await.expect("in place");
        ports.gates.set_gates(&sale, &placed).await.expect("open");
        Self { redis, config, ports }
    }

    async fn tell(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        let _: redis::Value = command.query_async(&mut self.redis.connection().await).await.expect("done");
    }

    /// Buys, and returns the effect if that fails.
    async fn buy(&self) -> Result<(), Effect> {
        let sale = SaleId::parse("drop").expect("a slug");
        let batch = wishes::batch(&mut StdRng::seed_from_u64(2), &sale, 1);
        let answer = self.ports.inventory.reserve(&BucketId { sale, bucket: 0 }, batch).await;
        answer.map(drop).map_err(|error| error.effect)
    }

    /// Makes the server forget its scripts over and over.
    async fn forget_scripts(&self) -> std::convert::Infallible {
        let mut connection = self.redis.connection().await;
        loop {
            let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.expect("done");
        }
    }

    async fn fault(&self) -> Fault {
        self.ports.probe.check().await.expect_err("a fault")
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_refuses_scripts_is_named_and_nothing_is_in_doubt() {
    let sick = Sick::start().await;
    sick.tell(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]).await;
    assert_eq!(sick.fault().await, Fault::down("refuses scripts"));
    assert_eq!(sick.buy().await, Err(Effect::NotApplied));
    sick.tell(&["ACL", "SETUSER", "default", "+eval", "+evalsha", "-xadd"]).await;
    assert_eq!(sick.fault().await, Fault::down("refuses scripts"), "it refuses what is in them");
    sick.tell(&["ACL", "SETUSER", "default", "+xadd"]).await;
    assert_eq!(sick.ports.probe.check().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_forgets_its_scripts_again_and_again_leaves_nothing_in_doubt() {
    let sick = Sick::start().await;
    let buying = async {
        let mut failures = Vec::new();
        for _ in 0..500 {
            failures.extend(sick.buy().await.err());
        }
        failures
    };
    let failures = tokio::select! {
        never = sick.forget_scripts() => match never {},
        failures = buying => failures,
    };
    let in_doubt = failures.iter().filter(|effect| **effect != Effect::NotApplied).count();
    assert!(!failures.is_empty() && in_doubt == 0, "{in_doubt} of {} failures are in doubt", failures.len());
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_only_reads_is_named_and_nothing_is_in_doubt() {
    let sick = Sick::start().await;
    sick.tell(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(sick.fault().await, Fault::down("only reads"));
    assert_eq!(sick.buy().await, Err(Effect::NotApplied));
    sick.tell(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(sick.ports.probe.check().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_evicts_keys_is_refused_at_the_start_and_seen_later() {
    let sick = Sick::start().await;
    sick.tell(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let fault = sick.fault().await;
    assert!(fault.still_works && fault.words.contains("allkeys-lru"), "{fault:?}");
    migrated(&sick.config).await;
    let settings = app::backend_settings(&sick.config).expect("settings");
    let refused = distributed::open(&settings, Clock::System).await.err().expect("refused").to_string();
    assert!(refused.contains("allkeys-lru") && refused.contains("noeviction"), "{refused}");
    sick.tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    distributed::open(&settings, Clock::System).await.map(drop).expect("accepted");
    remove(&sick.config).await;
}
