//! Asks a person before something is done that cannot be undone.

use std::io::{BufRead, IsTerminal};

use clap::Args;

use super::output;

#[derive(Debug, Args)]
pub struct Confirm {
    /// Do not ask. Without a terminal nothing is asked.
    #[arg(long)]
    yes: bool,
}

impl Confirm {
    /// Asks on a terminal whether it is meant.
    ///
    /// # Errors
    /// When the answer is not yes: nothing was done.
    pub fn ask(&self, question: &str) -> anyhow::Result<()> {
        if self.yes || !std::io::stdin().is_terminal() {
            return Ok(());
        }
        output::talk(&format!("{question} It cannot be undone. Type yes:"));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        anyhow::ensure!(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()), "nothing was done");
        Ok(())
    }
}
