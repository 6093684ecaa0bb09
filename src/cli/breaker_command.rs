//! `seckill breaker …` shows the circuit breakers of a process, and forces them in all.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, quoted};
use super::output::{self, Format};

#[derive(Debug, Args)]
pub struct BreakerCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: BreakerAction,
}

#[derive(Debug, Subcommand)]
enum BreakerAction {
    /// List those of the process that answers.
    List,
    /// Make no call of buyers to a dependency, in any process, until it is released.
    Open(Step),
    /// Make every call, whatever becomes of it, until it is released.
    Close(Step),
    /// Leave it to itself again.
    Release(Step),
}

#[derive(Debug, Args)]
struct Step {
    /// redis, kafka, mysql-0 and so on, provider; in embedded mode folder.
    dependency: String,
    /// Kept in the audit log.
    #[arg(long)]
    reason: String,
}

impl BreakerCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let (step, forced) = match self.action {
            BreakerAction::List => {
                let answer = client.call("GET", "/breakers", None).await?;
                show(format, &answer, answer["breakers"].as_array().map(Vec::as_slice).unwrap_or_default());
                return Ok(());
            }
            BreakerAction::Open(step) => (step, json!("open")),
            BreakerAction::Close(step) => (step, json!("closed")),
            BreakerAction::Release(step) => (step, Value::Null),
        };
        let body = json!({ "forced": forced, "reason": step.reason });
        let path = format!("/breakers/{}", quoted(&step.dependency));
        let answer = client.call("POST", &path, Some(body)).await?;
        show(format, &answer, std::slice::from_ref(&answer));
        Ok(())
    }
}

fn show(format: Format, answer: &Value, breakers: &[Value]) {
    let cell = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let columns = ["dependency", "state", "forced", "in_flight", "in_flight_max", "calls", "failed", "slow"];
    let row = |breaker: &Value| columns.map(|key| cell(&breaker[key])).to_vec();
    let heads = ["DEPENDENCY", "STATE", "FORCED", "IN FLIGHT", "MOST", "CALLS", "FAILED", "SLOW"];
    output::entries(format, answer, breakers, &heads, row);
}
