//! Shows a person how a run goes on. It writes to standard error: a bar on a terminal, and one plain line a second
//! elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::buyers::{Ending, Fault};
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
    /// What buyers do afterwards.
    pub after: AfterCounters,
}

/// Counters of what buyers do after the clicks of the schedule.
#[derive(Debug, Default)]
pub struct AfterCounters {
    /// Buyers who are about to do something with an order.
    pub acting: AtomicU64,
    /// Refused buyers who come again and again.
    pub coming_back: AtomicU64,
    paid: AtomicU64,
    /// Orders that ended otherwise.
    unpaid: AtomicU64,
    failed: AtomicU64,
}

impl AfterCounters {
    /// Counts a buyer who is done.
    pub fn count(&self, ended: &Result<Ending, Fault>) {
        let counter = match ended {
            Ok(Ending::Paid) => &self.paid,
            Ok(_) => &self.unpaid,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the counters behind those of the clicks. While buyers do nothing, it writes nothing.
    fn line(&self) -> String {
        let counters = [
            ("paid", &self.paid),
            ("unpaid", &self.unpaid),
            ("failed", &self.failed),
            ("acting", &self.acting),
            ("coming back", &self.coming_back),
        ];
        let counts = counters.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)));
        if counts.iter().all(|(_, count)| *count == 0) {
            return String::new();
        }
        counts.map(|(name, count)| format!(" · {name} {count}")).concat()
    }
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
        let after = self.after.line();
        format!("{wrong}accepted {} · refused {}{after}", read(&self.accepted), read(&self.refused))
    }

    fn line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = read(&self.sent).saturating_sub(read(&self.answered));
        format!(
            "accepted {} · refused {} · unknown {} · errors {} · in flight {waiting}{}",
            read(&self.accepted),
            read(&self.refused),
            read(&self.unknown),
            read(&self.errors),
            self.after.line(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buyers_do_is_shown_only_when_they_do_something() {
        let counters = Counters::default();
        assert_eq!(counters.short_line(), "accepted 0 · refused 0");
        counters.after.count(&Ok(Ending::Paid));
        counters.after.count(&Ok(Ending::TooLate));
        counters.after.coming_back.fetch_add(7, Ordering::Relaxed);
        let after = "paid 1 · unpaid 1 · failed 0 · acting 0 · coming back 7";
        assert_eq!(counters.short_line(), format!("accepted 0 · refused 0 · {after}"));
        assert!(counters.line().ends_with(after));
    }
}
