//! `seckill recover …` brings a store up to what the shop has seen of it. It works on the stores themselves, because no
//! server uses one that was set back.

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use super::output::{self, Format};
use crate::app::{self, Recovered, Wish};
use crate::config::{Config, Mode};
use crate::domain::calendar::ms_of;

#[derive(Debug, Subcommand)]
pub enum RecoverCommand {
    /// Look what a MySQL instance has lost that was set back, and bring it back.
    ///
    /// An instance is set back when a backup was restored, or a replica took over that was behind. Every process keeps
    /// away from it. Without --apply nothing is changed. It exits with 1 when something is left for a person.
    Mysql(MysqlInstance),
}

#[derive(Debug, Args)]
pub struct MysqlInstance {
    /// The number of the instance: its place in mysql.instances, from 0.
    instance: u16,
    /// When the backup was taken, as 2026-11-27T12:00:00Z. Only needed when the shop has used the instance since, or it
    /// does not say how old its data are.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<i64>,
    /// Bring back what is missing, and use the instance again.
    #[arg(long, requires = "reason")]
    apply: bool,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: Option<String>,
}

fn time(text: &str) -> Result<i64, String> {
    ms_of(text).ok_or_else(|| "a time is written as 2026-11-27T12:00:00Z".to_owned())
}

impl RecoverCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When a store cannot be reached, and when something is left for a person.
    pub async fn run(self, config: &Config, format: Format) -> anyhow::Result<()> {
        let Self::Mysql(MysqlInstance { instance, since, apply, reason }) = self;
        ensure!(config.backend.mode == Mode::Distributed, "embedded mode has no MySQL");
        app::wait_for_servers(config, app::Needed::Everything, output::talk).await?;
        let apply = if apply { Some(reason.context("--reason is missing")?) } else { None };
        let is_dry = apply.is_none();
        let wish = Wish { instance, since_ms: since, apply };
        let done = app::recover_mysql(config, wish, &output::talk).await?;
        show(&done, format)?;
        if let Some(why) = done.set_back.filter(|_| is_dry) {
            output::talk(&format!(
                "mysql-{instance} {why}; nothing was changed, --apply --reason TEXT brings it back"
            ));
        }
        if done.applied {
            output::talk(&format!("mysql-{instance} is used again within a second; its buckets are rebuilt"));
        }
        let left = done.unclear.len();
        ensure!(left == 0, "{left} things are left for a person; see docs/operations.md, \"MySQL set back\"");
        Ok(())
    }
}

fn show(done: &Recovered, format: Format) -> anyhow::Result<()> {
    let counts = [
        ("orders without a row", done.rows),
        ("steps of orders", done.steps),
        ("steps of orders that were paid", done.paid_steps),
        ("payments without a row", done.payments),
        ("captures that were not taken", done.captures),
        ("grants that it took", done.grants_taken),
        ("grants that it gave", done.grants_given),
        ("epochs of buckets", done.epochs),
        ("changes of sales", done.sales),
        ("buckets to rebuild", done.buckets),
    ];
    let rows: Vec<_> =
        counts.iter().map(|(what, found)| vec![(*what).to_owned(), found.to_string()]).collect();
    output::print(format, &serde_json::to_value(done)?, &["MISSING", "FOUND"], &rows);
    done.unclear.iter().for_each(|what| output::talk(&format!("for a person: {what}")));
    Ok(())
}
