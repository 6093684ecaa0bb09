//! Reads the records of the order log, which are the same in Kafka and in a data folder.
//! Source: docs/protocol/steps.md, "Kafka".

use serde::Deserialize;

use crate::evidence::{LogRecord, RecordFacts};
use crate::ids::OrderId;

/// The versions of a record: of fronts and relays, and of an import.
const VERSIONS: [u32; 2] = [1, 2];

#[derive(Deserialize)]
struct Money {
    amount: i64,
    currency: String,
}

#[derive(Deserialize)]
struct Record {
    v: u32,
    order_id: OrderId,
    sale_id: String,
    sku_id: String,
    user_id: String,
    quantity: i64,
    unit_price: Money,
    reference: Option<String>,
    epoch: i64,
    accepted_ms: i64,
}

/// Reads a payload. `None` means that the record is of another sale. A payload that is no record is kept without an
/// order.
pub fn record(part: u16, offset: i64, payload: &[u8], sale: &str) -> Option<LogRecord> {
    let order = match serde_json::from_slice::<Record>(payload) {
        Ok(record) if VERSIONS.contains(&record.v) && record.sale_id != sale => return None,
        Ok(record) if VERSIONS.contains(&record.v) => Some(RecordFacts {
            id: record.order_id,
            sku: record.sku_id,
            user: record.user_id,
            quantity: record.quantity,
            unit_price: record.unit_price.amount,
            currency: record.unit_price.currency,
            reference: record.reference,
            epoch: record.epoch,
            accepted_ms: record.accepted_ms,
        }),
        _ => None,
    };
    Some(LogRecord { part, offset, order })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_other_sales_are_passed_over_and_garbage_is_kept() {
        let id = OrderId::derive(1, 676, "friday", "u-1", "k");
        let text = serde_json::json!({
            "v": 1, "order_id": id, "sale_id": "friday", "sku_id": "phone-x", "user_id": "u-1", "quantity": 1,
            "unit_price": { "amount": 100, "currency": "CNY" }, "epoch": 1, "accepted_ms": 5,
        })
        .to_string();
        let ours = record(3, 9, text.as_bytes(), "friday").expect("ours");
        assert_eq!(ours.order.expect("an order").id, id);
        assert!(record(3, 9, text.as_bytes(), "monday").is_none());
        assert!(record(3, 9, b"garbage", "friday").expect("kept").order.is_none());
    }
}
