//! Takes payments through Stripe Checkout, or through the simulator, which speaks the same language.
//!
//! Every request that changes something carries an idempotency key that is made of our payment's id. Source: the API
//! reference of Stripe, version [`API_VERSION`]; its request shapes are checked against `stripe-mock`.

mod amounts;
mod client;
mod objects;

use async_trait::async_trait;
use serde_json::Value;

use crate::clock::Clock;
use crate::config::Secret;
use crate::domain::payment::{PaymentPage, REFERENCE_MAX, RefundState, URL_MAX};
use crate::domain::{Money, Payment, PaymentRequest, Refund};
use crate::ports::{
    Booked, OpenPage, PaymentProvider, ProviderBooks, ProviderEvent, ProviderRules, Standing, StoreError,
    StoreResult,
};

pub use client::API_VERSION;
use client::{Client, Reply};
use objects::{DEPLOYMENT, PAYMENT, booked, event, open_page, refund_state, standing, text};

/// The shortest life of a Checkout page, in ms: half an hour, and a minute for the request.
pub const PAGE_MS_MIN: i64 = 31 * 60_000;
/// The longest life of a Checkout page, in ms: a day, less a minute for the request.
pub const PAGE_MS_MAX: i64 = 24 * 3_600_000 - 60_000;
/// How long a request under the same key surely finds the first one, in ms. Stripe keeps keys for a day.
const KEY_KEPT_MS: i64 = 20 * 3_600_000;
/// How long after a request its session surely is in a list, in ms.
const LISTED_MS: i64 = 60_000;
/// Objects of one page of a list: the most that Stripe gives.
const PAGE_OBJECTS: usize = 100;

/// A client of Stripe's API.
pub struct Stripe {
    client: Client,
    deployment: String,
    clock: Clock,
}

impl Stripe {
    /// Makes the client of the API at `url`, for the deployment `deployment`. It calls nothing.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        (url, api_key): (&str, &Secret),
        deployment: &str,
        timeout_ms: u64,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let client = Client::new(url, api_key, timeout_ms, clock.clone())?;
        Ok(Self { client, deployment: deployment.to_owned(), clock })
    }

    /// Makes the Checkout session of a request, or finds it by its key.
    async fn session(&self, request: &PaymentRequest) -> StoreResult<Reply> {
        let metadata = [
            (PAYMENT, request.id.to_string()),
            (DEPLOYMENT, request.deployment.clone()),
            ("order", request.id.order.to_string()),
        ];
        let mut form = vec![
            ("mode".to_owned(), "payment".to_owned()),
            ("client_reference_id".to_owned(), request.id.to_string()),
            ("success_url".to_owned(), request.return_url.clone()),
            ("cancel_url".to_owned(), request.return_url.clone()),
            ("expires_at".to_owned(), (request.expires_ms / 1000).to_string()),
            // Cards settle at once. A method that settles later would leave units held for days.
            ("payment_method_types[0]".to_owned(), "card".to_owned()),
            ("line_items[0][quantity]".to_owned(), "1".to_owned()),
            (
                "line_items[0][price_data][currency]".to_owned(),
                request.amount.currency().to_ascii_lowercase(),
            ),
            ("line_items[0][price_data][unit_amount]".to_owned(), request.amount.amount().to_string()),
            ("line_items[0][price_data][product_data][name]".to_owned(), request.description.clone()),
        ];
        for (name, value) in metadata {
            form.push((format!("metadata[{name}]"), value.clone()));
            form.push((format!("payment_intent_data[metadata][{name}]"), value));
        }
        self.client.post("/v1/checkout/sessions", &form, Some(&format!("{}/open", request.id))).await
    }

    /// Finds the session of a payment; `None` when there is none. A payment whose session is not known yet may have one
    /// all the same.
    async fn find(&self, payment: &Payment) -> StoreResult<Option<Value>> {
        if let Some(page) = &payment.page {
            return self
                .client
                .get(&session_path(&page.reference), &[])
                .await?
                .object("read a payment")
                .map(Some);
        }
        let age_ms = self.clock.now_ms().saturating_sub(payment.request.created_ms);
        if age_ms > KEY_KEPT_MS {
            return self.search(&payment.request).await;
        }
        // The key finds the session of a request that arrived. One that is refused now never arrived.
        match self.session(&payment.request).await? {
            Reply::Refused { status: 400, .. } => Ok(None),
            // This key answers the same failure all day. What the first request has made can be listed by now.
            Reply::Faulted(_) if age_ms > LISTED_MS => self.search(&payment.request).await,
            reply => {
                let opened = reply.object("open a payment")?;
                let reference = text(&opened, "id").unwrap_or_default();
                self.client.get(&session_path(reference), &[]).await?.object("read a payment").map(Some)
            }
        }
    }

    /// Looks for the session of a request whose key is forgotten.
    async fn search(&self, request: &PaymentRequest) -> StoreResult<Option<Value>> {
        let created_s = request.created_ms / 1000;
        let between = [
            ("created[gte]", (created_s - 3_600).to_string()),
            ("created[lte]", (created_s + 25 * 3_600).to_string()),
        ];
        let wanted = request.id.to_string();
        let mut after = None;
        loop {
            let (sessions, next) = self.list("/v1/checkout/sessions", &between, after).await?;
            let is_it = |session: &Value| text(session, "client_reference_id") == Some(&wanted);
            match (sessions.into_iter().find(is_it), next) {
                (None, Some(next)) => after = Some(next),
                (found, _) => return Ok(found),
            }
        }
    }

    /// Reads a page of a list, newest first. Answers with it after which object the next page begins.
    async fn list(
        &self,
        path: &str,
        filter: &[(&str, String)],
        after: Option<String>,
    ) -> StoreResult<(Vec<Value>, Option<String>)> {
        let mut query = filter.to_vec();
        query.push(("limit", PAGE_OBJECTS.to_string()));
        query.extend(after.map(|after| ("starting_after", after)));
        let page = self.client.get(path, &query).await?.object("list at the payment provider")?;
        let objects = page["data"].as_array().cloned().unwrap_or_default();
        let last = objects.last().and_then(|last| text(last, "id")).map(str::to_owned);
        Ok((objects, last.filter(|_| page["has_more"] == true)))
    }

    /// Answers what the refunds of a capture say, whoever asked for them; `None` when there is none of ours, and others
    /// are not of all of it.
    async fn refunded(&self, refund: &Refund) -> StoreResult<Option<RefundState>> {
        let query = [("payment_intent", refund.capture.clone())];
        let (refunds, _) = self.list("/v1/refunds", &query, None).await?;
        let (mut done, mut sent, mut ours) = (0, 0, None);
        for listed in &refunds {
            let (state, amount) = (refund_state(listed)?, listed["amount"].as_i64().unwrap_or(0));
            match state {
                RefundState::Done => done += amount,
                RefundState::Sent => sent += amount,
                RefundState::Owed | RefundState::Failed | RefundState::Settled => {}
            }
            if listed["metadata"][PAYMENT] == refund.key.to_string() {
                // The newest comes first.
                ours.get_or_insert(state);
            }
        }
        let wanted = refund.amount.amount();
        Ok(match () {
            () if done >= wanted => Some(RefundState::Done),
            () if done + sent >= wanted => Some(RefundState::Sent),
            () => ours,
        })
    }

    async fn standing_of(&self, payment: &Payment) -> StoreResult<Standing> {
        match self.find(payment).await? {
            Some(session) => standing(&session),
            None => Ok(Standing::Closed),
        }
    }
}

impl ProviderRules for Stripe {
    fn refusal(&self, amount: &Money) -> Option<String> {
        amounts::refusal(amount)
    }

    fn read_event(&self, body: &[u8]) -> Option<ProviderEvent> {
        event(&serde_json::from_slice(body).ok()?)
    }
}

#[async_trait]
impl PaymentProvider for Stripe {
    async fn open(&self, request: &PaymentRequest) -> StoreResult<PaymentPage> {
        let session = self.session(request).await?.object("open a payment")?;
        let (reference, url) = (text(&session, "id"), text(&session, "url"));
        let page = reference.zip(url).filter(|(id, url)| id.len() <= REFERENCE_MAX && url.len() <= URL_MAX);
        page.map(|(reference, url)| PaymentPage { reference: reference.to_owned(), url: url.to_owned() })
            .ok_or_else(|| StoreError::broken("open a payment", "the session has no usable id or url"))
    }

    async fn close(&self, payment: &Payment) -> StoreResult<Standing> {
        let Some(session) = self.find(payment).await? else { return Ok(Standing::Closed) };
        match standing(&session)? {
            Standing::Open => {}
            standing => return Ok(standing),
        }
        let reference = text(&session, "id").unwrap_or_default();
        let expire = format!("{}/expire", session_path(reference));
        // Without a key: a refusal would be kept under it, also when the session can be closed by then.
        match self.client.post(&expire, &[], None).await? {
            // It was paid, or closed by itself, in this very moment.
            Reply::Refused { status: 400, .. } => {
                let read = self.client.get(&session_path(reference), &[]).await?;
                standing(&read.object("read a payment")?)
            }
            reply => standing(&reply.object("close a payment")?),
        }
    }

    async fn standing(&self, payment: &Payment) -> StoreResult<Standing> {
        self.standing_of(payment).await
    }

    async fn refund(&self, refund: &Refund) -> StoreResult<RefundState> {
        let context = "refund a payment";
        if refund.state == RefundState::Sent
            && let Some(state) = self.refunded(refund).await?
        {
            return Ok(state);
        }
        let form = [
            ("payment_intent".to_owned(), refund.capture.clone()),
            ("amount".to_owned(), refund.amount.amount().to_string()),
            (format!("metadata[{PAYMENT}]"), refund.key.to_string()),
            (format!("metadata[{DEPLOYMENT}]"), self.deployment.clone()),
        ];
        let key = format!("{}/refund/{}", refund.key, refund.tries);
        match self.client.post("/v1/refunds", &form, Some(&key)).await? {
            // Refunds that are under way count for it, too.
            Reply::Refused { code, .. } if code == "charge_already_refunded" => {
                Ok(self.refunded(refund).await?.unwrap_or(RefundState::Done))
            }
            Reply::Refused { status: 400 | 402 | 404, code, message } => {
                tracing::error!(refund = %refund.key, code, message, "the provider refuses a refund");
                Ok(RefundState::Failed)
            }
            reply => refund_state(&reply.object(context)?),
        }
    }
}

#[async_trait]
impl ProviderBooks for Stripe {
    async fn captures(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<Booked>, Option<String>)> {
        let filter =
            [("created[gte]", (since_ms / 1000).to_string()), ("expand[0]", "data.latest_charge".to_owned())];
        let (intents, next) = self.list("/v1/payment_intents", &filter, after).await?;
        let captured = intents.iter().filter(|intent| intent["status"] == "succeeded");
        // One that cannot be read, as of a currency that is none of ours, must not keep the others out.
        let read = |intent: &Value| {
            let read = booked(intent);
            read.inspect_err(|error| tracing::error!(%error, %intent, "a capture cannot be read")).ok()
        };
        Ok((captured.filter_map(read).collect(), next))
    }

    async fn booked(&self, capture: &str) -> StoreResult<Option<Booked>> {
        let query = [("expand[0]", "latest_charge".to_owned())];
        match self.client.get(&format!("/v1/payment_intents/{capture}"), &query).await? {
            Reply::Refused { status: 404, .. } => Ok(None),
            reply => booked(&reply.object("read a capture")?).map(Some),
        }
    }

    async fn pages(
        &self,
        since_ms: i64,
        after: Option<String>,
    ) -> StoreResult<(Vec<OpenPage>, Option<String>)> {
        let filter = [("created[gte]", (since_ms / 1000).to_string()), ("status", "open".to_owned())];
        let (sessions, next) = self.list("/v1/checkout/sessions", &filter, after).await?;
        Ok((sessions.iter().filter_map(open_page).collect(), next))
    }
}

fn session_path(reference: &str) -> String {
    format!("/v1/checkout/sessions/{reference}")
}
