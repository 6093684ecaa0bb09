//! Moves a shop between backends: its sales and orders travel as lines of JSON.
//!
//! An export is a header, then each sale followed by its orders, then an end with the counts. The end shows whether a
//! file was cut off. An import checks the whole file before it changes anything. Then it creates the sales and hands
//! the orders to the order log of the target, so that the target's order writer puts them in place under all the
//! conditions that hold for any order. An order keeps its state, its steps and its payments. Units that were withheld
//! are unsold in the target, where their sale has ended, too. Both can be repeated: an import passes over what stands
//! already.

pub mod file;

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

pub use file::{Contents, Line};

use crate::clock::Clock;
use crate::domain::{
    BucketId, Change, Exported, Month, OrderId, OrderState, Part, Position, Sale, SaleId, SaleState, Shard,
    ShardMap,
};
use crate::ports::{IMPORT_RECORDS_MAX, Offsets, Ports};

/// How many orders are read at once.
const PAGE: u32 = 1000;
/// The pause between two looks at whether the order writer is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A preheated sale travels only when it opens later than this, so that nobody buys while it is being read.
const OPENS_SOON_MS: i64 = 60_000;
/// After this long without any progress we take it that no order writer runs.
const STALLED: Duration = Duration::from_secs(30);

/// How much an export has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Sales written.
    pub sales: u64,
    /// Orders written.
    pub orders: u64,
}

/// Writes sales and their orders to `out`: those of `only`, or all sales when it is empty. It first waits until every
/// accepted order has its row.
///
/// # Errors
/// When a sale is on (it has to be ended first) or there is none of a name, something of them was sold or changed
/// meanwhile, a store cannot be read, or `out` cannot be written.
pub async fn export(
    ports: &Ports,
    only: &[SaleId],
    map: ShardMap,
    clock: &Clock,
    out: &mut impl Write,
) -> anyhow::Result<Moved> {
    let now_ms = ports.gates.now_ms().await?;
    let sales = chosen(ports, only).await?;
    let mut portable = Vec::with_capacity(sales.len());
    for sale in &sales {
        portable.push(at_rest(ports, sale.clone(), now_ms).await?);
    }
    until_written(ports, map, &sales, clock, &|_| ()).await?;
    let mut moved = Moved::default();
    file::write(out, &Line::Header { v: Line::VERSION, shards: map.shards(), exported_ms: now_ms })?;
    for sale in &portable {
        file::write(out, &Line::Sale(sale.clone()))?;
        moved.sales += 1;
        let mut orders = Orders::of(sale, map);
        while let Some(order) = orders.next(ports).await? {
            ensure!(sale.state == SaleState::Ended, "sale {} has orders: {}", sale.id, remedy(sale));
            has_no_open_money(&order)?;
            file::write(out, &Line::Order(order))?;
            moved.orders += 1;
        }
    }
    // Another process may have served shoppers all the time.
    until_written(ports, map, &sales, clock, &|_| ()).await?;
    ensure!(chosen(ports, only).await? == sales, "sales were changed during the export: export again");
    let now_ms = ports.gates.now_ms().await?;
    for sale in sales {
        at_rest(ports, sale, now_ms).await?;
    }
    file::write(out, &Line::End { sales: moved.sales, orders: moved.orders })?;
    out.flush()?;
    Ok(moved)
}

async fn chosen(ports: &Ports, only: &[SaleId]) -> anyhow::Result<Vec<Sale>> {
    if only.is_empty() {
        return Ok(ports.sales.sales().await?);
    }
    let mut sales = Vec::with_capacity(only.len());
    for id in only {
        sales.push(ports.sales.sale(id).await?.with_context(|| format!("there is no sale {id}"))?);
    }
    Ok(sales)
}

fn remedy(sale: &Sale) -> String {
    format!("end it first (seckill sale end {}), then export again", sale.id)
}

/// Returns a sale as another backend can take it. One that was settled goes back to ended, and neither stands in the
/// inventory there: it is settled anew from the events that tell its orders there. A sale that is preheated and has
/// sold nothing goes back to published, because its stock has to be put in place anew.
async fn at_rest(ports: &Ports, sale: Sale, now_ms: i64) -> anyhow::Result<Sale> {
    match sale.state {
        SaleState::Draft | SaleState::Published => return Ok(sale),
        SaleState::Ended | SaleState::Settled => {
            return Ok(Sale { state: SaleState::Ended, in_place: false, ..sale });
        }
        SaleState::Preheated | SaleState::Paused => {}
    }
    ensure!(now_ms + OPENS_SOON_MS < sale.starts_ms, "sale {} is on, or nearly: {}", sale.id, remedy(&sale));
    let holdings = ports.ledger.holdings(&sale).await?;
    let is_untouched = holdings.values().all(|of| of.held == 0 && of.sold == 0);
    ensure!(is_untouched, "sale {} has orders and is {}: {}", sale.id, sale.state.as_str(), remedy(&sale));
    Ok(Sale { state: SaleState::Published, in_place: false, version: sale.version + 1, ..sale })
}

/// Reads the orders of a sale, ascending by id. One page at a time is in memory.
struct Orders<'a> {
    sale: &'a Sale,
    /// The shard that is being read, and those after it.
    shards: VecDeque<Shard>,
    after: Option<OrderId>,
    page: VecDeque<Exported>,
    is_last: bool,
}

impl<'a> Orders<'a> {
    fn of(sale: &'a Sale, map: ShardMap) -> Self {
        Self { sale, shards: map.all_shards().collect(), after: None, page: VecDeque::new(), is_last: false }
    }

    async fn next(&mut self, ports: &Ports) -> anyhow::Result<Option<Exported>> {
        while self.page.is_empty() {
            if self.is_last {
                self.shards.pop_front();
                (self.after, self.is_last) = (None, false);
            }
            let Some(shard) = self.shards.front().copied() else { return Ok(None) };
            let orders = ports.archive.orders(self.sale, shard, self.after, PAGE).await?;
            self.after = orders.last().map(|last| last.record.order_id);
            self.is_last = orders.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            self.page = orders.into();
        }
        Ok(self.page.pop_front())
    }
}

/// Lists the months whose orders tables a file needs, ascending.
pub fn months(contents: &Contents) -> Vec<Month> {
    let mut months: Vec<Month> = contents.sales.values().map(Sale::month).collect();
    months.sort_unstable();
    months.dedup();
    months
}

/// Puts the sales and orders of a checked file in place, and waits until the orders are written. An order writer must
/// be running. `progress` is told how many orders are still to be written.
///
/// # Errors
/// When a sale of the same id is another one, a line cannot be read, a store fails, or nothing writes the orders.
pub async fn import(
    ports: &Ports,
    map: ShardMap,
    contents: &Contents,
    lines: impl Iterator<Item = anyhow::Result<Line>>,
    clock: &Clock,
    progress: &impl Fn(i64),
) -> anyhow::Result<()> {
    for sale in contents.sales.values() {
        check_sale(ports, sale).await?;
    }
    for sale in contents.sales.values() {
        create(ports, sale).await?;
    }
    let mut page = Vec::with_capacity(IMPORT_RECORDS_MAX);
    for line in lines {
        if let Line::Order(order) = line? {
            page.push(order);
        }
        if page.len() == IMPORT_RECORDS_MAX {
            append(ports, std::mem::take(&mut page)).await?;
        }
    }
    append(ports, page).await?;
    let sales: Vec<Sale> = contents.sales.values().cloned().collect();
    until_written(ports, map, &sales, clock, progress).await
}

/// Puts the payments of orders in place, and then hands the orders to the order log. An order that stands here already
/// keeps its state, and so it must not get payments of another one.
async fn append(ports: &Ports, page: Vec<Exported>) -> anyhow::Result<()> {
    let (mut records, mut payments) = (Vec::with_capacity(page.len()), Vec::new());
    for Exported { record, payments: own, .. } in page {
        if !own.is_empty() {
            let here = ports.orders.order(record.order_id).await?.map(|order| order.state);
            let there = record.decided.as_ref().map(|decided| decided.state);
            ensure!(
                here.is_none() || here == there,
                "{} is {} here and {} in the file: import into new databases or a new folder",
                record.order_id,
                here.map_or("nothing", OrderState::as_str),
                there.map_or("nothing", OrderState::as_str)
            );
        }
        records.push(record);
        payments.extend(own);
    }
    if !payments.is_empty() {
        ports.archive.restore_payments(&payments).await?;
    }
    if !records.is_empty() {
        ports.order_log.append_imported(&records).await?;
    }
    Ok(())
}

/// Checks that the provider has nothing to do with an order any more: it would not find the payment elsewhere.
fn has_no_open_money(order: &Exported) -> anyhow::Result<()> {
    let open = order.payments.iter().find(|payment| !payment.is_over());
    match open.map(|payment| payment.request.id) {
        Some(id) => {
            let order = order.record.order_id;
            bail!("{order} has the payment {id}, which has not come to its end at the provider")
        }
        None => Ok(()),
    }
}

async fn check_sale(ports: &Ports, sale: &Sale) -> anyhow::Result<()> {
    match ports.sales.sale(&sale.id).await? {
        Some(found) if found != *sale => {
            bail!("sale {} stands here already and is another one: nothing was imported", sale.id)
        }
        _ => Ok(()),
    }
}

async fn create(ports: &Ports, sale: &Sale) -> anyhow::Result<()> {
    let change = Change {
        actor: "import".to_owned(),
        action: "import",
        reason: "moved from another backend".to_owned(),
        request_id: "-".to_owned(),
    };
    // `false` means that the sale stands already. `check_sale` has found that it is the same one.
    ports.sales.create(sale, &change).await?;
    if !sale.state.is_editable() {
        ports.ledger.open_pools(sale).await?;
    }
    Ok(())
}

/// Compares the orders that stand with those of a file, one by one: after an import, and after an export, during which
/// they may have changed.
///
/// # Errors
/// The first order that is missing, differs, or is not in the file.
pub async fn compare(
    ports: &Ports,
    map: ShardMap,
    contents: &Contents,
    lines: impl Iterator<Item = anyhow::Result<Line>>,
) -> anyhow::Result<()> {
    let mut standing: Option<Orders<'_>> = None;
    for line in lines {
        match line? {
            Line::Header { .. } => {}
            Line::Order(order) => {
                let orders = standing.as_mut().context("an order stands before its sale")?;
                let found = orders.next(ports).await?.map(|found| found.as_told_by(&order));
                let is_same = found.as_ref() == Some(&order);
                ensure!(is_same, "{found:?} stands here, and {order:?} in the file");
            }
            Line::Sale(sale) => {
                nothing_is_left(standing.take(), ports).await?;
                standing = contents.sales.get(&sale.id).map(|sale| Orders::of(sale, map));
            }
            Line::End { .. } => nothing_is_left(standing.take(), ports).await?,
        }
    }
    Ok(())
}

async fn nothing_is_left(orders: Option<Orders<'_>>, ports: &Ports) -> anyhow::Result<()> {
    let Some(mut orders) = orders else { return Ok(()) };
    match orders.next(ports).await? {
        Some(order) => bail!("order {} stands here and not in the file", order.record.order_id),
        None => Ok(()),
    }
}

/// Waits until the outboxes of `sales` are empty, and then until every record that was in the log at that moment is
/// written. The order matters: an order that has left its outbox is in the log. Later records are not waited for.
async fn until_written(
    ports: &Ports,
    map: ShardMap,
    sales: &[Sale],
    clock: &Clock,
    progress: &impl Fn(i64),
) -> anyhow::Result<()> {
    let mut target: Option<Offsets> = None;
    let parts: Vec<Part> = map.all_parts().collect();
    let mut seen = (0, 0);
    let mut since = clock.monotonic();
    loop {
        let waiting = in_outboxes(ports, sales).await?;
        if waiting > 0 {
            target = None;
        } else if target.is_none() {
            target = Some(ports.order_log.offsets(&parts).await?);
        }
        let positions = ports.positions.positions().await;
        let missing = target.as_ref().map(|target| behind(target, &positions));
        if missing == Some(0) {
            return Ok(());
        }
        let unwritten = missing.unwrap_or(waiting);
        progress(unwritten);
        let now = (waiting, positions.values().map(|position| position.next_offset).sum::<i64>());
        if now != seen {
            (seen, since) = (now, clock.monotonic());
        }
        ensure!(
            clock.monotonic().since(since) < STALLED,
            "{unwritten} accepted orders are not written, and nothing writes them"
        );
        clock.sleep(LOOK_INTERVAL).await;
    }
}

async fn in_outboxes(ports: &Ports, sales: &[Sale]) -> anyhow::Result<i64> {
    let mut waiting = 0;
    for sale in sales.iter().filter(|sale| !sale.state.is_editable()) {
        for bucket in 0..sale.buckets {
            let bucket = BucketId { sale: sale.id.clone(), bucket };
            waiting += i64::try_from(ports.outbox.len(&bucket).await?)?;
        }
    }
    Ok(waiting)
}

/// Counts the records between positions and ends. A position that cannot be read counts as nothing written.
fn behind(target: &Offsets, positions: &HashMap<Part, Position>) -> i64 {
    let of_part = |(part, offsets): (&Part, &Range<i64>)| {
        positions.get(part).map_or(offsets.end - offsets.start, |position| position.behind(offsets))
    };
    target.iter().map(of_part).sum()
}
