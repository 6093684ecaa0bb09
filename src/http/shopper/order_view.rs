//! Orders as their buyers see them.

use std::ops::Not;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::payment_view::{PaymentView, payment_view};
use super::rfc3339;
use crate::chance::Chance;
use crate::domain::order::RejectReason;
use crate::domain::{Money, Order, OrderId, OrderState, Payment, Quantity, Reference, SaleId, SkuId};
use crate::http::Context;

/// Answers the address of an order.
pub fn link(order: OrderId) -> String {
    format!("/api/v1/orders/{order}")
}

/// An order as its buyer sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct View<'a> {
    /// The order.
    id: OrderId,
    /// Its sale.
    sale_id: &'a SaleId,
    /// Its SKU.
    sku_id: &'a SkuId,
    /// Its units.
    quantity: Quantity,
    /// How it stands.
    status: OrderState,
    /// Whether nothing will change it any more.
    r#final: bool,
    /// Whether a person has to act before it is decided.
    #[serde(skip_serializing_if = "Not::not")]
    delayed: bool,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The price of one unit.
    price: &'a Money,
    /// The shop's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Reference>,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    accepted_at: String,
    /// Until when it can be paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Option<String>,
    /// When to ask again, while it is not decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    poll_after_ms: Option<u64>,
    /// Where to go on.
    links: Links,
}

/// An order with its payments.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderWithPayments)]
pub struct Whole<'a> {
    #[serde(flatten)]
    order: View<'a>,
    /// The attempts to pay it, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    payments: Vec<PaymentView<'a>>,
}

impl<'a> Whole<'a> {
    /// Makes the view of an order with its payments.
    pub fn of(order: &'a Order, payments: &'a [Payment], context: &Context) -> Self {
        Self { order: view(order, context), payments: payments.iter().map(payment_view).collect() }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = OrderLinks)]
struct Links {
    /// The order.
    #[serde(rename = "self")]
    order: String,
    /// Its sale.
    sale: String,
}

/// Makes the order's view.
pub fn view<'a>(order: &'a Order, context: &Context) -> View<'a> {
    let poll_after_ms = || with_jitter(context.shop.poll_after_ms(order));
    View { poll_after_ms: order.state.is_pending().then(poll_after_ms), ..decided_view(order) }
}

/// Writes what a stream tells of an order that is decided: its view.
pub fn order_text(order: &Order) -> Arc<str> {
    serde_json::to_string(&decided_view(order)).expect("a view always serialises").into()
}

/// Makes the view of an order that nobody has to ask for again.
fn decided_view(order: &Order) -> View<'_> {
    let expires_ms = order.expires_ms.filter(|_| !order.state.is_final());
    View {
        id: order.id,
        sale_id: &order.sale,
        sku_id: &order.sku,
        quantity: order.quantity,
        status: order.state,
        r#final: order.state.is_final(),
        delayed: order.is_delayed,
        reason: order.reason.map(RejectReason::as_str),
        price: &order.unit_price,
        reference: order.reference.as_ref(),
        accepted_at: rfc3339(order.accepted_ms),
        expires_at: expires_ms.map(rfc3339),
        poll_after_ms: None,
        links: Links { order: link(order.id), sale: format!("/api/v1/sales/{}", order.sale) },
    }
}

/// Adds up to a tenth at random, so that a crowd does not come again at once.
pub fn with_jitter(ms: u64) -> u64 {
    Chance::System.with_jitter(ms)
}
