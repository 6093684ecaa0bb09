//! `seckill payments …` calls the admin API from the command line.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::AdminClient;
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct PaymentsCommand {
    /// Admin listener, host:port.
    #[arg(long, env = "SECKILL_ADMIN", default_value = "127.0.0.1:9090")]
    admin: String,
    /// API key (`seckill key create`); better set in the environment than typed.
    #[arg(long, env = "SECKILL_API_KEY", hide_env_values = true)]
    api_key: String,
    #[command(subcommand)]
    action: PaymentsAction,
}

#[derive(Debug, Subcommand)]
enum PaymentsAction {
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
        let client = AdminClient { address: self.admin, key: self.api_key };
        let PaymentsAction::Reconcile { days, reason } = self.action;
        let body = json!({ "days": days, "reason": reason });
        let done = client.call("POST", "/payments/reconcile", Some(body)).await?;
        let cell = |name: &str| done[name].as_u64().map_or_else(String::new, |number| number.to_string());
        let row = ["captures", "found", "unknown"].map(cell).to_vec();
        output::print(format, &Value::clone(&done), &["CAPTURES", "FOUND", "UNKNOWN"], &[row]);
        Ok(())
    }
}
