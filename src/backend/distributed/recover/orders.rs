//! Brings orders back that an instance has lost, of what the topic of events tells.

use std::collections::{BTreeMap, VecDeque};

use super::stores::{CONTEXT, Recoverer};
use crate::backend::distributed::kafka_told::Told;
use crate::backend::distributed::mysql::failed;
use crate::backend::distributed::mysql_batch;
use crate::backend::distributed::mysql_order_moves::{Along, MysqlOrderMoves, by_table};
use crate::backend::distributed::mysql_order_store::{COLUMNS, is_missing_table, read};
use crate::backend::distributed::mysql_text::list;
use crate::domain::batch_plan::LogBatch;
use crate::domain::told_order::{ToldOrder, arrow_of};
use crate::domain::{Mover, Order, OrderId, OrderMove, OrderRecord, Part, Sales};
use crate::ports::{StoreError, StoreResult, WrittenOrder};

/// Orders that are read at once.
const READ_AT_ONCE: usize = 500;
/// Orders that are written in one transaction.
const WRITTEN_AT_ONCE: usize = 128;

/// What an instance has lost of the orders of a partition.
#[derive(Debug, Default)]
pub struct LostOrders {
    /// Records that make rows again.
    pub rows: Vec<OrderRecord>,
    /// Orders with rows in an older state, each with the steps that follow and that no money began.
    pub steps: Vec<(Order, Vec<OrderMove<'static>>)>,
    /// Steps that began with money, and those after them.
    pub paid: Vec<(OrderId, Vec<OrderMove<'static>>)>,
    /// What only a person can bring together, each in a sentence.
    pub unclear: Vec<String>,
}

/// Steps that can be taken together: their word, who took them and why, and whether units were
/// withheld.
type Alike = (&'static str, String, Option<String>, bool);

impl Recoverer {
    /// Compares what the topic tells of the orders of a partition with their rows.
    ///
    /// # Errors
    /// When the instance cannot be read.
    pub async fn compare(&self, told: &Told, sales: &Sales) -> StoreResult<LostOrders> {
        let mut lost = LostOrders::default();
        lost.unclear.extend(told.faults.iter().map(|why| format!("an event cannot be read: {why}")));
        let all: Vec<(&OrderId, &ToldOrder)> = told.orders.iter().collect();
        for some in all.chunks(READ_AT_ONCE) {
            let mut rows = self.rows_of(some.iter().map(|(id, _)| **id)).await?;
            for (id, told) in some {
                self.compare_one((**id, told), rows.remove(id), sales, &mut lost);
            }
        }
        Ok(lost)
    }

    fn compare_one(
        &self,
        (id, told): (OrderId, &ToldOrder),
        row: Option<Order>,
        sales: &Sales,
        lost: &mut LostOrders,
    ) {
        let Some(sale) = sales.get(told.sale()) else {
            lost.unclear.push(format!("{id}: the directory has no sale {}", told.sale()));
            return;
        };
        let found = match told.lost(row.as_ref().map(|order| order.state), sale) {
            Ok(None) => return,
            Ok(Some(found)) => found,
            Err(why) => return lost.unclear.push(format!("{id}: {why}")),
        };
        if let Some(record) = found.row {
            let part = self.mysql.map.part_of(id.shard());
            match LogBatch::apart(std::slice::from_ref(&record), part).poison(&self.mysql.map, sales) {
                None => lost.rows.push(*record),
                Some(poison) => return lost.unclear.push(format!("{id}: {}", poison.as_str())),
            }
        }
        match (found.steps.first(), row) {
            (None, _) => {}
            (Some(first), Some(order)) if first.by != Mover::PAYMENT_PROVIDER.by => {
                lost.steps.push((order, found.steps));
            }
            (Some(_), _) => lost.paid.push((id, found.steps)),
        }
    }

    async fn rows_of(&self, ids: impl Iterator<Item = OrderId>) -> StoreResult<BTreeMap<OrderId, Order>> {
        let mut rows = BTreeMap::new();
        for ((shard, month), ids) in by_table(ids, |id| *id) {
            let ids = list(ids.iter().map(|id| id.bytes().as_slice()));
            let text = format!("SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} WHERE order_id IN {ids}");
            let query = sqlx::raw_sql(self.mysql.shard_sql(shard, month, &text));
            match query.fetch_all(self.mysql.pool(self.at)).await {
                Ok(found) => {
                    for row in &found {
                        let order = read(row)?;
                        rows.insert(order.id, order);
                    }
                }
                Err(error) if is_missing_table(&error) => {}
                Err(error) => return Err(failed(CONTEXT, error)),
            }
        }
        Ok(rows)
    }

    /// Makes rows again. Answers how many, and what is said of those that came to another state than they had.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn make_rows(
        &self,
        part: Part,
        mut records: Vec<OrderRecord>,
        sales: &Sales,
    ) -> StoreResult<(usize, Vec<String>)> {
        // Orders that hold nothing come first: nothing they had is in the way of others.
        let holds = |record: &OrderRecord| {
            record.decided.as_ref().is_some_and(|decided| !decided.state.holds_nothing())
        };
        records.sort_by_key(holds);
        let (mut made, mut unclear) = (0, Vec::new());
        for some in records.chunks(WRITTEN_AT_ONCE) {
            let written = mysql_batch::write_all_apart(&self.mysql, (part, some), sales).await?;
            for WrittenOrder { record, decision, .. } in &written.orders {
                let told = record.decided.as_ref().map(|decided| decided.state);
                if told == Some(decision.state) {
                    made += 1;
                } else {
                    let (was, is) = (told.map_or("", |told| told.as_str()), decision.state.as_str());
                    unclear
                        .push(format!("{}: it was {was}, and is {is}: no units are left", record.order_id));
                }
            }
        }
        Ok((made, unclear))
    }

    /// Takes lost steps again, with their times. Answers how many.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn take_steps(&self, lost: Vec<(Order, Vec<OrderMove<'static>>)>) -> StoreResult<usize> {
        let mut orders: Vec<(Order, VecDeque<OrderMove<'static>>)> =
            lost.into_iter().map(|(order, steps)| (order, steps.into())).collect();
        let mut taken = 0;
        loop {
            let mut alike: BTreeMap<Alike, Vec<(Order, i64)>> = BTreeMap::new();
            for (order, steps) in &mut orders {
                let Some(step) = steps.pop_front() else { continue };
                let arrow = arrow_of(&step).filter(|arrow| arrow.from.contains(&order.state));
                let arrow = arrow.ok_or_else(|| {
                    StoreError::broken(CONTEXT, format!("{} cannot be {}", order.id, step.kind))
                })?;
                let why = step.why.map(std::borrow::Cow::into_owned);
                let key = (arrow.move_word.unwrap_or_default(), step.by.into_owned(), why, step.withheld);
                alike.entry(key).or_default().push((order.clone(), step.at_ms.unwrap_or_default()));
                order.state = arrow.to;
            }
            if alike.is_empty() {
                return Ok(taken);
            }
            for (key, orders) in alike {
                for some in orders.chunks(WRITTEN_AT_ONCE) {
                    self.take_alike(&key, some).await?;
                    taken += some.len();
                }
            }
        }
    }

    async fn take_alike(&self, (kind, by, why, withheld): &Alike, some: &[(Order, i64)]) -> StoreResult<()> {
        let arrow = crate::domain::order_life::ARROWS.iter().find(|arrow| arrow.move_word == Some(*kind));
        let arrow = arrow.ok_or_else(|| StoreError::broken(CONTEXT, (*kind).to_owned()))?;
        let mover = Mover { by: by.into(), why: why.as_ref().map(Into::into) };
        let times = some.iter().map(|(order, at_ms)| (order.id, *at_ms)).collect();
        let mut orders: Vec<Order> = some.iter().map(|(order, _)| order.clone()).collect();
        orders.sort_by_key(|order| order.id);
        let moves = MysqlOrderMoves { mysql: self.mysql.clone() };
        let mut tx = self.mysql.begin(self.at, CONTEXT).await?;
        let along = Along { arrow, restock: !withheld, mover: &mover, times: Some(&times) };
        moves.follow(self.at, along, &orders, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))
    }
}
