//! `seckill sale …` calls the admin API from the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, AdminClient, quoted};
use super::confirm::Confirm;
use super::input;
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct SaleCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: SaleAction,
}

#[derive(Debug, Subcommand)]
enum SaleAction {
    /// Create a draft from a JSON file (- for stdin), as the admin API takes it.
    Create { file: PathBuf },
    /// List all sales.
    List,
    /// Show one sale.
    Show { sale: String },
    /// Show it to shoppers.
    Publish(Step),
    /// Put its stock in place; it then sells from starts_at to ends_at.
    Preheat(Step),
    /// Refuse purchases until resumed.
    Pause(Step),
    /// Sell again.
    Resume(Step),
    /// End it for good.
    End {
        #[command(flatten)]
        step: Step,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Look whether anything is missing that it needs to sell. Exits with 4 when it cannot sell as it is.
    Preflight { sale: String },
    /// Create a draft like it, with another id and other times.
    Clone {
        sale: String,
        /// The id of the new sale.
        id: String,
        /// When it opens (RFC 3339).
        #[arg(long, value_name = "TIME")]
        starts_at: String,
        /// When it is over (RFC 3339).
        #[arg(long, value_name = "TIME")]
        ends_at: String,
        /// What shoppers see, if not the name of the other sale.
        #[arg(long)]
        name: Option<String>,
        /// Why; kept in the audit log.
        #[arg(long, default_value = "by command line")]
        reason: String,
    },
    /// Settle it: compare its counts, write its report, clear Redis of it. It must be ended, and nothing of it open.
    Settle {
        #[command(flatten)]
        step: Step,
        #[command(flatten)]
        confirm: Confirm,
        /// Pass over differences between Redis and the ledgers. The report keeps them.
        #[arg(long)]
        accept_differences: bool,
    },
    /// Show the report of a settled sale, as JSON.
    Report {
        sale: String,
        /// Print it as a page instead, to keep in a file.
        #[arg(long, conflicts_with = "csv")]
        html: bool,
        /// Print the units of each SKU as CSV instead.
        #[arg(long)]
        csv: bool,
    },
}

#[derive(Debug, Args)]
struct Step {
    sale: String,
    /// Kept in the audit log.
    #[arg(long, default_value = "by command line")]
    reason: String,
}

impl SaleCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the file cannot be read, or the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        match self.action {
            SaleAction::Create { file } => {
                let body = input::document(&file)?;
                show(format, &client.call("POST", "/sales", Some(body)).await?);
            }
            SaleAction::List => list(format, &client.all("/sales?limit=100", "sales").await?),
            SaleAction::Show { sale } => {
                show(format, &client.call("GET", &format!("/sales/{}", quoted(&sale)), None).await?);
            }
            SaleAction::Publish(step) => advance(format, &client, "publish", step).await?,
            SaleAction::Preheat(step) => advance(format, &client, "preheat", step).await?,
            SaleAction::Pause(step) => advance(format, &client, "pause", step).await?,
            SaleAction::Resume(step) => advance(format, &client, "resume", step).await?,
            SaleAction::End { step, confirm } => {
                confirm.ask(&format!("End {}?", step.sale))?;
                advance(format, &client, "end", step).await?;
            }
            SaleAction::Preflight { sale } => preflight(format, &client, &sale).await?,
            SaleAction::Clone { sale, id, starts_at, ends_at, name, reason } => {
                let body = json!({ "id": id, "name": name, "starts_at": starts_at, "ends_at": ends_at, "reason": reason });
                show(
                    format,
                    &client.call("POST", &format!("/sales/{}/clone", quoted(&sale)), Some(body)).await?,
                );
            }
            SaleAction::Settle { step, confirm, accept_differences } => {
                confirm.ask(&format!("Settle {}?", step.sale))?;
                let body = json!({ "reason": step.reason, "accept_differences": accept_differences });
                let path = format!("/sales/{}/settle", quoted(&step.sale));
                show(format, &client.call("POST", &path, Some(body)).await?);
            }
            SaleAction::Report { sale, html, csv } if html || csv => {
                let form = if html { "html" } else { "csv" };
                client.copy(&format!("/sales/{}/report?format={form}", quoted(&sale))).await?;
            }
            SaleAction::Report { sale, .. } => {
                let report = client.call("GET", &format!("/sales/{}/report", quoted(&sale)), None).await?;
                output::print(Format::Json, &report, &[], &[]);
            }
        }
        Ok(())
    }
}

/// A sale cannot sell as it is: the process exits with 4.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot sell as it is: see the checks whose level is error")]
pub struct NotReady(String);

async fn preflight(format: Format, client: &AdminClient, sale: &str) -> anyhow::Result<()> {
    let found = client.call("GET", &format!("/sales/{}/preflight", quoted(sale)), None).await?;
    let row = |check: &Value| ["name", "level", "detail", "fix"].map(|name| cell(&check[name])).to_vec();
    output::list(format, &found, "checks", &["CHECK", "LEVEL", "DETAIL", "FIX"], row);
    if found["level"] == "error" { Err(NotReady(sale.to_owned()).into()) } else { Ok(()) }
}

async fn advance(format: Format, client: &AdminClient, action: &str, step: Step) -> anyhow::Result<()> {
    let path = format!("/sales/{}/{action}", quoted(&step.sale));
    show(format, &client.call("POST", &path, Some(json!({ "reason": step.reason }))).await?);
    Ok(())
}

fn row(sale: &Value) -> Vec<String> {
    ["id", "state", "starts_at", "ends_at", "buyer_limit", "version"].map(|key| cell(&sale[key])).to_vec()
}

const HEAD: [&str; 6] = ["SALE", "STATE", "STARTS", "ENDS", "LIMIT", "VERSION"];

fn show(format: Format, sale: &Value) {
    output::print(format, sale, &HEAD, &[row(sale)]);
}

fn list(format: Format, answer: &Value) {
    output::list(format, answer, "sales", &HEAD, row);
}
