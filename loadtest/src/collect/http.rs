//! Reads what shoppers read: a sample of orders, of lists, and of other people's orders.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::client::{Client, NoReply};
use crate::evidence::{HttpFacts, ListAnswer, OrderAnswer, OrderRow};
use crate::token::Mint;

/// The sizes of the samples. They are large enough to find a wrong answer, and small enough to be no load.
const ORDERS_MAX: usize = 40;
const LISTS_MAX: usize = 10;
const STRANGERS_MAX: usize = 5;
/// How long an answer waits for the decision, so that a pending mark in Redis does not hide the row.
const WAIT_S: u32 = 5;

#[derive(Deserialize)]
struct OrderBody {
    id: String,
    #[serde(default)]
    sku_id: String,
    #[serde(default)]
    quantity: i64,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct ListBody {
    orders: Vec<OrderBody>,
    next_cursor: Option<String>,
}

/// Reads a sample of the orders as their buyers would. `None` means that no server can be reached.
///
/// # Errors
/// When a token cannot be signed.
pub async fn read(client: &Client, mint: &Mint, rows: &[OrderRow]) -> anyhow::Result<Option<HttpFacts>> {
    if let Err(NoReply::NotSent(_)) = client.get("/api/v1/time", None).await.result {
        return Ok(None);
    }
    let mut facts = HttpFacts::default();
    for row in sample(rows, ORDERS_MAX) {
        facts.orders.push(order(client, mint, row).await?);
    }
    for row in sample(rows, STRANGERS_MAX) {
        let stranger = mint.bearer("audit-stranger")?;
        let reply = client.get(&format!("/api/v1/orders/{}", row.id), Some(&stranger)).await.result;
        facts.strangers.push((row.id, reply.map_or(0, |reply| reply.status)));
    }
    let users: BTreeSet<&str> = sample(rows, LISTS_MAX).map(|row| row.user.as_str()).collect();
    for user in users {
        facts.lists.push(list(client, mint, user).await?);
    }
    Ok(Some(facts))
}

/// Takes every n-th row, so that there are at most `most` of them.
fn sample(rows: &[OrderRow], most: usize) -> impl Iterator<Item = &OrderRow> {
    rows.iter().step_by(rows.len().div_ceil(most).max(1))
}

async fn order(client: &Client, mint: &Mint, row: &OrderRow) -> anyhow::Result<OrderAnswer> {
    let token = mint.bearer(&row.user)?;
    let path = format!("/api/v1/orders/{}?wait={WAIT_S}", row.id);
    let reply = client.get(&path, Some(&token)).await.result.ok();
    let body = reply.as_ref().and_then(|reply| serde_json::from_slice::<OrderBody>(&reply.body).ok());
    let body = body.filter(|body| body.id == row.id.to_string());
    Ok(OrderAnswer {
        order: row.id,
        http_status: reply.map_or(0, |reply| reply.status),
        status: body.as_ref().map_or_else(String::new, |body| body.status.clone()),
        sku: body.as_ref().map_or_else(String::new, |body| body.sku_id.clone()),
        quantity: body.map_or(0, |body| body.quantity),
    })
}

async fn list(client: &Client, mint: &Mint, user: &str) -> anyhow::Result<ListAnswer> {
    let token = mint.bearer(user)?;
    let reply = client.get("/api/v1/orders?limit=100", Some(&token)).await.result.ok();
    let body = reply.as_ref().and_then(|reply| serde_json::from_slice::<ListBody>(&reply.body).ok());
    Ok(ListAnswer {
        user: user.to_owned(),
        http_status: reply.map_or(0, |reply| reply.status),
        complete: body.as_ref().is_none_or(|body| body.next_cursor.is_none()),
        orders: body.map(|body| body.orders.into_iter().map(|order| order.id).collect()).unwrap_or_default(),
    })
}
