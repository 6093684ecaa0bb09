//! The rows of one batch: what it reads to decide, and what it writes when decided.

use std::collections::{BTreeMap, HashMap};

use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::broken;
use super::mysql::{Mysql, failed, placeholders};
use crate::domain::batch_plan::{Known, LogBatch, Plan, PlannedOrder};
use crate::domain::{Instance, Month, OrderId, OrderRecord, OrderState, Sale, SaleId, Shard, UserId};
use crate::ports::StoreResult;

/// Largest multi-row statement; smaller ones are powers of two, so that a connection prepares ten texts per
/// table and not five hundred.
const ROWS_MAX: usize = 512;

/// What is kept of a dead letter's payload. Its place in the log is kept too, so nothing is lost; 500 whole
/// records of a megabyte would exceed every server's packet limit.
const DEAD_LETTER_BYTES_MAX: usize = 16 * 1024;

type Bound<'a> = Query<'a, MySql, MySqlArguments>;

/// Splits `rows` into runs whose lengths are powers of two, largest first.
fn runs<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = (1usize << rows.len().checked_ilog2()?).min(ROWS_MAX);
        let (run, rest) = rows.split_at(size);
        rows = rest;
        Some(run)
    })
}

/// Splits what a reading asks for into runs as long as a statement may be, filled up to a power of two by
/// repeating the last: a key that is asked for twice is found once, and one statement does for several.
fn padded<T>(rows: &[T]) -> impl Iterator<Item = (usize, impl Iterator<Item = &T>)> {
    rows.chunks(ROWS_MAX).map(|run| {
        let size = run.len().next_power_of_two();
        (size, run.iter().chain(run.last().into_iter().cycle()).take(size))
    })
}

/// Steps 9 and 11, the reading: which orders exist, and which units their buyers hold.
pub async fn known(
    mysql: &Mysql,
    batch: &LogBatch,
    sales: &HashMap<SaleId, Sale>,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<Known> {
    let mut ids: BTreeMap<(Shard, Month), Vec<OrderId>> = BTreeMap::new();
    let mut buyers: BTreeMap<(Shard, SaleId), Vec<UserId>> = BTreeMap::new();
    for record in batch.records.iter().filter_map(|r| r.order.as_ref().ok()) {
        let Some(sale) = sales.get(&record.sale_id) else {
            continue;
        };
        let shard = record.order_id.shard();
        // What is in the wrong place becomes a dead letter; it must not lead a query to a foreign shard.
        if shard != mysql.map.shard_of(&record.user_id) || mysql.map.part_of(shard) != batch.part {
            continue;
        }
        ids.entry((shard, sale.month())).or_default().push(record.order_id);
        buyers.entry((shard, sale.id.clone())).or_default().push(record.user_id.clone());
    }
    let mut known = Known::default();
    for ((shard, month), mut ids) in ids {
        ids.sort_unstable();
        ids.dedup();
        known_orders(mysql, (shard, month), &ids, &mut known, tx).await?;
    }
    for ((shard, sale), mut users) in buyers {
        users.sort_unstable();
        users.dedup();
        known_claims(mysql, shard, (&sale, &users), &mut known, tx).await?;
    }
    Ok(known)
}

async fn known_orders(
    mysql: &Mysql,
    (shard, month): (Shard, Month),
    ids: &[OrderId],
    known: &mut Known,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let context = "read known orders";
    for (size, run) in padded(ids) {
        let text = format!(
            "SELECT order_id, state FROM {{shard}}.orders_{{yyyymm}} WHERE order_id IN {}",
            placeholders(1, size)
        );
        let mut query = sqlx::query(mysql.shard_sql(shard, month, &text));
        for id in run {
            query = query.bind(id.bytes().as_slice());
        }
        for row in query.fetch_all(&mut **tx).await.map_err(|error| failed(context, error))? {
            let id: Vec<u8> = row.try_get(0).map_err(|error| failed(context, error))?;
            let state: String = row.try_get(1).map_err(|error| failed(context, error))?;
            let id = OrderId::from_bytes(&id).map_err(|error| broken(context, error.to_string()))?;
            let state = OrderState::parse(&state).ok_or_else(|| broken(context, state))?;
            known.orders.insert(id, state);
        }
    }
    Ok(())
}

async fn known_claims(
    mysql: &Mysql,
    shard: Shard,
    (sale, users): (&SaleId, &[UserId]),
    known: &mut Known,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let context = "read claims";
    for (size, run) in padded(users) {
        let text = format!(
            "SELECT user_id, unit FROM {}.claims WHERE sale_id = ? AND user_id IN {}",
            mysql.shard(shard),
            placeholders(1, size)
        );
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(sale.as_str().as_bytes());
        for user in run {
            query = query.bind(user.as_str().as_bytes());
        }
        for row in query.fetch_all(&mut **tx).await.map_err(|error| failed(context, error))? {
            let user: Vec<u8> = row.try_get(0).map_err(|error| failed(context, error))?;
            let unit: i32 = row.try_get(1).map_err(|error| failed(context, error))?;
            let user = std::str::from_utf8(&user).ok().and_then(|user| UserId::parse(user).ok());
            let user = user.ok_or_else(|| broken(context, "a user id that is not ours"))?;
            let unit = u32::try_from(unit).map_err(|error| broken(context, error.to_string()))?;
            known.claims.entry((sale.clone(), user)).or_default().insert(unit);
        }
    }
    Ok(())
}

/// Steps 10 and 12: everything the plan holds, in key order.
pub async fn insert(
    mysql: &Mysql,
    instance: Instance,
    batch: &LogBatch,
    plan: &Plan,
    now_ms: i64,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let mut tables: BTreeMap<(Shard, Month), Vec<&PlannedOrder>> = BTreeMap::new();
    for order in &plan.orders {
        let id = order.record.order_id;
        tables.entry((id.shard(), id.month())).or_default().push(order);
    }
    for ((shard, month), orders) in &mut tables {
        orders.sort_unstable_by_key(|order| order.record.order_id);
        let table = format!("{}.orders_{}", mysql.shard(*shard), month.yyyymm());
        insert_rows(tx, &format!("{table} ({ORDER_COLUMNS})"), 13, orders, |query, order| {
            bind_order(query, order, now_ms)
        })
        .await?;
        insert_claims(mysql, *shard, orders, tx).await?;
        let moves = format!("{}.order_moves (order_id, kind, at_ms)", mysql.shard(*shard));
        insert_rows(tx, &moves, 3, orders, |query, order| {
            let kind = if order.claims.is_ok() { "persisted" } else { "rejected" };
            query.bind(order.record.order_id.bytes().as_slice()).bind(kind).bind(now_ms)
        })
        .await?;
    }
    insert_owed(mysql, instance, plan, tx).await?;
    let letters =
        format!("{}.dead_letters (topic, part, log_offset, reason, payload)", mysql.control(instance));
    insert_rows(tx, &letters, 5, &plan.dead_letters, |query, (record, poison)| {
        query
            .bind(&mysql.topic)
            .bind(batch.part.number())
            .bind(record.offset)
            .bind(poison.as_str())
            .bind(&record.payload[..record.payload.len().min(DEAD_LETTER_BYTES_MAX)])
    })
    .await
}

const ORDER_COLUMNS: &str = "order_id, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason, \
                             epoch, accepted_ms, created_ms, expires_ms";

fn bind_order<'a>(query: Bound<'a>, order: &&'a PlannedOrder, now_ms: i64) -> Bound<'a> {
    let record = &order.record;
    let state = if order.claims.is_ok() { OrderState::AwaitingPayment } else { OrderState::Rejected };
    query
        .bind(record.order_id.bytes().as_slice())
        .bind(record.sale_id.as_str().as_bytes())
        .bind(record.sku_id.as_str().as_bytes())
        .bind(record.user_id.as_str().as_bytes())
        .bind(record.quantity.units())
        .bind(record.unit_price.amount())
        .bind(record.unit_price.currency())
        .bind(state.as_str())
        .bind(order.claims.as_ref().err().map(|reason| reason.as_str()))
        .bind(record.epoch)
        .bind(record.accepted_ms)
        .bind(now_ms)
        .bind(now_ms.saturating_add(order.payment_window_ms))
}

async fn insert_claims(
    mysql: &Mysql,
    shard: Shard,
    orders: &[&PlannedOrder],
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let mut claims: Vec<(&OrderRecord, u32)> = Vec::new();
    for order in orders {
        let units = order.claims.as_ref().map_or(&[][..], Vec::as_slice);
        claims.extend(units.iter().map(|unit| (&order.record, *unit)));
    }
    claims.sort_unstable_by(|(a, unit_a), (b, unit_b)| {
        (&a.sale_id, &a.user_id, unit_a).cmp(&(&b.sale_id, &b.user_id, unit_b))
    });
    let table = format!("{}.claims (sale_id, user_id, unit, order_id)", mysql.shard(shard));
    insert_rows(tx, &table, 4, &claims, |query, (record, unit)| {
        query
            .bind(record.sale_id.as_str().as_bytes())
            .bind(record.user_id.as_str().as_bytes())
            .bind(*unit)
            .bind(record.order_id.bytes().as_slice())
    })
    .await
}

/// Stock that Redis took for an order that holds none: rejected now, or known to be released.
async fn insert_owed(
    mysql: &Mysql,
    instance: Instance,
    plan: &Plan,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    let rejected = plan.orders.iter().filter(|order| order.claims.is_err()).map(|order| &order.record);
    let owed: Vec<&OrderRecord> = rejected.chain(&plan.owed).collect();
    let table =
        format!("{}.release_outbox (order_id, sale_id, sku_id, user_id, quantity)", mysql.control(instance));
    insert_rows(tx, &table, 5, &owed, |query, record| {
        query
            .bind(record.order_id.bytes().as_slice())
            .bind(record.sale_id.as_str().as_bytes())
            .bind(record.sku_id.as_str().as_bytes())
            .bind(record.user_id.as_str().as_bytes())
            .bind(record.quantity.units())
    })
    .await
}

/// Multi-row INSERT into `table (columns)`; `bind` adds one row's values, as many as `columns`.
async fn insert_rows<'a, T>(
    tx: &mut Transaction<'_, MySql>,
    table: &str,
    columns: usize,
    rows: &'a [T],
    bind: impl Fn(Bound<'a>, &'a T) -> Bound<'a>,
) -> StoreResult<()> {
    for run in runs(rows) {
        let text = format!("INSERT INTO {table} VALUES {}", placeholders(run.len(), columns));
        let query = run.iter().fold(sqlx::query(AssertSqlSafe(text)), &bind);
        query.execute(&mut **tx).await.map_err(|error| failed("insert batch", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_rows_in_powers_of_two() {
        let rows: Vec<usize> = (0..1300).collect();
        let sizes: Vec<usize> = runs(&rows).map(<[usize]>::len).collect();
        assert_eq!(sizes, [512, 512, 256, 16, 4]);
        assert_eq!(runs(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(runs::<usize>(&[]).count(), 0);
    }

    #[test]
    fn padding_asks_for_all_rows_and_for_no_others() {
        let rows: Vec<usize> = (0..1300).collect();
        let asked: Vec<(usize, Vec<usize>)> =
            padded(&rows).map(|(size, run)| (size, run.copied().collect())).collect();
        assert!(asked.iter().all(|(size, run)| run.len() == *size));
        assert_eq!(asked.iter().map(|(size, _)| *size).collect::<Vec<_>>(), [512, 512, 512]);
        let mut found: Vec<usize> = asked.into_iter().flat_map(|(_, run)| run).collect();
        found.dedup();
        assert_eq!(found, rows);
        assert_eq!(padded::<usize>(&[]).count(), 0);
    }
}
