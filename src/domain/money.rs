//! Money and quantities: whole numbers with their bounds, never floats.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::Object;

/// Why a number or a currency is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// The quantity is not from 1 to [`Quantity::MAX`].
    #[error("quantity must be a whole number from 1 to {}", Quantity::MAX)]
    Quantity,
    /// The amount is not from 0 to [`Money::AMOUNT_MAX`].
    #[error("amount must be from 0 to {} minor units", Money::AMOUNT_MAX)]
    Amount,
    /// The currency is not three letters A-Z.
    #[error("currency must be three letters A-Z (ISO 4217)")]
    Currency,
}

/// The units of one SKU that one order asks for: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schema(minimum = 1, maximum = 99)]
pub struct Quantity(u32);

impl Quantity {
    /// Most units of one order. `lua/reserve.lua` has the same bound. A larger one would also be more rows of `claims`
    /// than one insert should carry.
    pub const MAX: u32 = 99;

    /// Checks a number of units and makes a quantity of it.
    ///
    /// # Errors
    /// [`InvalidAmount::Quantity`] outside 1..=[`Self::MAX`].
    pub fn new(units: u32) -> Result<Self, InvalidAmount> {
        if (1..=Self::MAX).contains(&units) { Ok(Self(units)) } else { Err(InvalidAmount::Quantity) }
    }

    /// Answers the number of units.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(from = "Object<Fields>")]
pub struct Money {
    /// Minor units.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    amount: i64,
    /// Three letters.
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: String,
}

/// The fields of a price, each of which is checked where it stands, so that an error points at it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    amount: Amount,
    currency: Currency,
}

#[derive(Deserialize)]
#[serde(try_from = "i64")]
struct Amount(i64);

impl TryFrom<i64> for Amount {
    type Error = InvalidAmount;
    fn try_from(amount: i64) -> Result<Self, InvalidAmount> {
        if (0..=Money::AMOUNT_MAX).contains(&amount) { Ok(Self(amount)) } else { Err(InvalidAmount::Amount) }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Currency(String);

impl TryFrom<String> for Currency {
    type Error = InvalidAmount;
    fn try_from(currency: String) -> Result<Self, InvalidAmount> {
        let is_one = currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_one { Ok(Self(currency)) } else { Err(InvalidAmount::Currency) }
    }
}

impl Money {
    /// The largest amount: 2^53 - 1, the largest number that every JSON reader keeps exact.
    pub const AMOUNT_MAX: i64 = 9_007_199_254_740_991;

    /// Checks an amount in minor units and a currency, and makes a price of them.
    ///
    /// # Errors
    /// [`InvalidAmount`] for a negative or too large amount, or a currency that is not three capitals.
    pub fn new(amount: i64, currency: &str) -> Result<Self, InvalidAmount> {
        let (amount, currency) = (Amount::try_from(amount)?, Currency::try_from(currency.to_owned())?);
        Ok(Self { amount: amount.0, currency: currency.0 })
    }

    /// Answers the amount in minor units, 0 to [`Self::AMOUNT_MAX`].
    pub fn amount(&self) -> i64 {
        self.amount
    }

    /// Answers the three letters of the currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }
}

/// Writes the amount as people read it, with the digits that the currency has: `199.00 CNY`, `500 JPY`. Source: ISO
/// 4217.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { amount, currency } = self;
        match currency.as_str() {
            "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI"
            | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => write!(f, "{amount} {currency}"),
            "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => {
                write!(f, "{}.{:03} {currency}", amount / 1000, amount % 1000)
            }
            _ => write!(f, "{}.{:02} {currency}", amount / 100, amount % 100),
        }
    }
}

impl From<Object<Fields>> for Money {
    fn from(Object(Fields { amount, currency }): Object<Fields>) -> Self {
        Self { amount: amount.0, currency: currency.0 }
    }
}
