//! `seckill webhooks …` calls the admin API from the command line.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, AdminClient, quoted};
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct WebhooksCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: WebhooksAction,
}

#[derive(Debug, Subcommand)]
enum WebhooksAction {
    /// List them, with the number of events that each has not had.
    List,
    /// Send events to an address. The secret that signs them is shown once.
    Create {
        /// The address: https, and public.
        url: String,
        /// Only these steps, such as paid,refunded.
        #[arg(long, value_delimiter = ',')]
        kinds: Vec<String>,
        /// Begin with the oldest event that is kept, and not with the next one.
        #[arg(long)]
        from_oldest: bool,
        /// Kept in the audit log.
        #[arg(long, default_value = "created")]
        reason: String,
    },
    /// Send nothing more, until resumed.
    Pause(Step),
    /// Go on where it was.
    Resume(Step),
    /// Make a new secret, which is shown once. The one before holds until the next rotation.
    Rotate(Step),
    /// Send everything again.
    Replay {
        #[command(flatten)]
        step: Step,
        /// Only what is after this cursor of `GET /events`.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Remove it.
    Remove(Step),
}

#[derive(Debug, Args)]
struct Step {
    webhook: String,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

impl WebhooksCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        match self.action {
            WebhooksAction::List => {
                let answer = client.call("GET", "/webhooks", None).await?;
                let head = ["WEBHOOK", "STATUS", "UNREAD", "FAILING SINCE", "URL"];
                let keys = ["id", "status", "unread", "failing_since", "url"];
                let row = |webhook: &Value| keys.map(|key| cell(&webhook[key])).to_vec();
                output::list(format, &answer, "webhooks", &head, row);
            }
            WebhooksAction::Create { url, kinds, from_oldest, reason } => {
                let from = if from_oldest { "oldest" } else { "now" };
                let body = json!({ "url": url, "kinds": kinds, "from": from, "reason": reason });
                let made = client.call("POST", "/webhooks", Some(body)).await?;
                let row = ["id", "secret"].map(|key| cell(&made[key])).to_vec();
                output::print(format, &made, &["WEBHOOK", "SECRET"], &[row]);
            }
            WebhooksAction::Pause(step) => act(format, &client, "pause", step, json!({})).await?,
            WebhooksAction::Resume(step) => act(format, &client, "resume", step, json!({})).await?,
            WebhooksAction::Rotate(step) => act(format, &client, "rotate", step, json!({})).await?,
            WebhooksAction::Replay { step, cursor } => {
                act(format, &client, "replay", step, json!({ "cursor": cursor })).await?;
            }
            WebhooksAction::Remove(step) => {
                let path = format!("/webhooks/{}?reason={}", checked(&step.webhook)?, quoted(&step.reason));
                show(format, &client.call("DELETE", &path, None).await?);
            }
        }
        Ok(())
    }
}

async fn act(
    format: Format,
    client: &AdminClient,
    action: &str,
    step: Step,
    mut body: Value,
) -> anyhow::Result<()> {
    body["reason"] = json!(step.reason);
    let path = format!("/webhooks/{}/{action}", checked(&step.webhook)?);
    show(format, &client.call("POST", &path, Some(body)).await?);
    Ok(())
}

fn show(format: Format, done: &Value) {
    let row = ["id", "done", "secret"].map(|key| cell(&done[key])).to_vec();
    output::print(format, done, &["WEBHOOK", "DONE", "SECRET"], &[row]);
}

/// Checks that an id can stand in a path as it is.
fn checked(webhook: &str) -> anyhow::Result<&str> {
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    anyhow::ensure!(!webhook.is_empty() && webhook.bytes().all(is_id), "{webhook:?} is no id of a webhook");
    Ok(webhook)
}
