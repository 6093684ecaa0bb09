//! Logs. Every event is one line on stderr: as JSON for machines, or pretty for people.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use metrics::counter;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::{Clock, Moment};
use crate::config::LogConfig;
use crate::metrics::LOG_LINES_LEFT_OUT;
use crate::trace::{self, Purpose};

/// Most warnings and errors of one place in the code that are written in one period.
const LINES_MAX: u32 = 100;
/// After this long a place may write again.
const PERIOD: Duration = Duration::from_secs(1);

/// Installs the log writer of the process. It is called once; a second call changes nothing. `clock` measures how many
/// lines a second are written.
///
/// # Errors
/// When the filter is not a list of levels and of `target=level`.
pub fn install(log: &LogConfig, clock: Clock) -> Result<(), ParseError> {
    let filter: Targets = log.filter.parse()?;
    let json = match log.format.as_str() {
        "json" => true,
        "pretty" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_timer(UtcTime::rfc_3339()).with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter).with(Quota::new(clock));
    let installed = if json {
        let lines = lines.json().flatten_event(true).map_event_format(|of| ForSomebody { of, json });
        subscriber.with(lines).try_init()
    } else {
        subscriber.with(lines.map_event_format(|of| ForSomebody { of, json })).try_init()
    };
    if installed.is_err() {
        tracing::debug!("log writer was installed before");
    }
    Ok(())
}

/// Adds to each line for which request it is, and of which trace, when there is one.
struct ForSomebody<F> {
    of: F,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for ForSomebody<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let purpose = trace::purpose();
        let fields = fields(&purpose, self.json);
        if fields.is_empty() {
            return self.of.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.of.format_event(context, Writer::new(&mut line), event)?;
        let (line, end) = match (self.json, line.trim_end()) {
            (true, line) => (line.strip_suffix('}').unwrap_or(line), "}"),
            (false, line) => (line, ""),
        };
        writeln!(writer, "{line}{fields}{end}")
    }
}

/// Writes the fields of a purpose, as they follow those of a line; nothing when it is for nobody.
fn fields(purpose: &Purpose, json: bool) -> String {
    let request = purpose.request.as_ref().map(|id| String::from_utf8_lossy(id).into_owned());
    let trace = purpose.trace.map(|context| context.trace_id());
    let named = [("request_id", request), ("trace_id", trace)];
    let written = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    written
        .map(|(name, value)| match json {
            true => format!(r#","{name}":"{value}""#),
            false => format!(" {name}={value}"),
        })
        .collect()
}

/// Leaves out the warnings and errors of a place in the code that writes too many, and counts them. In a crowd one
/// component that fails would otherwise write two lines for every purchase.
struct Quota {
    clock: Clock,
    /// By the place: when its period began, and how many lines it has written since.
    written: Mutex<HashMap<Identifier, (Moment, u32)>>,
}

impl Quota {
    fn new(clock: Clock) -> Self {
        Self { clock, written: Mutex::default() }
    }
}

impl<S: Subscriber> Layer<S> for Quota {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::WARN {
            return true;
        }
        let now = self.clock.monotonic();
        let mut written = self.written.lock().expect("no code panics while holding it");
        let (began, lines) = written.entry(event.metadata().callsite()).or_insert((now, 0));
        if now.since(*began) >= PERIOD {
            (*began, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        let is_written = *lines <= LINES_MAX;
        if !is_written {
            counter!(LOG_LINES_LEFT_OUT).increment(1);
        }
        is_written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts the events that reach it.
    struct Count(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_line_says_for_which_request_and_of_which_trace_it_is() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = crate::domain::Parent::parse(parent).map(|parent| parent.context);
        let whole = Purpose { request: Some(*b"0123456789abcdef"), trace };
        assert_eq!(
            fields(&whole, true),
            r#","request_id":"0123456789abcdef","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736""#
        );
        assert_eq!(fields(&Purpose { trace: None, ..whole }, false), " request_id=0123456789abcdef");
        assert_eq!(fields(&Purpose::default(), true), "");
    }

    #[test]
    fn a_place_that_warns_without_end_is_cut_short_and_holds_up_no_other() {
        let (clock, count) = (Clock::manual(0), Arc::new(AtomicU32::new(0)));
        let quota = Quota::new(clock.clone());
        let subscriber = tracing_subscriber::registry().with(quota).with(Count(count.clone()));
        let written = || count.swap(0, Ordering::Relaxed);
        let flood = || (0..1000).for_each(|n| tracing::warn!(n, "again"));
        tracing::subscriber::with_default(subscriber, || {
            flood();
            assert_eq!(written(), LINES_MAX);
            (0..1000).for_each(|n| tracing::info!(n, "operator request"));
            assert_eq!(written(), 1000, "what is no fault is the audit of somebody");
            tracing::error!("another place");
            assert_eq!(written(), 1);
            clock.advance_ms(1000);
            flood();
            assert_eq!(written(), LINES_MAX);
        });
    }
}
