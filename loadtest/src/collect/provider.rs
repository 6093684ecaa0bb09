//! Reads the books of the simulated payment provider: every capture of its account, also those of other deployments.
//! The part of Stripe's API that it speaks is read as Stripe's reference tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;

use crate::client::{Client, Target};
use crate::config::ProviderConfig;
use crate::evidence::Booked;

/// How long the provider may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Most pages that are read: a million captures.
const PAGES_MAX: usize = 10_000;
const LIST: &str = "/v1/payment_intents?limit=100";

/// A page of the list, newest first.
#[derive(Deserialize)]
struct Page {
    data: Vec<Intent>,
    has_more: bool,
}

/// A payment intent. It is a capture once it has succeeded.
#[derive(Deserialize)]
struct Intent {
    id: String,
    status: String,
    #[serde(default)]
    amount_received: i64,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    latest_charge: Option<Charge>,
}

#[derive(Deserialize)]
struct Charge {
    #[serde(default)]
    amount_refunded: i64,
}

/// Reads all captures.
///
/// # Errors
/// When the provider does not answer as it should.
pub async fn read(api: &ProviderConfig) -> anyhow::Result<Vec<Booked>> {
    // Reading is no flood, so the provider may be anywhere. Its key stays out of errors.
    let target = Target::resolve(&api.url, true).await.context("payment.provider_url")?;
    let client = Client::new(target, 1, 0, TIMEOUT);
    let mut key = HeaderValue::from_str(&format!("Bearer {}", api.api_key)).context("payment.api_key")?;
    key.set_sensitive(true);
    let mut all = Vec::new();
    let mut path = LIST.to_owned();
    for _ in 0..PAGES_MAX {
        let reply = client.get(&path, Some(&key)).await.result;
        let reply =
            reply.map_err(|why| anyhow!("no answer of the payment provider at {}: {why:?}", api.url))?;
        if reply.status != 200 {
            bail!("the payment provider at {} answers {} to {path}", api.url, reply.status);
        }
        let (page, last) = captures(&reply.body)?;
        all.extend(page);
        match last {
            Some(last) => path = format!("{LIST}&starting_after={last}"),
            None => return Ok(all),
        }
    }
    bail!("the payment provider at {} has more than {PAGES_MAX} pages", api.url)
}

/// Reads the captures of a page, and the id after which the next page starts. `None` means that there is no next page.
fn captures(body: &Bytes) -> anyhow::Result<(Vec<Booked>, Option<String>)> {
    let page: Page = serde_json::from_slice(body).context("a page of the payment provider's books")?;
    let last = page.data.last().map(|intent| intent.id.clone()).filter(|_| page.has_more);
    // It becomes part of an address.
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if let Some(last) = last.as_deref().filter(|last| !last.bytes().all(is_digit)) {
        bail!("{last:?} is no id of the payment provider");
    }
    let captured = page.data.into_iter().filter(|intent| intent.status == "succeeded");
    Ok((captured.map(booked).collect(), last))
}

fn booked(mut intent: Intent) -> Booked {
    let mut named = |name: &str| intent.metadata.remove(name).unwrap_or_default();
    Booked {
        payment: named("seckill_payment"),
        deployment: named("seckill_deployment"),
        reference: intent.id,
        amount: intent.amount_received,
        currency: intent.currency.to_ascii_uppercase(),
        refunded: intent.latest_charge.map_or(0, |charge| charge.amount_refunded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{Does, FakeShop};

    const PAGE: &str = r#"{"object": "list", "has_more": false, "data": [
        {"id": "pi_test_000000000009", "object": "payment_intent", "status": "succeeded", "amount_received": 39800,
         "currency": "cny", "metadata": {"seckill_payment": "pay_x_1", "seckill_deployment": "shop", "order": "x"},
         "latest_charge": {"id": "ch_test_000000000010", "amount_refunded": 5}},
        {"id": "pi_test_000000000004", "status": "requires_payment_method", "latest_charge": null}]}"#;

    fn api(shop: &FakeShop) -> ProviderConfig {
        ProviderConfig { url: format!("http://{}", shop.address), api_key: "sk_test".to_owned() }
    }

    #[tokio::test]
    async fn captures_are_read_and_other_intents_are_passed_over() {
        let shop = FakeShop::open(Does::Answer(200, PAGE)).await;
        let expected = Booked {
            payment: "pay_x_1".to_owned(),
            deployment: "shop".to_owned(),
            reference: "pi_test_000000000009".to_owned(),
            amount: 39_800,
            currency: "CNY".to_owned(),
            refunded: 5,
        };
        assert_eq!(read(&api(&shop)).await.expect("books"), [expected]);
    }

    #[tokio::test]
    async fn books_that_cannot_be_read_are_no_empty_books() {
        for does in [Does::Answer(401, "{}"), Does::Answer(200, "{}"), Does::HangUp] {
            let shop = FakeShop::open(does).await;
            let error = read(&api(&shop)).await.expect_err("no books");
            assert!(!format!("{error:#}").contains("sk_test"), "{error:#}");
        }
    }

    #[test]
    fn the_next_page_starts_after_the_last_object() {
        let page = |text: &str| captures(&Bytes::from(text.to_owned()));
        let more = PAGE.replace("false", "true");
        assert_eq!(page(&more).expect("a page").1.as_deref(), Some("pi_test_000000000004"));
        assert_eq!(page(PAGE).expect("a page").1, None);
        assert_eq!(page(r#"{"has_more": true, "data": []}"#).expect("a page").1, None);
        assert!(page(&more.replace("pi_test_000000000004", "pi&x=1")).is_err());
    }
}
