//! `seckill notify …` tries whether calls are heard.

use clap::Subcommand;

use super::output;
use crate::app;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a call of the type seckill.alarm.test to notify.url, signed as every call.
    Test,
}

impl NotifyCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When no address is configured, or the receiver did not take the call.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Test => {
                let id = app::call_as_test(config).await?;
                output::talk(&format!("the receiver has taken the call {id}"));
                Ok(())
            }
        }
    }
}
