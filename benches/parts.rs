//! The Rust half of `benches/run`: the parts of the product to measure, and what they are measured against.
//!
//! Each subcommand is one side of a pair. The long-lived ones take their slices from standard input, so that the script
//! can read CPU times between two slices. Nothing here judges: the script and docs/benchmarks.md do. The configuration
//! is the product's own, from file and environment.

#[path = "parts/bare.rs"]
mod bare;
#[path = "parts/fixture.rs"]
mod fixture;
#[path = "parts/limits.rs"]
mod limits;
#[path = "parts/raw_insert.rs"]
mod raw_insert;
#[path = "parts/requests.rs"]
mod requests;
#[path = "parts/reserve.rs"]
mod reserve;
#[path = "parts/slices.rs"]
mod slices;
#[path = "parts/writer.rs"]
mod writer;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use seckill::config;

/// The parts that benches/run measures.
#[derive(Debug, Parser)]
struct Cli {
    /// The product's configuration file; environment SECKILL__SECTION__KEY is stronger.
    #[arg(long, env = "SECKILL_CONFIG", default_value = "config/distributed.toml")]
    config: PathBuf,
    /// Given by `cargo bench` to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// An actix endpoint that reads the body and answers fixed JSON, with the settings of the shopper listener.
    Bare,
    /// Reservations through batcher and inventory. Slices: `prepare SALE`, then `go SECONDS`.
    Reserve {
        /// Purchases that wait at the same time.
        #[arg(long, default_value_t = 512)]
        askers: usize,
    },
    /// N requests, each of a user, an address and a device that were never seen, under rules about all of them.
    FreshKeys { requests: u32 },
    /// A limit that four processes share. Slices: `prepare RULE`, then `go SECONDS`.
    Limits {
        /// What the limit lets pass in a second.
        #[arg(long, default_value_t = 100_000)]
        rate: u32,
    },
    /// The order store, all partitions at once. Slices: `prepare BATCHES` (of each partition), then `go`.
    Writer,
    /// Multi-row INSERTs of the same rows into equal tables. Slices as `writer`.
    RawInsert,
    /// N purchases of a sold-out sale through the router, in this process.
    Refused {
        requests: usize,
        /// Of a million requests, how many are traced; without it none is, and nobody asks.
        #[arg(long)]
        traced_per_million: Option<u32>,
    },
    /// N purchases that a limit refuses, through the router, in this process.
    Throttled {
        requests: usize,
        /// The file of the rules that hold beside the limit: the terms by id.
        #[arg(long)]
        rules: Option<PathBuf>,
    },
    /// N checks of purchase tokens.
    CheckedToken { requests: usize },
    /// N purchases that are accepted, one after another, each by another buyer.
    Accepted { requests: usize },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let config = config::load(Some(&cli.config), &[])?.config;
    match cli.part {
        Some(Part::Bare) => bare::run(&config),
        Some(Part::Reserve { askers }) => reserve::run(&config, askers),
        Some(Part::FreshKeys { requests }) => limits::fresh_keys(requests),
        Some(Part::Limits { rate }) => limits::run(&config, rate),
        Some(Part::Writer) => writer::run(&config),
        Some(Part::RawInsert) => raw_insert::run(&config),
        Some(Part::Refused { requests, traced_per_million }) => {
            requests::refused(&config, requests, traced_per_million)
        }
        Some(Part::Throttled { requests, rules }) => requests::throttled(&config, requests, rules.as_deref()),
        Some(Part::CheckedToken { requests }) => requests::checked_token(requests),
        Some(Part::Accepted { requests }) => requests::accepted(&config, requests),
        None => slices::say(&serde_json::json!({ "hint": "a part of benches/run; see benches/run --help" })),
    }
}
