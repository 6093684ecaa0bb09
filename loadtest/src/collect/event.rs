//! Reads the payload of a row of events: steps, and what all of them have in common.

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::evidence::EventRow;
use crate::ids::OrderId;

#[derive(Deserialize)]
struct Payload {
    common: Map<String, Value>,
    moves: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Step {
    order_id: String,
    sale_id: String,
    sku_id: String,
    user_id: String,
    quantity: i64,
    unit_price: Price,
    reference: Option<String>,
    kind: String,
    from: String,
    to: String,
    reason: Option<String>,
    at_ms: Option<i64>,
}

#[derive(Deserialize)]
struct Price {
    amount: i64,
    currency: String,
}

/// Reads the events of a row that are of the sale.
///
/// # Errors
/// When the payload is not as many events as the row says.
pub fn events(
    part: u16,
    (first_number, events): (i64, i64),
    at_ms: i64,
    (payload, sale): (&[u8], &str),
) -> anyhow::Result<Vec<EventRow>> {
    let form = "an event's row is not JSON of this form";
    let payload: Payload = serde_json::from_slice(payload).context(form)?;
    let step = |mut own: Map<String, Value>| {
        own.extend(payload.common.clone());
        serde_json::from_value(own.into()).context(form)
    };
    let steps: Vec<Step> = payload.moves.into_iter().map(step).collect::<anyhow::Result<_>>()?;
    ensure!(i64::try_from(steps.len()) == Ok(events), "{} events stand where {events} should", steps.len());
    let of_sale = (first_number..).zip(steps).filter(|(_, step)| step.sale_id == sale);
    of_sale
        .map(|(number, step)| {
            let order = OrderId::parse(&step.order_id);
            Ok(EventRow {
                part,
                number,
                order: order.with_context(|| format!("{:?} is not an order id", step.order_id))?,
                kind: step.kind,
                from: step.from,
                to: step.to,
                reason: step.reason,
                sku: step.sku_id,
                user: step.user_id,
                quantity: step.quantity,
                unit_price: step.unit_price.amount,
                currency: step.unit_price.currency,
                reference: step.reference,
                at_ms: step.at_ms.unwrap_or(at_ms),
            })
        })
        .collect()
}
