//! Reads the rows that a batch needs to decide, and writes the rows of its plan.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_journal::{MOVE_COLUMNS, push_move};
use super::mysql_releases::{self, Owing};
use super::mysql_text::{ROWS_MAX, insert_rows, list, push_all, push_bytes, push_insert, set_now};
use crate::domain::batch_plan::{Debt, Known, LogBatch, Plan, PlannedOrder};
use crate::domain::exported::OrderNodes;
use crate::domain::reservation::ReleaseRequest;
use crate::domain::{
    Instance, LogId, Month, NodeMark, OrderId, OrderRecord, OrderState, SaleId, Sales, Shard, UserId,
};
use crate::ports::{StoreError, StoreResult};

/// Most bytes of statements that are sent together, far below every server's packet limit.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes that are kept of a dead letter's payload. Its place in the log is kept too, so nothing is lost. 500 whole
/// records of a megabyte would exceed every server's packet limit.
const DEAD_LETTER_BYTES_MAX: usize = 16 * 1024;

/// Reads for steps 9 and 11 which of the batch's orders exist, and which units their buyers hold.
///
/// # Errors
/// When a row cannot be read or is not ours.
pub async fn known(
    mysql: &Mysql,
    batch: &LogBatch,
    sales: &Sales,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<Known> {
    let mut ids: BTreeMap<(Shard, Month), Vec<OrderId>> = BTreeMap::new();
    let mut buyers: BTreeMap<(Shard, SaleId), Vec<UserId>> = BTreeMap::new();
    for record in batch.records.iter().filter_map(|r| r.order.as_ref().ok()) {
        let Some(sale) = sales.get(&record.sale_id) else {
            continue;
        };
        let shard = record.order_id.shard();
        // A record in the wrong place becomes a dead letter. It must not lead a query to a foreign shard.
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
    for run in ids.chunks(ROWS_MAX) {
        let ids = list(run.iter().map(|id| id.bytes().as_slice()));
        let text = format!("SELECT order_id, state FROM {{shard}}.orders_{{yyyymm}} WHERE order_id IN {ids}");
        let rows = sqlx::raw_sql(mysql.shard_sql(shard, month, &text)).fetch_all(&mut **tx).await;
        for row in rows.map_err(|error| failed(context, error))? {
            let id: Vec<u8> = row.try_get(0).map_err(|error| failed(context, error))?;
            let state: String = row.try_get(1).map_err(|error| failed(context, error))?;
            let id =
                OrderId::from_bytes(&id).map_err(|error| StoreError::broken(context, error.to_string()))?;
            known.orders.insert(id, OrderState::parse(&state));
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
    for run in users.chunks(ROWS_MAX) {
        let users = list(run.iter().map(|user| user.as_str().as_bytes()));
        let mut text = format!(
            "SELECT user_id, unit FROM {}.claims WHERE user_id IN {users} AND sale_id = ",
            mysql.shard(shard)
        );
        push_bytes(&mut text, sale.as_str().as_bytes());
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **tx).await;
        for row in rows.map_err(|error| failed(context, error))? {
            let user: Vec<u8> = row.try_get(0).map_err(|error| failed(context, error))?;
            let unit: i32 = row.try_get(1).map_err(|error| failed(context, error))?;
            let user = std::str::from_utf8(&user).ok().and_then(|user| UserId::parse(user).ok());
            let user = user.ok_or_else(|| StoreError::broken(context, "a user id that is not ours"))?;
            let unit = u32::try_from(unit).map_err(|error| StoreError::broken(context, error.to_string()))?;
            known.claims.entry((sale.clone(), user)).or_default().insert(unit);
        }
    }
    Ok(())
}

/// Does steps 10 and 12: inserts everything that the plan holds, in key order. Answers `false` when an order or a claim
/// is there already. Then nothing of the transaction may stand.
///
/// # Errors
/// When a statement fails for any other reason.
pub async fn insert(
    mysql: &Mysql,
    instance: Instance,
    batch: &LogBatch,
    plan: &Plan,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<bool> {
    let mut tables: BTreeMap<(Shard, Month), Vec<&PlannedOrder>> = BTreeMap::new();
    for order in &plan.orders {
        let id = order.record.order_id;
        tables.entry((id.shard(), id.month())).or_default().push(order);
    }
    let mut statements = vec![set_now()];
    for ((shard, month), orders) in &mut tables {
        orders.sort_unstable_by_key(|order| order.record.order_id);
        let table = format!("{}.orders_{}", mysql.shard(*shard), month.yyyymm());
        let columns = format!("{table} ({ORDER_COLUMNS})");
        push_insert(&mut statements, &columns, orders, |text, order| {
            push_order(text, order, mysql.node.mark())
        });
        push_claims(&mut statements, mysql, *shard, orders);
        let moves = format!("{}.order_moves ({MOVE_COLUMNS})", mysql.shard(*shard));
        let steps: Vec<_> = orders.iter().flat_map(|order| order.noted_moves()).collect();
        push_insert(&mut statements, &moves, &steps, |text, step| push_move(text, step, mysql.node.mark()));
    }
    if !execute_all(tx, &statements).await? {
        return Ok(false);
    }
    let debts: Vec<Debt> = plan.owed().collect();
    let owed = debts.iter().map(|Debt { record, decision, restock }| Owing {
        sale: &record.sale_id,
        sku: &record.sku_id,
        user: &record.user_id,
        quantity: record.quantity,
        release: ReleaseRequest { decision: *decision, restock: *restock },
    });
    mysql_releases::owe(mysql, instance, &owed.collect::<Vec<_>>(), tx).await?;
    let letters = format!(
        "{}.dead_letters (topic, log_id, part, log_offset, order_id, reason, payload)",
        mysql.control(instance)
    );
    // A position that an operator moved back brings a dead letter again, and the first one stays.
    insert_rows(
        tx,
        (&letters, 7, "ON DUPLICATE KEY UPDATE id = id"),
        &plan.dead_letters,
        |query, (record, poison)| {
            query
                .bind(&mysql.topic)
                .bind(LogId::stored(Some(batch.log)).to_vec())
                .bind(batch.part.number())
                .bind(record.offset)
                .bind(OrderRecord::order_named(&record.payload).map(|order| order.bytes().to_vec()))
                .bind(poison.as_str())
                .bind(&record.payload[..record.payload.len().min(DEAD_LETTER_BYTES_MAX)])
        },
    )
    .await?;
    Ok(true)
}

const ORDER_COLUMNS: &str = "order_id, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason, \
                             epoch, accepted_ms, created_ms, expires_ms, reference, nodes";

/// Answers the texts of when an order's row is made and when its payment is due. The server's clock says when, because
/// it also says when the order expires.
fn times(order: &PlannedOrder) -> (String, String) {
    match &order.record.decided {
        Some(decided) => (decided.created_ms.to_string(), decided.expires_ms.to_string()),
        None => ("@now_ms".to_owned(), format!("@now_ms+{}", order.payment_window_ms)),
    }
}

fn push_order(text: &mut String, order: &PlannedOrder, writer: NodeMark) {
    let record = &order.record;
    push_bytes(text, record.order_id.bytes());
    for id in [record.sale_id.as_str(), record.sku_id.as_str(), record.user_id.as_str()] {
        text.push(',');
        push_bytes(text, id.as_bytes());
    }
    push_all(text, format_args!(",{},{},", record.quantity.units(), record.unit_price.amount()));
    push_bytes(text, record.unit_price.currency().as_bytes());
    let reason = match order.reason() {
        None => "NULL".to_owned(),
        Some(reason) => format!("'{}'", reason.as_str()),
    };
    let (created_ms, expires_ms) = times(order);
    let (epoch, accepted_ms) = (record.epoch, record.accepted_ms);
    push_all(
        text,
        format_args!(
            ",'{}',{reason},{epoch},{accepted_ms},{created_ms},{expires_ms},",
            order.state().as_str()
        ),
    );
    match &record.reference {
        Some(reference) => push_bytes(text, reference.as_str().as_bytes()),
        None => text.push_str("NULL"),
    }
    text.push(',');
    match record.decided {
        Some(_) => text.push_str("NULL"),
        None => push_bytes(text, &OrderNodes { accepted: record.node, written: Some(writer) }.bytes()),
    }
}

fn push_claims(statements: &mut Vec<String>, mysql: &Mysql, shard: Shard, orders: &[&PlannedOrder]) {
    let mut claims: Vec<(&OrderRecord, u32)> = Vec::new();
    for order in orders {
        claims.extend(order.claims().iter().map(|unit| (&order.record, *unit)));
    }
    claims.sort_unstable_by(|(a, unit_a), (b, unit_b)| {
        (&a.sale_id, &a.user_id, unit_a).cmp(&(&b.sale_id, &b.user_id, unit_b))
    });
    let table = format!("{}.claims (sale_id, user_id, unit, order_id)", mysql.shard(shard));
    push_insert(statements, &table, &claims, |text, (record, unit)| {
        push_bytes(text, record.sale_id.as_str().as_bytes());
        text.push(',');
        push_bytes(text, record.user_id.as_str().as_bytes());
        push_all(text, format_args!(",{unit},"));
        push_bytes(text, record.order_id.bytes());
    });
}

/// Executes statements in their order, some together: each that is sent alone costs a round trip, which is as much as
/// some ten rows. Answers `false` when a key is there already, and then the statements behind it were not executed.
async fn execute_all(tx: &mut Transaction<'_, MySql>, statements: &[String]) -> StoreResult<bool> {
    let mut texts: Vec<String> = Vec::new();
    for statement in statements {
        match texts.last_mut().filter(|text| text.len() + statement.len() <= TEXT_BYTES_MAX) {
            Some(text) => text.push_str(statement),
            None => texts.push(statement.clone()),
        }
    }
    for text in texts {
        match sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **tx).await {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(false),
            Err(error) => return Err(failed("insert batch", error)),
        }
    }
    Ok(true)
}
