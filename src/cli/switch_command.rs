//! `seckill switch …` turns things off while they are too much, and on again.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, quoted};
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct SwitchCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: SwitchAction,
}

#[derive(Debug, Subcommand)]
enum SwitchAction {
    /// List them.
    List,
    /// Set one, in every process within a second.
    On {
        #[command(flatten)]
        step: Step,
        /// When it ends by itself, such as 2026-11-11T21:00:00Z.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Take one back.
    Off(Step),
}

#[derive(Debug, Args)]
struct Step {
    /// read_only, no_purchases, no_new_sales, no_lists or no_waits.
    switch: String,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

impl SwitchCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let (step, mut body) = match self.action {
            SwitchAction::List => {
                let answer = client.call("GET", "/switches", None).await?;
                let switches = answer["switches"].as_array().map(Vec::as_slice).unwrap_or_default();
                show(format, &answer, switches);
                return Ok(());
            }
            SwitchAction::On { step, until: None } => (step, json!({ "is_on": true })),
            SwitchAction::On { step, until } => (step, json!({ "is_on": true, "until": until })),
            SwitchAction::Off(step) => (step, json!({ "is_on": false })),
        };
        body["reason"] = json!(step.reason);
        let answer = client.call("PUT", &format!("/switches/{}", quoted(&step.switch)), Some(body)).await?;
        show(format, &answer, std::slice::from_ref(&answer));
        Ok(())
    }
}

fn show(format: Format, answer: &Value, switches: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |switch: &Value| {
        let is_on = if switch["is_on"] == true { "on" } else { "off" };
        vec![text(&switch["switch"]), is_on.to_owned(), text(&switch["until"]), text(&switch["reason"])]
    };
    output::entries(format, answer, switches, &["SWITCH", "STATE", "UNTIL", "REASON"], row);
}
