//! `seckill rule …` calls the admin API from the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::admin_client::{Admin, AdminClient, quoted};
use super::input;
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct RuleCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: RuleAction,
}

#[derive(Debug, Subcommand)]
enum RuleAction {
    /// List them, with those of the configuration that hold.
    List,
    /// Put one in place from a JSON file, as docs/api.md has it. A rule of this name is replaced.
    Put {
        #[command(flatten)]
        step: Step,
        /// The file, or - for standard input. It needs no reason.
        file: PathBuf,
    },
    /// Say what one would have done to the requests of this process in the last minute, and change nothing.
    Try {
        /// A JSON file as for `put`, or - for standard input.
        file: PathBuf,
    },
    /// Let only so many requests pass. A rule of this name is replaced.
    Limit {
        #[command(flatten)]
        step: Step,
        /// Requests a second.
        #[arg(long)]
        rate: u32,
        /// Requests at once; 0 for as many as a second has.
        #[arg(long, default_value_t = 0)]
        burst: u32,
        /// Count in all processes together, not in each by itself.
        #[arg(long)]
        cluster: bool,
        /// Whose requests are counted together: all, route, user, address, device or sale.
        #[arg(long, default_value = "all")]
        scope: String,
        #[command(flatten)]
        about: About,
        #[command(flatten)]
        terms: Terms,
    },
    /// Let requests pass one after the other: the others wait for their turn. A rule of this name is replaced.
    Smooth {
        #[command(flatten)]
        step: Step,
        /// Requests a second.
        #[arg(long)]
        rate: u32,
        /// How long a request waits at most, in ms.
        #[arg(long)]
        queue_ms: u32,
        /// Count in all processes together, not in each by itself.
        #[arg(long)]
        cluster: bool,
        /// Which requests share a queue: all, or those of each route.
        #[arg(long, default_value = "all")]
        scope: String,
        #[command(flatten)]
        about: About,
        #[command(flatten)]
        terms: Terms,
    },
    /// Let nothing of somebody pass.
    Block(OfCaller),
    /// Let everything of somebody pass, whatever other rules say.
    Allow(OfCaller),
    /// Remove one.
    Remove(Step),
}

#[derive(Debug, Args)]
struct Step {
    /// The rule's name: 1 to 64 characters of a-z, 0-9 and -.
    rule: String,
    /// Kept with the rule and in the audit log.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct About {
    /// Only these: purchase, token, order_read, order_list, pay, cancel, sale_read or sale_list.
    #[arg(long)]
    route: Option<String>,
    /// Only those about this sale.
    #[arg(long)]
    sale: Option<String>,
}

impl About {
    fn value(self) -> Value {
        let given = [("route", self.route), ("sale", self.sale)].into_iter();
        let given = given.filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
        Value::Object(given.collect::<Map<String, Value>>())
    }
}

#[derive(Debug, Args)]
struct Terms {
    /// Refuse nothing, but count what would be refused (seckill_rule_decisions_total).
    #[arg(long)]
    dry_run: bool,
    /// When it ends, such as 2026-11-11T21:00:00Z.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, Args)]
struct OfCaller {
    #[command(flatten)]
    step: Step,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Caller {
    /// A user, as tokens name them.
    #[arg(long)]
    user: Option<String>,
    /// An address, or a network such as 203.0.113.0/24.
    #[arg(long)]
    address: Option<String>,
    /// A device, as auth.device_claim or http.device_header name them.
    #[arg(long)]
    device: Option<String>,
}

impl Caller {
    fn value(&self) -> Value {
        match (&self.user, &self.device) {
            (Some(user), _) => json!({ "user": user }),
            (None, Some(device)) => json!({ "device": device }),
            (None, None) => json!({ "address": self.address }),
        }
    }
}

impl OfCaller {
    async fn put(self, kind: &str, format: Format, client: &AdminClient) -> anyhow::Result<()> {
        let Self { step, caller, terms } = self;
        put(format, client, step, terms, json!({ "kind": kind, "value": caller.value() })).await
    }
}

impl RuleCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        match self.action {
            RuleAction::List => {
                let answer = client.call("GET", "/rules", None).await?;
                let rules = answer["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
                show(format, &answer, rules);
                let nodes = &answer["nodes"];
                let followed = match nodes {
                    Value::Null => "nobody knows how many nodes".to_owned(),
                    nodes => format!("{} of {} nodes", nodes["following"], nodes["of"]),
                };
                output::talk(&format!("v{}, followed by {followed}", answer["version"]));
                Ok(())
            }
            RuleAction::Put { step: Step { rule, reason }, file } => {
                let mut body = input::document(&file)?;
                anyhow::ensure!(body.is_object(), "a rule is a JSON object");
                body["reason"] = json!(reason);
                let answer = client.call("PUT", &format!("/rules/{}", quoted(&rule)), Some(body)).await?;
                show(format, &answer, std::slice::from_ref(&answer));
                Ok(())
            }
            RuleAction::Try { file } => {
                let tried = client.call("POST", "/rules:try", Some(input::document(&file)?)).await?;
                let row =
                    ["over_ms", "requests", "would_refuse", "callers"].map(|key| cell(&tried[key])).to_vec();
                output::print(format, &tried, &["OVER_MS", "REQUESTS", "WOULD_REFUSE", "CALLERS"], &[row]);
                Ok(())
            }
            RuleAction::Limit { step, rate, burst, cluster, scope, about, terms } => {
                let value = json!({ "rate": rate, "burst": burst, "cluster": cluster });
                let body =
                    json!({ "kind": "token_bucket", "value": value, "scope": scope, "match": about.value() });
                put(format, &client, step, terms, body).await
            }
            RuleAction::Smooth { step, rate, queue_ms, cluster, scope, about, terms } => {
                let value = json!({ "rate": rate, "queue_ms": queue_ms, "cluster": cluster });
                let body =
                    json!({ "kind": "leaky_bucket", "value": value, "scope": scope, "match": about.value() });
                put(format, &client, step, terms, body).await
            }
            RuleAction::Block(of) => of.put("block", format, &client).await,
            RuleAction::Allow(of) => of.put("allow", format, &client).await,
            RuleAction::Remove(Step { rule, reason }) => {
                let path = format!("/rules/{}?reason={}", quoted(&rule), quoted(&reason));
                let done = client.call("DELETE", &path, None).await?;
                let row = ["id", "done", "version"].map(|key| cell(&done[key])).to_vec();
                output::print(format, &done, &["RULE", "DONE", "VERSION"], &[row]);
                Ok(())
            }
        }
    }
}

async fn put(
    format: Format,
    client: &AdminClient,
    Step { rule, reason }: Step,
    terms: Terms,
    mut body: Value,
) -> anyhow::Result<()> {
    body["reason"] = json!(reason);
    body["mode"] = json!(if terms.dry_run { "dry_run" } else { "enforce" });
    if let Some(until) = terms.until {
        body["until"] = json!(until);
    }
    let answer = client.call("PUT", &format!("/rules/{}", quoted(&rule)), Some(body)).await?;
    show(format, &answer, std::slice::from_ref(&answer));
    Ok(())
}

fn show(format: Format, answer: &Value, rules: &[Value]) {
    let row = |rule: &Value| {
        let mut row = ["id", "origin", "kind", "value", "scope", "match", "mode", "until"]
            .map(|key| cell(&rule[key]))
            .to_vec();
        if rule["is_over"] == true {
            row.push("over".to_owned());
        }
        row
    };
    let head = ["RULE", "ORIGIN", "KIND", "VALUE", "SCOPE", "MATCH", "MODE", "UNTIL"];
    output::entries(format, answer, rules, &head, row);
}
