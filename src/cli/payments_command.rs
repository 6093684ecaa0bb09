//! `seckill payments …` calls the admin API from the command line.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::Admin;
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct PaymentsCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: PaymentsAction,
}

#[derive(Debug, Subcommand)]
enum PaymentsAction {
    /// Try a refund again that has failed.
    Retry {
        /// The id of its payment; of a capture that no payment explains, the provider's id.
        refund: String,
        /// Kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// End a refund that has failed, because its buyer has the money in another way.
    Settle {
        /// The id of its payment; of a capture that no payment explains, the provider's id.
        refund: String,
        /// Kept in the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Compare the provider's captures with ours, and take those that were missed. Every process does so once a day.
    Reconcile {
        /// How many days back.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
        /// Kept in the audit log.
        #[arg(long, default_value = "by command line")]
        reason: String,
    },
}

impl PaymentsCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let (path, body, names) = match self.action {
            PaymentsAction::Retry { refund, reason } => {
                let path = format!("/refunds/{}/retry", checked(&refund)?);
                (path, json!({ "reason": reason }), &["refund", "status"][..])
            }
            PaymentsAction::Settle { refund, reason } => {
                let path = format!("/refunds/{}/settle", checked(&refund)?);
                (path, json!({ "reason": reason }), &["refund", "status"][..])
            }
            PaymentsAction::Reconcile { days, reason } => {
                let body = json!({ "days": days, "reason": reason });
                ("/payments/reconcile".to_owned(), body, &["captures", "found", "unknown"][..])
            }
        };
        let done = client.call("POST", &path, Some(body)).await?;
        let cell = |name: &&str| match &done[*name] {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let heads: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        output::print(format, &done, &heads, &[names.iter().map(cell).collect()]);
        Ok(())
    }
}

/// Checks that an id can stand in a path as it is.
fn checked(refund: &str) -> anyhow::Result<&str> {
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    anyhow::ensure!(!refund.is_empty() && refund.bytes().all(is_id), "{refund:?} is no id of a refund");
    Ok(refund)
}
