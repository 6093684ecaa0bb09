//! What the inventory answers to a reservation, and how an order's hold is written there.

use super::ids::{OrderId, SaleId, SkuId, UserId};
use super::money::Quantity;
use super::order::OrderState;
use super::record::OrderRecord;
use super::sale::Sale;
use sha2::{Digest, Sha256};

/// One waiting purchase, as handed to the inventory.
#[derive(Debug, Clone)]
pub struct ReserveRequest {
    pub record: OrderRecord,
    pub fingerprint: Fingerprint,
}

/// 16 hexadecimal digits over what a purchase's body asks for; equal for equal bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    pub fn of(sku: &SkuId, quantity: Quantity) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::new()
            .chain_update(sku.as_str())
            .chain_update(b"\0")
            .chain_update(quantity.units().to_be_bytes())
            .finalize();
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest.iter()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// As it is stored; `None` unless it has 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 16] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

/// The inventory's answer to one reservation. All are normal answers; none is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Held now. `outbox_entry` names the entry of this order and of all others that the same call accepted: it
    /// may go once the order log has every one of them.
    Reserved {
        outbox_entry: OutboxEntryId,
    },
    /// The same order was held before, with the same body.
    Replayed(Reservation),
    /// The same key was used with another body.
    KeyReused,
    LimitReached {
        held: u32,
    },
    /// `orders_seen` counts all orders ever held in the bucket: while it stays the same, the set of winners does.
    SoldOut {
        available: u32,
        orders_seen: u64,
    },
    NotStarted,
    Paused,
    Ended,
    /// The bucket lives in another epoch than the caller's snapshot of the sale.
    StaleEpoch,
    /// No gate, or its lease lapsed: nothing may be sold until it is rebuilt.
    GateShut,
    UnknownSku,
}

/// An order's hold, as it stands in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub id: OrderId,
    pub sale: SaleId,
    pub state: OrderState,
    pub sku: SkuId,
    pub user: UserId,
    pub quantity: Quantity,
    pub reserved_ms: i64,
}

impl Reservation {
    /// The record that the order log gets from whoever did not see the purchase itself. `None` when the sale has
    /// no such item.
    pub fn record(&self, sale: &Sale, epoch: u32) -> Option<OrderRecord> {
        Some(OrderRecord {
            v: OrderRecord::VERSION,
            order_id: self.id,
            sale_id: sale.id.clone(),
            sku_id: self.sku.clone(),
            user_id: self.user.clone(),
            quantity: self.quantity,
            unit_price: sale.item(&self.sku)?.price.clone(),
            epoch,
            accepted_ms: self.reserved_ms,
            decided: None,
        })
    }
}

/// A Redis stream id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutboxEntryId(pub String);

/// What one reserve call accepted and the order log may not have yet. With its sale, whose items do not change
/// any more, a waiting order's hold is its order record.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    pub id: OutboxEntryId,
    pub epoch: u32,
    /// When it was reserved by Redis TIME, ms since 1970.
    pub reserved_ms: i64,
    /// Its orders that nobody has acknowledged. Empty where whoever acknowledged the last one could not remove the
    /// entry.
    pub waiting: Vec<Reservation>,
}
