//! Sends spans to a collector of OpenTelemetry over OTLP, from a thread of its own.

use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use metrics::counter;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::{Finished, Kind, Value};
use crate::clock::Clock;
use crate::domain::TraceContext;
use crate::metrics::SPANS;

/// Most spans of one request to the collector.
const SENT_MAX: usize = 512;
/// How long spans wait for company.
const GATHER: Duration = Duration::from_millis(500);

/// Which form of OTLP a collector is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, as protobuf.
    Http,
}

/// Where spans go, and who sends them.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The collector: `http://collector.example:4317` for gRPC, `http://collector.example:4318/v1/traces` for HTTP.
    pub endpoint: String,
    /// How it is told.
    pub protocol: Protocol,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// The role of this process.
    pub role: &'static str,
    /// Its id, as `GET /nodes` has it.
    pub process: String,
}

/// The sender of spans.
#[derive(Debug)]
pub struct Exporter {
    flushes: Sender<oneshot::Sender<()>>,
}

impl Exporter {
    /// Starts the thread that sends what comes out of `spans`. It never ends before the process does.
    ///
    /// # Errors
    /// When the endpoint is no address.
    pub fn start(collector: Collector, spans: Receiver<Finished>, clock: Clock) -> anyhow::Result<Self> {
        let (flushes, asked) = channel(1);
        let (started, starts) = std::sync::mpsc::channel();
        let endpoint = collector.endpoint.clone();
        let thread = std::thread::Builder::new().name("traces".to_owned());
        // The runtime is made and ends on this thread, because none may end inside another one.
        thread.spawn(move || {
            let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let made = made.map_err(anyhow::Error::from).and_then(|runtime| {
                let otlp = runtime.block_on(async { otlp(&collector) })?;
                Ok((runtime, otlp))
            });
            match made {
                Ok((runtime, otlp)) => {
                    // Whoever starts it waits for this.
                    let _ = started.send(Ok(()));
                    runtime.block_on(send_all(otlp, spans, asked, clock));
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let outcome = starts.recv().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread has ended")));
        outcome.with_context(|| format!("traces.endpoint {endpoint} cannot be used"))?;
        Ok(Self { flushes })
    }

    /// Waits until what has ended by now was sent, or could not be.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.flushes.send(done).await.is_ok() {
            // Without the thread there is nothing to wait for.
            let _ = sent.await;
        }
    }
}

fn otlp(collector: &Collector) -> anyhow::Result<Otlp> {
    let Collector { endpoint, protocol, timeout, role, process } = collector;
    let is_plain = endpoint.starts_with("http://");
    anyhow::ensure!(
        is_plain || (*protocol == Protocol::Http && endpoint.starts_with("https://")),
        "it must begin with http://, or with https:// where traces.protocol is \"http\""
    );
    let mut otlp = match protocol {
        Protocol::Grpc => {
            Otlp::builder().with_tonic().with_endpoint(endpoint).with_timeout(*timeout).build()?
        }
        Protocol::Http => {
            let client = Client(reqwest::Client::builder().timeout(*timeout).build()?);
            let builder = Otlp::builder().with_http().with_http_client(client);
            builder.with_endpoint(endpoint).with_timeout(*timeout).build()?
        }
    };
    let attributes = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", process.clone()),
        KeyValue::new("seckill.role", *role),
    ];
    otlp.set_resource(
        &Resource::builder_empty().with_service_name("seckill").with_attributes(attributes).build(),
    );
    Ok(otlp)
}

async fn send_all(
    otlp: Otlp,
    mut spans: Receiver<Finished>,
    mut flushes: Receiver<oneshot::Sender<()>>,
    clock: Clock,
) {
    let mut some = Vec::with_capacity(SENT_MAX);
    let mut asked: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        tokio::select! {
            taken = spans.recv_many(&mut some, SENT_MAX) => if taken == 0 { return },
            Some(flush) = flushes.recv() => asked.push(flush),
        }
        let gathered = clock.sleep(GATHER);
        tokio::pin!(gathered);
        while asked.is_empty() && some.len() < SENT_MAX {
            let room = SENT_MAX - some.len();
            tokio::select! {
                () = &mut gathered => break,
                taken = spans.recv_many(&mut some, room) => if taken == 0 { break },
                Some(flush) = flushes.recv() => asked.push(flush),
            }
        }
        while let Ok(span) = spans.try_recv() {
            some.push(span);
            if some.len() >= SENT_MAX {
                send(&otlp, &mut some).await;
            }
        }
        send(&otlp, &mut some).await;
        for flush in asked.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = flush.send(());
        }
    }
}

async fn send(otlp: &Otlp, some: &mut Vec<Finished>) {
    let spans: Vec<SpanData> = some.drain(..).map(data).collect();
    let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
    if count == 0 {
        return;
    }
    match otlp.export(spans).await {
        Ok(()) => counter!(SPANS, "result" => "sent").increment(count),
        Err(error) => {
            counter!(SPANS, "result" => "failed").increment(count);
            tracing::warn!(%error, spans = count, "spans could not be sent to the collector");
        }
    }
}

fn span_context(context: TraceContext) -> SpanContext {
    let TraceContext { trace, span } = context;
    let (trace, span) = (TraceId::from(trace.get()), SpanId::from(span.get()));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn time(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}

fn data(finished: Finished) -> SpanData {
    let Finished { context, parent, kind, name, began_ns, ended_ns, attributes, links, error } = finished;
    let attribute = |(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    };
    let mut linked = SpanLinks::default();
    linked.links = links.into_iter().map(|linked| Link::with_context(span_context(linked))).collect();
    SpanData {
        span_context: span_context(context),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.get())),
        parent_span_is_remote: kind == Kind::Server || kind == Kind::Consumer,
        span_kind: match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
        },
        name,
        start_time: time(began_ns),
        end_time: time(ended_ns),
        attributes: attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: linked,
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: InstrumentationScope::builder("seckill").build(),
    }
}

/// Sends the requests of OTLP over HTTP with the client that this program has anyway.
struct Client(reqwest::Client);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.execute(request.try_into()?).await?;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        Ok(response.body(answer.bytes().await?)?)
    }
}
