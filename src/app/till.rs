//! Makes the till that a configuration names.

use std::sync::Arc;

use super::guarded::guarded_provider;
use crate::clock::Clock;
use crate::config::{PaymentConfig, ProviderKind};
use crate::domain::PaymentTerms;
use crate::memory::guards::Guards;
use crate::provider::stripe::{PAGE_MS_MAX, PAGE_MS_MIN, Stripe};
use crate::shop::Till;

/// Makes the till; `None` when nobody takes money.
///
/// # Errors
/// When the provider's client cannot be made, or this program was built without what it needs.
pub fn till(payment: &PaymentConfig, guards: &Guards, clock: &Clock) -> anyhow::Result<Option<Till>> {
    if payment.provider == ProviderKind::None {
        return Ok(None);
    }
    anyhow::ensure!(
        cfg!(feature = "tls") || payment.url().starts_with("http://"),
        "this program was built without TLS, which payment.provider_url needs: build it with `--features tls`"
    );
    let api = (payment.url(), &payment.api_key);
    let provider = Stripe::new(api, &payment.deployment, payment.timeout_ms, clock.clone())?;
    let secrets = [&payment.webhook_secret, &payment.webhook_previous_secret];
    Ok(Some(Till {
        provider: guarded_provider(Arc::new(provider), guards, clock),
        terms: PaymentTerms {
            deployment: payment.deployment.clone(),
            return_url: payment.return_url.clone(),
            page_ms_min: PAGE_MS_MIN,
            page_ms_max: PAGE_MS_MAX,
        },
        secrets: secrets.map(|secret| secret.expose().as_bytes().to_vec()).to_vec(),
        is_live: payment.is_live(),
        orphan_ms: i64::try_from(payment.orphan_ms).unwrap_or(i64::MAX),
    }))
}
