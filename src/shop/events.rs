//! Events, page by page, for whoever follows them by a cursor.

use super::{Failure, Shop};
use crate::domain::{EventNumbers, StoredEvent};

/// Most rows of a partition that one page is read of.
const ROWS_MAX: u32 = 32;

/// A page of events.
#[derive(Debug, Default)]
pub struct EventsPage {
    /// The events, in their order in each partition.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins, of every partition.
    pub next: EventNumbers,
    /// Whether there are more just now.
    pub has_more: bool,
    /// How many events of the wish are not kept any more.
    pub gone: i64,
}

impl Shop {
    /// Reads at most `limit` events from `from` on. A partition that is not named begins with the oldest event that is
    /// kept.
    ///
    /// # Errors
    /// When an instance could not be read.
    pub async fn events(&self, from: &EventNumbers, limit: usize) -> Result<EventsPage, Failure> {
        let mut page = EventsPage::default();
        for at in self.ports.events.instances() {
            let kept = self.ports.events.kept(at).await.map_err(Failure::of_read)?;
            let mut wanted = EventNumbers::new();
            for (part, oldest) in &kept.next {
                let first = from.get(part).copied().unwrap_or(*oldest);
                page.gone += (oldest - first).max(0);
                wanted.insert(*part, first.max(*oldest));
            }
            let left = limit.saturating_sub(page.events.len());
            let read = if left == 0 {
                Vec::new()
            } else {
                self.ports.events.read(at, &wanted, ROWS_MAX).await.map_err(Failure::of_read)?.events
            };
            for event in read.into_iter().take(left) {
                wanted.insert(event.part, event.number + 1);
                page.events.push(event);
            }
            page.has_more |=
                kept.ends.iter().any(|(part, end)| wanted.get(part).is_some_and(|next| next < end));
            page.next.extend(wanted);
        }
        Ok(page)
    }
}
