//! `seckill audit` prints the audit log, over the admin API.

use clap::Args;
use serde_json::Value;

use super::admin_client::{Admin, conditions};
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct AuditCommand {
    #[command(flatten)]
    admin: Admin,
    /// Only what this operator did.
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as publish or rule_put.
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this sale.
    #[arg(long)]
    sale: Option<String>,
    /// Not before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The most rows.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

impl AuditCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let Self { admin, actor, action, sale, since, until, limit } = self;
        let wanted =
            [("actor", actor), ("action", action), ("sale", sale), ("since", since), ("until", until)];
        let query = conditions(wanted);
        let page = limit.clamp(1, 1000);
        let mut all = admin.client().at_most(&format!("/audit?limit={page}{query}"), "rows", limit).await?;
        if let Some(rows) = all["rows"].as_array_mut() {
            rows.truncate(limit);
        }
        let names = ["at", "actor", "action", "sale_id", "reason", "request_id"];
        let row = |row: &Value| names.map(|name| cell(&row[name])).to_vec();
        output::list(format, &all, "rows", &["AT", "ACTOR", "ACTION", "SALE", "REASON", "REQUEST"], row);
        Ok(())
    }
}
