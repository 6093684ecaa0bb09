//! Settling a sale: the last that is done with one that is over. Its counts are compared and its report is written;
//! then nothing of it stays in the inventory or in the rounds of any process. What happened to its orders stays.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Failure, Shop};
use crate::clock::Moment;
use crate::domain::operator::Subject;
use crate::domain::sale::SaleAction;
use crate::domain::view::SaleView;
use crate::domain::{
    BucketId, Change, DeadLetter, Item, LetterQuery, LetterState, OrderRecord, Part, Sale, SaleId, SaleState,
    SkuId,
};
use crate::memory::catalog::StockBand;
use crate::ports::{BucketState, Seal, VIEWS};

/// How long the order writers and the view builder may need for what was there when somebody wants to settle.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Time between two looks at them.
const LOOK: Duration = Duration::from_millis(50);
/// Most dead letters of one reading.
const LETTERS_MAX: u32 = 1000;

/// The answer to who wants a sale settled.
#[derive(Debug)]
pub enum Settled {
    /// It is settled, or was settled before.
    Done(Sale),
    /// There is no such sale.
    Unknown,
    /// It has another version than the caller knows: nothing was changed.
    VersionMoved,
    /// It was not ended.
    NotAllowed {
        /// The state that it is in.
        state: SaleState,
        /// The actions that are allowed in it.
        allowed: Vec<SaleAction>,
    },
    /// Something of it is still open, and this is what: nothing was changed.
    Open(Vec<String>),
    /// The inventory does not have the units that the ledgers say: nothing was changed.
    Differs(Vec<UnitsReport>),
}

/// The units of one SKU, as they were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsReport {
    /// The SKU.
    pub sku_id: SkuId,
    /// The stock of the sale's definition.
    pub configured: u32,
    /// Units of paid orders.
    pub sold: i64,
    /// Units of refunded orders that nobody may buy.
    pub withheld: i64,
    /// What was left in the inventory; `None` when keys of it were lost.
    pub available: Option<i64>,
}

impl UnitsReport {
    /// Answers whether the inventory had what the ledgers say.
    pub fn is_right(&self) -> bool {
        self.available == Some(i64::from(self.configured) - self.sold - self.withheld)
    }
}

/// The report of a settled sale, as its seal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The sale.
    pub sale_id: SaleId,
    /// When it was settled, ms since 1970.
    pub settled_ms: i64,
    /// Whether its stock was ever in place. A report of an older version does not say so.
    #[serde(default = "yes")]
    pub in_place: bool,
    /// The units of each SKU, ascending by its id.
    pub items: Vec<UnitsReport>,
    /// What its events say.
    pub view: SaleView,
}

fn yes() -> bool {
    true
}

impl Report {
    /// Answers whether a SKU has the units in the inventory that its ledgers say. A sale that was never in place has
    /// none there.
    pub fn is_right(&self, of: &UnitsReport) -> bool {
        !self.in_place || of.is_right()
    }

    /// Lists what does not fit together, in sentences; nothing when all of it does.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for of in &self.items {
            let (sku, rest) = (&of.sku_id, i64::from(of.configured) - of.sold - of.withheld);
            match of.available {
                _ if rest < 0 => {
                    findings.push(format!("{} units of {sku} were sold that there were not", -rest))
                }
                _ if !self.in_place => {}
                None => findings.push(format!("nobody knows what was left of {sku} in the inventory")),
                Some(left) if left != rest => {
                    findings.push(format!(
                        "{left} units of {sku} were left in the inventory, and {rest} by the ledgers"
                    ));
                }
                Some(_) => {}
            }
            let states = self.view.items.get(sku).map(|totals| &totals.states);
            let paid = states.and_then(|states| states.get("paid")).map_or(0, |paid| paid.units);
            if paid != of.sold {
                findings.push(format!(
                    "{paid} units of {sku} are paid by the events, and {} by the ledgers",
                    of.sold
                ));
            }
        }
        findings
    }
}

impl Shop {
    /// Settles a sale that was ended and of which nothing is open. A difference between inventory and ledgers is only
    /// passed over when `accept_differences` says so; the report keeps it. `if_versions` are as for
    /// [`Self::patch_sale`]. Idempotent, and finishes what was cut off.
    ///
    /// # Errors
    /// When a component failed. Repeating it finishes it.
    pub async fn settle(
        &self,
        id: &SaleId,
        accept_differences: bool,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Settled, Failure> {
        let Some(sale) = self.sale(id).await? else { return Ok(Settled::Unknown) };
        if sale.state == SaleState::Settled {
            self.ports.audit_log.note(change, &Subject::Sale(Box::new(sale.clone()))).await?;
            self.clear(&sale).await?;
            return Ok(Settled::Done(sale));
        }
        if if_versions.is_some_and(|versions| !versions.contains(&sale.version)) {
            return Ok(Settled::VersionMoved);
        }
        let Some(state) = sale.state.after(SaleAction::Settle) else {
            return Ok(Settled::NotAllowed { state: sale.state, allowed: sale.state.allowed() });
        };
        // Its gates say so already, unless a part of the end was cut off.
        self.ports.gates.set_gates(&sale, &[]).await?;
        let open = self.open_of(&sale).await?;
        if !open.is_empty() {
            return Ok(Settled::Open(open));
        }
        let units = self.compare(&sale).await?;
        // What was never put in place has nothing in the inventory.
        if sale.in_place && !accept_differences && !units.iter().all(UnitsReport::is_right) {
            // Somebody else may have settled it meanwhile: then nothing is left in the inventory.
            return Ok(match self.sale(id).await? {
                Some(found) if found.state == SaleState::Settled => Settled::Done(found),
                _ => Settled::Differs(units),
            });
        }
        let seal = self.report(&sale, &units).await?;
        self.ports.settling.seal(id, &seal).await?;
        let settled = Sale { state, version: sale.version + 1, ..sale };
        if !self.ports.sales.replace(&settled, settled.version - 1, change).await? {
            // Somebody else was faster.
            return Ok(match self.sale(id).await? {
                Some(found) if found.state == SaleState::Settled => Settled::Done(found),
                Some(found) => Settled::NotAllowed { state: found.state, allowed: found.state.allowed() },
                None => Settled::Unknown,
            });
        }
        self.clear(&settled).await?;
        Ok(Settled::Done(settled))
    }

    /// Reads a settled sale, with the bands of its SKUs as they are for good; `None` when there is no such sale.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn settled_sale(
        &self,
        id: &SaleId,
    ) -> Result<Option<(Sale, BTreeMap<SkuId, StockBand>)>, Failure> {
        let Some(sale) = self.sale(id).await? else { return Ok(None) };
        let holdings = self.ports.ledger.holdings(&sale).await.map_err(Failure::of_read)?;
        let band = |item: &Item| {
            let of = holdings.get(&item.sku_id).copied().unwrap_or_default();
            let left = i64::from(item.stock) - of.held - of.sold - of.withheld;
            (item.sku_id.clone(), StockBand::of(left, item.stock))
        };
        let bands = sale.items.iter().map(band).collect();
        Ok(Some((sale, bands)))
    }

    /// Lists sales that are being settled, and of which the inventory may still have something.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn uncleared(&self) -> Result<Vec<SaleId>, Failure> {
        self.ports.settling.uncleared().await.map_err(Failure::of_read)
    }

    /// Reads the report of a settled sale; `None` when there is none.
    ///
    /// # Errors
    /// When it could not be read.
    pub async fn report_of(&self, id: &SaleId) -> Result<Option<Seal>, Failure> {
        self.ports.settling.sealed(id).await.map_err(Failure::of_read)
    }

    async fn clear(&self, sale: &Sale) -> Result<(), Failure> {
        self.memory.catalog.settle(sale);
        let stands = format!("sale {} is settled, and stays so", sale.id);
        let cleared = self.ports.settling.clear(sale).await;
        cleared
            .map_err(|error| Failure::applied_partly(&stands, "keys of it are left in the inventory", error))
    }

    /// Lists what is open of a sale, in words for operators.
    async fn open_of(&self, sale: &Sale) -> Result<Vec<String>, Failure> {
        let mut open = Vec::new();
        let mut outbox = 0;
        for bucket in 0..sale.buckets {
            let bucket = BucketId { sale: sale.id.clone(), bucket };
            outbox += self.ports.outbox.len(&bucket).await.map_err(Failure::of_read)?;
        }
        if outbox > 0 {
            open.push(format!("{outbox} outbox entries wait for the order log"));
        } else if !self.log_is_written().await? {
            open.push("the order writers have not read the order log to where it ended".to_owned());
        }
        let holdings = self.ports.ledger.holdings(sale).await.map_err(Failure::of_read)?;
        let held: i64 = holdings.values().map(|units| units.held).sum();
        if held > 0 {
            open.push(format!("{held} units of orders that wait for their payment"));
        }
        let waiting = self.ports.settling.waiting(sale).await.map_err(Failure::of_read)?;
        if waiting.releases > 0 {
            open.push(format!("{} orders whose units wait to go back on sale", waiting.releases));
        }
        if waiting.set_aside > 0 {
            open.push(format!("{} outbox entries that were set aside for a person", waiting.set_aside));
        }
        if waiting.adjustments > 0 {
            open.push("an adjustment of its stock that is under way".to_owned());
        }
        let letters = self.letters_of(sale).await?;
        if letters > 0 {
            open.push(format!("{letters} dead letters"));
        }
        Ok(open)
    }

    /// Counts the open dead letters that may be of a sale: one whose record cannot be read is of its month.
    async fn letters_of(&self, sale: &Sale) -> Result<usize, Failure> {
        let open = Some(LetterState::Open);
        let mut query = LetterQuery { state: open, limit: LETTERS_MAX, ..LetterQuery::default() };
        let mut count = 0;
        loop {
            let letters = self.dead_letters(&query).await?;
            let is_of_sale = |letter: &&DeadLetter| match OrderRecord::decode(&letter.payload) {
                Ok(record) => record.sale_id == sale.id,
                Err(_) => letter.order.is_some_and(|order| order.month() == sale.month()),
            };
            count += letters.iter().filter(is_of_sale).count();
            query.after = letters.last().map(|last| last.id);
            if letters.is_empty() {
                return Ok(count);
            }
        }
    }

    /// Answers whether every record is written that is in the order log now, and waits a while for that.
    async fn log_is_written(&self) -> Result<bool, Failure> {
        let parts: Vec<Part> = self.map.all_parts().collect();
        let ends = self.ports.order_log.offsets(&parts).await.map_err(Failure::of_read)?;
        let deadline = self.clock.monotonic() + CATCH_UP;
        loop {
            let positions = self.ports.positions.positions().await;
            let is_written = |(part, offsets): (&Part, &Range<i64>)| {
                positions.get(part).is_some_and(|position| position.behind(offsets) == 0)
            };
            if ends.iter().all(is_written) {
                return Ok(true);
            }
            if !self.look_again(deadline).await {
                return Ok(false);
            }
        }
    }

    /// Waits for a moment; `false` when it is too late for that.
    async fn look_again(&self, deadline: Moment) -> bool {
        let is_early = self.clock.monotonic() < deadline;
        if is_early {
            self.clock.sleep(LOOK).await;
        }
        is_early
    }

    /// Compares what the inventory has with what the ledgers say.
    async fn compare(&self, sale: &Sale) -> Result<Vec<UnitsReport>, Failure> {
        let holdings = self.ports.ledger.holdings(sale).await.map_err(Failure::of_read)?;
        let buckets = self.ports.gates.buckets(sale).await.map_err(Failure::of_read)?;
        let is_whole = buckets.iter().all(|bucket| matches!(bucket, BucketState::Whole { .. }));
        let units = |item: &Item| {
            let of = holdings.get(&item.sku_id).copied().unwrap_or_default();
            UnitsReport {
                sku_id: item.sku_id.clone(),
                configured: item.stock,
                sold: of.sold,
                withheld: of.withheld,
                available: is_whole.then(|| buckets.iter().map(|bucket| bucket.units_of(&item.sku_id)).sum()),
            }
        };
        Ok(sale.items.iter().map(units).collect())
    }

    /// Writes the report of a sale, with its view as it is when all of its events are in it.
    async fn report(&self, sale: &Sale, units: &[UnitsReport]) -> Result<Seal, Failure> {
        let mut ends = Vec::new();
        for at in self.ports.events.instances() {
            ends.push((at, self.ports.events.kept(at).await.map_err(Failure::of_read)?.ends));
        }
        let deadline = self.clock.monotonic() + CATCH_UP;
        for (at, ends) in &ends {
            loop {
                let next = self.ports.events.backlog(*at, VIEWS).await.map_err(Failure::of_read)?.next;
                if ends.iter().all(|(part, end)| next.get(part).is_some_and(|next| next >= end)) {
                    break;
                }
                if !self.look_again(deadline).await {
                    return Err(Failure::Unavailable);
                }
            }
        }
        let counts = self.ports.views.counts(&sale.id).await.map_err(Failure::of_read)?;
        let view = SaleView::of(&sale.id, &counts);
        let numbers: Vec<(u16, i64)> = ends
            .iter()
            .flat_map(|(_, ends)| ends.iter().map(|(part, end)| (part.number(), end - 1)))
            .collect();
        let sealed_ms = self.now_ms();
        let hash = view.hash();
        let (sale_id, in_place) = (sale.id.clone(), sale.in_place);
        let report = Report { sale_id, settled_ms: sealed_ms, in_place, items: units.to_vec(), view };
        Ok(Seal { sealed_ms, hash, numbers: json!(numbers).to_string(), report: json!(report).to_string() })
    }

    async fn end_and_settle(&self, id: &SaleId, change: &Change) -> Result<Settled, Failure> {
        let Some(sale) = self.sale(id).await? else { return Ok(Settled::Unknown) };
        match sale.state {
            SaleState::Settled => {
                self.clear(&sale).await?;
                return Ok(Settled::Done(sale));
            }
            SaleState::Preheated | SaleState::Paused => {
                let end = Change { action: SaleAction::End.as_str(), ..change.clone() };
                self.advance_sale(id, SaleAction::End, None, &end).await?;
            }
            SaleState::Draft | SaleState::Published | SaleState::Ended => {}
        }
        self.settle(id, false, None, change).await
    }

    /// Ends a sale that is over and settles it, when nothing of it is open, without an operator. Idempotent. Answers
    /// whether it is settled.
    ///
    /// # Errors
    /// Why it cannot be settled although it should be, in words for operators.
    pub async fn settle_by_itself(&self, id: &SaleId) -> Result<bool, String> {
        let change = Change::by_itself(SaleAction::Settle.as_str(), "it has been over for long");
        match self.end_and_settle(id, &change).await {
            Ok(Settled::Done(_)) => Ok(true),
            Ok(Settled::Differs(units)) => {
                let units = json!(units).to_string();
                Err(format!("its inventory does not have the units that its ledgers say: {units}"))
            }
            Ok(Settled::Open(_) | Settled::Unknown | Settled::VersionMoved | Settled::NotAllowed { .. }) => {
                Ok(false)
            }
            Err(Failure::AppliedPartly { detail }) => Err(detail),
            Err(Failure::Unavailable | Failure::OutcomeUnknown) => {
                Err("a component does not answer".to_owned())
            }
        }
    }
}
