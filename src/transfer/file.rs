//! The file of an export, and the checks that it must pass before an import changes anything.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::domain::{
    Exported, ExportedPayment, OrderId, OrderRecord, OrderState, Sale, SaleId, SaleState, ShardMap, SkuId,
    UserId,
};

/// One line of the file. A line may get more fields; a changed meaning gets a new version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Header {
        /// The version of the file's form.
        v: u32,
        /// The number of shards of the backend that was exported.
        shards: u16,
        /// When the export began, in milliseconds since 1970.
        exported_ms: i64,
    },
    /// A sale, which its orders follow.
    Sale(Sale),
    /// An order of the sale before it.
    Order(Exported),
    /// The last line.
    End {
        /// The number of sales in the file.
        sales: u64,
        /// The number of orders in the file.
        orders: u64,
    },
}

impl Line {
    /// The version that this program writes. It reads the first one, too, whose orders wait for their payment or were
    /// rejected, and have neither steps nor payments.
    pub const VERSION: u32 = 2;

    /// Answers the version of the records in a file of version `v`.
    fn record_version(v: u32) -> u32 {
        if v == 1 { OrderRecord::VERSION } else { OrderRecord::VERSION_DECIDED }
    }
}

/// Writes a line.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(out: &mut impl Write, line: &Line) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n").context("cannot write the export")
}

/// Reads the lines of a file. An error names the number of its line.
pub fn lines(input: impl BufRead) -> impl Iterator<Item = anyhow::Result<Line>> {
    input.lines().enumerate().map(|(index, text)| {
        let number = index + 1;
        let text = text.with_context(|| format!("line {number} cannot be read"))?;
        serde_json::from_str(&text).with_context(|| format!("line {number} is not of an export"))
    })
}

/// The contents of a checked file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its sales, by id.
    pub sales: BTreeMap<SaleId, Sale>,
    /// The number of its orders.
    pub orders: u64,
}

/// The units that the orders of one sale take together, as far as the file has been read.
#[derive(Default)]
struct Taken {
    sale: Option<SaleId>,
    /// The id of the last order. Ids ascend, so no order is there twice.
    last: Option<OrderId>,
    units: HashMap<SkuId, u64>,
    buyers: HashMap<UserId, u32>,
}

impl Contents {
    /// Reads a whole file, and checks it against the shard map of the backend that will take it.
    ///
    /// # Errors
    /// The first fault: a line that is not of an export, an incomplete file, another number of shards, or a sale or an
    /// order that cannot be.
    pub fn check(lines: impl Iterator<Item = anyhow::Result<Line>>, map: ShardMap) -> anyhow::Result<Self> {
        let mut contents = Self::default();
        let mut taken = Taken::default();
        let mut lines = (1u64..).zip(lines);
        let Some((_, first)) = lines.next() else { bail!("the file is empty") };
        let v = check_header(&first?, map)?;
        let mut is_whole = false;
        for (number, line) in lines {
            ensure!(!is_whole, "line {number} comes after the end");
            match line? {
                Line::Header { .. } => bail!("line {number} is a second header"),
                Line::Sale(sale) => {
                    taken = Taken { sale: Some(sale.id.clone()), ..Taken::default() };
                    contents.add_sale(sale, map).with_context(|| format!("line {number}"))?;
                }
                Line::Order(order) => {
                    ensure!(order.record.v == v, "line {number} has a record of version {}", order.record.v);
                    contents
                        .check_order(&order, map, &mut taken)
                        .with_context(|| format!("line {number}"))?;
                    contents.orders += 1;
                }
                Line::End { sales, orders } => {
                    let found = (u64::try_from(contents.sales.len())?, contents.orders);
                    ensure!(
                        found == (sales, orders),
                        "the end says {sales} sales and {orders} orders, found {found:?}"
                    );
                    is_whole = true;
                }
            }
        }
        ensure!(is_whole, "the file has no end: the export was cut off; export again");
        Ok(contents)
    }

    fn add_sale(&mut self, sale: Sale, map: ShardMap) -> anyhow::Result<()> {
        sale.validate(map.shards())?;
        let is_at_rest = sale.state.is_editable() || sale.state == SaleState::Ended;
        ensure!(is_at_rest, "sale {} is {}", sale.id, sale.state.as_str());
        let id = sale.id.clone();
        ensure!(self.sales.insert(id.clone(), sale).is_none(), "sale {id} is there twice");
        Ok(())
    }

    fn check_order(&self, order: &Exported, map: ShardMap, taken: &mut Taken) -> anyhow::Result<()> {
        let Exported { record, payments, .. } = order;
        let OrderRecord { order_id: id, sale_id, sku_id, user_id, quantity, .. } = record;
        ensure!(taken.sale.as_ref() == Some(sale_id), "order {id} does not stand below its sale {sale_id}");
        ensure!(taken.last < Some(*id), "order {id} is not above the order before it");
        taken.last = Some(*id);
        let sale = self.sales.get(sale_id).filter(|sale| sale.state == SaleState::Ended);
        let sale = sale.with_context(|| format!("order {id} is of sale {sale_id}, which has not ended"))?;
        let item = sale.item(sku_id).with_context(|| format!("order {id}: no SKU {sku_id}"))?;
        let is_in_place = id.shard() == map.shard_of(user_id) && id.month() == sale.month();
        ensure!(is_in_place, "order {id} is not of buyer {user_id} and sale {sale_id}");
        let decided = record.decided.as_ref().with_context(|| format!("order {id} was never decided"))?;
        let bytes = record.encode().len();
        ensure!(bytes <= OrderRecord::BYTES_MAX, "order {id} has {bytes} bytes, the order log takes fewer");
        let state = decided.state.as_str();
        ensure!(decided.is_possible(), "order {id} is {state}, and its steps do not lead there");
        let is_own = |payment: &ExportedPayment| payment.request.id.order == *id && payment.is_over();
        ensure!(payments.iter().all(is_own), "order {id} has a payment of another, or one that is open");
        let kept = payments.iter().filter(|payment| payment.keeps_money()).count();
        // Who buys for nothing pays without a provider.
        let wanted = decided.state == OrderState::Paid && record.unit_price.amount() > 0;
        ensure!(kept == usize::from(wanted), "order {id} is {state}, and {kept} payments keep their money");
        if decided.state.holds_nothing() {
            return Ok(());
        }
        let units = taken.units.entry(sku_id.clone()).or_default();
        *units += u64::from(quantity.units());
        ensure!(
            *units <= u64::from(item.stock),
            "order {id}: more units of {sku_id} than its stock {}",
            item.stock
        );
        let held = taken.buyers.entry(user_id.clone()).or_default();
        *held += quantity.units();
        ensure!(
            *held <= sale.buyer_limit,
            "order {id}: {user_id} holds more than the limit {}",
            sale.buyer_limit
        );
        Ok(())
    }
}

/// Checks the first line, and answers the version of the records.
fn check_header(line: &Line, map: ShardMap) -> anyhow::Result<u32> {
    let Line::Header { v, shards, .. } = line else { bail!("the first line is not the header of an export") };
    let newest = Line::VERSION;
    ensure!((1..=newest).contains(v), "the file has version {v}, this program reads up to {newest}");
    ensure!(
        *shards == map.shards(),
        "the file comes from {shards} shards and this backend has {}: an order's id names its shard, so shards.shards \
         must be the same",
        map.shards()
    );
    Ok(Line::record_version(*v))
}

#[cfg(test)]
mod tests;
