//! Traces: what became of a request from the click to the row, for a collector of OpenTelemetry.
//!
//! A step is a [`Span`]. A span of a request that is not recorded costs a comparison. Spans that end go into a bounded
//! queue, which [`exporter`] sends from a thread of its own. What finds no room is dropped and counted, so that a
//! collector that is slow or gone holds up nobody.
//!
//! Work for many requests at once is a span of a trace of its own, which links theirs: it has no parent.

#[cfg(feature = "traces")]
pub mod exporter;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::Display;
use std::num::{NonZeroU64, NonZeroU128};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use metrics::{counter, histogram};
use pin_project_lite::pin_project;
use tokio::sync::mpsc::Sender;

use crate::chance::Chance;
use crate::clock::{Clock, Moment};
use crate::domain::{Parent, TraceContext};
use crate::metrics::{HTTP_CLIENT_DURATION, SPANS};

/// Most spans that one trace of a batch links.
const LINKS_MAX: usize = 128;

/// How spans are chosen, and where they go. A process sets it once.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// What a process records.
#[derive(Debug)]
pub struct Recorder {
    /// Of a million requests that nobody else decides about, how many are recorded.
    pub per_million: u32,
    /// Most requests a second that are recorded, whatever their callers wish, and most that failed or were slow.
    pub per_second_max: u32,
    /// From how long on a request is slow, and recorded in any case.
    pub slow_after: Duration,
    /// Where spans go.
    pub spans: Sender<Finished>,
    /// The time.
    pub clock: Clock,
    /// Places for requests that were chosen, and for those that failed or were slow. Each has its own, so that many of
    /// one kind leave room for the other.
    chosen: Places,
    late: Places,
}

/// The places of a second: the second of the clock, shifted by 32 bits, and how many were taken in it.
#[derive(Debug, Default)]
struct Places(AtomicU64);

impl Places {
    /// Takes one of the places of this second.
    fn take(&self, now: Moment, most: u32) -> bool {
        let second = (now.ns() / 1_000_000_000) & 0xffff_ffff;
        let before = self.0.load(Ordering::Relaxed);
        let taken = if before >> 32 == second { before & 0xffff_ffff } else { 0 };
        // Two that come at once may both take the last place: the bound is for the machine, not for books.
        self.0.store((second << 32) | (taken + 1), Ordering::Relaxed);
        taken < u64::from(most)
    }
}

/// Answers whether anything is recorded at all.
pub fn is_on() -> bool {
    RECORDER.get().is_some()
}

/// What a step is to the one before it. Source: OpenTelemetry, "SpanKind".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers somebody outside.
    Server,
    /// It asks somebody outside, and waits.
    Client,
    /// It hands something on, and does not wait for what becomes of it.
    Producer,
    /// It takes what was handed on.
    Consumer,
    /// It is work of this process.
    Internal,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Where it stands.
    pub context: TraceContext,
    /// The span that it follows.
    pub parent: Option<NonZeroU64>,
    /// What it is to that one.
    pub kind: Kind,
    /// What is done.
    pub name: Cow<'static, str>,
    /// When it began, ns since 1970.
    pub began_ns: u64,
    /// When it ended, ns since 1970.
    pub ended_ns: u64,
    /// What is known of it. Source of names: OpenTelemetry's semantic conventions.
    pub attributes: Vec<(&'static str, Value)>,
    /// The spans whose work it did.
    pub links: Vec<TraceContext>,
    /// Why it failed; `None` when it did not.
    pub error: Option<String>,
}

/// A step that is being done; nothing when its trace is not recorded. It ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    finished: Finished,
    began: Moment,
    recorder: &'static Recorder,
}

impl Recorder {
    /// Makes a recorder.
    pub fn new(
        per_million: u32,
        per_second_max: u32,
        slow_after: Duration,
        spans: Sender<Finished>,
        clock: Clock,
    ) -> Self {
        let (chosen, late) = (Places::default(), Places::default());
        Self { per_million, per_second_max, slow_after, spans, clock, chosen, late }
    }

    /// Records from now on. Answers whether nobody did before; otherwise nothing is changed.
    pub fn install(self) -> bool {
        RECORDER.set(self).is_ok()
    }

    /// Answers whether a request is recorded of which its caller says `parent`.
    fn samples(&self, parent: Option<&Parent>) -> bool {
        let is_chosen = match parent {
            Some(parent) => parent.sampled,
            None => Chance::System.number() % 1_000_000 < u64::from(self.per_million),
        };
        is_chosen && self.chosen.take(self.clock.monotonic(), self.per_second_max)
    }

    fn open(
        &'static self,
        name: &'static str,
        kind: Kind,
        trace: NonZeroU128,
        parent: Option<NonZeroU64>,
    ) -> Span {
        let began = self.clock.monotonic();
        let finished = Finished {
            context: TraceContext { trace, span: new_span() },
            parent,
            kind,
            name: Cow::Borrowed(name),
            began_ns: u64::try_from(self.clock.now_ms()).unwrap_or(0) * 1_000_000,
            ended_ns: 0,
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        };
        Span(Some(Box::new(Open { finished, began, recorder: self })))
    }
}

fn new_span() -> NonZeroU64 {
    NonZeroU64::new(Chance::System.number()).unwrap_or(NonZeroU64::MIN)
}

fn new_trace() -> NonZeroU128 {
    let number = (u128::from(Chance::System.number()) << 64) | u128::from(Chance::System.number());
    NonZeroU128::new(number).unwrap_or(NonZeroU128::MIN)
}

impl Span {
    /// Begins the span of a request of which its caller says `parent`, if it is recorded.
    pub fn of_request(parent: Option<Parent>) -> Self {
        match RECORDER.get() {
            Some(recorder) if recorder.samples(parent.as_ref()) => recorder.begin_request(parent),
            _ => Self(None),
        }
    }

    /// Makes the span of a request that was not recorded, and has ended in an error or was slow. Nothing is known of
    /// its steps.
    pub fn of_late_request(parent: Option<Parent>, is_error: bool, took: Duration) -> Self {
        let Some(recorder) = RECORDER.get() else { return Self(None) };
        let is_late = is_error || took >= recorder.slow_after;
        if !is_late || !recorder.late.take(recorder.clock.monotonic(), recorder.per_second_max) {
            return Self(None);
        }
        let mut span = recorder.begin_request(parent);
        if let Some(open) = &mut span.0 {
            let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            open.finished.ended_ns = open.finished.began_ns;
            open.finished.began_ns = open.finished.began_ns.saturating_sub(took_ns);
        }
        span
    }

    /// Begins a step that follows another one, if that one is recorded.
    pub fn follow(parent: Option<TraceContext>, name: &'static str, kind: Kind) -> Self {
        let (Some(parent), Some(recorder)) = (parent, RECORDER.get()) else { return Self(None) };
        recorder.open(name, kind, parent.trace, Some(parent.span))
    }

    /// Begins work for many, if some of them are recorded. At most 128 are linked.
    pub fn of_batch(name: &'static str, kind: Kind, links: impl Iterator<Item = TraceContext>) -> Self {
        let Some(recorder) = RECORDER.get() else { return Self(None) };
        let links: Vec<TraceContext> = links.take(LINKS_MAX).collect();
        if links.is_empty() {
            return Self(None);
        }
        let mut span = recorder.open(name, kind, new_trace(), None);
        links.into_iter().for_each(|linked| span.link(linked));
        span
    }

    /// Answers where it stands, for those that follow; `None` when it is not recorded.
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|open| open.finished.context)
    }

    /// Answers whether it is recorded.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Names it, when its name was not known before.
    pub fn rename(&mut self, name: String) {
        if let Some(open) = &mut self.0 {
            open.finished.name = Cow::Owned(name);
        }
    }

    /// Says something of it. The value is made only when it is recorded.
    pub fn set<V: Into<Value>>(&mut self, name: &'static str, value: impl FnOnce() -> V) {
        if let Some(open) = &mut self.0 {
            open.finished.attributes.push((name, value().into()));
        }
    }

    /// Links another span: one that it worked for, or that worked for it.
    pub fn link(&mut self, linked: TraceContext) {
        if let Some(open) = &mut self.0 {
            open.finished.links.push(linked);
        }
    }

    /// Says that it failed, and why.
    pub fn fail(&mut self, why: impl Display) {
        if let Some(open) = &mut self.0 {
            open.finished.error = Some(why.to_string());
        }
    }

    /// Says that it began when another one did that has not ended.
    pub fn began_with(&mut self, other: &Self) {
        if let (Some(open), Some(other)) = (&mut self.0, &other.0) {
            (open.began, open.finished.began_ns) = (other.began, other.finished.began_ns);
        }
    }
}

impl Recorder {
    fn begin_request(&'static self, parent: Option<Parent>) -> Span {
        let context = parent.map(|parent| parent.context);
        let trace = context.map_or_else(new_trace, |context| context.trace);
        self.open("request", Kind::Server, trace, context.map(|context| context.span))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { mut finished, began, recorder } = *open;
        if finished.ended_ns == 0 {
            let took_ns = recorder.clock.monotonic().ns().saturating_sub(began.ns());
            finished.ended_ns = finished.began_ns + took_ns;
        }
        if recorder.spans.try_send(finished).is_err() {
            counter!(SPANS, "result" => "dropped").increment(1);
        }
    }
}

/// What work is for: the request that asked for it. Lines of the log that are written meanwhile have both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Purpose {
    /// The id of the request: 16 hexadecimal digits.
    pub request: Option<[u8; 16]>,
    /// Where in a trace it is done; `None` when that is not recorded.
    pub trace: Option<TraceContext>,
}

thread_local! {
    /// What this thread works for just now.
    static PURPOSE: Cell<Purpose> = const { Cell::new(Purpose { request: None, trace: None }) };
}

/// Lets the thread work for somebody, until it is dropped.
struct Entered {
    before: Purpose,
}

impl Entered {
    fn new(purpose: Purpose) -> Self {
        Self { before: PURPOSE.replace(purpose) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        PURPOSE.set(self.before);
    }
}

pin_project! {
    /// Work for somebody, while it is polled, and not while it is dropped. Every request is one, and a scope of
    /// `tokio::task_local` costs it 0.7 % more of its instructions.
    pub struct Within<F> {
        purpose: Purpose,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(*this.purpose);
        this.work.poll(context)
    }
}

/// Does work for somebody. Work that it spawns is for nobody, unless it says so itself.
pub fn within<F: Future>(purpose: Purpose, work: F) -> Within<F> {
    Within { purpose, work }
}

/// Does something for somebody that waits for nothing.
pub fn within_now<T>(purpose: Purpose, work: impl FnOnce() -> T) -> T {
    let _entered = Entered::new(purpose);
    work()
}

/// Answers what the work is for that is done just now.
pub fn purpose() -> Purpose {
    PURPOSE.get()
}

/// Does a step of the work that is done just now, as a span when that is recorded.
pub async fn step<T, E: Display>(
    name: &'static str,
    kind: Kind,
    describe: impl FnOnce(&mut Span),
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(parent) = purpose().trace else { return work.await };
    let mut span = Span::follow(Some(parent), name, kind);
    describe(&mut span);
    let done = work.await;
    if let Err(error) = &done {
        span.fail(error);
    }
    done
}

/// Asks a server over HTTP, as a step of the work that is done just now, and measures it. `work` is given the header
/// `traceparent` to send, if there is one.
pub async fn ask<T, E: Display, F: Future<Output = Result<T, E>>>(
    (peer, clock): (&'static str, &Clock),
    work: impl FnOnce(Option<String>) -> F,
) -> Result<T, E> {
    let began = clock.monotonic();
    let mut span = Span::follow(purpose().trace, "ask", Kind::Client);
    span.set("seckill.peer", || peer);
    let done = work(span.context().map(|context| context.to_string())).await;
    histogram!(HTTP_CLIENT_DURATION, "peer" => peer).record(clock.monotonic().since(began).as_secs_f64());
    if let Err(error) = &done {
        span.fail(error);
    }
    done
}

/// Says which database a span asks, and what. Source: OpenTelemetry, "Database client spans".
pub fn described(span: &mut Span, system: &'static str, operation: &'static str) {
    span.set("db.system.name", || system);
    span.set("db.operation.name", || operation);
}
