//! What the inventory is asked and answers about a reservation, and what it keeps: holds and outbox entries.

use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::Quantity;
use super::order::Decision;
use super::order_id::OrderId;
use super::order_life::OrderState;
use super::record::OrderRecord;
use super::sale::Sale;
use sha2::{Digest, Sha256};

/// One waiting purchase, as the shop hands it to the inventory.
#[derive(Debug, Clone)]
pub struct ReserveRequest {
    /// The record of the order that it becomes when it is accepted.
    pub record: OrderRecord,
    /// The fingerprint of what its body asks for.
    pub fingerprint: Fingerprint,
}

/// 16 hexadecimal digits over what a purchase's body asks for. Bodies that ask for the same have the same digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Makes the fingerprint: the first 8 bytes of SHA-256 over SKU, a zero byte, quantity (4 bytes, big-endian) and
    /// the reference, if there is one.
    pub fn of(sku: &SkuId, quantity: Quantity, reference: Option<&Reference>) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::new()
            .chain_update(sku.as_str())
            .chain_update(b"\0")
            .chain_update(quantity.units().to_be_bytes())
            .chain_update(reference.map_or("", Reference::as_str))
            .finalize();
        let mut text = [0; 16];
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest.iter()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// Reads a stored fingerprint; `None` unless the text is 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 16] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    /// Answers the 16 digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

/// The inventory's answer to one reservation. Every one is a normal answer, and none is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The order is held now. It shares its outbox entry with all other orders that the same call accepted. The entry
    /// may be removed once the order log has every one of them.
    Reserved {
        /// The entry's id.
        outbox_entry: OutboxEntryId,
        /// When the order was accepted, by the inventory's clock, ms since 1970.
        reserved_ms: i64,
        /// The bucket's epoch, which the order's record says.
        epoch: u32,
    },
    /// The order was held before, for the same body.
    Replayed(Reservation),
    /// Nothing is held, and why.
    Denied(Denial),
}

/// Why the inventory holds nothing for a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The same key was used with another body.
    KeyReused,
    /// The buyer may not hold so many units.
    LimitReached {
        /// Units that the buyer holds in this bucket.
        held: u32,
    },
    /// The buyer has let too many orders expire, or has given up too many.
    TooManyUnpaid {
        /// How many.
        unpaid: u32,
    },
    /// There are fewer units than were asked for.
    SoldOut {
        /// Units that are left in this bucket.
        available: u32,
        /// Number of all orders ever held in the bucket. While it stays the same, so does the set of winners.
        orders_seen: u64,
    },
    /// The gate opens later.
    NotStarted,
    /// An operator has paused the sale.
    Paused,
    /// The sale is over.
    Ended,
    /// There is no gate, it cannot be read or does not sell yet, or its lease is over.
    GateShut,
    /// Keys of the bucket are missing, so that nobody knows who holds what. It sells nothing until it is rebuilt.
    KeysLost,
    /// The bucket has no such SKU.
    UnknownSku,
}

impl Denial {
    /// Answers whether the same purchase will be denied ever after.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::KeyReused | Self::Ended | Self::UnknownSku | Self::TooManyUnpaid { .. } => true,
            Self::LimitReached { .. }
            | Self::SoldOut { .. }
            | Self::NotStarted
            | Self::Paused
            | Self::GateShut
            | Self::KeysLost => false,
        }
    }
}

/// An order's hold, as it stands in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The order.
    pub id: OrderId,
    /// Its sale.
    pub sale: SaleId,
    /// The state that its mark names.
    pub state: OrderState,
    /// What is held.
    pub sku: SkuId,
    /// For whom it is held.
    pub user: UserId,
    /// How many units are held.
    pub quantity: Quantity,
    /// When it was reserved, by the inventory's clock, ms since 1970.
    pub reserved_ms: i64,
    /// The shop's own name for the order.
    pub reference: Option<Reference>,
}

impl Reservation {
    /// Makes the order's record from the hold, as the relay does, which did not see the purchase itself. Answers `None`
    /// when the sale has no such item. The record's time of acceptance is that of the reservation.
    pub fn record(&self, sale: &Sale, epoch: u32) -> Option<OrderRecord> {
        Some(OrderRecord {
            v: OrderRecord::VERSION,
            order_id: self.id,
            sale_id: sale.id.clone(),
            sku_id: self.sku.clone(),
            user_id: self.user.clone(),
            quantity: self.quantity,
            unit_price: sale.item(&self.sku)?.price.clone(),
            reference: self.reference.clone(),
            epoch,
            accepted_ms: self.reserved_ms,
            awaited: false,
            node: None,
            trace: None,
            decided: None,
        })
    }
}

/// An order that holds nothing in MySQL any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// What was decided of it. Its units are taken off its buyer, unless its mark did that.
    pub decision: Decision,
    /// Whether its units go back on sale.
    pub restock: bool,
}

/// What became of a call that puts units of one bucket back on sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// The bucket has no gate, so that nothing of it is on sale.
    GateShut,
    /// Keys of the bucket are missing, so that nobody knows what is on sale.
    KeysLost,
    /// The bucket is whole. One answer for each order, in order.
    Each(Vec<Release>),
}

/// What became of the units of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// They went back on sale.
    Done,
    /// They went back before, or the bucket never held the order.
    Nothing,
    /// The hold says that its buyer has them, against what MySQL says.
    Contradicted,
}

/// The id of an outbox entry: in Redis the id of its stream entry, in the model its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutboxEntryId(pub String);

/// The orders that one reserve call accepted, and that the order log may not have yet. A waiting order's record is made
/// from its hold and its sale, whose items do not change any more.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// The entry's id.
    pub id: OutboxEntryId,
    /// The epoch in which its orders were accepted.
    pub epoch: u32,
    /// When they were reserved, by Redis TIME, ms since 1970.
    pub reserved_ms: i64,
    /// Its orders that nobody has acknowledged. Empty when the last of them was acknowledged, but the entry was not
    /// removed.
    pub waiting: Vec<Reservation>,
    /// Why something of the entry can never be delivered; `None` for a whole one.
    pub fault: Option<&'static str>,
}
