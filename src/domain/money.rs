//! Money and quantities: whole numbers with their bounds, never floats.

use serde::{Deserialize, Serialize};

use super::object::Object;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    #[error("quantity must be a whole number from 1 to {}", Quantity::MAX)]
    Quantity,
    #[error("amount must be from 0 to {} minor units", Money::AMOUNT_MAX)]
    Amount,
    #[error("currency must be three letters A-Z (ISO 4217)")]
    Currency,
}

/// Units of one SKU asked for by one order: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Quantity(u32);

impl Quantity {
    /// `lua/reserve.lua` holds the same bound; a larger one would also be more claims rows than one
    /// insert should carry.
    pub const MAX: u32 = 99;

    /// # Errors
    /// [`InvalidAmount::Quantity`] outside 1..=[`Self::MAX`].
    pub fn new(units: u32) -> Result<Self, InvalidAmount> {
        if (1..=Self::MAX).contains(&units) { Ok(Self(units)) } else { Err(InvalidAmount::Quantity) }
    }

    pub fn units(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Quantity {
    type Error = InvalidAmount;
    fn try_from(units: u32) -> Result<Self, InvalidAmount> {
        Self::new(units)
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> u32 {
        quantity.0
    }
}

/// A price in minor units (fen, cents) of an ISO 4217 currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Object<RawMoney>")]
pub struct Money {
    amount: i64,
    currency: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMoney {
    amount: i64,
    currency: String,
}

impl Money {
    /// 2^53 - 1, the largest number every JSON reader keeps exact.
    pub const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

    /// # Errors
    /// [`InvalidAmount`] for a negative or too large amount, or a currency that is not three capitals.
    pub fn new(amount: i64, currency: &str) -> Result<Self, InvalidAmount> {
        if !(0..=Self::AMOUNT_MAX).contains(&amount) {
            return Err(InvalidAmount::Amount);
        }
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(InvalidAmount::Currency);
        }
        Ok(Self { amount, currency: currency.to_owned() })
    }

    /// In minor units.
    pub fn amount(&self) -> i64 {
        self.amount
    }

    pub fn currency(&self) -> &str {
        &self.currency
    }
}

impl TryFrom<Object<RawMoney>> for Money {
    type Error = InvalidAmount;
    fn try_from(Object(raw): Object<RawMoney>) -> Result<Self, InvalidAmount> {
        Self::new(raw.amount, &raw.currency)
    }
}
