//! Every metric's name, kind, unit, labels and meaning, in one place. docs/operations.md has the same table, and a test
//! compares the two.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime::RuntimeMetrics;

use crate::domain::books::DriftKind;
use crate::domain::payment::{RefundReason, RefundState};
use crate::domain::stream::{EVENTS, End};
use crate::domain::{SaleId, SkuId};

/// One row of the metrics table.
#[derive(Debug)]
pub struct Metric {
    /// The metric's name, which ends in its unit where it has one.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub help: &'static str,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// The distribution of measured values.
    Histogram,
}

macro_rules! metrics_table {
    ($($constant:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $constant: &str = $name;)*
        /// All metrics of the process.
        pub const TABLE: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics_table! {
    HTTP_DURATION Histogram "http_server_request_duration_seconds" ["method", "route", "status"]
        "Time from the first byte of a request to its answer";
    DB_DURATION Histogram "db_client_operation_duration_seconds" ["system", "operation"]
        "Time of one call to Redis, MySQL or SQLite, answered or not";
    MESSAGING_DURATION Histogram "messaging_client_operation_duration_seconds" ["system", "operation"]
        "Time of one call to Kafka, answered or not";
    HTTP_CLIENT_DURATION Histogram "http_client_request_duration_seconds" ["peer"]
        "Time until the head of an answer to a request that this process sends, answered or not";
    PROCESS_CPU Counter "process_cpu_seconds_total" []
        "CPU time of the process";
    PROCESS_MEMORY Gauge "process_resident_memory_bytes" []
        "Memory of the process";
    PROCESS_VIRTUAL Gauge "process_virtual_memory_bytes" []
        "Addresses that the process has taken";
    PROCESS_VIRTUAL_MAX Gauge "process_virtual_memory_max_bytes" []
        "Addresses that it may take";
    PROCESS_FILES Gauge "process_open_fds" []
        "Open files of the process";
    PROCESS_FILES_MAX Gauge "process_max_fds" []
        "Files that the process may have open";
    PROCESS_THREADS Gauge "process_threads" []
        "Threads of the process";
    PROCESS_START Gauge "process_start_time_seconds" []
        "When the process began, in seconds since 1970";
    TOKIO_WORKERS Gauge "tokio_workers" []
        "Threads of the runtime of background work";
    TOKIO_TASKS Gauge "tokio_alive_tasks" []
        "Tasks of that runtime that have not ended";
    TOKIO_QUEUE Gauge "tokio_global_queue_tasks" []
        "Tasks that wait for any thread of that runtime";
    TOKIO_BUSY Counter "tokio_busy_seconds_total" []
        "Time for which the threads of that runtime were at work";
    ADMISSION Counter "seckill_admission_total" ["sale", "outcome"]
        "Purchases by what the shop answered";
    STAGE_DURATION Histogram "seckill_admission_stage_duration_seconds" ["stage"]
        "Time a purchase spends in a stage: reserve, append";
    WAL_BYTES Gauge "seckill_wal_bytes" []
        "Size of the write-ahead log of the embedded database";
    RESERVE_BATCH Histogram "seckill_reserve_batch_requests" []
        "Purchases merged into one script call";
    GROUP_COMMIT Histogram "seckill_group_commit_jobs" []
        "Changes committed together in embedded mode";
    UNAUTHENTICATED Counter "seckill_unauthenticated_total" ["cause"]
        "Credentials refused, of shoppers and operators, by cause";
    TOKEN_KEY_READS Counter "seckill_token_key_reads_total" ["result"]
        "Reads of the keys that an identity provider publishes: read, failed";
    CLIENT_ADDRESS_UNKNOWN Counter "seckill_client_address_unknown_total" []
        "Purchases from a trusted proxy whose header holds no address; all of its clients share one limit";
    RULE_DECISIONS Counter "seckill_rule_decisions_total" ["rule", "decision"]
        "Requests that a rule of traffic has refused, or would have";
    TOKEN_LEASES Counter "seckill_token_leases_total" ["result"]
        "Calls for tokens of a limit that all processes share: given, short, failed";
    TOKENS_LEASED Counter "seckill_tokens_leased_total" []
        "Tokens that this process was given of limits that all processes share";
    BREAKER_STATE Gauge "seckill_breaker_state" ["dependency"]
        "0 while calls are made, 1 while none is, 2 while some are tried";
    BREAKER_TRANSITIONS Counter "seckill_breaker_transitions_total" ["dependency", "to"]
        "Changes of a breaker";
    CALLS_REFUSED Counter "seckill_calls_refused_total" ["dependency", "reason"]
        "Calls to a dependency that were not made: open, busy";
    CONCURRENCY_LIMIT Gauge "seckill_concurrency_limit" ["dependency"]
        "Calls to a dependency that may be in flight; 0 without a limit";
    RULES_VERSION Gauge "seckill_rules_version" []
        "The version of the rules of traffic that the process follows";
    ORDER_READS Counter "seckill_order_reads_total" ["from"]
        "Reads of orders by what answered them: hold, process, copies, database";
    STREAMS Gauge "seckill_streams" []
        "Streams that are open: server-sent events and WebSockets";
    STREAM_EVENTS Counter "seckill_stream_events_total" ["event"]
        "What streams were sent: sale, stock, order, bye, and beat for a heartbeat";
    STREAMS_ENDED Counter "seckill_streams_ended_total" ["reason"]
        "Streams that this process has ended: drain, token, idle, evicted, missed, slow, switched_off";
    ANNOUNCEMENTS_LOST Counter "seckill_announcements_lost_total" []
        "Orders of which other processes were not told, because too many waited";
    SHED Counter "seckill_shed_total" ["reason"]
        "Requests refused to protect the service";
    PANICS Counter "seckill_panics_total" ["in"]
        "Panics that were caught: in a request (`http`), or in a run of a task, by its name";
    DEGRADED Gauge "seckill_degraded" ["step"]
        "1 while the process leaves something out so that other purchases go on: purchases, lists, waits";
    SPANS Counter "seckill_spans_total" ["result"]
        "Spans of traces by what became of them: sent, dropped (too many waited), failed (the collector took none)";
    IN_FLIGHT Gauge "seckill_purchases_in_flight" []
        "Purchases between reservation and answer";
    ORDERS_OVERDUE Gauge "seckill_orders_overdue" []
        "Orders that are due to expire, as the last round found them: at most 500 of each MySQL instance";
    ORDERS Counter "seckill_orders_total" ["status"]
        "Orders that this process decided, by the state they got";
    PAYMENT_EVENTS Counter "seckill_payment_events_total" ["outcome"]
        "Events of the payment provider by what came of them: paid, refund_owed, repeated, closed, refund, attention, …";
    REFUNDS_OWED Counter "seckill_refunds_owed_total" ["reason"]
        "Captures that are paid back, because their order does not get them";
    REFUNDS Counter "seckill_refunds_total" ["state"]
        "Refunds by where they came to be: sent, done, failed, settled";
    REFUNDS_STUCK Gauge "seckill_refunds_stuck" ["database"]
        "Refunds that have failed, or have come to no end within an hour, per MySQL instance";
    ROWS_UNREADABLE Counter "seckill_rows_unreadable_total" ["table"]
        "Rows that this version cannot read, each time one is passed over";
    ORDER_PERSIST Histogram "seckill_order_persist_seconds" []
        "Time from acceptance by the front to the commit of the order's row";
    ORDERS_PENDING Gauge "seckill_orders_pending" []
        "Records in the order log that no writer has committed";
    CONSUMER_LAG Gauge "seckill_consumer_lag_records" ["part"]
        "The same per partition";
    PARTITION_STALLED Gauge "seckill_partition_stalled_seconds" ["part"]
        "Time since a partition's position has moved while records wait in it";
    OUTBOX_OLDEST Gauge "seckill_outbox_oldest_seconds" []
        "Age of the oldest outbox entry with a waiting order that the relay has seen";
    OUTBOX_ORDERS Gauge "seckill_outbox_orders" []
        "Orders in outbox entries, which stay until all of theirs are acknowledged";
    RELAYED Counter "seckill_outbox_relayed_total" []
        "Orders delivered by the relay instead of their front";
    RELEASED Counter "seckill_orders_released_total" []
        "Orders whose units the release relay put back on sale";
    SET_ASIDE Counter "seckill_outbox_set_aside_total" []
        "Outbox entries set aside, because they can never be delivered as a whole";
    WRITER_BATCH Histogram "seckill_writer_batch_rows" []
        "Order rows in one transaction";
    WRITER_COMMIT Histogram "seckill_writer_commit_duration_seconds" []
        "Time of one batch's transaction";
    WRITER_RETRIES Counter "seckill_writer_retries_total" ["reason"]
        "Batches taken again: conflict, unavailable, broken, position_moved; records read again: gap";
    RECORDS_SKIPPED Counter "seckill_records_skipped_total" []
        "Order records whose order was there already";
    EVENTS_PUBLISHED Counter "seckill_events_published_total" []
        "Events of orders that were passed on to the topic, each time one was";
    EVENTS_UNREAD Gauge "seckill_events_unread" ["reader", "database"]
        "Events that a reader has not had, per MySQL instance, in the process whose turn it is";
    FORGOTTEN Counter "seckill_rows_forgotten_total" ["kind"]
        "Rows that went because of their age: events, dead_letters, audit_log";
    ALARM_CALLS Counter "seckill_alarm_calls_total" ["result"]
        "Calls of alarms that were sent to a person: taken, failed";
    WEBHOOKS_SENT Counter "seckill_webhooks_sent_total" ["result"]
        "Events that were sent to subscriptions: taken, failed";
    WEBHOOK_SUBSCRIPTIONS Gauge "seckill_webhook_subscriptions" ["state"]
        "Subscriptions by state: active, paused; failing are those of them whose receivers take nothing";
    DEAD_LETTERS Counter "seckill_dead_letters_total" ["reason"]
        "Records that can never become an order";
    DEAD_LETTERS_OPEN Gauge "seckill_dead_letters_open" []
        "Dead letters that wait for an operator";
    SALES_UNSETTLED Gauge "seckill_sales_unsettled" []
        "Sales that should be settled by themselves and cannot, because their counts differ or a component fails";
    PARTITION_HALTED Gauge "seckill_partition_halted" ["part", "reason"]
        "1 while a partition stands still because its position is not one of the order log: other_log, out_of_range";
    FOREIGN_PARTITIONS Gauge "seckill_order_log_foreign_partitions" []
        "Partitions of the order log beyond the shard map's, which nobody uses";
    MYSQL_SET_BACK Gauge "seckill_mysql_set_back" ["database"]
        "1 while a MySQL instance is not used, because its data are older than what the shop has seen of them";
    BUCKETS_LOST Gauge "seckill_buckets_lost" ["sale"]
        "Buckets of a sale that have lost something of their Redis data, and sell nothing";
    DRIFT Gauge "seckill_drift" ["kind"]
        "Units, orders or rows that the last look found wrong in the books, as the process shows it that looks";
    DRIFT_MENDED Counter "seckill_drift_mended_total" ["kind"]
        "Drifts that were mended";
    BUCKETS_REBUILT Counter "seckill_buckets_rebuilt_total" ["result"]
        "Rebuilds of buckets that had lost something: open, failed";
    SALE_DELAYED Gauge "seckill_sale_delayed" ["sale"]
        "1 while a sale should sell and its stock is not in place";
    SALE_UNPLACED Gauge "seckill_sale_unplaced" ["sale"]
        "1 while a published sale starts within two minutes, or has started, and its stock is not in place";
    STOCK_UNITS Gauge "seckill_stock_units" ["sale", "sku", "state"]
        "Units by state: available (Redis), held, sold (ledger)";
    CLOCK_OFFSET Gauge "seckill_clock_offset_seconds" []
        "By how much this machine's clock is behind the inventory's, which is followed";
    LOG_LINES_LEFT_OUT Counter "seckill_log_lines_left_out_total" []
        "Warnings and errors that were not logged, because their place in the code writes too many";
    WORKER_RUNS Counter "seckill_worker_runs_total" ["task", "result"]
        "Runs of background tasks: worked, idle, failed";
    BUILD_INFO Gauge "seckill_build_info" ["version"]
        "1, labelled with the version";
}

/// All outcomes of `seckill_admission_total`. Docs and dashboards rely on the set.
pub const ADMISSION_OUTCOMES: &[&str] = &[
    "reserved",
    "queued",
    "replayed",
    "sold_out",
    "fewer_left",
    "limit_reached",
    "too_many_unpaid",
    "key_reused",
    "not_started",
    "delayed",
    "paused",
    "ended",
    "unknown_sale",
    "unknown_sku",
    "token_required",
    "token_invalid",
    "throttled",
    "blocked",
    "switched_off",
    "overloaded",
    "unavailable",
    "outcome_unknown",
];
/// All reasons of `seckill_shed_total`.
pub const SHED_REASONS: &[&str] = &["in_flight", "outbox_full", "draining", "waiters", "rate_limited"];
/// All causes of `seckill_unauthenticated_total`.
pub const UNAUTHENTICATED_CAUSES: &[&str] = &[
    "missing",
    "malformed",
    "unknown_key",
    "signature",
    "expired",
    "not_yet_valid",
    "audience",
    "issuer",
    "claims",
    "api_key",
    "session",
];
/// All outcomes of `seckill_payment_events_total`.
pub const PAYMENT_EVENT_OUTCOMES: &[&str] = &[
    "paid",
    "repeated",
    "refund_owed",
    "unknown",
    "closed",
    "refund",
    "attention",
    "other",
    "other_deployment",
    "other_mode",
    "not_signed",
    "malformed",
];
/// All reasons of `seckill_writer_retries_total`.
const RETRY_REASONS: &[&str] = &["conflict", "unavailable", "broken", "position_moved", "gap"];

/// Bounds of the buckets of histograms in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of the buckets of all other histograms.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Shows the units of a SKU in a state: `available`, `held` or `sold`.
pub fn gauge_units(sale: &SaleId, sku: &SkuId, state: &'static str, units: i64) {
    gauge!(STOCK_UNITS, "sale" => sale.to_string(), "sku" => sku.to_string(), "state" => state)
        .set(f64::from(i32::try_from(units).unwrap_or(i32::MAX)));
}

/// Installs the recorder of the process, and registers at 0 every series that is known before traffic.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in TABLE.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let buckets = if metric.name.ends_with("_seconds") { SECONDS } else { COUNTS };
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    register();
    register_told();
    Ok(handle)
}

/// Measures the process, when somebody asks: to count its open files takes as long as there are many. Without the
/// feature `process-metrics` its metrics stay 0.
pub fn measure_process() {
    #[cfg(feature = "process-metrics")]
    metrics_process::Collector::default().collect();
}

/// Takes note of how the runtime of background work fares.
pub fn note_runtime(runtime: &RuntimeMetrics) {
    let workers = runtime.num_workers();
    let busy: Duration = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    gauge!(TOKIO_WORKERS).set(number(workers));
    gauge!(TOKIO_TASKS).set(number(runtime.num_alive_tasks()));
    gauge!(TOKIO_QUEUE).set(number(runtime.global_queue_depth()));
    counter!(TOKIO_BUSY).absolute(busy.as_secs());
}

fn register_told() {
    for event in EVENTS {
        counter!(STREAM_EVENTS, "event" => event).increment(0);
    }
    for end in End::ALL {
        counter!(STREAMS_ENDED, "reason" => end.as_str()).increment(0);
    }
    for result in ["sent", "dropped", "failed"] {
        counter!(SPANS, "result" => result).increment(0);
    }
}

fn register_recovery() {
    for result in ["open", "failed"] {
        counter!(BUCKETS_REBUILT, "result" => result).increment(0);
    }
    for kind in DriftKind::ALL {
        gauge!(DRIFT, "kind" => kind.as_str()).set(0.0);
        counter!(DRIFT_MENDED, "kind" => kind.as_str()).increment(0);
    }
}

fn register() {
    for metric in TABLE {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
        if metric.labels.is_empty() {
            match metric.kind {
                Kind::Counter => counter!(metric.name).increment(0),
                Kind::Gauge => gauge!(metric.name).set(0.0),
                Kind::Histogram => drop(histogram!(metric.name)),
            }
        }
    }
    register_recovery();
    for reason in SHED_REASONS {
        counter!(SHED, "reason" => *reason).increment(0);
    }
    counter!(PANICS, "in" => "http").increment(0);
    for reason in RETRY_REASONS {
        counter!(WRITER_RETRIES, "reason" => *reason).increment(0);
    }
    for outcome in PAYMENT_EVENT_OUTCOMES {
        counter!(PAYMENT_EVENTS, "outcome" => *outcome).increment(0);
    }
    for reason in RefundReason::ALL {
        counter!(REFUNDS_OWED, "reason" => reason.as_str()).increment(0);
    }
    for state in RefundState::ALL {
        counter!(REFUNDS, "state" => state.as_str()).increment(0);
    }
    for per_database in [REFUNDS_STUCK, MYSQL_SET_BACK] {
        gauge!(per_database, "database" => "0").set(0.0);
    }
    for table in [
        "payments",
        "refunds",
        "orphan_captures",
        "order_events",
        "orders",
        "sales",
        "items",
        "dead_letters",
        "view_counts",
    ] {
        counter!(ROWS_UNREADABLE, "table" => table).increment(0);
    }
    for status in ["awaiting_payment", "paid", "rejected", "cancelled", "expired", "refunded"] {
        counter!(ORDERS, "status" => status).increment(0);
    }
    for poison in crate::domain::record::Poison::ALL {
        counter!(DEAD_LETTERS, "reason" => poison.as_str()).increment(0);
    }
    for result in ["taken", "failed"] {
        counter!(WEBHOOKS_SENT, "result" => result).increment(0);
        counter!(ALARM_CALLS, "result" => result).increment(0);
    }
    for state in ["active", "paused", "failing"] {
        gauge!(WEBHOOK_SUBSCRIPTIONS, "state" => state).set(0.0);
    }
    for result in ["read", "failed"] {
        counter!(TOKEN_KEY_READS, "result" => result).increment(0);
    }
    for cause in UNAUTHENTICATED_CAUSES {
        counter!(UNAUTHENTICATED, "cause" => *cause).increment(0);
    }
    for stage in ["reserve", "append"] {
        drop(histogram!(STAGE_DURATION, "stage" => stage));
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
