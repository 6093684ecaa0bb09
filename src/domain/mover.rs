//! Who moves orders.

use std::borrow::Cow;

use super::operator::Change;

/// Who moves an order, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover<'a> {
    /// One of the words below, or `operator:` and the name of an API key. At most [`Mover::BYTES_MAX`] bytes.
    pub by: Cow<'a, str>,
    /// Why, in an operator's words, at most [`Mover::WHY_MAX`] characters; `None` when the step says it itself.
    pub why: Option<Cow<'a, str>>,
}

impl<'a> Mover<'a> {
    /// Most bytes of who moves an order.
    pub const BYTES_MAX: usize = 80;
    /// Most characters of why.
    pub const WHY_MAX: usize = 200;
    /// The order writer decides an order.
    pub const ORDER_WRITER: Self = Self::word("order_writer");
    /// The buyer gives an order up, or pays one that costs nothing.
    pub const BUYER: Self = Self::word("buyer");
    /// The payment provider has captured an order's amount.
    pub const PAYMENT_PROVIDER: Self = Self::word("payment_provider");
    /// Nobody has paid an order in time.
    pub const EXPIRY: Self = Self::word("expiry");
    /// Somebody moved an order before the journal said who.
    pub const UNKNOWN: Self = Self::word("unknown");
    /// An order came from another backend.
    pub const IMPORT: Self = Self::word("import");

    const fn word(word: &'static str) -> Self {
        Self { by: Cow::Borrowed(word), why: None }
    }

    /// Answers the same mover without borrowed texts.
    pub fn into_owned(self) -> Mover<'static> {
        Mover { by: Cow::Owned(self.by.into_owned()), why: self.why.map(|why| Cow::Owned(why.into_owned())) }
    }

    /// Names the operator of a change, and gives the operator's reason.
    pub fn operator(change: &'a Change) -> Self {
        let mut by = format!("operator:{}", change.actor);
        by.truncate(by.floor_char_boundary(Self::BYTES_MAX));
        Self { by: Cow::Owned(by), why: Some(Cow::Borrowed(&change.reason)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_name_is_cut_at_a_character() {
        let change = Change {
            actor: "ö".repeat(64),
            action: "order_cancel",
            reason: "wished".to_owned(),
            request_id: "-".to_owned(),
        };
        let mover = Mover::operator(&change);
        assert_eq!(mover.by.len(), 79);
        assert_eq!(mover.why.as_deref(), Some("wished"));
    }
}
