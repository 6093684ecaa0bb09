//! The ranges of the numbers of the configuration.

use std::ops::RangeInclusive;

use super::sections::Config;

impl Config {
    fn ranges_of_traffic(&self) -> Vec<(&'static str, i128, RangeInclusive<i128>)> {
        let Self { auth, admission, limits, .. } = self;
        vec![
            ("auth.purchase_token_key", wide(auth.purchase_token_key), 0..=255),
            ("auth.purchase_token_previous_key", wide(auth.purchase_token_previous_key), 0..=255),
            ("admission.append_wait_ms", wide(admission.append_wait_ms), 1..=10_000),
            ("admission.wait_s_max", wide(admission.wait_s_max), 0..=60),
            ("admission.waiters_max", wide(admission.waiters_max), 0..=1_000_000),
            ("limits.user_per_s", wide(limits.user_per_s), 0..=1_000_000),
            ("limits.user_burst", wide(limits.user_burst), 0..=1_000_000),
            ("limits.address_per_s", wide(limits.address_per_s), 0..=1_000_000),
            ("limits.address_burst", wide(limits.address_burst), 0..=1_000_000),
            ("limits.tokens_per_s", wide(limits.tokens_per_s), 0..=1_000_000),
            ("limits.tokens_burst", wide(limits.tokens_burst), 0..=1_000_000),
            ("cache.orders_max", wide(self.cache.orders_max), 0..=10_000_000),
            ("push.streams_max", wide(self.push.streams_max), 0..=1_000_000),
            ("push.user_max", wide(self.push.user_max), 1..=1000),
            ("push.address_max", wide(self.push.address_max), 1..=1_000_000),
            ("push.heartbeat_ms", wide(self.push.heartbeat_ms), 1000..=600_000),
            ("push.idle_ms", wide(self.push.idle_ms), 1000..=86_400_000),
            ("log.orders_per_million", wide(self.log.orders_per_million), 0..=1_000_000),
            ("traces.sampled_per_million", wide(self.traces.sampled_per_million), 0..=1_000_000),
            ("traces.requests_per_s_max", wide(self.traces.requests_per_s_max), 0..=1_000_000),
            ("traces.slow_ms", wide(self.traces.slow_ms), 1..=600_000),
            ("traces.queue_spans_max", wide(self.traces.queue_spans_max), 1..=1_000_000),
            ("traces.timeout_ms", wide(self.traces.timeout_ms), 1..=60_000),
        ]
    }

    /// Lists the range of every number. Outside of it the process would not start, not answer, or take memory without
    /// end.
    pub(super) fn ranges(&self) -> Vec<(&'static str, i128, RangeInclusive<i128>)> {
        let Self { http, auth, admission, redis, kafka, mysql, writer, relay, payment, .. } = self;
        let retry_last_ms = wide(writer.retry_last_ms);
        let mut ranges = vec![
            ("http.workers", wide(http.workers), 0..=1024),
            ("http.connections_max", wide(http.connections_max), 1..=1_000_000),
            ("http.request_head_timeout_ms", wide(http.request_head_timeout_ms), 1..=600_000),
            ("http.body_timeout_ms", wide(http.body_timeout_ms), 1..=600_000),
            ("http.write_timeout_ms", wide(http.write_timeout_ms), 1..=600_000),
            ("http.keep_alive_ms", wide(http.keep_alive_ms), 1..=3_600_000),
            ("auth.leeway_s", wide(auth.leeway_s), 0..=600),
            ("auth.verified_tokens_max", wide(auth.verified_tokens_max), 1..=10_000_000),
            ("admission.in_flight_max", wide(admission.in_flight_max), 1..=1_000_000),
            ("admission.reserve_batch_max", wide(admission.reserve_batch_max), 1..=128),
            ("admission.sold_out_recheck_ms", wide(admission.sold_out_recheck_ms), 0..=60_000),
            ("admission.opening_skew_ms", wide(admission.opening_skew_ms), 0..=60_000),
            ("admission.outbox_orders_max", wide(admission.outbox_orders_max), 1..=100_000_000),
            ("catalog.refresh_ms", wide(self.catalog.refresh_ms), 50..=60_000),
            ("shards.months_ahead", wide(self.shards.months_ahead), 1..=24),
            ("redis.response_timeout_ms", wide(redis.response_timeout_ms), 10..=10_000),
            ("redis.connect_timeout_ms", wide(redis.connect_timeout_ms), 10..=60_000),
            ("redis.pool_connections_max", wide(redis.pool_connections_max), 1..=1000),
            ("kafka.replication_factor", wide(kafka.replication_factor), 1..=32_767),
            ("kafka.min_insync_replicas", wide(kafka.min_insync_replicas), 1..=32_767),
            ("kafka.retention_ms", wide(kafka.retention_ms), -1..=i64::MAX.into()),
            ("kafka.events_retention_ms", wide(kafka.events_retention_ms), -1..=i64::MAX.into()),
            ("kafka.linger_ms", wide(kafka.linger_ms), 0..=900_000),
            ("kafka.message_timeout_ms", wide(kafka.message_timeout_ms), 1..=i32::MAX.into()),
            ("kafka.queue_messages_max", wide(kafka.queue_messages_max), 1..=i32::MAX.into()),
            // The client leaves its group by itself after five minutes without a poll (max.poll.interval.ms).
            ("kafka.session_timeout_ms", wide(kafka.session_timeout_ms), 1..=300_000),
            ("kafka.heartbeat_interval_ms", wide(kafka.heartbeat_interval_ms), 1..=300_000),
            ("mysql.pool_connections_max", wide(mysql.pool_connections_max), 1..=1000),
            ("mysql.reader_connections_max", wide(mysql.reader_connections_max), 1..=1000),
            ("mysql.acquire_timeout_ms", wide(mysql.acquire_timeout_ms), 10..=60_000),
            ("mysql.read_timeout_ms", wide(mysql.read_timeout_ms), 100..=60_000),
            ("mysql.write_timeout_ms", wide(mysql.write_timeout_ms), 1000..=600_000),
            ("writer.batch_records_max", wide(writer.batch_records_max), 1..=1000),
            ("writer.batch_wait_ms", wide(writer.batch_wait_ms), 0..=1000),
            ("writer.buffer_records_max", wide(writer.buffer_records_max), 1..=100_000),
            ("writer.retry_last_ms", retry_last_ms, 1..=600_000),
            ("writer.retry_first_ms", wide(writer.retry_first_ms), 1..=retry_last_ms),
            ("relay.interval_ms", wide(relay.interval_ms), 10..=60_000),
            ("relay.min_age_ms", wide(relay.min_age_ms), 0..=600_000),
            ("relay.batch_orders_max", wide(relay.batch_orders_max), 1..=1000),
            ("relay.release_interval_ms", wide(relay.release_interval_ms), 10..=60_000),
            ("sale.preheat_before_ms", wide(self.sale.preheat_before_ms), 0..=604_800_000),
            ("sale.settle_after_ms", wide(self.sale.settle_after_ms), 0..=31_536_000_000),
            ("payment.webhook_body_bytes_max", wide(payment.webhook_body_bytes_max), 1024..=4_194_304),
            ("payment.timeout_ms", wide(payment.timeout_ms), 100..=80_000),
            ("payment.closing_max_ms", wide(payment.closing_max_ms), 1_000..=604_800_000),
            ("payment.orphan_ms", wide(payment.orphan_ms), 1_000..=604_800_000),
            ("payment.grace_ms", wide(payment.grace_ms), 0..=86_400_000),
            ("events.interval_ms", wide(self.events.interval_ms), 10..=60_000),
            ("events.views_interval_ms", wide(self.events.views_interval_ms), 10..=60_000),
            ("events.webhook_timeout_ms", wide(self.events.webhook_timeout_ms), 100..=15_000),
            (
                "events.webhook_pause_after_ms",
                wide(self.events.webhook_pause_after_ms),
                1_000..=2_592_000_000,
            ),
            ("notify.repeat_ms", wide(self.notify.repeat_ms), 0..=2_592_000_000),
            ("retention.events_ms", wide(self.retention.events_ms), 0..=315_360_000_000),
            ("retention.dead_letters_ms", wide(self.retention.dead_letters_ms), 0..=315_360_000_000),
            ("retention.audit_log_ms", wide(self.retention.audit_log_ms), 0..=315_360_000_000),
            ("start.wait_ms", wide(self.start.wait_ms), 0..=3_600_000),
            ("readiness.down_after_ms", wide(self.readiness.down_after_ms), 1500..=600_000),
            ("shutdown.notice_ms", wide(self.shutdown.notice_ms), 0..=600_000),
            ("shutdown.deadline_ms", wide(self.shutdown.deadline_ms), 100..=600_000),
        ];
        ranges.extend(self.ranges_of_traffic());
        ranges
    }
}

fn wide(number: impl TryInto<i128>) -> i128 {
    number.try_into().unwrap_or(i128::MAX)
}
