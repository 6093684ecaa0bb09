//! The two commands, `run` and `audit`.

use std::collections::{BTreeSet, HashSet};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::audit;
use crate::buyers::{Buyers, Pages, Reach};
use crate::cli::{AuditArgs, Cli, Command, CommonArgs, Output, RunArgs};
use crate::client::{Client, Target};
use crate::clock;
use crate::collect;
use crate::collect::settle::{Settled, settle};
use crate::config::Config;
use crate::crowd::{Basket, CLICKS_MAX, Conduct, Crowd, Harvest, SecondChance};
use crate::evidence::Evidence;
use crate::ids::{OrderId, user_name};
use crate::journal::{self, Entry};
use crate::listeners::Listeners;
use crate::opening::{self, ServerClock};
use crate::progress::{self, say};
use crate::report::{self, Asked, AuditReport, Load, Push, Stored, Summary};
use crate::schedule::Schedule;
use crate::token::Mint;

/// How long before the start connections are opened. The server closes a connection that stays silent for seconds.
const WARMING: Duration = Duration::from_millis(1500);
/// The pause between the last connection and the first click.
const BREATH: Duration = Duration::from_millis(200);
/// How long the audit waits for one answer.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(15);
const USAGE: u8 = 2;

/// Runs a command, and returns the exit code.
///
/// # Errors
/// When there can be no verdict. A bad verdict is an exit code.
pub async fn execute(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Command::Run(args) => {
            if let Err(why) = args.buyers_after.shares() {
                say(&format!("loadtest: {why}"));
                return Ok(USAGE);
            }
            judged(&args.common, async |config| run(config, &args).await).await
        }
        Command::Audit(args) => judged(&args.common, async |config| only_audit(config, &args).await).await,
        Command::Report { summary, report } => {
            write(&report, &report::page::render(&read(&summary)?))?;
            say(&format!("the report is in {}", report.display()));
            Ok(0)
        }
        Command::Compare { before, after } => {
            let compared = report::page::compare(&read(&before)?, &read(&after)?);
            std::io::stdout().lock().write_all(compared.as_bytes()).context("cannot write the comparison")?;
            Ok(0)
        }
    }
}

/// Does what needs the configuration, and prints what it found.
async fn judged(
    common: &CommonArgs,
    work: impl AsyncFnOnce(&Config) -> anyhow::Result<Summary>,
) -> anyhow::Result<u8> {
    let config = match Config::load(&common.named()) {
        Ok(config) => config,
        Err(error) => {
            say(&format!("loadtest: {error:#}"));
            return Ok(USAGE);
        }
    };
    let summary = work(&config).await?;
    print(&summary, common.output)?;
    Ok(summary.verdict.exit_code())
}

/// Sends the crowd and audits what it left.
///
/// # Errors
/// When there can be no verdict. A bad verdict is a summary.
pub async fn run(config: &Config, args: &RunArgs) -> anyhow::Result<Summary> {
    let common = &args.common;
    let url = url(config, common);
    let mint = Mint::new(&config.token, clock::now_ms())?;
    let client = Arc::new(client(&url, common, args).await?);
    let sale = opening::sale(&client, &common.sale).await?;
    if !sale.items.iter().any(|item| item.sku_id == args.sku) {
        bail!("sale {} has no SKU {}", common.sale, args.sku);
    }
    let before = match args.no_audit {
        true => BTreeSet::new(),
        false => collect::order_ids(config, &common.sale).await?,
    };
    let seed = args.seed.unwrap_or_else(|| u64::try_from(clock::now_ms()).unwrap_or(0) / 100 % 100_000_000);
    let schedule = Schedule::new(&args.wish(seed));
    let conduct = conduct(config, args, &client, (seed, schedule.users)).await?;
    let basket = Basket {
        sale: common.sale.clone(),
        sku: args.sku.clone(),
        quantity: args.quantity,
        reference: args.reference.clone(),
    };
    let mut crowd = Crowd::gather(basket, schedule, seed, client.clone(), &mint, conduct)?;
    if sale.policy.purchase_token {
        say(&format!("{} buyers get their purchase tokens", crowd.schedule().users));
        crowd.fetch_tokens().await?;
    }
    let crowd = Arc::new(crowd);
    let opens = match args.wait_open {
        true => opening::instant_of(&client, sale.starts_ms()?).await?,
        false => None,
    };
    let listeners = listeners(&crowd, &client, args.listen).await?;
    let harvest = send(&crowd, &client, opens).await?;
    let mut load = Load::new(asked(url, args, seed, crowd.schedule()), &harvest);
    let clicks = harvest.into_journal();
    if let Some(path) = &args.journal {
        journal::write(path, &clicks)?;
    }
    let (stored, report) = match args.no_audit {
        true => (None, None),
        false => {
            let (evidence, settled) = evidence_of(config, common, &client, &mint, (clicks, before)).await?;
            if let Some(listeners) = listeners {
                let users = (0..listeners.count()).map(|user| user_name(seed, user)).collect();
                load.push = Some(told(listeners, &users, &evidence).await);
            }
            let (stored, report) = verdict(&evidence, settled);
            (Some(stored), Some(report))
        }
    };
    let sale = common.sale.clone();
    let summary = Summary::new(sale, Some(load), stored, report, &args.threshold, args.max_errors);
    if !args.summary.is_empty() {
        write(Path::new(&args.summary), &(serde_json::to_string_pretty(&summary)? + "\n"))?;
    }
    if !args.report.is_empty() {
        write(Path::new(&args.report), &report::page::render(&serde_json::to_value(&summary)?))?;
        say(&format!("the report is in {}", args.report));
    }
    Ok(summary)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a JSON summary.
fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON summary", path.display()))
}

fn asked(url: String, args: &RunArgs, seed: u64, schedule: &Schedule) -> Asked {
    Asked {
        url,
        sku: args.sku.clone(),
        shape: args.shape_text(),
        seed,
        users: schedule.users,
        span: Duration::from_micros(schedule.span_us()),
    }
}

/// Prepares what buyers do beside the clicks of the schedule.
async fn conduct(
    config: &Config,
    args: &RunArgs,
    client: &Arc<Client>,
    (seed, users): (u64, u32),
) -> anyhow::Result<Conduct> {
    let after = Duration::from_secs(args.buyers_after.after_s);
    let buyers = match args.buyers_after.shares().map_err(anyhow::Error::msg)? {
        Some(shares) => {
            let pages = Pages::new(Reach {
                allow_remote: args.common.allow_remote,
                connections_max: usize::try_from(args.connections)?,
                sources: args.sources,
                timeout: Duration::from_secs(args.timeout),
            });
            let clock = ServerClock::read(client).await?;
            Some(Buyers::new(client.clone(), pages, clock, shares.draw(seed, users), after))
        }
        None => None,
    };
    let second_chance = match args.buyers_after.second_chance {
        true => Some(SecondChance::new(stock(config, args).await?, after)),
        false => None,
    };
    Ok(Conduct { polls: args.poll, buyers, second_chance })
}

/// Reads the stock of the SKU, unless the stores are not to be looked at.
async fn stock(config: &Config, args: &RunArgs) -> anyhow::Result<Option<u64>> {
    if args.no_audit {
        return Ok(None);
    }
    let sale = collect::sale(config, &args.common.sale).await?;
    let item = sale.and_then(|sale| sale.items.into_iter().find(|item| item.sku == args.sku));
    Ok(item.and_then(|item| u64::try_from(item.stock).ok()))
}

async fn send(crowd: &Arc<Crowd>, client: &Client, opens: Option<Instant>) -> anyhow::Result<Harvest> {
    if let Some(opens) = opens {
        let left = opens.saturating_duration_since(Instant::now());
        say(&format!("the sale opens in {:.1} s", left.as_secs_f64()));
        progress::countdown(crowd.sale(), opens, opens.checked_sub(WARMING).unwrap_or(opens)).await;
    }
    client.warm(crowd.schedule().clicks.len()).await?;
    let ready = Instant::now() + BREATH;
    let start = opens.map_or(ready, |opens| opens.max(ready));
    let clicks = u64::try_from(crowd.schedule().clicks.len()).unwrap_or(u64::MAX);
    say(&format!("{clicks} clicks of {} buyers", crowd.schedule().users));
    let harvest = tokio::select! {
        harvest = crowd.go(start) => harvest,
        () = progress::show(&crowd.counters, clicks, start) => bail!("the progress display ended"),
    };
    if crowd.is_cut_off() {
        say(&format!("second chances ended early, after {CLICKS_MAX} clicks"));
    }
    harvest
}

/// Has the first users listen.
async fn listeners(crowd: &Crowd, client: &Arc<Client>, count: u32) -> anyhow::Result<Option<Listeners>> {
    if count == 0 {
        return Ok(None);
    }
    let users = crowd.first_users(count);
    say(&format!("{} buyers open their streams", users.len()));
    Listeners::open(client.clone(), crowd.sale(), &users).await.map(Some)
}

/// Waits until listeners were told what stands, and sums it up.
async fn told(listeners: Listeners, users: &HashSet<String>, evidence: &Evidence) -> Push {
    let (count, standing) = (listeners.count(), report::standing(evidence, users));
    let heard = listeners.finish(&standing).await;
    Push::new(count, &standing, &heard, evidence)
}

/// Waits until all is quiet, and collects the evidence.
async fn evidence_of(
    config: &Config,
    common: &CommonArgs,
    client: &Client,
    mint: &Mint,
    (journal, before): (Vec<Entry>, BTreeSet<OrderId>),
) -> anyhow::Result<(Evidence, Settled)> {
    let settled = settled(config, common).await?;
    say("auditing");
    let mut evidence = collect::stores(config, &common.sale, Some(journal), before).await?;
    evidence.http = collect::http::read(client, mint, &evidence.rows).await?;
    Ok((evidence, settled))
}

fn verdict(evidence: &Evidence, settled: Settled) -> (Stored, AuditReport) {
    let report =
        AuditReport::new(&audit::audit(evidence), audit::judged(evidence.mode), audit::notes(evidence));
    (Stored::new(evidence, &evidence.before, Some(settled)), report)
}

async fn settled(config: &Config, common: &CommonArgs) -> anyhow::Result<Settled> {
    let Some(sale) = collect::sale(config, &common.sale).await? else {
        bail!("the directory knows no sale {}", common.sale);
    };
    settle(config, &sale, Duration::from_secs(common.settle_timeout)).await
}

async fn only_audit(config: &Config, args: &AuditArgs) -> anyhow::Result<Summary> {
    let common = &args.common;
    let mut entries = Vec::new();
    for path in &args.journal {
        entries.extend(journal::read(path)?);
    }
    let settled = settled(config, common).await?;
    let journal = (!args.journal.is_empty()).then_some(entries);
    let mut evidence = collect::stores(config, &common.sale, journal, BTreeSet::new()).await?;
    // The stores can be judged without a secret and without a server.
    match Mint::new(&config.token, clock::now_ms()) {
        Ok(mint) => {
            let target = Target::resolve(&url(config, common), common.allow_remote).await?;
            let client = Client::new(target, 4, 0, AUDIT_TIMEOUT);
            evidence.http = collect::http::read(&client, &mint, &evidence.rows).await?;
        }
        Err(error) => say(&format!("HTTP is not audited: {error}")),
    }
    let (mut stored, report) = verdict(&evidence, settled);
    // The drain counts from the last answer of a run, and there was no run.
    stored.drain_ms = None;
    Ok(Summary::new(common.sale.clone(), None, Some(stored), Some(report), &[], 0))
}

fn url(config: &Config, common: &CommonArgs) -> String {
    common.url.clone().unwrap_or_else(|| format!("http://{}", config.http_bind))
}

async fn client(url: &str, common: &CommonArgs, args: &RunArgs) -> anyhow::Result<Client> {
    let target = Target::resolve(url, common.allow_remote).await?;
    let connections = usize::try_from(args.connections)?;
    let client = Client::new(target, connections, args.sources, Duration::from_secs(args.timeout));
    Ok(if args.fresh_connections { client.without_keeping() } else { client })
}

/// Prints the report on standard output.
///
/// # Errors
/// When the report cannot be written.
pub fn print(summary: &Summary, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let text = match output {
        Output::Json => serde_json::to_string_pretty(summary)? + "\n",
        Output::Table => report::render(summary, out.is_terminal() && !plain),
    };
    out.write_all(text.as_bytes()).context("cannot write the report")
}
