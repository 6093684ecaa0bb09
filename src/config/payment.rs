//! The section `[payment]`, and what must hold of it.

use std::path::PathBuf;

use serde::Deserialize;

use super::config_error::ConfigError;
use super::readers::{is_safe_source, path};
use super::secret::Secret;

/// How orders are paid, and what happens to those that are not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentConfig {
    /// Who takes the money.
    pub provider: ProviderKind,
    /// Whether everybody knows that the simulator moves no money.
    pub simulator_is_play_money: bool,
    /// The address of the provider's API.
    pub provider_url: String,
    /// The key of the provider's account.
    pub api_key: Secret,
    /// A file that holds the key.
    #[serde(deserialize_with = "path")]
    pub api_key_file: Option<PathBuf>,
    /// The secret with which the provider signs its events.
    pub webhook_secret: Secret,
    /// A file that holds the secret.
    #[serde(deserialize_with = "path")]
    pub webhook_secret_file: Option<PathBuf>,
    /// The secret before the last change, which holds as well.
    pub webhook_previous_secret: Secret,
    /// A file that holds the secret before.
    #[serde(deserialize_with = "path")]
    pub webhook_previous_secret_file: Option<PathBuf>,
    /// The largest event that is read.
    pub webhook_body_bytes_max: usize,
    /// The name of this deployment in the provider's account.
    pub deployment: String,
    /// Where buyers go after a payment.
    pub return_url: String,
    /// How long the provider may take to answer.
    pub timeout_ms: u64,
    /// How long an order is kept whose payment is being closed without an answer.
    pub closing_max_ms: u64,
    /// How long a capture that no payment explains is tried again before it is paid back.
    pub orphan_ms: u64,
    /// What happens to orders that are not paid in time.
    pub expiry: Expiry,
    /// How long after its time an unpaid order is kept.
    pub grace_ms: u64,
}

/// Who takes the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Nobody: orders wait for their payment until they expire.
    None,
    /// `seckill provider`, with play money.
    Simulator,
    /// Stripe Checkout.
    Stripe,
}

/// What happens to orders that are not paid in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// They expire, and their units go back on sale.
    On,
    /// They are counted, and nothing is changed.
    DryRun,
    /// Nobody looks for them.
    Off,
}

/// The shortest secret of a provider. Stripe's have 38 characters.
const SECRET_BYTES_MIN: usize = 16;

impl PaymentConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let secrets = [
            ("payment.api_key", &self.api_key),
            ("payment.webhook_secret", &self.webhook_secret),
            ("payment.webhook_previous_secret", &self.webhook_previous_secret),
        ];
        for (key, secret) in secrets {
            let secret = secret.expose();
            if !secret.is_empty()
                && (secret.len() < SECRET_BYTES_MIN || !secret.bytes().all(|b| b.is_ascii_graphic()))
            {
                return Err(ConfigError::invalid(key, "must have at least 16 visible characters"));
            }
        }
        let is_name =
            |text: &str| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_name(&self.deployment) {
            return Err(ConfigError::invalid(
                "payment.deployment",
                "must have 1 to 64 visible ASCII characters",
            ));
        }
        if !self.provider_url.is_empty() && !is_safe_source(&self.provider_url) {
            return Err(ConfigError::invalid(
                "payment.provider_url",
                "must be an https address without a user and password (http only to this machine)",
            ));
        }
        let is_page = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        let is_return_url = is_page(&self.return_url) && self.return_url.len() <= 1024;
        if !self.return_url.is_empty() && !is_return_url {
            return Err(ConfigError::invalid("payment.return_url", "must be an http or https address"));
        }
        Ok(())
    }

    /// Checks that everything is set that the provider needs.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for what is missing, and for a simulator that nobody has called play money.
    pub fn require(&self) -> Result<(), ConfigError> {
        if self.provider == ProviderKind::None {
            return Ok(());
        }
        if self.provider == ProviderKind::Simulator && !self.simulator_is_play_money {
            return Err(ConfigError::invalid(
                "payment.provider",
                "is the simulator, which moves no money: whoever wants to sell for nothing has to set \
                 payment.simulator_is_play_money = true",
            ));
        }
        let needed = [
            ("payment.api_key", self.api_key.expose()),
            ("payment.webhook_secret", self.webhook_secret.expose()),
            ("payment.return_url", self.return_url.as_str()),
            ("payment.provider_url", self.url()),
        ];
        match needed.iter().find(|(_, text)| text.is_empty()) {
            Some((key, _)) => Err(ConfigError::invalid(key, "is not set, and payment.provider needs it")),
            None => Ok(()),
        }
    }

    /// Returns the address of the provider's API; empty when there is none to be assumed.
    pub fn url(&self) -> &str {
        match self.provider {
            ProviderKind::Stripe if self.provider_url.is_empty() => "https://api.stripe.com",
            _ => &self.provider_url,
        }
    }

    /// Returns whether real money moves. A key of Stripe's live mode says so.
    pub fn is_live(&self) -> bool {
        let key = self.api_key.expose();
        self.provider == ProviderKind::Stripe && (key.starts_with("sk_live_") || key.starts_with("rk_live_"))
    }
}
