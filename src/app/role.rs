//! The roles that a process may have.

/// A role: which parts of the product a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Both.
    All,
    /// The shopper's listener.
    Api,
    /// Order writer and outbox relay.
    Worker,
}

impl Role {
    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}
