//! Whoever takes the buyers' money.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::payment::{PaymentPage, RefundState};
use crate::domain::{Capture, Money, Payment, PaymentRequest, Refund};

/// What the provider says of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It can still be paid.
    Open,
    /// It was not captured and never will be.
    Closed,
    /// The provider has the money.
    Captured(Capture),
}

/// What the provider tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderEvent {
    /// The provider's id of the event, at most 255 bytes.
    pub id: String,
    /// Whether real money moved.
    pub is_live: bool,
    /// The deployment that the payment names; `None` when it names none.
    pub deployment: Option<String>,
    /// What happened.
    pub news: News,
}

/// What happened, as the provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Money was captured.
    Captured(Capture),
    /// A payment page has closed, and nothing was captured. It names our reference.
    Closed(String),
    /// A refund has come to another state that names one of our keys.
    Refund {
        /// The key.
        key: String,
        /// As in [`News::Attention`].
        kind: String,
        /// As in [`News::Attention`].
        capture: Option<String>,
    },
    /// Somebody has acted at the provider itself: a dispute, or a refund that we did not ask for. A person has to look.
    Attention {
        /// What was done, in the provider's words: at most 32 bytes, with a dot in it.
        kind: String,
        /// The provider's id of the capture that it is about, as in [`Capture::reference`]; `None` when it names none.
        capture: Option<String>,
    },
    /// Nothing that concerns the shop.
    Other,
}

/// One entry of the provider's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// The capture.
    pub capture: Capture,
    /// The deployment that it names.
    pub deployment: Option<String>,
    /// How much of it was paid back, in minor units.
    pub refunded: i64,
}

/// A page on which a payment can still be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPage {
    /// Our reference, as the provider tells it: a payment's id if it is ours.
    pub payment: String,
    /// The deployment that it names.
    pub deployment: Option<String>,
    /// The page.
    pub page: PaymentPage,
}

impl Booked {
    /// Answers whether all of it was paid back, or is on its way back.
    pub fn is_refunded(&self) -> bool {
        self.refunded >= self.capture.amount.amount()
    }
}

/// What is known of a provider without asking it. It costs no I/O.
pub trait ProviderRules: Send + Sync {
    /// Says why no payment of an amount above 0 can be made, in a short sentence; `None` when it can, or when only the
    /// provider can tell.
    fn refusal(&self, amount: &Money) -> Option<String>;

    /// Reads the body of an event; `None` for a body that is none. It checks no signature.
    fn read_event(&self, body: &[u8]) -> Option<ProviderEvent>;
}

/// What a provider lists of itself. Nothing is changed by it.
#[async_trait]
pub trait ProviderBooks: Send + Sync {
    /// Lists captures since a time, in ms since 1970, newest first: a page of them, after the entry of the provider's
    /// books that `after` names. Answers with them where the next page begins; `None` on the last one.
    async fn captures(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<Booked>, Option<String>)>;

    /// Reads the entry of the provider's books about a capture, by the provider's id of it; `None` when there is none.
    async fn booked(&self, capture: &str) -> StoreResult<Option<Booked>>;

    /// Lists the pages since a time, in ms since 1970, on which a payment can still be made, newest first; as
    /// [`Self::captures`].
    async fn pages(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<OpenPage>, Option<String>)>;
}

/// A payment provider. Every call is idempotent, by the id of our payment. A failed call says, like every port, whether
/// its effect is excluded.
#[async_trait]
pub trait PaymentProvider: ProviderRules + ProviderBooks {
    /// Makes the page on which a payment is made, or finds it.
    async fn open(&self, request: &PaymentRequest) -> StoreResult<PaymentPage>;

    /// Sees to it that a payment is not made any more, unless it was.
    async fn close(&self, payment: &Payment) -> StoreResult<Standing>;

    /// Asks what became of a payment.
    async fn standing(&self, payment: &Payment) -> StoreResult<Standing>;

    /// Pays a capture back. Answers where the refund is: sent, done or failed.
    async fn refund(&self, refund: &Refund) -> StoreResult<RefundState>;
}
