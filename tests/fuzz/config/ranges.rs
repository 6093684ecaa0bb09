//! The ranges that every loaded configuration keeps, written down a second time.

use std::ops::RangeInclusive;

use seckill::config::Config;
use toml::Value;

type Number = fn(&Config) -> i128;

fn wide(number: impl TryInto<i128>) -> i128 {
    number.try_into().unwrap_or(i128::MAX)
}

macro_rules! ranges {
    ($($key:literal $section:ident.$field:ident $range:expr;)*) => {
        /// Each key, how to read it, and its range.
        const RANGES: &[(&str, Number, RangeInclusive<i128>)] =
            &[$(($key, |config| wide(config.$section.$field), $range),)*];
    };
}

ranges! {
    "http.workers" http.workers 0..=1024;
    "http.connections_max" http.connections_max 1..=1_000_000;
    "http.request_head_timeout_ms" http.request_head_timeout_ms 1..=600_000;
    "http.body_timeout_ms" http.body_timeout_ms 1..=600_000;
    "http.write_timeout_ms" http.write_timeout_ms 1..=600_000;
    "http.keep_alive_ms" http.keep_alive_ms 1..=3_600_000;
    "auth.leeway_s" auth.leeway_s 0..=600;
    "auth.purchase_token_key" auth.purchase_token_key 0..=255;
    "auth.purchase_token_previous_key" auth.purchase_token_previous_key 0..=255;
    "auth.verified_tokens_max" auth.verified_tokens_max 1..=10_000_000;
    "admission.in_flight_max" admission.in_flight_max 1..=1_000_000;
    "admission.reserve_batch_max" admission.reserve_batch_max 1..=128;
    "admission.sold_out_recheck_ms" admission.sold_out_recheck_ms 0..=60_000;
    "admission.opening_skew_ms" admission.opening_skew_ms 0..=60_000;
    "admission.append_wait_ms" admission.append_wait_ms 1..=10_000;
    "admission.outbox_orders_max" admission.outbox_orders_max 1..=100_000_000;
    "admission.wait_s_max" admission.wait_s_max 0..=60;
    "admission.waiters_max" admission.waiters_max 0..=1_000_000;
    "limits.user_per_s" limits.user_per_s 0..=1_000_000;
    "limits.user_burst" limits.user_burst 0..=1_000_000;
    "limits.address_per_s" limits.address_per_s 0..=1_000_000;
    "limits.address_burst" limits.address_burst 0..=1_000_000;
    "limits.tokens_per_s" limits.tokens_per_s 0..=1_000_000;
    "limits.tokens_burst" limits.tokens_burst 0..=1_000_000;
    "catalog.refresh_ms" catalog.refresh_ms 50..=60_000;
    "cache.orders_max" cache.orders_max 0..=10_000_000;
    "push.streams_max" push.streams_max 0..=1_000_000;
    "push.user_max" push.user_max 1..=1000;
    "push.address_max" push.address_max 1..=1_000_000;
    "push.heartbeat_ms" push.heartbeat_ms 1000..=600_000;
    "push.idle_ms" push.idle_ms 1000..=86_400_000;
    "log.orders_per_million" log.orders_per_million 0..=1_000_000;
    "traces.sampled_per_million" traces.sampled_per_million 0..=1_000_000;
    "traces.requests_per_s_max" traces.requests_per_s_max 0..=1_000_000;
    "traces.slow_ms" traces.slow_ms 1..=600_000;
    "traces.queue_spans_max" traces.queue_spans_max 1..=1_000_000;
    "traces.timeout_ms" traces.timeout_ms 1..=60_000;
    "shards.shards" shards.shards 1..=4096;
    "shards.partitions" shards.partitions 1..=4096;
    "shards.months_ahead" shards.months_ahead 1..=24;
    "redis.response_timeout_ms" redis.response_timeout_ms 10..=10_000;
    "redis.connect_timeout_ms" redis.connect_timeout_ms 10..=60_000;
    "redis.pool_connections_max" redis.pool_connections_max 1..=1000;
    "kafka.replication_factor" kafka.replication_factor 1..=32_767;
    "kafka.min_insync_replicas" kafka.min_insync_replicas 1..=32_767;
    "kafka.retention_ms" kafka.retention_ms -1..=9_223_372_036_854_775_807;
    "kafka.events_retention_ms" kafka.events_retention_ms -1..=9_223_372_036_854_775_807;
    "kafka.linger_ms" kafka.linger_ms 0..=900_000;
    "kafka.message_timeout_ms" kafka.message_timeout_ms 1..=2_147_483_647;
    "kafka.queue_messages_max" kafka.queue_messages_max 1..=2_147_483_647;
    "kafka.session_timeout_ms" kafka.session_timeout_ms 1..=300_000;
    "kafka.heartbeat_interval_ms" kafka.heartbeat_interval_ms 1..=300_000;
    "mysql.pool_connections_max" mysql.pool_connections_max 1..=1000;
    "mysql.reader_connections_max" mysql.reader_connections_max 1..=1000;
    "mysql.acquire_timeout_ms" mysql.acquire_timeout_ms 10..=60_000;
    "mysql.read_timeout_ms" mysql.read_timeout_ms 100..=60_000;
    "mysql.write_timeout_ms" mysql.write_timeout_ms 1000..=600_000;
    "writer.batch_records_max" writer.batch_records_max 1..=1000;
    "writer.batch_wait_ms" writer.batch_wait_ms 0..=1000;
    "writer.buffer_records_max" writer.buffer_records_max 1..=100_000;
    "writer.retry_first_ms" writer.retry_first_ms 1..=600_000;
    "writer.retry_last_ms" writer.retry_last_ms 1..=600_000;
    "relay.interval_ms" relay.interval_ms 10..=60_000;
    "relay.min_age_ms" relay.min_age_ms 0..=600_000;
    "relay.batch_orders_max" relay.batch_orders_max 1..=1000;
    "relay.release_interval_ms" relay.release_interval_ms 10..=60_000;
    "sale.preheat_before_ms" sale.preheat_before_ms 0..=604_800_000;
    "sale.settle_after_ms" sale.settle_after_ms 0..=31_536_000_000;
    "events.interval_ms" events.interval_ms 10..=60_000;
    "events.views_interval_ms" events.views_interval_ms 10..=60_000;
    "events.webhook_timeout_ms" events.webhook_timeout_ms 100..=15_000;
    "events.webhook_pause_after_ms" events.webhook_pause_after_ms 1_000..=2_592_000_000;
    "notify.repeat_ms" notify.repeat_ms 0..=2_592_000_000;
    "payment.webhook_body_bytes_max" payment.webhook_body_bytes_max 1_024..=4_194_304;
    "payment.timeout_ms" payment.timeout_ms 100..=80_000;
    "payment.closing_max_ms" payment.closing_max_ms 1_000..=604_800_000;
    "payment.orphan_ms" payment.orphan_ms 1_000..=604_800_000;
    "payment.grace_ms" payment.grace_ms 0..=86_400_000;
    "retention.events_ms" retention.events_ms 0..=315_360_000_000;
    "retention.dead_letters_ms" retention.dead_letters_ms 0..=315_360_000_000;
    "retention.audit_log_ms" retention.audit_log_ms 0..=315_360_000_000;
    "start.wait_ms" start.wait_ms 0..=3_600_000;
    "readiness.down_after_ms" readiness.down_after_ms 1500..=600_000;
    "shutdown.notice_ms" shutdown.notice_ms 0..=600_000;
    "shutdown.deadline_ms" shutdown.deadline_ms 100..=600_000;
}

/// Asserts that every number has a range. A number without one was forgotten.
pub fn know_every_number(defaults: &[(String, Value)]) {
    let numbers = defaults.iter().filter(|(_, value)| value.is_integer());
    let has_range = |name: &str| RANGES.iter().any(|(key, _, _)| *key == name);
    let unknown: Vec<&String> = numbers.map(|(key, _)| key).filter(|key| !has_range(key)).collect();
    assert!(unknown.is_empty(), "without a range here and in src/config/ranges.rs: {unknown:?}");
}

pub fn hold(config: &Config) {
    for (key, number, range) in RANGES {
        let number = number(config);
        assert!(range.contains(&number), "{key} = {number}");
    }
    let (shards, parts) = (config.shards.shards, config.shards.partitions);
    let instances = config.mysql.instances.len();
    assert!(shards.is_power_of_two() && parts.is_power_of_two(), "{shards} shards, {parts} partitions");
    assert!(parts <= shards && instances >= 1 && usize::from(parts).is_multiple_of(instances));
    let map = config.shard_map().expect("a map");
    assert_eq!((map.shards(), map.parts(), usize::from(map.instances())), (shards, parts, instances));
    assert!(config.writer.retry_first_ms <= config.writer.retry_last_ms);
    assert!(config.kafka.min_insync_replicas <= config.kafka.replication_factor, "nobody could write");
    assert!(config.kafka.heartbeat_interval_ms < config.kafka.session_timeout_ms, "nobody could stay");
    assert!(["auto", "json", "pretty"].contains(&config.log.format.as_str()), "{}", config.log.format);
    let secret = config.auth.hs256_secret.expose();
    assert!(secret.is_empty() || secret.len() >= 32, "a secret of {} bytes", secret.len());
    let prefix = &config.mysql.database_prefix;
    assert!(
        prefix.len() <= 40 && prefix.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_')),
        "{prefix}"
    );
    assert!(!config.redis.key_prefix.contains(['{', '}']), "a prefix would choose the slot");
}
