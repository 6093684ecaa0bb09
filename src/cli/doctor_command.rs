//! `seckill doctor` looks at everything that a shop stands on.

use clap::Args;
use serde_json::json;

use super::output::{self, Format};
use crate::app::{self, Role};
use crate::config::Config;
use crate::domain::check::{Check, Level};

#[derive(Debug, Args)]
pub struct DoctorCommand {
    /// Which parts the process is, for which this machine is looked at.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
    /// Print only what is not well.
    #[arg(long)]
    quiet: bool,
}

/// Something is wrong without which a shop does not work, or loses something: the process exits with 4.
#[derive(Debug, thiserror::Error)]
#[error("{0} checks have found an error: see what helps beside each")]
pub struct Ill(usize);

impl DoctorCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Ill`] when a check has found an error, and when the configuration cannot be used.
    pub async fn run(self, config: &Config, format: Format) -> anyhow::Result<()> {
        let checks = app::doctor::examine(config, self.role).await?;
        let count = |level| checks.iter().filter(|check| check.level == level).count();
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
        let shown = checks.iter().filter(|check| !self.quiet || check.level != Level::Ok);
        let answer = json!({ "level": level, "checks": shown.collect::<Vec<&Check>>() });
        let row = |check: &serde_json::Value| {
            ["name", "level", "detail", "fix"].map(|name| output::cell(&check[name])).to_vec()
        };
        output::list(format, &answer, "checks", &["CHECK", "LEVEL", "DETAIL", "FIX"], row);
        output::talk(&format!("{} checks: {errors} errors, {warnings} warnings", checks.len()));
        if errors == 0 { Ok(()) } else { Err(Ill(errors).into()) }
    }
}
