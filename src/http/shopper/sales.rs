//! The routes on which shoppers read about sales. The paths below stand under `/api/v1`. The answers come from the
//! catalog in memory, and all but the time may be cached for a second.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, ETAG, VARY};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::rfc3339;
use crate::domain::rule::Way;
use crate::domain::sale::Phase;
use crate::domain::stream::digest;
use crate::domain::{Access, DeviceId, Item, Money, Sale, SaleId, SkuId, UserId};
use crate::http::auth::Shopper;
use crate::http::contract::For;
use crate::http::headers::knows;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::paging::SalesQuery;
use crate::http::problem::{Code, Problem};
use crate::http::rules::pass;
use crate::http::{Context, cookies, extract};
use crate::memory::catalog::{Snapshot, StockBand};
use crate::memory::streams::{SaleTopics, Topic};
use utoipa::ToSchema;

/// How long after its end a sale is still listed.
const RECENT_MS: i64 = 86_400_000;

#[derive(Serialize, ToSchema)]
#[schema(as = Time)]
struct TimeView {
    /// The time.
    #[schema(value_type = String, format = DateTime)]
    now: String,
    /// The same in ms since 1970.
    now_ms: i64,
}

/// A sale as shoppers see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Sale)]
struct SaleView<'a> {
    /// The sale.
    id: &'a SaleId,
    /// What shoppers see.
    name: &'a str,
    /// What a shopper may do with it now.
    status: Phase,
    /// When it opens.
    #[schema(value_type = String, format = DateTime)]
    starts_at: String,
    /// When it is over.
    #[schema(value_type = String, format = DateTime)]
    ends_at: String,
    /// What it asks of buyers.
    policy: PolicyView,
    /// What it sells.
    items: Vec<ItemView<'a>>,
    /// Where to go on.
    links: LinksView,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SalePolicy)]
struct PolicyView {
    /// Units that one buyer may hold.
    buyer_limit: u32,
    /// Orders that one buyer may let expire or give up.
    unpaid_max: u32,
    /// Whether a purchase needs a purchase token.
    purchase_token: bool,
    /// How hard the proof of work for a token is; 0 for none.
    proof_of_work: u8,
    /// How long an order waits for its payment.
    payment_window_ms: i64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SaleItem)]
struct ItemView<'a> {
    /// The SKU.
    sku_id: &'a SkuId,
    /// What shoppers see.
    name: &'a str,
    /// The price of one unit.
    price: &'a Money,
    /// How much of it is left, as advice.
    stock: StockBand,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SaleLinks)]
struct LinksView {
    /// The sale.
    #[serde(rename = "self")]
    sale: String,
    /// Where to buy.
    orders: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SalePage)]
struct ListView<'a> {
    /// Ascending by start.
    sales: Vec<SaleView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

impl<'a> SaleView<'a> {
    fn of(sale: &'a Sale, phase: Phase, snapshot: &Snapshot) -> Self {
        Self::with(sale, phase, |sku| snapshot.band(&sale.id, sku))
    }

    fn with(sale: &'a Sale, phase: Phase, band: impl Fn(&SkuId) -> StockBand) -> Self {
        let item = |item: &'a Item| ItemView {
            sku_id: &item.sku_id,
            name: &item.name,
            price: &item.price,
            stock: band(&item.sku_id),
        };
        let Sale { buyer_limit, unpaid_max, access, payment_window_ms, .. } = *sale;
        let Access { purchase_token, proof_of_work } = access;
        Self {
            id: &sale.id,
            name: &sale.name,
            status: phase,
            starts_at: rfc3339(sale.starts_ms),
            ends_at: rfc3339(sale.ends_ms),
            policy: PolicyView { buyer_limit, unpaid_max, purchase_token, proof_of_work, payment_window_ms },
            items: sale.items.iter().map(item).collect(),
            links: LinksView {
                sale: format!("/api/v1/sales/{}", sale.id),
                orders: format!("/api/v1/sales/{}/orders", sale.id),
            },
        }
    }
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![
        operation(Verb::Get, "/api/v1/time", time, |it| {
            it.names("sales", "read_time", "The server's clock, for countdowns.")
                .answers::<TimeView>(200, "The time.");
        }),
        operation(Verb::Get, "/api/v1/sales", list, |it| {
            it.names("sales", "list_sales", "The sales that shoppers may see.")
                .about("Without drafts, settled sales and those that ended more than a day ago.")
                .is_for(For::MaybeShopper)
                .is_limited()
                .query::<SalesQuery>()
                .answers::<ListView>(200, "A page, ascending by start.")
                .heeds_if_none_match()
                .answers_nothing(304, "It is as `If-None-Match` has it.");
        }),
        operation(Verb::Get, "/api/v1/sales/{sale}", read, |it| {
            it.names("sales", "read_sale", "One sale.")
                .is_for(For::MaybeShopper)
                .is_limited()
                .refuses(&[Code::SaleNotFound])
                .answers::<SaleView>(200, "The sale.")
                .heeds_if_none_match()
                .answers_nothing(304, "It is as `If-None-Match` has it.");
        }),
    ]
}

/// Answers `GET /time`: the server's clock, for countdowns.
pub async fn time(context: web::Data<Context>) -> HttpResponse {
    let now_ms = context.shop.now_ms();
    let body = TimeView { now: rfc3339(now_ms), now_ms };
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(body)
}

/// Answers `GET /sales`: a page of the sales that shoppers may see, ascending by start, without those that are long
/// over.
///
/// # Errors
/// `dependency_unavailable` while this process has never read the directory, `validation_failed` as
/// [`SalesQuery::page`].
pub async fn list(
    request: HttpRequest,
    query: web::Query<SalesQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    pass(&request, &context, Way::SaleList, (None, None)).await?;
    let snapshot = read_catalog(&context)?;
    let now_ms = context.shop.now_ms();
    let is_recent = |sale: &Sale, phase| phase != Phase::Ended || sale.ends_ms >= now_ms - RECENT_MS;
    let visible = snapshot.sales.values().filter_map(|sale| Some((sale, sale.phase(now_ms)?)));
    let audience = Audience::of(&request, &context).await?;
    let visible =
        visible.filter(|(sale, phase)| is_recent(sale, *phase) && audience.sees(&context, &sale.id));
    let page = query.page(visible, |(sale, _)| sale)?;
    let sales = page.sales.iter().map(|(sale, phase)| SaleView::of(sale, *phase, &snapshot)).collect();
    Ok(cacheable(&request, &audience, &ListView { sales, next_cursor: page.next }))
}

/// Who looks at sales.
enum Audience {
    /// Anybody: every sale is for all, so one answer fits all.
    All,
    /// Somebody without a token, while some sales are for some only.
    Unknown,
    /// A shopper, while some sales are for some only.
    Known(Shopper),
}

impl Audience {
    /// Looks for a token only while it matters. One that is not valid is refused.
    async fn of(request: &HttpRequest, context: &Context) -> Result<Self, Problem> {
        if !context.shop.traffic().hides_sales() {
            return Ok(Self::All);
        }
        if extract::authorization(request)?.is_none() && cookies::shopper_token(request)?.is_none() {
            return Ok(Self::Unknown);
        }
        Ok(Self::Known(extract::shopper(request, context).await?))
    }

    fn sees(&self, context: &Context, sale: &SaleId) -> bool {
        let who = match self {
            Self::All => return true,
            Self::Unknown => None,
            Self::Known(shopper) => Some((&shopper.user, shopper.proven_device())),
        };
        context.shop.traffic().shows(sale, who)
    }
}

/// Answers whether a sale may be told of to somebody.
///
/// # Errors
/// `sale_not_found` as [`read`], also for a settled one, of which nothing is to be told; `dependency_unavailable` as
/// [`list`].
pub fn visible(
    sale: &SaleId,
    who: Option<(&UserId, Option<&DeviceId>)>,
    context: &Context,
) -> Result<(), Problem> {
    let snapshot = read_catalog(context)?;
    let is_there = snapshot.visible(sale, context.shop.now_ms()).is_some();
    let is_shown = is_there && context.shop.traffic().shows(sale, who);
    if is_shown { Ok(()) } else { Err(Problem::new(Code::SaleNotFound)) }
}

/// Makes what streams tell of a sale; `None` for one that shoppers do not see.
pub fn topics(snapshot: &Snapshot, id: &SaleId, now_ms: i64) -> Option<SaleTopics> {
    let (sale, phase) = snapshot.visible(id, now_ms)?;
    let written = |view: &SaleView<'_>| serde_json::to_string(view).expect("a view always serialises");
    let view = SaleView::of(sale, phase, snapshot);
    let stock = StockText { sale_id: id, items: view.items.iter().map(StockItem::of).collect() };
    let stock = serde_json::to_string(&stock).expect("a view always serialises");
    // Its bands are told on their own.
    let without_stock = written(&SaleView::with(sale, phase, |_| StockBand::Plenty));
    Some(SaleTopics {
        sale: Topic::new(written(&view), &without_stock),
        stock: Topic::new(stock.clone(), &stock),
    })
}

/// What streams tell of a sale's stock.
#[derive(Serialize)]
struct StockText<'a> {
    sale_id: &'a SaleId,
    items: Vec<StockItem<'a>>,
}

#[derive(Serialize)]
struct StockItem<'a> {
    sku_id: &'a SkuId,
    stock: StockBand,
}

impl<'a> StockItem<'a> {
    fn of(item: &ItemView<'a>) -> Self {
        Self { sku_id: item.sku_id, stock: item.stock }
    }
}

/// Returns the sales, when this process knows them.
fn read_catalog(context: &Context) -> Result<Arc<Snapshot>, Problem> {
    let snapshot = context.shop.catalog();
    if snapshot.is_read { Ok(snapshot) } else { Err(Problem::new(Code::DependencyUnavailable)) }
}

/// Answers `GET /sales/{sale}`.
///
/// # Errors
/// `sale_not_found`, also for a draft; `dependency_unavailable` as [`list`].
pub async fn read(
    request: HttpRequest,
    path: web::Path<String>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    let not_found = || Problem::new(Code::SaleNotFound);
    let id = SaleId::parse(&path.into_inner()).map_err(|_| not_found())?;
    pass(&request, &context, Way::SaleRead, (None, Some(&id))).await?;
    let snapshot = read_catalog(&context)?;
    let audience = Audience::of(&request, &context).await?;
    if !audience.sees(&context, &id) {
        return Err(not_found());
    }
    if snapshot.settled.contains_key(&id) {
        let (sale, bands) = context.shop.settled_sale(&id).await?.ok_or_else(not_found)?;
        let band = |sku: &SkuId| bands.get(sku).copied().unwrap_or(StockBand::Plenty);
        return Ok(cacheable(&request, &audience, &SaleView::with(&sale, Phase::Ended, band)));
    }
    let (sale, phase) = snapshot.visible(&id, context.shop.now_ms()).ok_or_else(not_found)?;
    Ok(cacheable(&request, &audience, &SaleView::of(sale, phase, &snapshot)))
}

/// Answers with what may be kept for a moment: by everybody, or by its shopper alone when others see something else.
fn cacheable(request: &HttpRequest, audience: &Audience, body: &impl Serialize) -> HttpResponse {
    let text = serde_json::to_string(body).expect("a view of texts and numbers always serialises");
    let etag = format!("\"{:016x}\"", digest(&text));
    let is_known = knows(request, &etag);
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    let kept_by = match audience {
        Audience::All | Audience::Unknown => "public, max-age=1",
        Audience::Known(_) => "private, no-store",
    };
    response.insert_header((CACHE_CONTROL, kept_by)).insert_header((ETAG, etag));
    if !matches!(audience, Audience::All) {
        response.append_header((VARY, "Authorization, Cookie"));
    }
    if is_known { response.finish() } else { response.content_type("application/json").body(text) }
}
