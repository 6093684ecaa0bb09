//! `seckill reconcile` has the admin API look at the books.

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::Admin;
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct ReconcileCommand {
    #[command(flatten)]
    admin: Admin,
    /// Mend at once what can be mended. Buckets that are rebuilt for that are closed for some seconds.
    #[arg(long)]
    apply: bool,
    /// Kept in the audit log with --apply.
    #[arg(long, default_value = "by command line")]
    reason: String,
}

impl ReconcileCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success, and when something is wrong and was not mended.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let body = json!({ "reason": self.reason, "apply": self.apply });
        let found = client.call("POST", "/reconcile", Some(body)).await?;
        let drifts = found["drifts"].as_array().map_or(&[][..], Vec::as_slice);
        let cell = |drift: &Value, name: &str| match &drift[name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            value => value.to_string(),
        };
        let names = ["kind", "sale_id", "place", "amount", "remedy", "mended"];
        let row = |drift: &Value| names.iter().map(|name| cell(drift, name)).collect();
        let heads = ["KIND", "SALE", "PLACE", "AMOUNT", "REMEDY", "MENDED"];
        output::list(format, &found, "drifts", &heads, row);
        let left = drifts.iter().filter(|drift| drift["mended"] != true).count();
        let remedy =
            if self.apply { "see docs/operations.md, \"Drift\"" } else { "--apply mends what can be" };
        anyhow::ensure!(left == 0, "{left} of {} drifts are not mended; {remedy}", drifts.len());
        output::talk(if drifts.is_empty() { "the books fit together" } else { "all drifts are mended" });
        Ok(())
    }
}
