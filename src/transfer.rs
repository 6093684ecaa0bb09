//! Moving a shop between backends: its sales and orders as lines of JSON.
//!
//! An export is a header, then each sale followed by its orders, then an end with the counts, so that a file that
//! was cut off is noticed. An import checks the whole file before it changes anything; then it creates the sales
//! and hands the orders to the target's own order log, so that its order writer puts them in place under all the
//! conditions that hold for any order. Both can be repeated: what stands already is passed over.

pub mod file;

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

pub use file::{Contents, Line};

use crate::domain::{BucketId, Change, Month, OrderId, OrderRecord, Part, Sale, SaleState, ShardMap};
use crate::ports::{IMPORT_RECORDS_MAX, Ports};

/// Between two looks at whether the order writer is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// So long without any progress means that nothing writes.
const STALLED: Duration = Duration::from_secs(30);

/// How much was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub sales: u64,
    pub orders: u64,
}

/// Writes everything that `ports` hold. Waits first until every accepted order has its row.
///
/// # Errors
/// When a sale is on (it has to be ended first), a store cannot be read, or `out` not written.
pub async fn export(
    ports: &Ports,
    map: ShardMap,
    now_ms: i64,
    out: &mut impl Write,
) -> anyhow::Result<Moved> {
    let sales = ports.sales.sales().await?;
    settle(ports, &sales, &|_| ()).await?;
    let mut portable = Vec::with_capacity(sales.len());
    for sale in sales {
        portable.push(at_rest(ports, sale).await?);
    }
    let mut moved = Moved::default();
    file::write(out, &Line::Header { v: Line::VERSION, shards: map.shards(), exported_ms: now_ms })?;
    for sale in portable {
        file::write(out, &Line::Sale(sale.clone()))?;
        moved.sales += 1;
        for shard in map.all_shards() {
            let mut after: Option<OrderId> = None;
            loop {
                let records = ports.archive.orders(&sale, shard, after).await?;
                for record in &records {
                    file::write(out, &Line::Order(record.clone()))?;
                    moved.orders += 1;
                }
                after = records.last().map(|last| last.order_id);
                if records.len() < IMPORT_RECORDS_MAX {
                    break;
                }
            }
        }
    }
    file::write(out, &Line::End { sales: moved.sales, orders: moved.orders })?;
    out.flush()?;
    Ok(moved)
}

/// A sale as another backend can take it: one that is preheated and has sold nothing goes back to published,
/// because its stock has to be put in place anew.
async fn at_rest(ports: &Ports, sale: Sale) -> anyhow::Result<Sale> {
    if sale.state.is_editable() || sale.state == SaleState::Ended {
        return Ok(sale);
    }
    let holdings = ports.ledger.holdings(&sale).await?;
    let is_untouched = holdings.values().all(|of| of.held == 0 && of.sold == 0);
    ensure!(
        is_untouched,
        "sale {} has orders and is {}: end it first (seckill sale end {} ), then export again",
        sale.id,
        sale.state.as_str(),
        sale.id
    );
    Ok(Sale { state: SaleState::Published, version: sale.version + 1, ..sale })
}

/// Months whose orders tables the file needs.
pub fn months(contents: &Contents) -> Vec<Month> {
    let mut months: Vec<Month> = contents.sales.values().map(Sale::month).collect();
    months.sort_unstable();
    months.dedup();
    months
}

/// Puts a checked file's sales and orders in place; an order writer must be running. `progress` is told how many
/// orders are still to be written.
///
/// # Errors
/// When a sale of the same id is another one, a store fails, or what stands afterwards differs from the file.
pub async fn import(
    ports: &Ports,
    contents: &Contents,
    lines: impl Iterator<Item = anyhow::Result<Line>>,
    progress: &impl Fn(i64),
) -> anyhow::Result<Moved> {
    for sale in contents.sales.values() {
        check_sale(ports, sale).await?;
    }
    for sale in contents.sales.values() {
        create(ports, sale).await?;
    }
    let mut moved = Moved { sales: u64::try_from(contents.sales.len()).unwrap_or(u64::MAX), orders: 0 };
    let mut records = Vec::with_capacity(IMPORT_RECORDS_MAX);
    for line in lines {
        if let Line::Order(record) = line? {
            records.push(record);
            moved.orders += 1;
        }
        if records.len() == IMPORT_RECORDS_MAX {
            ports.order_log.append_imported(&records).await?;
            records.clear();
        }
    }
    if !records.is_empty() {
        ports.order_log.append_imported(&records).await?;
    }
    let sales: Vec<Sale> = contents.sales.values().cloned().collect();
    settle(ports, &sales, progress).await?;
    Ok(moved)
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
    // `false` says that it stands already, which was found to be the same one.
    ports.sales.create(sale, &change).await?;
    if !sale.state.is_editable() {
        ports.ledger.open_pools(sale).await?;
    }
    Ok(())
}

/// Compares the orders that stand with those of the file, one by one.
///
/// # Errors
/// The first order that is missing or differs.
pub async fn compare(
    ports: &Ports,
    map: ShardMap,
    contents: &Contents,
    lines: impl Iterator<Item = anyhow::Result<Line>>,
) -> anyhow::Result<()> {
    let mut standing: HashMap<OrderId, OrderRecord> = HashMap::new();
    for sale in contents.sales.values() {
        for shard in map.all_shards() {
            let mut after = None;
            loop {
                let records = ports.archive.orders(sale, shard, after).await?;
                after = records.last().map(|last| last.order_id);
                let is_last = records.len() < IMPORT_RECORDS_MAX;
                standing.extend(records.into_iter().map(|record| (record.order_id, record)));
                if is_last {
                    break;
                }
            }
        }
    }
    for line in lines {
        if let Line::Order(record) = line? {
            let found = standing.remove(&record.order_id);
            let found =
                found.with_context(|| format!("order {} is missing after the import", record.order_id))?;
            ensure!(found == record, "order {} differs after the import: {found:?}", record.order_id);
        }
    }
    match standing.into_keys().next() {
        Some(id) => bail!("order {id} stands here and not in the file"),
        None => Ok(()),
    }
}

/// Waits until outboxes are empty and the order writers have read the log to its end.
async fn settle(ports: &Ports, sales: &[Sale], progress: &impl Fn(i64)) -> anyhow::Result<()> {
    let mut best = i64::MAX;
    let mut since = Instant::now();
    loop {
        let mut unwritten = behind(ports).await?;
        for sale in sales.iter().filter(|sale| !sale.state.is_editable()) {
            for bucket in 0..sale.buckets {
                let bucket = BucketId { sale: sale.id.clone(), bucket };
                unwritten += i64::try_from(ports.outbox.len(&bucket).await?).unwrap_or(i64::MAX / 2);
            }
        }
        progress(unwritten);
        if unwritten == 0 {
            return Ok(());
        }
        if unwritten < best {
            (best, since) = (unwritten, Instant::now());
        }
        ensure!(
            since.elapsed() < STALLED,
            "{unwritten} accepted orders are not written, and nothing writes them"
        );
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Records between the stored positions and the ends of the log. A position that cannot be read counts as nothing
/// written.
async fn behind(ports: &Ports) -> anyhow::Result<i64> {
    let ends = ports.order_log.ends().await?;
    let positions = ports.orders.positions().await;
    let of_part =
        |(part, end): (u16, i64)| (end - positions.get(&Part::new(part)).copied().unwrap_or(0)).max(0);
    Ok((0u16..).zip(ends).map(of_part).sum())
}
