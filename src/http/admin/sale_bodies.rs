//! The bodies by which operators create and change sales.

use serde::Deserialize;
use utoipa::ToSchema;

use super::changes::checked_reason;
use crate::domain::object::object;
use crate::domain::{Access, Item, Money, Object, Sale, SaleId, SaleState, SkuId};
use crate::http::problem::Problem;
use crate::http::shopper::parse_rfc3339;
use crate::shop::operate::Patch;

/// How long an order waits for its payment when the body of a new sale does not say.
const PAYMENT_WINDOW_DEFAULT_MS: i64 = 900_000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewItem)]
struct ItemBody {
    /// Unique in its sale.
    sku_id: SkuId,
    /// What shoppers see.
    #[schema(min_length = 1, max_length = 120)]
    name: String,
    /// Units for sale in all.
    #[schema(minimum = 1, maximum = 100_000_000)]
    stock: u32,
    /// The price of one unit.
    price: Money,
}

/// The body of a new sale.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSale)]
pub struct CreateBody {
    /// A slug of your choice.
    id: SaleId,
    /// What shoppers see.
    #[schema(min_length = 1, max_length = 120)]
    name: String,
    /// When it opens.
    #[schema(format = DateTime)]
    starts_at: String,
    /// When it is over.
    #[schema(format = DateTime)]
    ends_at: String,
    /// Units that one buyer may hold.
    #[schema(minimum = 1, maximum = 99)]
    buyer_limit: u32,
    /// Orders that one buyer may let expire or give up.
    #[schema(maximum = 99)]
    unpaid_max: Option<u32>,
    /// What a purchase needs beside its buyer.
    #[serde(default, deserialize_with = "object")]
    access: Access,
    /// How long an order waits for its payment.
    #[schema(minimum = 10_000, maximum = 86_400_000)]
    payment_window_ms: Option<i64>,
    /// Into how many buckets the stock of a SKU is divided.
    #[schema(minimum = 1, maximum = 64)]
    buckets: Option<u16>,
    /// 1 to 100 of them.
    #[schema(value_type = Vec<ItemBody>, min_items = 1, max_items = 100)]
    items: Vec<Object<ItemBody>>,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: Option<String>,
}

/// The body of a patch. A field that is missing stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SalePatch)]
pub struct PatchBody {
    /// What shoppers see.
    #[schema(min_length = 1, max_length = 120)]
    name: Option<String>,
    /// When it opens.
    #[schema(format = DateTime)]
    starts_at: Option<String>,
    /// When it is over.
    #[schema(format = DateTime)]
    ends_at: Option<String>,
    /// Units that one buyer may hold.
    #[schema(minimum = 1, maximum = 99)]
    buyer_limit: Option<u32>,
    /// Orders that one buyer may let expire or give up.
    #[schema(maximum = 99)]
    unpaid_max: Option<u32>,
    /// What a purchase needs beside its buyer.
    #[schema(value_type = Option<Access>)]
    access: Option<Object<Access>>,
    /// How long an order waits for its payment.
    #[schema(minimum = 10_000, maximum = 86_400_000)]
    payment_window_ms: Option<i64>,
    /// Into how many buckets the stock of a SKU is divided.
    #[schema(minimum = 1, maximum = 64)]
    buckets: Option<u16>,
    /// All items: these take the place of the others.
    #[schema(value_type = Option<Vec<ItemBody>>, min_items = 1, max_items = 100)]
    items: Option<Vec<Object<ItemBody>>>,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

impl CreateBody {
    /// Makes the sale, as a draft, and the reason for the audit log.
    ///
    /// # Errors
    /// `validation_failed` when a time is not one, or the reason is empty or too long.
    pub fn sale(self) -> Result<(Sale, String), Problem> {
        let sale = Sale {
            id: self.id,
            name: self.name,
            state: SaleState::Draft,
            starts_ms: parse_rfc3339("/starts_at", &self.starts_at)?,
            ends_ms: parse_rfc3339("/ends_at", &self.ends_at)?,
            buyer_limit: self.buyer_limit,
            unpaid_max: self.unpaid_max.unwrap_or(Sale::UNPAID_MAX_DEFAULT),
            access: self.access,
            payment_window_ms: self.payment_window_ms.unwrap_or(PAYMENT_WINDOW_DEFAULT_MS),
            buckets: self.buckets.unwrap_or(1),
            epoch: 1,
            in_place: false,
            version: 1,
            items: items(self.items),
        };
        Ok((sale, checked_reason(self.reason.as_deref().unwrap_or("created"))?))
    }
}

impl PatchBody {
    /// Makes the patch and the reason for the audit log.
    ///
    /// # Errors
    /// As [`CreateBody::sale`].
    pub fn patch(self) -> Result<(Patch, String), Problem> {
        let time = |pointer: &str, text: Option<String>| text.map(|t| parse_rfc3339(pointer, &t)).transpose();
        let patch = Patch {
            name: self.name,
            starts_ms: time("/starts_at", self.starts_at)?,
            ends_ms: time("/ends_at", self.ends_at)?,
            buyer_limit: self.buyer_limit,
            unpaid_max: self.unpaid_max,
            access: self.access.map(|Object(access)| access),
            payment_window_ms: self.payment_window_ms,
            buckets: self.buckets,
            items: self.items.map(items),
        };
        Ok((patch, checked_reason(&self.reason)?))
    }
}

fn items(bodies: Vec<Object<ItemBody>>) -> Vec<Item> {
    let item = |Object(body)| {
        let ItemBody { sku_id, name, stock, price } = body;
        Item { sku_id, name, stock, price }
    };
    bodies.into_iter().map(item).collect()
}
