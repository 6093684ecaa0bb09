//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::buyers::Shares;
use crate::config::{Mode, Named};
use crate::report::Threshold;
use crate::schedule::{Shape, Wish};

const SETTLE_TIMEOUT_S: u64 = 30;
const TIMEOUT_S: u64 = 15;
const AFTER_S: u64 = 60;
/// Source addresses by default. Only Linux answers on all of 127.0.0.0/8 without being told to.
const SOURCES: u32 = if cfg!(target_os = "linux") { 250 } else { 0 };

const AFTER: &str = "\
Exit codes: 0 pass, 1 failed or answers of class error, 2 usage or configuration, 98 audit violation, 99 threshold crossed.

Examples:
  loadtest run --sale friday-drop --sku phone-x --shape spike --buyers 20000 --wait-open
  loadtest run --sale friday-drop --sku phone-x --shape constant --rate 500 --duration 30 --users 2000 \\
      --threshold 'p99_ms<200' --threshold 'oversold<=0'
  loadtest run --sale friday-drop --sku phone-x --shape spike --buyers 2000 --wait-open \\
      --pay 60 --pay-twice 5 --cancel 10 --second-chance --after-s 180
  loadtest audit --sale friday-drop --journal clicks.jsonl
  loadtest audit --sale friday-drop --mode embedded --data seckill-data

The token secret is the server's: export SECKILL__AUTH__HS256_SECRET (or set auth.hs256_secret_file).";

/// Sends a crowd to a seckill server and audits what it left.
///
/// Arrivals are an open model: made up front, sent at their intended time whatever the server does, and
/// measured from that time. Every run ends with an audit of HTTP and of what the server stands on (Redis, Kafka and
/// MySQL, or a data folder) against the promises of docs/protocol.md.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, after_help = AFTER)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a crowd, wait until all is quiet, audit, report
    Run(Box<RunArgs>),
    /// Only audit what stands
    Audit(AuditArgs),
    /// Make the page of a JSON summary
    Report {
        /// The JSON summary
        #[arg(default_value = "summary.json")]
        summary: PathBuf,
        /// Where to write the page
        #[arg(long, value_name = "PATH", default_value = "report.html")]
        report: PathBuf,
    },
    /// Compare the figures of two JSON summaries
    Compare {
        /// The earlier one
        before: PathBuf,
        /// The later one
        after: PathBuf,
    },
}

/// Where the system is and how to print; both commands have these.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// The sale's id
    #[arg(long)]
    pub sale: String,
    /// The server's configuration file; environment SECKILL__SECTION__KEY is stronger [default:
    /// config/distributed.toml, or none with --mode embedded]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the server stands on, instead of backend.mode
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Data folder of embedded mode, instead of embedded.folder
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Shopper API [default: http:// and http.bind of the configuration]
    #[arg(long)]
    pub url: Option<String>,
    /// Allow a server that is not on this machine
    #[arg(long)]
    pub allow_remote: bool,
    /// What to print on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Longest wait for outbox and log to be empty, in seconds
    #[arg(long, value_name = "S", default_value_t = SETTLE_TIMEOUT_S)]
    pub settle_timeout: u64,
}

/// The form in which the summary is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// The name of a shape, whose numbers are other options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShapeName {
    /// 80 % of --buyers within one second, the rest over the next two
    Spike,
    /// --rate arrivals per second for --duration seconds, evenly spaced
    Constant,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// The SKU everybody wants
    #[arg(long)]
    pub sku: String,
    /// How the crowd arrives
    #[arg(long, value_enum)]
    pub shape: ShapeName,
    /// Arrivals of a spike
    #[arg(long, value_name = "N", required_if_eq("shape", "spike"), value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub buyers: Option<u32>,
    /// Arrivals per second of a constant load
    #[arg(long, value_name = "R", required_if_eq("shape", "constant"), value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Seconds of a constant load
    #[arg(long, value_name = "S", required_if_eq("shape", "constant"), value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub duration: Option<u32>,
    /// Distinct users; further arrivals are theirs, with new keys [default: one per arrival]
    #[arg(long, value_name = "N")]
    pub users: Option<u32>,
    /// Units per order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub quantity: u32,
    /// The shop's own name for each order
    #[arg(long, value_name = "TEXT")]
    pub reference: Option<String>,
    /// Double clicks: extra clicks at once with the same key, in percent of arrivals
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub repeat_same_key: f64,
    /// Second tries: extra clicks a little later with a new key, in percent of arrivals
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub repeat_new_key: f64,
    /// Start at the sale's opening, by the server's clock
    #[arg(long)]
    pub wait_open: bool,
    /// Accepted buyers ask, as often as the server says, until their order is decided
    #[arg(long)]
    pub poll: bool,
    /// Users who listen on a stream of their own orders, from before the start until the audit
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "no_audit")]
    pub listen: u32,
    #[command(flatten)]
    pub buyers_after: BuyerArgs,
    /// Users, keys and arrivals come from it; another seed is another crowd [default: the time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Connections at most; clicks beyond them wait, and the wait counts as latency
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
    /// Make a connection for every request, as a crowd of strangers does
    #[arg(long)]
    pub fresh_connections: bool,
    /// Source addresses 127.1.x.y to spread the connections over; 0 = the system's choice
    #[arg(long, value_name = "N", default_value_t = SOURCES)]
    pub sources: u32,
    /// Longest wait for one answer, in seconds
    #[arg(long, value_name = "S", default_value_t = TIMEOUT_S)]
    pub timeout: u64,
    /// Do not look at Redis, Kafka and MySQL, or the data folder, at all
    #[arg(long)]
    pub no_audit: bool,
    /// Answers of class error, and buyers whose orders came to no end, that are no failure
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_errors: u64,
    /// Condition on the figures, such as 'p99_ms<200'; may be given more than once
    #[arg(long, value_name = "METRIC<NUMBER")]
    pub threshold: Vec<Threshold>,
    /// Where to write the JSON summary; empty = nowhere
    #[arg(long, value_name = "PATH", default_value = "summary.json")]
    pub summary: String,
    /// Where to write the report as a page; empty = nowhere
    #[arg(long, value_name = "PATH", default_value = "report.html")]
    pub report: String,
    /// Where to write every click and its answer, one JSON object a line
    #[arg(long, value_name = "PATH")]
    pub journal: Option<PathBuf>,
}

/// What buyers do after they have won or were refused. Without these options they do nothing.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What buyers do afterwards")]
pub struct BuyerArgs {
    /// Accepted buyers who pay, in percent; those without a behaviour of these five abandon their order
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub pay: f64,
    /// Accepted buyers who open the payment twice at once and press the button twice at once, in percent
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub pay_twice: f64,
    /// Accepted buyers who open the payment at once and pay a second after the order's time is over, in percent
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub pay_late: f64,
    /// Accepted buyers who cancel, in percent
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub cancel: f64,
    /// Accepted buyers who leave their order alone, in percent
    #[arg(long, value_name = "PCT", default_value_t = 0.0, value_parser = percent)]
    pub abandon: f64,
    /// Buyers who heard "sold out" come again every 500 ms with the same key, until the sale has ended, every unit is
    /// paid, or --after-s is over since the last first click
    #[arg(long)]
    pub second_chance: bool,
    /// How long an accepted buyer tries to see the order decided, and then to do something with it, in seconds; a late
    /// payer's time begins anew when it is late
    #[arg(long, value_name = "S", default_value_t = AFTER_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub after_s: u64,
}

impl BuyerArgs {
    /// Makes the options of buyers who do nothing.
    pub fn nothing() -> Self {
        Self {
            pay: 0.0,
            pay_twice: 0.0,
            pay_late: 0.0,
            cancel: 0.0,
            abandon: 0.0,
            second_chance: false,
            after_s: AFTER_S,
        }
    }

    /// Returns how many of the accepted buyers do what. `None` means that they do nothing.
    ///
    /// # Errors
    /// When the percentages add up to more than 100.
    pub fn shares(&self) -> Result<Option<Shares>, String> {
        let Self { pay, pay_twice, pay_late, cancel, abandon, .. } = *self;
        Shares { pay, pay_twice, pay_late, cancel, abandon }.checked()
    }
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Journal of a run that bought in this sale; name all of them, or rows will have nobody who asked
    #[arg(long, value_name = "PATH")]
    pub journal: Vec<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("must be from 0 to 100".to_owned()) }
}

impl CommonArgs {
    /// Returns what the options say about the configuration.
    pub fn named(&self) -> Named {
        Named { file: self.config.clone(), mode: self.mode, folder: self.data.clone() }
    }
}

/// How a spike is sent. Everything else has the defaults of the command line.
#[derive(Debug, Clone)]
pub struct Spike {
    /// The shopper API, http://host:port.
    pub url: String,
    /// The sale's id.
    pub sale: String,
    /// The SKU that everybody buys.
    pub sku: String,
    /// The number of arrivals, each of another buyer.
    pub buyers: u32,
    /// The most connections.
    pub connections: u32,
    /// The file for the JSON summary.
    pub summary: PathBuf,
}

impl RunArgs {
    /// Makes the options of a spike at the sale's opening.
    pub fn spike(spike: Spike) -> Self {
        let common = CommonArgs {
            sale: spike.sale,
            config: None,
            mode: None,
            data: None,
            url: Some(spike.url),
            allow_remote: false,
            output: Output::Table,
            settle_timeout: SETTLE_TIMEOUT_S,
        };
        Self {
            common,
            sku: spike.sku,
            shape: ShapeName::Spike,
            buyers: Some(spike.buyers),
            rate: None,
            duration: None,
            users: None,
            quantity: 1,
            reference: None,
            repeat_same_key: 0.0,
            repeat_new_key: 0.0,
            wait_open: true,
            poll: false,
            listen: 0,
            buyers_after: BuyerArgs::nothing(),
            seed: None,
            connections: spike.connections,
            fresh_connections: false,
            sources: SOURCES,
            timeout: TIMEOUT_S,
            no_audit: false,
            max_errors: 0,
            threshold: Vec::new(),
            summary: spike.summary.to_string_lossy().into_owned(),
            report: String::new(),
            journal: None,
        }
    }

    /// Returns what the options say about the schedule.
    pub fn wish(&self, seed: u64) -> Wish {
        let shape = match self.shape {
            ShapeName::Spike => Shape::Spike { buyers: self.buyers.unwrap_or(1) },
            ShapeName::Constant => {
                Shape::Constant { per_s: self.rate.unwrap_or(1), duration_s: self.duration.unwrap_or(1) }
            }
        };
        Wish {
            shape,
            users: self.users.unwrap_or(0),
            same_key_percent: self.repeat_same_key,
            new_key_percent: self.repeat_new_key,
            seed,
        }
    }

    /// Says the shape in words.
    pub fn shape_text(&self) -> String {
        match self.shape {
            ShapeName::Spike => format!("spike of {}", self.buyers.unwrap_or(1)),
            ShapeName::Constant => {
                format!("{}/s for {} s", self.rate.unwrap_or(1), self.duration.unwrap_or(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_shape_needs_its_numbers() {
        assert!(parse("loadtest run --sale s --sku x --shape spike --buyers 10").is_ok());
        assert!(parse("loadtest run --sale s --sku x --shape spike").is_err());
        assert!(parse("loadtest run --sale s --sku x --shape constant --rate 5").is_err());
        assert!(parse("loadtest run --sale s --sku x --shape constant --rate 5 --duration 2").is_ok());
        assert!(parse("loadtest run --sale s --sku x --shape spike --buyers 9 --threshold p1<2").is_err());
        assert!(
            parse("loadtest run --sale s --sku x --shape spike --buyers 9 --repeat-same-key 101").is_err()
        );
        assert!(parse("loadtest audit --sale s --journal a --journal b -o json").is_ok());
    }

    #[test]
    fn buyers_do_nothing_unless_asked_and_never_more_than_all_of_them() {
        let shares = |options: &str| {
            let line = format!("loadtest run --sale s --sku x --shape spike --buyers 9{options}");
            let Command::Run(args) = parse(&line).expect("parses").command else { panic!("a run") };
            args.buyers_after.shares()
        };
        assert_eq!(shares(""), Ok(None));
        assert_eq!(shares(" --second-chance --after-s 5"), Ok(None));
        let some = Shares { pay: 60.0, pay_late: 5.5, ..Shares::default() };
        assert_eq!(shares(" --pay 60 --pay-late 5.5"), Ok(Some(some)));
        assert!(shares(" --pay 60 --cancel 30 --abandon 20").is_err());
        assert!(parse("loadtest run --sale s --sku x --shape spike --buyers 9 --pay-twice 101").is_err());
    }
}
