//! `seckill stock …` reads and adjusts what a sale has, over the admin API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, quoted};
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct StockCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: StockAction,
}

#[derive(Debug, Subcommand)]
enum StockAction {
    /// Units per SKU: configured, available in Redis, held and sold in the ledgers.
    Show { sale: String },
    /// Give a sale that is on more or fewer units of a SKU, or put units of refunded orders back on sale.
    ///
    /// Buyers can have new units at once. Units that orders hold or have bought stay: what would need them is refused,
    /// and nothing is changed.
    Adjust(Adjust),
}

#[derive(Debug, Args)]
struct Adjust {
    sale: String,
    sku: String,
    /// Units for sale in all now, as `stock show` says (CONFIGURED). When there are others, nothing is changed.
    #[arg(long, value_name = "UNITS")]
    from: u32,
    /// Units for sale in all afterwards.
    #[arg(long, value_name = "UNITS")]
    to: u32,
    /// How many units of refunded orders stay withheld; the others go back on sale.
    #[arg(long, value_name = "UNITS")]
    withheld: Option<u32>,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

impl StockCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let sale = match self.action {
            StockAction::Show { sale } => sale,
            StockAction::Adjust(Adjust { sale, sku, from, to, withheld, reason }) => {
                let mut body =
                    json!({ "sku_id": sku, "expected_stock": from, "stock": to, "reason": reason });
                if let Some(withheld) = withheld {
                    body["withheld"] = withheld.into();
                }
                let path = format!("/sales/{}/stock/adjust", quoted(&sale));
                client.call("POST", &path, Some(body)).await?;
                sale
            }
        };
        show(format, &client.call("GET", &format!("/sales/{}/stock", quoted(&sale)), None).await?);
        Ok(())
    }
}

fn show(format: Format, answer: &Value) {
    let keys = ["sku_id", "configured", "available", "held", "sold", "withheld", "granted", "allotted"];
    let head = ["SKU", "CONFIGURED", "AVAILABLE", "HELD", "SOLD", "WITHHELD", "GRANTED", "ALLOTTED"];
    output::list(format, answer, "items", &head, |item| keys.map(|key| cell(&item[key])).to_vec());
}
