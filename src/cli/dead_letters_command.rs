//! `seckill dead-letters …` calls the admin API from the command line.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, AdminClient};
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct DeadLettersCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: DeadLettersAction,
}

#[derive(Debug, Subcommand)]
enum DeadLettersAction {
    /// List those that wait for a decision, or all.
    List {
        /// Those that were decided, too.
        #[arg(long)]
        all: bool,
    },
    /// Show one with its record.
    Show { letter: String },
    /// Have their orders decided again, with their sales as they are today.
    Retry(Decision),
    /// Reject their orders, and put their units back on sale.
    GiveBack(Decision),
}

#[derive(Debug, Args)]
struct Decision {
    /// The letters; --all for all that are open.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    letters: Vec<String>,
    /// All that are open.
    #[arg(long)]
    all: bool,
    /// Of all, only those that could not become orders for this reason, such as unknown_sale.
    #[arg(long, requires = "all", value_name = "REASON")]
    because: Option<String>,
    /// Say what would come of it, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

const HEAD: [&str; 6] = ["LETTER", "STATUS", "REASON", "ORDER", "SALE", "AT"];

impl DeadLettersCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success, or something failed of a letter.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        match self.action {
            DeadLettersAction::List { all } => list(format, &client, all).await,
            DeadLettersAction::Show { letter } => {
                let letter =
                    client.call("GET", &format!("/dead-letters/{}", checked(&letter)?), None).await?;
                output::print(format, &letter, &HEAD, &[row(&letter)]);
                if format == Format::Table {
                    output::data(letter["payload"].as_str().unwrap_or_default());
                }
                Ok(())
            }
            DeadLettersAction::Retry(decision) => decide(format, &client, "retry", decision).await,
            DeadLettersAction::GiveBack(decision) => decide(format, &client, "give-back", decision).await,
        }
    }
}

async fn list(format: Format, client: &AdminClient, all: bool) -> anyhow::Result<()> {
    let status = if all { "" } else { "&status=open" };
    let letters = client.all(&format!("/dead-letters?limit=100{status}"), "dead_letters").await?;
    output::list(format, &letters, "dead_letters", &HEAD, row);
    Ok(())
}

/// Decides letters page by page, and prints what came of each.
async fn decide(
    format: Format,
    client: &AdminClient,
    action: &str,
    decision: Decision,
) -> anyhow::Result<()> {
    let (mut done, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let mut body = json!({ "reason": decision.reason, "dry_run": decision.dry_run });
        if decision.all {
            body["because"] = json!(decision.because);
            body["cursor"] = cursor;
        } else {
            body["ids"] = json!(decision.letters);
        }
        let mut page = client.call("POST", &format!("/dead-letters/{action}"), Some(body)).await?;
        done.extend(page["dead_letters"].as_array_mut().into_iter().flat_map(std::mem::take));
        cursor = page["next_cursor"].take();
        if cursor.is_null() {
            break;
        }
        output::talk(&format!("{} letters …", done.len()));
    }
    let cell = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |one: &Value| ["id", "outcome", "order_status", "reason"].map(|key| cell(&one[key])).to_vec();
    let failed = done.iter().filter(|one| one["outcome"] == "failed").count();
    let answer = json!({ "dead_letters": done, "dry_run": decision.dry_run });
    output::list(format, &answer, "dead_letters", &["LETTER", "OUTCOME", "ORDER STATUS", "REASON"], row);
    if decision.dry_run {
        output::talk("nothing was changed (--dry-run)");
    }
    anyhow::ensure!(failed == 0, "{failed} of them failed, and may be done in part: repeat the command");
    Ok(())
}

fn row(letter: &Value) -> Vec<String> {
    let cell = |key: &str| letter[key].as_str().unwrap_or("-").to_owned();
    ["id", "status", "reason", "order_id", "sale_id", "at"].map(cell).to_vec()
}

/// Checks that an id can stand in a path as it is.
fn checked(letter: &str) -> anyhow::Result<&str> {
    let is_id = |byte: u8| byte.is_ascii_digit() || byte == b'-';
    anyhow::ensure!(!letter.is_empty() && letter.bytes().all(is_id), "{letter:?} is no id of a dead letter");
    Ok(letter)
}
