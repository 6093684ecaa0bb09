//! `seckill order …` looks for orders and ends them, over the admin API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, AdminClient, conditions, quoted};
use super::confirm::Confirm;
use super::output::{self, Format, cell};
use super::progress::Progress;

#[derive(Debug, Args)]
pub struct OrderCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: OrderAction,
}

#[derive(Debug, Subcommand)]
enum OrderAction {
    /// Show one order and what happened to it.
    Show { order: String },
    /// List orders of a sale that have a row, ascending by id.
    List {
        sale: String,
        /// Only those of this buyer.
        #[arg(long)]
        user: Option<String>,
        /// Only those of this SKU.
        #[arg(long)]
        sku: Option<String>,
        /// Only those in this state, such as paid.
        #[arg(long)]
        status: Option<String>,
        /// Only the one with this name of the shop's own.
        #[arg(long)]
        reference: Option<String>,
    },
    /// Print all orders of a sale, each on a line.
    Export {
        sale: String,
        /// Only those in this state, such as paid.
        #[arg(long)]
        status: Option<String>,
        /// Write CSV for a spreadsheet instead of NDJSON.
        #[arg(long)]
        csv: bool,
        /// Go on after the order with this id.
        #[arg(long, value_name = "ORDER")]
        after: Option<String>,
    },
    /// Cancel orders that were not paid: those that are named, or all of a sale.
    Cancel(End),
    /// Pay orders back: those that are named, or all that are paid of a sale.
    Refund {
        #[command(flatten)]
        end: End,
        /// Let the units go back on sale. They are withheld otherwise.
        #[arg(long)]
        restock: bool,
    },
}

#[derive(Debug, Args)]
struct End {
    /// The orders.
    #[arg(required_unless_present = "sale", conflicts_with = "sale")]
    orders: Vec<String>,
    /// All of this sale.
    #[arg(long)]
    sale: Option<String>,
    /// Of the sale, only those of this SKU.
    #[arg(long, requires = "sale")]
    sku: Option<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: Confirm,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: String,
}

const HEAD: [&str; 7] = ["ORDER", "BUYER", "SKU", "UNITS", "STATUS", "ACCEPTED", "REFERENCE"];

fn row(order: &Value) -> Vec<String> {
    let names = ["id", "user_id", "sku_id", "quantity", "status", "accepted_at", "reference"];
    names.map(|name| cell(&order[name])).to_vec()
}

fn outcome_row(outcome: &Value) -> Vec<String> {
    ["id", "outcome", "status"].map(|name| cell(&outcome[name])).to_vec()
}

impl OrderCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        match self.action {
            OrderAction::Show { order } => {
                let read = client.call("GET", &format!("/orders/{}", quoted(&order)), None).await?;
                output::print(format, &read, &HEAD, &[row(&read)]);
                if format == Format::Table {
                    let names = ["at", "what", "node", "by", "why"];
                    let hop = |hop: &Value| names.map(|name| cell(&hop[name])).to_vec();
                    output::data("");
                    output::list(format, &read, "timeline", &["AT", "WHAT", "NODE", "BY", "WHY"], hop);
                }
            }
            OrderAction::List { sale, user, sku, status, reference } => {
                let wanted = [("user", user), ("sku", sku), ("status", status), ("reference", reference)];
                let query = conditions(wanted);
                let path = format!("/orders?sale={}{query}", quoted(&sale));
                let all = client.all(&path, "orders").await?;
                output::list(format, &all, "orders", &HEAD, row);
            }
            OrderAction::Export { sale, status, csv, after } => {
                let form = if csv { "csv" } else { "ndjson" };
                let wanted = [("status", status), ("cursor", after)];
                let query = conditions(wanted);
                client.copy(&format!("/exports/orders?sale={}&format={form}{query}", quoted(&sale))).await?;
            }
            OrderAction::Cancel(end) => end.run(&client, format, "cancel", json!({})).await?,
            OrderAction::Refund { end, restock } => {
                end.run(&client, format, "refund", json!({ "restock": restock })).await?;
            }
        }
        Ok(())
    }
}

impl End {
    async fn run(
        self,
        client: &AdminClient,
        format: Format,
        action: &str,
        mut body: Value,
    ) -> anyhow::Result<()> {
        let which = match &self.sale {
            Some(sale) => format!("all orders of {sale}"),
            None => format!("{} orders", self.orders.len()),
        };
        if !self.dry_run {
            self.confirm.ask(&format!("{action} {which}?"))?;
        }
        body["reason"] = json!(self.reason);
        body["dry_run"] = json!(self.dry_run);
        for (name, value) in [("sale_id", self.sale), ("sku_id", self.sku)] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let mut done: Vec<Value> = Vec::new();
        let path = format!("/orders/{action}");
        let ended = match body["sale_id"].is_null() {
            true => named(client, &path, &body, &self.orders, &mut done).await,
            false => of_sale(client, &path, body, self.dry_run, &mut done).await,
        };
        let (count, left) = (done.len(), done.iter().filter(|one| one["outcome"] != "done").count());
        let all = json!({ "orders": done, "dry_run": self.dry_run });
        // What was done is told, whatever came of the rest.
        output::list(format, &all, "orders", &["ORDER", "OUTCOME", "STATUS"], outcome_row);
        ended?;
        anyhow::ensure!(left == 0, "{left} of {count} orders are not as it was wanted");
        Ok(())
    }
}

/// How many orders one call is about: each may have to ask the payment provider.
const AT_ONCE: usize = 25;

async fn named(
    client: &AdminClient,
    path: &str,
    body: &Value,
    orders: &[String],
    done: &mut Vec<Value>,
) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    for some in orders.chunks(AT_ONCE) {
        let mut body = body.clone();
        body["ids"] = json!(some);
        let mut answer = client.call("POST", path, Some(body)).await?;
        done.extend(answer["orders"].as_array_mut().into_iter().flat_map(std::mem::take));
        progress.show(&format!("{} of {} orders …", done.len(), orders.len()));
    }
    Ok(())
}

/// Ends the orders of a sale, in as many passes as find some: others may come meanwhile.
async fn of_sale(
    client: &AdminClient,
    path: &str,
    mut body: Value,
    is_dry: bool,
    done: &mut Vec<Value>,
) -> anyhow::Result<()> {
    body["limit"] = json!(AT_ONCE);
    let mut pass = 0;
    let mut progress = Progress::default();
    loop {
        let mut answer = client.call("POST", path, Some(body.clone())).await?;
        let before = done.len();
        done.extend(answer["orders"].as_array_mut().into_iter().flat_map(std::mem::take));
        pass += done.iter().skip(before).filter(|one| one["outcome"] == "done").count();
        progress.show(&format!("{} orders …", done.len()));
        let cursor = answer["next_cursor"].take();
        match cursor {
            Value::Null if is_dry || pass == 0 => return Ok(()),
            Value::Null => pass = 0,
            _ => {}
        }
        body["cursor"] = cursor;
    }
}
