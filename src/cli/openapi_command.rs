//! `seckill openapi` prints the contract of a listener.

use clap::{Args, ValueEnum};

use super::output;
use crate::http::router::{ADMIN_CONTRACT, SHOPPER_CONTRACT};

/// A listener.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Listener {
    Shopper,
    Admin,
}

#[derive(Debug, Args)]
pub struct OpenapiCommand {
    /// Of which listener.
    #[arg(long, value_enum, default_value_t = Listener::Shopper)]
    listener: Listener,
}

impl OpenapiCommand {
    /// Prints the document.
    pub fn run(self) {
        let document = match self.listener {
            Listener::Shopper => &*SHOPPER_CONTRACT,
            Listener::Admin => &*ADMIN_CONTRACT,
        };
        output::data(&format!("{document:#}"));
    }
}
