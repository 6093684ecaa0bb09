//! Traces as the OpenTelemetry Collector gets them. `scripts/stack install otelcol` builds it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use seckill::config::Mode;

use crate::client::call;
use crate::harness::ports::free_address;
use crate::harness::process::Process;
use crate::harness::{TestShop, config, eventually, migrated, open, remove, temporary, token};
use crate::stream_client::own_at;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span as the collector prints it.
#[derive(Debug, Default, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: String,
    status: String,
    attributes: BTreeMap<String, String>,
    /// The ids of the spans that it links.
    links: Vec<String>,
}

/// A collector that prints what it gets.
struct Collector {
    child: Child,
    folder: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Collector {
    async fn start() -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/dist/otelcol/otelcol");
        assert!(binary.exists(), "the collector is missing: run `scripts/stack install otelcol`");
        let (grpc, http) = (free_address(), free_address());
        let folder = temporary(&format!("otelcol-{}", grpc.port()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let settings = format!(
            "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: \"{grpc}\" }}, http: {{ endpoint: \"{http}\" }} }} }} }}\n\
             exporters: {{ debug: {{ verbosity: detailed }} }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  \
             pipelines: {{ traces: {{ receivers: [otlp], exporters: [debug] }} }}\n"
        );
        std::fs::write(folder.join("config.yaml"), settings).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("a file");
        let child = Command::new(binary)
            .args(["--config", folder.join("config.yaml").to_str().expect("text")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the collector starts");
        let this = Self { child, folder, grpc, http };
        eventually("the collector listens", async || {
            tokio::net::TcpStream::connect(grpc).await.is_ok()
                && tokio::net::TcpStream::connect(http).await.is_ok()
        })
        .await;
        this
    }

    /// Reads the spans that have come. A line `Span #N` begins one, and indented lines say the rest.
    fn spans(&self) -> Vec<Span> {
        let log = std::fs::read_to_string(self.folder.join("log")).expect("its output");
        let mut spans: Vec<Span> = Vec::new();
        for line in log.lines().map(str::trim) {
            if line.starts_with("Span #") {
                spans.push(Span::default());
                continue;
            }
            let Some(span) = spans.last_mut() else { continue };
            let value = |name: &str| {
                let (found, value) = line.split_once(':')?;
                (found.trim() == name).then(|| value.trim().to_owned())
            };
            if let Some(trace) = value("Trace ID") {
                span.trace = trace;
            } else if let Some(parent) = value("Parent ID") {
                span.parent = parent;
            } else if let Some(name) = value("Name") {
                span.name = name;
            } else if let Some(kind) = value("Kind") {
                span.kind = kind;
            } else if let Some(status) = value("Status code") {
                span.status = status;
            } else if let Some(rest) = line.strip_prefix("-> ID: ") {
                span.links.push(rest.to_owned());
            } else if line.starts_with("-> Trace ID") || line.starts_with("-> TraceState") {
            } else if let Some((name, value)) =
                line.strip_prefix("-> ").and_then(|rest| rest.split_once(": "))
            {
                span.attributes.insert(name.to_owned(), value.to_owned());
            } else if let Some(id) = value("ID") {
                span.id = id;
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn named<'a>(spans: &'a [Span], trace: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.trace == trace && span.name == name).collect();
    let [span] = found[..] else { panic!("{name} of {trace}: {found:#?} of {spans:#?}") };
    span
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn one_trace_leads_from_the_click_to_the_row_and_to_who_listens() {
    let collector = Collector::start().await;
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    // It puts the sale in place, and has no part in the trace.
    let shop = TestShop::start_on(config.clone(), open(&config).await, seckill::app::Role::Api).await;
    let endpoint = format!("http://{}", collector.grpc);
    let traced = [("TRACES__ENDPOINT", endpoint.as_str()), ("TRACES__SAMPLED_PER_MILLION", "0")];
    let mut front = Process::start(&config, "api", &traced).await;
    let mut worker = Process::start(&config, "worker", &traced).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    eventually("the front sells", async || {
        let read = call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await;
        read.text.contains("\"live\"")
    })
    .await;
    let mut stream = own_at(front.shopper, "ada", "&sale=drop").await;
    let bearer = format!("Bearer {}", token("ada"));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers =
        [("Authorization", bearer.as_str()), ("Idempotency-Key", "k"), ("traceparent", &parent), JSON];
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let order = bought.json()["id"].as_str().expect("an id").to_owned();
    stream.order(&order, "awaiting_payment").await;
    // What its caller does not record is not recorded.
    let quiet = format!("00-{}-{PARENT}-00", "b".repeat(32));
    let headers =
        [("Authorization", bearer.as_str()), ("Idempotency-Key", "k2"), ("traceparent", &quiet), JSON];
    assert_eq!(call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await.status, 202);
    drop(stream);
    assert_eq!((front.stop(), worker.stop()), (Some(0), Some(0)), "{}{}", front.log(), worker.log());

    let spans = collector.spans();
    let request = named(&spans, TRACE, "POST /api/v1/sales/{sale}/orders");
    assert_eq!((request.parent.as_str(), request.kind.as_str()), (PARENT, "Server"));
    assert_eq!(request.attributes["http.response.status_code"], "Int(202)");
    let reserve = named(&spans, TRACE, "reserve");
    assert_eq!(
        (&reserve.parent, reserve.attributes["seckill.verdict"].as_str()),
        (&request.id, "Str(reserved)")
    );
    let append = named(&spans, TRACE, "append");
    assert_eq!((&append.parent, append.kind.as_str()), (&request.id, "Producer"));
    assert_eq!(append.attributes["seckill.order"], format!("Str({order})"));
    let persist = named(&spans, TRACE, "persist");
    assert_eq!((&persist.parent, persist.kind.as_str()), (&append.id, "Consumer"));
    let push = named(&spans, TRACE, "push");
    assert_eq!(push.parent, persist.id);

    // Work for many is a trace of its own, which links those of the requests.
    let batch = spans.iter().find(|span| span.name == "reserve batch").expect("the batch");
    assert!(
        batch.trace != TRACE && batch.parent.is_empty() && batch.links == std::slice::from_ref(&request.id),
        "{batch:?}"
    );
    let redis = named(&spans, &batch.trace, "reserve");
    assert_eq!((&redis.parent, redis.attributes["db.system.name"].as_str()), (&batch.id, "Str(redis)"));
    let batch =
        spans.iter().find(|span| span.name == "write batch" && span.kind == "Consumer").expect("the batch");
    assert!(batch.trace != TRACE && batch.links == std::slice::from_ref(&append.id), "{batch:?}");
    assert_eq!(persist.links, std::slice::from_ref(&batch.id));
    let is_commit =
        |span: &&Span| span.parent == batch.id && span.attributes["db.system.name"] == "Str(mysql)";
    assert!(spans.iter().any(|span| is_commit(&span)), "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace != "b".repeat(32)), "its caller does not record it");
    shop.finish().await;
    remove(&config).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shop_of_one_process_has_the_same_trace_of_an_order() {
    let collector = Collector::start().await;
    let mut shop = TestShop::start(Mode::Embedded).await;
    let config = shop.config.clone();
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    shop.stop().await;
    let endpoint = format!("http://{}", collector.grpc);
    let traced = [("TRACES__ENDPOINT", endpoint.as_str()), ("TRACES__SAMPLED_PER_MILLION", "0")];
    let mut process = Process::start(&config, "all", &traced).await;
    let bearer = format!("Bearer {}", token("ada"));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers =
        [("Authorization", bearer.as_str()), ("Idempotency-Key", "k"), ("traceparent", &parent), JSON];
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let bought = call(process.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let path = format!("/api/v1/orders/{}", bought.json()["id"].as_str().expect("an id"));
    eventually("the row is there", async || {
        call(process.shopper, "GET", &path, &headers[..1], "").await.text.contains("awaiting_payment")
    })
    .await;
    assert_eq!(process.stop(), Some(0), "{}", process.log());
    let spans = collector.spans();
    let request = named(&spans, TRACE, "POST /api/v1/sales/{sale}/orders");
    for step in ["reserve", "append"] {
        assert_eq!(named(&spans, TRACE, step).parent, request.id, "{step}");
    }
    // The log and the reservation are one commit, so the writer follows the request itself.
    let persist = named(&spans, TRACE, "persist");
    let batch =
        spans.iter().find(|span| span.name == "write batch" && span.kind == "Consumer").expect("the batch");
    assert_eq!((&persist.parent, persist.links.as_slice()), (&request.id, std::slice::from_ref(&batch.id)));
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn errors_and_slow_requests_are_recorded_though_nobody_chose_them() {
    let collector = Collector::start().await;
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let endpoint = format!("http://{}/v1/traces", collector.http);
    let settings = [
        ("TRACES__ENDPOINT", endpoint.as_str()),
        ("TRACES__PROTOCOL", "http"),
        ("TRACES__SAMPLED_PER_MILLION", "0"),
        ("TRACES__SLOW_MS", "1"),
        ("LIMITS__USER_PER_S", "0"),
    ];
    let mut front = Process::start(&shop.config, "api", &settings).await;
    let bearer = format!("Bearer {}", token("ada"));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k"), JSON];
    eventually("the front sells", async || {
        call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await.text.contains("\"live\"")
    })
    .await;
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    // It waits for Redis and Kafka, and that takes longer than a millisecond.
    let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    let off = shop
        .operate("PUT", "/switches/no_purchases", serde_json::json!({ "is_on": true, "reason": "x" }))
        .await;
    assert_eq!(off.status, 200, "{off:?}");
    eventually("purchases are off", async || {
        call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await.status == 503
    })
    .await;
    assert_eq!(front.stop(), Some(0), "{}", front.log());
    let spans = collector.spans();
    let error = spans.iter().find(|span| span.status == "Error").expect("the refusal");
    assert_eq!(error.attributes["http.response.status_code"], "Int(503)");
    let is_slow = |span: &&Span| span.attributes["http.response.status_code"] == "Int(202)";
    let slow = spans.iter().find(is_slow).expect("the purchase");
    assert_eq!((slow.name.as_str(), slow.status.as_str()), ("POST /api/v1/sales/{sale}/orders", "Unset"));
    assert!(spans.iter().all(|span| span.kind == "Server"), "nothing is known of their steps: {spans:#?}");
    shop.finish().await;
}

/// Buys a hundred times, and answers how many milliseconds the slowest purchase took.
async fn slowest_ms(front: &Process, wave: usize) -> u128 {
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let mut slowest = 0;
    for number in 0..100 {
        let (bearer, key) = (format!("Bearer {}", token(&format!("u{wave}x{number}"))), format!("k{number}"));
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", &key), JSON];
        let began = std::time::Instant::now();
        let bought = call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
        assert_eq!(bought.status, 202, "{bought:?}");
        slowest = slowest.max(began.elapsed().as_millis());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_collector_that_is_gone_or_hangs_holds_up_nobody() {
    // It takes connections, and never answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let hanging = format!("http://{}", hangs.local_addr().expect("bound"));
    let gone = format!("http://{}", free_address());
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 100_000)]).await;
    let mut wave = 0;
    let collectors = [(&hanging, "grpc"), (&hanging, "http"), (&gone, "grpc"), (&gone, "http")];
    for (endpoint, protocol) in collectors {
        let settings = [
            ("TRACES__ENDPOINT", endpoint.as_str()),
            ("TRACES__PROTOCOL", protocol),
            ("TRACES__SAMPLED_PER_MILLION", "1000000"),
            ("TRACES__REQUESTS_PER_S_MAX", "1000000"),
            ("TRACES__QUEUE_SPANS_MAX", "16"),
            ("TRACES__TIMEOUT_MS", "500"),
            ("LIMITS__ADDRESS_PER_S", "0"),
        ];
        let mut front = Process::start(&shop.config, "api", &settings).await;
        eventually("the front sells", async || {
            call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await.text.contains("\"live\"")
        })
        .await;
        let lost = async |result: &str| {
            let page = call(front.admin, "GET", "/metrics", &[], "").await.text;
            let series = format!("seckill_spans_total{{result=\"{result}\"}}");
            let count = page.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse::<u64>().ok());
            count.unwrap_or(0)
        };
        // While one that hangs is waited for, the queue fills, and what finds no room is dropped.
        let result = if *endpoint == hanging { "dropped" } else { "failed" };
        eventually("the spans are counted as lost", async || {
            wave += 1;
            let slowest = slowest_ms(&front, wave).await;
            assert!(slowest < 2000, "a purchase took {slowest} ms with {endpoint} over {protocol}");
            lost(result).await > 0
        })
        .await;
        assert_eq!(front.stop(), Some(0), "{}", front.log());
    }
    shop.finish_with(crate::harness::Books::LeftAlone).await;
}

#[cfg(feature = "embedded")]
#[test]
fn an_endpoint_that_cannot_be_used_is_said_at_the_start() {
    use crate::harness::{SECRET, process::program};

    let config = config(Mode::Embedded, &[]);
    for (endpoint, protocol) in [("https://collector.example:4317", "grpc"), ("collector.example", "http")] {
        let done = program(&config)
            .env("SECKILL__AUTH__HS256_SECRET", SECRET)
            .env("SECKILL__TRACES__ENDPOINT", endpoint)
            .env("SECKILL__TRACES__PROTOCOL", protocol)
            .args(["serve", "--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("traces.endpoint") && said.contains("must begin with http://"), "{said}");
    }
    drop(std::fs::remove_dir_all(&config.embedded.folder));
}
