//! The command line. Data goes to stdout, and messages for people go to stderr.

mod admin_client;
mod audit_command;
mod breaker_command;
mod config_command;
mod configured;
mod confirm;
mod dead_letters_command;
#[cfg(feature = "embedded")]
mod demo_command;
mod doctor_command;
mod failure;
mod input;
mod key_command;
mod node_command;
mod notify_command;
mod openapi_command;
mod order_command;
mod output;
mod payments_command;
mod position_command;
mod progress;
mod provider_command;
mod reconcile_command;
#[cfg(feature = "distributed")]
mod recover_command;
mod rule_command;
mod runtime;
mod sale_command;
mod stock_command;
mod switch_command;
mod token_command;
mod transfer_command;
mod views_command;
mod webhooks_command;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::app::{self, Role};
#[cfg(feature = "distributed")]
use crate::backend::distributed::migrate;
use crate::clock::Clock;
use crate::config::{self, Config, ConfigError, Loaded, Mode, ProviderKind};
use crate::shutdown::{Asked, Hangups, Signals};
use crate::{metrics, telemetry};

#[cfg(feature = "distributed")]
use crate::domain::{Change, operator::Subject};

use runtime::block_on;

/// Most steps of a migration that its row of the audit log has.
#[cfg(feature = "distributed")]
const STEPS_NOTED_MAX: usize = 100;

/// Flash-sale (秒杀) backend: one process and one folder, or Redis, Kafka and MySQL.
#[derive(Debug, Parser)]
#[command(name = "seckill", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 configuration invalid; 4 `doctor` or `sale preflight` found an error; 98 an audit violation of `demo --rush` or `load`, 99 a threshold of `load` crossed.\n\
    Every key of the configuration can be set as SECKILL__SECTION__KEY; `seckill config explain` lists them.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// TOML file over the built-in defaults.
    #[arg(long, short, global = true, env = "SECKILL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the shop stands on, instead of backend.mode.
    #[arg(long, global = true, value_enum)]
    mode: Option<Mode>,
    /// Data folder of embedded mode, instead of embedded.folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<String>,
    /// How data is printed.
    #[arg(long, short, global = true, value_enum, default_value_t = output::Format::Table)]
    output: output::Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process and one folder: a shop, a sale that opens in a moment, and lines to paste.
    #[cfg(feature = "embedded")]
    Demo(demo_command::DemoCommand),
    /// Serve shoppers, operators, or write orders.
    Serve {
        /// Which parts this process is.
        #[arg(long, value_enum, default_value_t = Role::All)]
        role: Role,
        /// Shopper listener, instead of http.bind.
        #[arg(long, value_name = "ADDRESS:PORT")]
        bind: Option<String>,
        /// Operator listener, instead of admin.bind.
        #[arg(long, value_name = "ADDRESS:PORT")]
        admin_bind: Option<String>,
    },
    /// Make or check databases, tables and topics. Idempotent.
    Migrate {
        /// Say what would be done, one line for each step, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Look at everything that a shop stands on, say what is wrong, and what helps. Changes nothing.
    ///
    /// It looks at the configuration, at this machine, and at Redis, Kafka and MySQL, or at the data folder. Run it
    /// where a process is to run, and as the user of that process. It exits with 4 when a check has found an error.
    Doctor(doctor_command::DoctorCommand),
    /// Write sales and orders to a file, for `import` in another mode, or to keep them. They have to be ended first.
    Export(transfer_command::Export),
    /// Put the sales and orders of an export in place. A file that is not whole changes nothing; it can be repeated.
    Import(transfer_command::TransferFile),
    #[command(flatten)]
    Operate(OverApi),
    /// Where the order writers are in the order log, read and moved in the stores themselves.
    #[command(subcommand)]
    Position(position_command::PositionCommand),
    /// Run the simulated payment provider, which moves no money.
    Provider(provider_command::ProviderCommand),
    /// Send a crowd and audit what it left: `load run|audit|report|compare`; `load run --help` says more.
    #[command(disable_help_flag = true)]
    Load {
        /// What the load tool is asked for.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        args: Vec<OsString>,
    },
    /// Print a script that completes this program's commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command into a folder.
    Man {
        /// The folder, which is made if it is not there.
        folder: PathBuf,
    },
    /// The views of sales: orders, units and revenue, built of events.
    #[command(subcommand)]
    Views(views_command::ViewsCommand),
    /// Whether calls to a person are heard.
    #[command(subcommand)]
    Notify(notify_command::NotifyCommand),
    /// Bring a store up to what the shop has seen of it.
    #[cfg(feature = "distributed")]
    #[command(subcommand)]
    Recover(recover_command::RecoverCommand),
    /// API keys of operators: made straight in the directory, and listed, rotated and ended over the admin API.
    #[command(subcommand)]
    Key(key_command::KeyCommand),
    /// Shopper tokens for local use.
    #[command(subcommand)]
    Token(token_command::TokenCommand),
    /// Print the contract of the API, in OpenAPI 3.1.
    Openapi(openapi_command::OpenapiCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config_command::ConfigCommand),
}

/// The commands that only call the admin API.
#[derive(Debug, Subcommand)]
enum OverApi {
    /// Create, list and run sales through the admin API.
    Sale(sale_command::SaleCommand),
    /// What a sale has of each SKU, and more or fewer of it, over the admin API.
    Stock(stock_command::StockCommand),
    /// Look for orders, see what happened to one, cancel and pay back many, over the admin API.
    Order(order_command::OrderCommand),
    /// Print who changed what, when and why, over the admin API.
    Audit(audit_command::AuditCommand),
    /// List the processes of the shop, and take them out of service, over the admin API.
    Node(node_command::NodeCommand),
    /// Records that could not become orders, through the admin API.
    DeadLetters(dead_letters_command::DeadLettersCommand),
    /// Where events are sent, through the admin API.
    Webhooks(webhooks_command::WebhooksCommand),
    /// Say how often somebody may ask, and who may not, over the admin API.
    Rule(rule_command::RuleCommand),
    /// Turn things off while they are too much (read_only, no_lists, …), and on again.
    Switch(switch_command::SwitchCommand),
    /// Show the circuit breakers of a process, and force them in all.
    Breaker(breaker_command::BreakerCommand),
    /// Payments, through the admin API.
    Payments(payments_command::PaymentsCommand),
    /// Whether the inventory, the databases and the order log fit together, through the admin API.
    ///
    /// Workers look every ten seconds, and mend what they can. This looks at once. Without --apply nothing is changed.
    /// It exits with 1 when something is left.
    Reconcile(reconcile_command::ReconcileCommand),
}

impl OverApi {
    async fn run(self, format: output::Format) -> anyhow::Result<()> {
        match self {
            Self::Sale(command) => command.run(format).await,
            Self::Stock(command) => command.run(format).await,
            Self::Order(command) => command.run(format).await,
            Self::Audit(command) => command.run(format).await,
            Self::Node(command) => command.run(format).await,
            Self::DeadLetters(command) => command.run(format).await,
            Self::Webhooks(command) => command.run(format).await,
            Self::Rule(command) => command.run(format).await,
            Self::Switch(command) => command.run(format).await,
            Self::Breaker(command) => command.run(format).await,
            Self::Payments(command) => command.run(format).await,
            Self::Reconcile(command) => command.run(format).await,
        }
    }
}

/// Runs the program, and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::talk(&format!("error: {}", failure::text(&error)));
            if let Some(hint) = failure::hint(&error) {
                output::talk(&format!("hint: {hint}"));
            }
            match () {
                () if error.is::<ConfigError>() => ExitCode::from(3),
                () if error.is::<sale_command::NotReady>() || error.is::<doctor_command::Ill>() => {
                    ExitCode::from(4)
                }
                () => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Global { config: file, mode, data, output: format } = cli.global;
    let file = file.as_deref();
    let mut flags = Vec::new();
    flags.extend(mode.map(|mode| ("backend.mode", mode.as_str().to_owned())));
    flags.extend(data.clone().map(|folder| ("embedded.folder", folder)));
    let config = || configured::load(file, &flags).map(|loaded| loaded.config);
    let logged = || -> anyhow::Result<Config> {
        let config = config()?;
        telemetry::install(&config.log, Clock::System).context("log.filter is not a filter")?;
        Ok(config)
    };
    match cli.command {
        #[cfg(feature = "embedded")]
        Command::Demo(command) => {
            anyhow::ensure!(
                mode != Some(Mode::Distributed),
                "the demo is the embedded mode; `make demo-distributed` shows the other one"
            );
            return command.run(file, data.map(PathBuf::from));
        }
        Command::Serve { role, bind, admin_bind } => {
            flags.extend(bind.map(|bind| ("http.bind", bind)));
            flags.extend(admin_bind.map(|bind| ("admin.bind", bind)));
            start_serving(file, flags, role)?;
        }
        Command::Migrate { dry_run } => {
            let config = config()?;
            block_on(async { if dry_run { say_plan(&config).await } else { migrate(&config).await } })?;
        }
        Command::Doctor(command) => block_on(command.run(&config()?, format))?,
        Command::Export(file) => block_on(file.export(&logged()?))?,
        Command::Import(file) => block_on(file.import(&logged()?))?,
        Command::Operate(command) => block_on(command.run(format))?,
        Command::Position(command) => block_on(command.run(&config()?, format))?,
        Command::Provider(command) => block_on(command.run(&logged()?))?,
        Command::Load { args } => {
            let load = loadtest::cli::Cli::parse_from(load_words(args, file, mode, data.as_deref(), format));
            return block_on(loadtest::command::execute(load)).map(ExitCode::from);
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "seckill", &mut script);
            output::data(String::from_utf8_lossy(&script).trim_end());
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder)?;
            clap_mangen::generate_to(Cli::command(), &folder)?;
            output::talk(&format!("man pages are in {}", folder.display()));
        }
        Command::Views(views_command::ViewsCommand::Show(show)) => block_on(show.run(format))?,
        Command::Views(views_command::ViewsCommand::Rebuild(rebuild)) => {
            block_on(rebuild.run(&config()?, format))?;
        }
        Command::Notify(command) => block_on(command.run(&config()?))?,
        #[cfg(feature = "distributed")]
        Command::Recover(command) => block_on(command.run(&config()?, format))?,
        Command::Key(key_command::KeyCommand::Create(create)) => block_on(create.run(&config()?))?,
        Command::Key(command) => block_on(command.run(format))?,
        Command::Openapi(command) => command.run(),
        Command::Token(command) => command.run(&config()?, &Clock::System)?,
        Command::Config(config_command::ConfigCommand::Reload(reload)) => block_on(reload.run(format))?,
        Command::Config(command) => command.run(file, format)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the words for the load tool. What was said before `load` holds for it, too.
fn load_words(
    args: Vec<OsString>,
    file: Option<&Path>,
    mode: Option<Mode>,
    data: Option<&str>,
    format: output::Format,
) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut words: Vec<OsString> = vec!["seckill load".into()];
    words.extend(args.next());
    if words.get(1).is_some_and(|word| word == "run" || word == "audit") {
        let said = [
            ("--config", file.map(|file| file.as_os_str().to_owned())),
            ("--mode", mode.map(|mode| mode.as_str().into())),
            ("--data", data.map(OsString::from)),
            ("--output", (format == output::Format::Json).then(|| "json".into())),
        ];
        words.extend(said.into_iter().filter_map(|(name, value)| Some([name.into(), value?])).flatten());
    }
    words.extend(args);
    words
}

fn start_serving(file: Option<&Path>, flags: Vec<(&'static str, String)>, role: Role) -> anyhow::Result<()> {
    let loaded = configured::load(file, &flags)?;
    telemetry::install(&loaded.config.log, Clock::System).context("log.filter is not a filter")?;
    let file = file.map(Path::to_owned);
    let again = Box::new(move || config::load(file.as_deref(), &flags));
    block_on(serve(loaded, again, role))
}

async fn serve(loaded: Loaded, again: app::Load, role: Role) -> anyhow::Result<()> {
    let Loaded { config, keys, .. } = loaded;
    let config = &config;
    let metrics = metrics::install()?;
    if role != Role::Worker {
        config.require_secrets()?;
    }
    app::wait_for_servers(config, app::Needed::Serving, output::talk).await?;
    let (signals, hangups) = (Signals::catch()?, Hangups::catch()?);
    let running = app::start(config, role, metrics).await?;
    let reloader = running.reload_by(again, keys);
    if config.payment.provider == ProviderKind::Simulator {
        tracing::warn!("payments are simulated: no money moves (payment.provider = \"simulator\")");
        output::talk("payments   play money: no money moves (payment.provider = \"simulator\")");
    }
    if let Some(address) = running.shopper {
        output::talk(&format!("shoppers   http://{address}/api/v1/sales"));
    }
    output::talk(&format!("operators  http://{}/readyz?verbose", running.admin));
    let reload = async || {
        running.note_reload().await;
        match reloader.reload() {
            Ok(reloaded) if reloaded.at_restart.is_empty() => {}
            Ok(reloaded) => {
                tracing::warn!(keys = ?reloaded.at_restart, "these keys of the configuration need a restart");
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("the configuration cannot be used, nothing was changed: {error:#}");
            }
        }
    };
    let asked = tokio::select! {
        asked = signals.first() => asked,
        never = hangups.each(reload) => match never {},
    };
    let notice_ms = match asked {
        Asked::BySupervisor if running.shopper.is_some() => config.shutdown.notice_ms,
        _ => 0,
    };
    if notice_ms > 0 {
        output::talk(&format!("not ready, and serving for {notice_ms} ms; a second signal ends at once"));
        running.give_notice(Duration::from_millis(notice_ms)).await;
    }
    output::talk("draining; a second signal ends at once");
    let deadline = Duration::from_millis(config.shutdown.deadline_ms);
    anyhow::ensure!(running.stop(deadline).await, "not everything ended within shutdown.deadline_ms");
    Ok(())
}

async fn say_plan(config: &Config) -> anyhow::Result<()> {
    let steps = app::migration_plan(config).await?;
    steps.iter().for_each(|step| output::data(step));
    output::talk(&format!("{} steps to do; nothing was changed", steps.len()));
    Ok(())
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    match config.backend.mode {
        #[cfg(feature = "distributed")]
        Mode::Distributed => migrate_services(config).await,
        // In embedded mode, opening a folder migrates it.
        _ => {
            app::open_keys(config).await?;
            output::talk(&format!("folder {} ready", config.embedded.folder.display()));
            Ok(())
        }
    }
}

#[cfg(feature = "distributed")]
async fn migrate_services(config: &Config) -> anyhow::Result<()> {
    app::wait_for_servers(config, app::Needed::Everything, output::talk).await?;
    let months = app::months_ahead(config);
    let settings = app::backend_settings(config)?;
    let mut steps = app::migration_plan(config).await?;
    let report =
        migrate::run(&settings, &months, Clock::System, |step| output::talk(&format!("migrating {step} …")))
            .await?;
    if !steps.is_empty() {
        steps.truncate(STEPS_NOTED_MAX);
        let log = app::open_audit_log(config).await?;
        log.note(&Change::by_hand("migrate", "migrated"), &Subject::Migration { steps }).await?;
    }
    let months: Vec<String> = report.months.iter().map(u32::to_string).collect();
    output::talk(&format!(
        "{} databases ready, orders tables for {}, topic {} {}",
        report.databases,
        months.join(" "),
        config.kafka.topic,
        if report.topic_created { "created" } else { "checked" },
    ));
    if report.foreign_parts > 0 {
        output::talk(&format!(
            "warning: topic {} has {} partitions more than shards.partitions: they stay empty, and nobody uses them",
            config.kafka.topic, report.foreign_parts
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
