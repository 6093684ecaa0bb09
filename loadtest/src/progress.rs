//! Shows a person how a run goes on. It writes to standard error: a bar on a terminal, and one plain line a second
//! elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::journal::Class;

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Counters of a run that goes on. The crowd counts, and the display reads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clicks that were sent.
    pub sent: AtomicU64,
    /// Clicks that were answered, or got no answer in time.
    pub answered: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    /// Counts an answer.
    pub fn count(&self, class: Class) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let counter = match class {
            Class::Won | Class::Replayed => &self.accepted,
            Class::Unknown => &self.unknown,
            Class::Error => &self.errors,
            _ => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the counters for a bar, with which they share a line. What went wrong stands there only when something
    /// did.
    fn short_line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let wrong = [("errors", &self.errors), ("unknown", &self.unknown)];
        let wrong = wrong.into_iter().filter(|(_, counter)| read(counter) > 0);
        let wrong: String = wrong.map(|(name, counter)| format!("{name} {} · ", read(counter))).collect();
        format!("{wrong}accepted {} · refused {}", read(&self.accepted), read(&self.refused))
    }

    fn line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = read(&self.sent).saturating_sub(read(&self.answered));
        format!(
            "accepted {} · refused {} · unknown {} · errors {} · in flight {waiting}",
            read(&self.accepted),
            read(&self.refused),
            read(&self.unknown),
            read(&self.errors),
        )
    }
}

/// Shows the counters from `start` on, and never completes. The caller drops it when the run is over.
pub async fn show(counters: &Counters, clicks: u64, start: Instant) {
    tokio::time::sleep_until(start.into()).await;
    if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(clicks);
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:20}] {pos}/{len}  {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        let _clear = ClearOnDrop(&bar);
        loop {
            tokio::time::sleep(BAR_INTERVAL).await;
            bar.set_position(counters.answered.load(Ordering::Relaxed));
            bar.set_message(counters.short_line());
        }
    }
    loop {
        tokio::time::sleep(LINE_INTERVAL).await;
        let answered = counters.answered.load(Ordering::Relaxed);
        let line = counters.line();
        say(&format!("{:>4} s  {answered}/{clicks} answered · {line}", start.elapsed().as_secs()));
    }
}

/// Waits until `until`. On a terminal it shows a line that counts the seconds to the opening.
pub async fn countdown(sale: &str, opens: Instant, until: Instant) {
    if !std::io::stderr().is_terminal() {
        return tokio::time::sleep_until(until.into()).await;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let _clear = ClearOnDrop(&bar);
    while Instant::now() < until {
        let left = opens.saturating_duration_since(Instant::now());
        bar.set_message(format!("{sale} opens in {:.0} s", left.as_secs_f64().ceil()));
        bar.tick();
        let next = (Instant::now() + BAR_INTERVAL).min(until);
        tokio::time::sleep_until(next.into()).await;
    }
}

struct ClearOnDrop<'a>(&'a ProgressBar);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Writes one line for a person.
pub fn say(line: &str) {
    eprintln!("{line}");
}
