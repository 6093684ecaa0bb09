//! The views of sales: what their events say, as of when, and how they are made anew.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Failure, Shop};
use crate::domain::attempts::CountedAttempts;
use crate::domain::view::{Counted, CountedSales, SaleView, count};
use crate::domain::{EventNumbers, Instance, Part, SaleId};
use crate::ports::{OrderEvents, StoreError, StoreResult, VIEWS, Views};

/// A view as it is now.
#[derive(Debug)]
pub struct ViewNow {
    /// The view.
    pub view: SaleView,
    /// What happened before this time is in it, ms since 1970.
    pub as_of_ms: i64,
}

impl SaleView {
    /// Answers the text of the view. Equal views have equal texts.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a view of strings and integers always serialises")
    }

    /// Answers the SHA-256 of the text, in hexadecimal digits.
    pub fn hash(&self) -> String {
        Sha256::digest(self.text()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Shop {
    /// Reads the view of a sale; `None` for a sale that there is not.
    ///
    /// # Errors
    /// When a component could not be read.
    pub async fn view(&self, id: &SaleId) -> Result<Option<ViewNow>, Failure> {
        if self.sale(id).await?.is_none() {
            return Ok(None);
        }
        // The time comes first: what is added meanwhile makes the view younger than it says.
        let as_of_ms = self.views_as_of_ms().await.map_err(Failure::of_read)?;
        let counts = self.ports.views.counts(id).await.map_err(Failure::of_read)?;
        Ok(Some(ViewNow { view: SaleView::of(id, &counts), as_of_ms }))
    }

    /// Reads how often purchases of a sale were attempted, in all processes; `None` for a sale that there is not.
    ///
    /// # Errors
    /// When a component could not be read.
    pub async fn attempts(&self, id: &SaleId) -> Result<Option<CountedAttempts>, Failure> {
        if self.sale(id).await?.is_none() {
            return Ok(None);
        }
        self.ports.attempts.of(id).await.map(Some).map_err(Failure::of_read)
    }

    /// Answers as of when the views are, ms since 1970: the time of the oldest event that is in none.
    async fn views_as_of_ms(&self) -> StoreResult<i64> {
        let mut as_of_ms = self.clock.now_ms();
        for at in self.ports.events.instances() {
            let waiting = self.ports.events.backlog(at, VIEWS).await?.waiting();
            let first = self.ports.events.read(at, &waiting, 1).await?.events;
            as_of_ms = first.iter().map(|event| event.at_ms).fold(as_of_ms, i64::min);
        }
        Ok(as_of_ms)
    }
}

/// What became of one sale's view in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The sale.
    pub sale: SaleId,
    /// The partition.
    pub part: Part,
    /// What became of it.
    pub outcome: RebuildOutcome,
}

/// What became of a view that was to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildOutcome {
    /// It was made anew, and is what it was.
    Same,
    /// It was made anew, and was another one before.
    Changed,
    /// Some of its events are gone, so it was left as it is.
    Kept,
}

/// Most rows of events that are read together.
const ROWS_MAX: u32 = 64;

/// How often a partition is tried whose reader moves on meanwhile.
const TRIES_MAX: usize = 20;

/// Makes the views of all sales, or of one, anew of the events that are kept. Sales of which an event is gone keep what
/// stands. It may be done while the shop is open. `progress` is told how many events are read.
///
/// # Errors
/// When a store fails. What is done stands, and it may be repeated.
pub async fn rebuild(
    (events, views): (&dyn OrderEvents, &dyn Views),
    only: Option<&SaleId>,
    progress: impl Fn(usize) + Send + Sync,
) -> StoreResult<Vec<Rebuilt>> {
    let mut all = Vec::new();
    let mut read = 0;
    for at in events.instances() {
        for (part, oldest) in events.kept(at).await?.next {
            let mut progress = |more: usize| {
                read += more;
                progress(read);
            };
            all.extend(rebuild_part((events, views), (at, part, oldest), only, &mut progress).await?);
        }
    }
    Ok(all)
}

async fn rebuild_part(
    (events, views): (&dyn OrderEvents, &dyn Views),
    (at, part, oldest): (Instance, Part, i64),
    only: Option<&SaleId>,
    progress: &mut (dyn FnMut(usize) + Send),
) -> StoreResult<Vec<Rebuilt>> {
    let (mut counted, mut next) = (CountedSales::new(), oldest);
    for _ in 0..TRIES_MAX {
        let upto = events.backlog(at, VIEWS).await?.next.get(&part).copied().unwrap_or(oldest);
        while next < upto {
            let page = events.read(at, &EventNumbers::from([(part, next)]), ROWS_MAX).await?;
            let Some(after) = page.next.get(&part) else { break };
            let before: Vec<_> = page.events.into_iter().filter(|event| event.number < upto).collect();
            progress(before.len());
            for (sale, later) in &count(&before).0 {
                counted.entry(sale.clone()).or_default().add(later);
            }
            next = (*after).min(upto);
        }
        // What went meanwhile because of its age is missing in what was counted.
        let kept = events.kept(at).await?.next.get(&part).copied().unwrap_or(oldest);
        if let Some(rebuilt) = replace(views, (part, kept, upto), &counted, only).await? {
            return Ok(rebuilt);
        }
    }
    let detail = format!("partition {} gets events faster than they can be read", part.number());
    Err(StoreError::broken("rebuild views", detail))
}

/// Puts what was counted in place of what stands in a partition; `None` when the reader has moved on.
async fn replace(
    views: &dyn Views,
    (part, oldest, upto): (Part, i64, i64),
    counted: &CountedSales,
    only: Option<&SaleId>,
) -> StoreResult<Option<Vec<Rebuilt>>> {
    let mut standing: BTreeMap<SaleId, Counted> = views.marks(part).await?.into_iter().collect();
    for (_, sale) in counted.keys() {
        standing.entry(sale.clone()).or_default();
    }
    let (mut rebuilt, mut anew) = (Vec::new(), Vec::new());
    for (sale, mark) in standing.into_iter().filter(|(sale, _)| only.is_none_or(|only| only == sale)) {
        let is_gone = mark.events > 0 && mark.first_number < oldest;
        let outcome = if is_gone {
            RebuildOutcome::Kept
        } else {
            let before = Counted { counts: views.counts_in(part, &sale).await?, ..mark };
            let now = counted.get(&(part, sale.clone())).cloned().unwrap_or_default();
            let is_same = before == now;
            anew.push((sale.clone(), now));
            if is_same { RebuildOutcome::Same } else { RebuildOutcome::Changed }
        };
        rebuilt.push(Rebuilt { sale, part, outcome });
    }
    Ok(views.replace(part, upto, &anew).await?.then_some(rebuilt))
}
