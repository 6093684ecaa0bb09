//! `seckill views …` shows the view of a sale through the admin API, and makes views anew in the stores themselves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::Admin;
use super::output::{self, Format};
use crate::app;
use crate::config::Config;
use crate::domain::operator::Subject;
use crate::domain::{Change, SaleId};
use crate::shop::views::{RebuildOutcome, rebuild};

#[derive(Debug, Subcommand)]
pub enum ViewsCommand {
    /// Show the view of a sale: its orders and units by state, and its revenue.
    Show(Show),
    /// Make views anew of the events that are kept. A sale of which an event is gone keeps what stands. The shop may be
    /// open meanwhile; in embedded mode it must not run.
    Rebuild(Rebuild),
}

#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    admin: Admin,
    /// The sale's id.
    sale: String,
}

#[derive(Debug, Args)]
pub struct Rebuild {
    /// Only this sale.
    #[arg(long)]
    sale: Option<String>,
    /// Why; kept in the audit log when a view is another one than it was.
    #[arg(long, default_value = "views were made anew")]
    reason: String,
}

impl Show {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let sale = SaleId::parse(&self.sale).context("no id of a sale")?;
        let client = self.admin.client();
        let view = client.call("GET", &format!("/sales/{sale}/view"), None).await?;
        let states = view["states"].as_object().into_iter().flatten();
        let cell = |value: &Value| value.to_string();
        let rows = states.map(|(state, of)| vec![state.clone(), cell(&of["orders"]), cell(&of["units"])]);
        output::print(format, &view, &["STATE", "ORDERS", "UNITS"], &rows.collect::<Vec<_>>());
        if format == Format::Table {
            let revenue = view["revenue"].as_object().into_iter().flatten();
            for (currency, of) in revenue {
                let (net, paid, refunded) = (&of["net"], &of["paid"], &of["refunded"]);
                output::talk(&format!(
                    "{currency}: {net} (paid {paid}, refunded {refunded}), in minor units"
                ));
            }
            output::talk(&format!("as of {}", view["as_of"].as_str().unwrap_or_default()));
        }
        Ok(())
    }
}

impl Rebuild {
    /// Runs the command.
    ///
    /// # Errors
    /// When a store cannot be reached.
    pub async fn run(self, config: &Config, format: Format) -> anyhow::Result<()> {
        let sale = self.sale.as_deref().map(SaleId::parse).transpose().context("no id of a sale")?;
        app::wait_for_servers(config, app::Needed::Serving, output::talk).await?;
        let ports = app::open_events(config).await?;
        let told = AtomicUsize::new(0);
        let progress = |read: usize| {
            let step = read / 100_000;
            if told.swap(step, Ordering::Relaxed) < step {
                output::talk(&format!("{read} events read …"));
            }
        };
        let stores = (ports.events.as_ref(), ports.views.as_ref());
        let rebuilt = rebuild(stores, sale.as_ref(), progress).await?;
        let changed = rebuilt.iter().filter(|one| one.outcome == RebuildOutcome::Changed);
        let sales: BTreeSet<SaleId> = changed.map(|one| one.sale.clone()).collect();
        if !sales.is_empty() {
            let change = Change::by_hand("views_rebuild", &self.reason);
            ports.audit_log.note(&change, &Subject::Views { sales: sales.into_iter().collect() }).await?;
        }
        let word = |outcome| match outcome {
            RebuildOutcome::Same => "same",
            RebuildOutcome::Changed => "changed",
            RebuildOutcome::Kept => "kept",
        };
        let rows: Vec<Vec<String>> = rebuilt
            .iter()
            .map(|one| {
                vec![one.sale.to_string(), one.part.number().to_string(), word(one.outcome).to_owned()]
            })
            .collect();
        let views: Vec<Value> = rebuilt
            .iter()
            .map(|one| json!({ "sale_id": one.sale, "part": one.part, "outcome": word(one.outcome) }))
            .collect();
        output::print(format, &json!({ "views": views }), &["SALE", "PART", "OUTCOME"], &rows);
        if rebuilt.iter().any(|one| one.outcome == RebuildOutcome::Kept) {
            output::talk("kept: some of the sale's events are gone, so what stands was left as it is");
        }
        Ok(())
    }
}
