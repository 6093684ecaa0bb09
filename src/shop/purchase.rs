//! One purchase and its answer.

use std::net::IpAddr;

use crate::domain::purchase_token::TokenFault;
use crate::domain::{
    DeviceId, IdempotencyKey, NodeMark, Order, OrderId, OrderRecord, OrderState, Quantity, Reference, Sale,
    SaleId, SkuId, UserId,
};
use crate::memory::rulebook::{Refused, Standing};

/// One purchase, as a shopper asks for it.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// The buyer, from the verified token and never from the request's body (I6).
    pub user: UserId,
    /// The buyer's device, when the token or the request names one.
    pub device: Option<DeviceId>,
    /// Whether it is the token that names it. A client may write anything into a request.
    pub is_device_proven: bool,
    /// The address that the request came from, as far as our own proxies say.
    pub address: IpAddr,
    /// The sale of the request's path.
    pub sale: SaleId,
    /// What is wanted.
    pub sku: SkuId,
    /// How many units of it are wanted.
    pub quantity: Quantity,
    /// The shop's own name for the order.
    pub reference: Option<Reference>,
    /// The buyer's purchase token.
    pub token: Option<String>,
    /// The client's name for this purchase. The same key of the same buyer and sale is the same order.
    pub key: IdempotencyKey,
    /// Whether its client waits for its row.
    pub waits: bool,
}

impl Purchase {
    /// Answers the buyer's device, when the token names it.
    pub fn proven_device(&self) -> Option<&DeviceId> {
        self.device.as_ref().filter(|_| self.is_device_proven)
    }

    /// Makes the record of the purchase, which a process accepts; `None` when the sale has no such item.
    pub fn record(
        &self,
        sale: &Sale,
        (order_id, node): (OrderId, NodeMark),
        now_ms: i64,
    ) -> Option<OrderRecord> {
        Some(OrderRecord {
            v: OrderRecord::VERSION,
            order_id,
            sale_id: sale.id.clone(),
            sku_id: self.sku.clone(),
            user_id: self.user.clone(),
            quantity: self.quantity,
            unit_price: sale.item(&self.sku)?.price.clone(),
            reference: self.reference.clone(),
            epoch: sale.epoch,
            accepted_ms: now_ms,
            awaited: self.waits,
            node: Some(node),
            trace: None,
            decided: None,
        })
    }
}

/// An order that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The order as it is now.
    pub order: Order,
    /// Whether an earlier request made it.
    pub replayed: bool,
    /// How much is left of the buyer's scarcest limit.
    pub standing: Option<Standing>,
}

/// Why a purchase was not accepted. All but the last four are decisions of the shop. The last four are failures, which
/// say whether something may have been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such sale, or it is a draft.
    UnknownSale,
    /// The sale has no such item.
    UnknownSku,
    /// The sale opens later.
    NotStarted {
        /// The opening, ms since 1970.
        starts_ms: i64,
    },
    /// The sale should sell now, and its stock is not in place yet.
    Delayed,
    /// An operator has paused the sale.
    Paused,
    /// The sale is over.
    Ended,
    /// The sale requires a purchase token, and there is none.
    TokenRequired,
    /// The purchase token does not serve.
    TokenInvalid(TokenFault),
    /// No unit is left.
    SoldOut,
    /// Fewer units are left than were asked for.
    FewerLeft {
        /// How many are left, but never more than a buyer may ask for without learning the stock: the limit less one.
        left: u32,
    },
    /// The buyer may not hold so many units.
    LimitReached {
        /// Units that the buyer holds.
        held: u32,
        /// Units that a buyer may hold.
        limit: u32,
    },
    /// The buyer has let too many orders of the sale expire, or has given up too many.
    TooManyUnpaid {
        /// How many.
        unpaid: u32,
    },
    /// The key was used with another body.
    KeyReused,
    /// A rule of traffic refuses it.
    Ruled(Refused),
    /// Nothing was taken: too many purchases are in flight.
    Overloaded,
    /// Nothing was taken: a component did not do its part.
    Unavailable,
    /// Nothing was taken: this process drains.
    Draining,
    /// Something may have been taken. The client asks again with the same key.
    OutcomeUnknown,
}

impl Accepted {
    /// Makes the answer of an order that stands.
    pub fn new(order: Order, replayed: bool) -> Self {
        Self { order, replayed, standing: None }
    }

    /// Answers the word of `seckill_admission_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self { replayed: true, .. } => "replayed",
            Self { order, .. } if order.state == OrderState::Reserved => "reserved",
            _ => "queued",
        }
    }
}

impl Refusal {
    /// Answers the word of `seckill_admission_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::UnknownSale => "unknown_sale",
            Self::UnknownSku => "unknown_sku",
            Self::NotStarted { .. } => "not_started",
            Self::Delayed => "delayed",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::TokenRequired => "token_required",
            Self::TokenInvalid(_) => "token_invalid",
            Self::SoldOut => "sold_out",
            Self::FewerLeft { .. } => "fewer_left",
            Self::LimitReached { .. } => "limit_reached",
            Self::TooManyUnpaid { .. } => "too_many_unpaid",
            Self::KeyReused => "key_reused",
            Self::Ruled(Refused::TooFast { .. }) => "throttled",
            Self::Ruled(Refused::Blocked(_)) => "blocked",
            Self::Ruled(Refused::SwitchedOff(_)) => "switched_off",
            Self::Ruled(Refused::NotRead) => "unavailable",
            Self::Overloaded | Self::Draining => "overloaded",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }
}
