//! The amounts that Stripe takes. Source: "Supported currencies" of Stripe's documentation, with its lists of
//! presentment currencies, of least amounts, and of currencies with special cases.

use crate::domain::Money;

/// Currencies that buyers can be asked for, without ISK, MGA and UGX, whose amounts Stripe counts in other units than
/// ISO 4217 does.
const CURRENCIES: [&str; 136] = [
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD",
    "BIF", "BMD", "BND", "BOB", "BRL", "BSD", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP",
    "CRC", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GIP",
    "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "JMD", "JOD", "JPY", "KES",
    "KGS", "KHR", "KMF", "KRW", "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "MAD", "MDL", "MKD",
    "MMK", "MNT", "MOP", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD",
    "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD",
    "SCR", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "STD", "SZL", "THB", "TJS", "TND", "TOP", "TRY", "TTD",
    "TWD", "TZS", "UAH", "USD", "UYU", "UZS", "VND", "VUV", "WST", "XAF", "XCD", "XOF", "XPF", "YER", "ZAR",
    "ZMW",
];

/// The least amounts, in minor units. Those of other currencies depend on rates of exchange: they are worth half a US
/// dollar or so.
const LEAST: [(&str, i64); 24] = [
    ("USD", 50),
    ("AED", 200),
    ("AUD", 50),
    ("BGN", 100),
    ("BRL", 50),
    ("CAD", 50),
    ("CHF", 50),
    ("CZK", 1_500),
    ("DKK", 250),
    ("EUR", 50),
    ("GBP", 30),
    ("HKD", 400),
    ("HUF", 17_500),
    ("INR", 50),
    ("JPY", 50),
    ("MXN", 1_000),
    ("MYR", 200),
    ("NOK", 300),
    ("NZD", 50),
    ("PLN", 200),
    ("RON", 200),
    ("SEK", 300),
    ("SGD", 50),
    ("THB", 1_000),
];

/// The greatest amounts of currencies whose units are small, in minor units.
const GREATEST: [(&str, i64); 7] = [
    ("INR", 999_999_999),
    ("COP", 9_999_999_999),
    ("HUF", 9_999_999_999),
    ("JPY", 9_999_999_999),
    ("TWD", 9_999_999_999),
    ("IDR", 999_999_999_999),
    ("LBP", 999_999_999_999),
];
const GREATEST_OF_OTHERS: i64 = 99_999_999;

/// Currencies with three decimals, of which the last must be 0.
const THREE_DECIMALS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

/// Says why Stripe takes no payment of an amount that is not 0; `None` when it does, or when only Stripe can tell.
pub fn refusal(amount: &Money) -> Option<String> {
    let (minor, currency) = (amount.amount(), amount.currency());
    let of =
        |table: &[(&str, i64)]| table.iter().find(|(name, _)| *name == currency).map(|(_, value)| *value);
    let (least, greatest) = (of(&LEAST).unwrap_or(1), of(&GREATEST).unwrap_or(GREATEST_OF_OTHERS));
    if CURRENCIES.binary_search(&currency).is_err() {
        Some(format!("the payment provider takes no {currency}"))
    } else if minor < least {
        Some(format!("the payment provider takes at least {least} minor units of {currency}, or nothing"))
    } else if minor > greatest {
        Some(format!("the payment provider takes at most {greatest} minor units of {currency}"))
    } else if THREE_DECIMALS.contains(&currency) && minor % 10 != 0 {
        Some(format!("the payment provider takes only multiples of 10 minor units of {currency}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(amount: i64, currency: &str) -> bool {
        refusal(&Money::new(amount, currency).expect("money")).is_none()
    }

    #[test]
    fn currencies_are_sorted_and_every_table_names_them() {
        assert!(CURRENCIES.is_sorted());
        let named = LEAST.iter().chain(&GREATEST).map(|(currency, _)| currency).chain(&THREE_DECIMALS);
        for currency in named {
            assert!(CURRENCIES.contains(currency), "{currency}");
        }
    }

    #[test]
    fn an_amount_that_stripe_refuses_is_refused_before_it_is_sold() {
        assert!(is_taken(50, "USD") && !is_taken(49, "USD"));
        assert!(is_taken(1, "CNY"), "its least amount depends on the rate of the day");
        assert!(!is_taken(100, "XTS") && !is_taken(100, "HRK"));
        assert!(is_taken(99_999_999, "EUR") && !is_taken(100_000_000, "EUR"));
        assert!(is_taken(9_999_999_999, "JPY") && !is_taken(10_000_000_000, "JPY"));
        assert!(is_taken(1_230, "KWD") && !is_taken(1_234, "KWD"));
        assert!(!is_taken(500, "ISK"), "Stripe would take 5 krónur");
    }
}
