//! Reserves units in one transaction. It reads the slice of a bucket that a batch touches, decides by the same rules
//! that the scripts of the distributed mode are tested against, and writes the slice back.
//!
//! A reservation's order-log record is a row of that transaction. So there is no outbox, and an order that is reserved
//! is also queued.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_order_log::{Ends, append};
use super::sqlite_rows::{column, failed, insert, number, observed, parsed, reference};
use crate::domain::inventory_model::{Bucket, Gate, GateState, Hold, Terms};
use crate::domain::reservation::{
    Denial, Fingerprint, Release, ReleaseRequest, Released, Reservation, ReserveRequest, Verdict,
};
use crate::domain::{
    BucketId, Decision, OrderId, OrderRecord, OrderState, Part, Quantity, Reference, SaleId, ShardMap, SkuId,
    UserId,
};
use crate::ports::{Inventory, StoreResult};

/// Reads reservations with the state of their order. An order without a row waits in the log, so it is `queued`.
const HOLDS: &str = "SELECT r.order_id, r.sale_id, r.sku_id, r.user_id, r.quantity, r.fingerprint, r.reserved_ms, r.reference, \
     COALESCE(o.state, 'queued') AS state \
     FROM reservations r LEFT JOIN orders o ON o.order_id = r.order_id \
     WHERE r.order_id IN (SELECT value FROM json_each(?))";
const GATE: &str = "SELECT epoch, state, version, opens_ms, closes_ms, buyer_limit, unpaid_max, orders_made FROM gates \
     WHERE sale_id = ? AND bucket = ?";
const STOCK: &str = "SELECT sku_id, available FROM stock WHERE sale_id = ? AND bucket = ? \
     AND sku_id IN (SELECT value FROM json_each(?))";
const BUYERS: &str = "SELECT user_id, units, unpaid FROM buyers WHERE sale_id = ? AND bucket = ? \
     AND user_id IN (SELECT value FROM json_each(?))";
const RESERVATIONS: &str = "reservations (order_id, sale_id, bucket, sku_id, user_id, quantity, fingerprint, reserved_ms, reference)";
const BUYERS_NOW: &str = "buyers (sale_id, bucket, user_id, units)";
const OR_REPLACE_UNITS: &str = "ON CONFLICT (sale_id, bucket, user_id) DO UPDATE SET units = excluded.units";
const SET_STOCK: &str = "UPDATE stock SET available = ? WHERE sale_id = ? AND bucket = ? AND sku_id = ?";
const COUNT_ORDERS: &str = "UPDATE gates SET orders_made = orders_made + ? WHERE sale_id = ? AND bucket = ?";

/// Serves the inventory from the database.
pub struct SqliteInventory {
    /// The database.
    pub sqlite: Arc<Sqlite>,
    /// The ends of the order log, which every reservation moves.
    pub ends: Arc<Ends>,
}

/// The new end of the log in each partition that a call appended to.
type Appended = BTreeMap<Part, i64>;

#[async_trait]
impl Inventory for SqliteInventory {
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>> {
        let (bucket, time, map) = (bucket.clone(), self.sqlite.time.clone(), self.sqlite.map);
        let work = async move |connection: &mut SqliteConnection| {
            reserve(connection, &bucket, &batch, time.now_ms(), map).await
        };
        let (verdicts, appended) =
            observed(&self.sqlite.clock, "reserve", self.sqlite.writer.write("reserve", work)).await?;
        self.ends.advance(&appended);
        Ok(verdicts)
    }

    /// Finds the order by its id. Of `buckets` only the sales count.
    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>> {
        let ids = json!([order]).to_string();
        let row = sqlx::query(HOLDS).bind(ids).fetch_optional(self.sqlite.readers()).await;
        let row = row.map_err(|error| failed("read reservation", error))?;
        let Some((_, held)) = row.as_ref().map(hold).transpose()? else {
            return Ok(None);
        };
        Ok(Some(held).filter(|held| buckets.iter().any(|bucket| bucket.sale == held.sale)))
    }

    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>> {
        let rows = sqlx::query("SELECT user_id FROM buyers WHERE sale_id = ? AND bucket = ?")
            .bind(bucket.sale.as_str())
            .bind(bucket.bucket)
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read winners", error))?;
        rows.iter().map(|row| parsed(row, "user_id", UserId::parse)).collect()
    }

    /// Does nothing, because an order's row is its reservation's state.
    async fn mark_decided(&self, _: &BucketId, _: &[Decision]) -> StoreResult<()> {
        Ok(())
    }

    /// Does nothing, because units go back on sale with the decision that frees them.
    async fn release(&self, _: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released> {
        Ok(Released::Each(vec![Release::Nothing; orders.len()]))
    }
}

async fn reserve(
    connection: &mut SqliteConnection,
    bucket: &BucketId,
    batch: &[ReserveRequest],
    now_ms: i64,
    map: ShardMap,
) -> StoreResult<(Vec<Verdict>, Appended)> {
    let (mut slice, orders_made) = read_slice(connection, bucket, batch).await?;
    let before = slice.clone();
    let mut verdicts = slice.reserve_in_slice(batch, now_ms);
    // The slice knows only the orders of this batch, so the bucket's other orders are added to what it has seen.
    let unseen = orders_made.saturating_sub(u64::try_from(before.orders.len()).unwrap_or(0));
    for verdict in &mut verdicts {
        match verdict {
            Verdict::Denied(Denial::SoldOut { orders_seen, .. }) => *orders_seen += unseen,
            // The same order came twice in one batch. It is in the log when this is answered.
            Verdict::Replayed(held) if held.state == OrderState::Reserved => held.state = OrderState::Queued,
            _ => {}
        }
    }
    let taken: Vec<&ReserveRequest> = batch
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| matches!(verdict, Verdict::Reserved { .. }))
        .map(|(request, _)| request)
        .collect();
    if taken.is_empty() {
        return Ok((verdicts, Appended::new()));
    }
    write_slice(connection, bucket, &taken, (&before, &slice), now_ms).await?;
    // One clock says when an order was accepted, and the bucket says in which epoch.
    let epoch = slice.gate.as_ref().map_or(0, |gate| gate.epoch);
    let accepted =
        |request: &&ReserveRequest| OrderRecord { accepted_ms: now_ms, epoch, ..request.record.clone() };
    let records: Vec<OrderRecord> = taken.iter().map(accepted).collect();
    let appended = append(connection, records.iter(), map).await?;
    Ok((verdicts, appended))
}

/// Reads the gate, and what the batch names of stock, buyers and orders. Answers also how many orders the bucket ever
/// held.
async fn read_slice(
    connection: &mut SqliteConnection,
    bucket: &BucketId,
    batch: &[ReserveRequest],
) -> StoreResult<(Bucket, u64)> {
    let context = "read bucket";
    let fault = |error| failed(context, error);
    let mut slice = Bucket::default();
    let ids: Vec<OrderId> = batch.iter().map(|request| request.record.order_id).collect();
    let rows = sqlx::query(HOLDS).bind(json!(ids).to_string()).fetch_all(&mut *connection).await;
    for row in rows.map_err(fault)? {
        let (fingerprint, held) = hold(&row)?;
        let Reservation { id, state, sku, user, quantity, reserved_ms, reference, .. } = held;
        let is_released = state.holds_nothing();
        let held = Hold { state, fingerprint, quantity, reserved_ms, sku, user, reference, is_released };
        slice.orders.insert(id, held);
    }
    let sale = bucket.sale.as_str();
    let row = sqlx::query(GATE).bind(sale).bind(bucket.bucket).fetch_optional(&mut *connection).await;
    let Some(row) = row.map_err(fault)? else {
        return Ok((slice, 0));
    };
    slice.gate = Some(gate(&row)?);
    let skus: BTreeSet<&str> = batch.iter().map(|request| request.record.sku_id.as_str()).collect();
    let query = sqlx::query(STOCK).bind(sale).bind(bucket.bucket).bind(json!(skus).to_string());
    for row in query.fetch_all(&mut *connection).await.map_err(fault)? {
        slice.stock.insert(parsed(&row, "sku_id", SkuId::parse)?, number(&row, "available")?);
    }
    let users: BTreeSet<&str> = batch.iter().map(|request| request.record.user_id.as_str()).collect();
    let query = sqlx::query(BUYERS).bind(sale).bind(bucket.bucket).bind(json!(users).to_string());
    for row in query.fetch_all(&mut *connection).await.map_err(fault)? {
        let (user, unpaid) = (parsed(&row, "user_id", UserId::parse)?, number(&row, "unpaid")?);
        slice.buyers.insert(user.clone(), number(&row, "units")?);
        slice.unpaid.insert(user, unpaid);
    }
    Ok((slice, number(&row, "orders_made")?))
}

fn gate(row: &SqliteRow) -> StoreResult<Gate> {
    let state = match column::<&str>(row, "state")? {
        "placing" => GateState::Placing,
        "open" => GateState::Open,
        "paused" => GateState::Paused,
        "ended" => GateState::Ended,
        _ => GateState::Unknown,
    };
    let version: Option<i64> = column(row, "version")?;
    let terms = Terms {
        opens_ms: column(row, "opens_ms")?,
        closes_ms: column(row, "closes_ms")?,
        buyer_limit: number(row, "buyer_limit")?,
        unpaid_max: number(row, "unpaid_max")?,
        // No lease is needed: one process has the folder, so no other one could go on selling.
        lease_ms: 0,
    };
    let version = version.and_then(|version| u64::try_from(version).ok());
    // A slice has few of the bucket's rows, and rows do not vanish one table at a time.
    let (sold, given_up, lost) = (false, false, false);
    Ok(Gate {
        epoch: number(row, "epoch")?,
        state,
        version,
        terms: Some(terms),
        sold,
        given_up,
        lost,
        is_on_its_run: true,
    })
}

fn hold(row: &SqliteRow) -> StoreResult<(Fingerprint, Reservation)> {
    let damaged = |what: &str| broken("read reservation", format!("{what} is damaged"));
    let fingerprint =
        Fingerprint::parse(column(row, "fingerprint")?).ok_or_else(|| damaged("fingerprint"))?;
    let held = Reservation {
        id: parsed(row, "order_id", OrderId::parse)?,
        sale: parsed(row, "sale_id", SaleId::parse)?,
        state: OrderState::parse(column(row, "state")?).ok_or_else(|| damaged("state"))?,
        sku: parsed(row, "sku_id", SkuId::parse)?,
        user: parsed(row, "user_id", UserId::parse)?,
        quantity: Quantity::new(number(row, "quantity")?).map_err(|_| damaged("quantity"))?,
        reserved_ms: column(row, "reserved_ms")?,
        reference: reference(row)?,
    };
    Ok((fingerprint, held))
}

async fn write_slice(
    connection: &mut SqliteConnection,
    bucket: &BucketId,
    taken: &[&ReserveRequest],
    (before, after): (&Bucket, &Bucket),
    now_ms: i64,
) -> StoreResult<()> {
    let fault = |error| failed("write bucket", error);
    let sale = bucket.sale.as_str();
    insert(connection, (RESERVATIONS, 9, ""), taken, |query, request| {
        let record = &request.record;
        query
            .bind(record.order_id.to_string())
            .bind(sale)
            .bind(bucket.bucket)
            .bind(record.sku_id.as_str())
            .bind(record.user_id.as_str())
            .bind(record.quantity.units())
            .bind(request.fingerprint.as_str())
            .bind(now_ms)
            .bind(record.reference.as_ref().map(Reference::as_str))
    })
    .await?;
    let buyers: Vec<_> =
        after.buyers.iter().filter(|(user, units)| before.buyers.get(*user) != Some(*units)).collect();
    insert(connection, (BUYERS_NOW, 4, OR_REPLACE_UNITS), &buyers, |query, (user, units)| {
        query.bind(sale).bind(bucket.bucket).bind(user.as_str()).bind(**units)
    })
    .await?;
    for (sku, units) in after.stock.iter().filter(|(sku, units)| before.stock.get(*sku) != Some(*units)) {
        let query = sqlx::query(SET_STOCK).bind(units).bind(sale).bind(bucket.bucket).bind(sku.as_str());
        query.execute(&mut *connection).await.map_err(fault)?;
    }
    let count = i64::try_from(taken.len()).unwrap_or(i64::MAX);
    let query = sqlx::query(COUNT_ORDERS).bind(count).bind(sale).bind(bucket.bucket);
    query.execute(connection).await.map(drop).map_err(fault)
}
