//! `seckill node …` lists the processes of the shop, and takes them out of service, over the admin API.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{Admin, quoted};
use super::output::{self, Format, cell};

#[derive(Debug, Args)]
pub struct NodeCommand {
    #[command(flatten)]
    admin: Admin,
    #[command(subcommand)]
    action: NodeAction,
}

#[derive(Debug, Subcommand)]
enum NodeAction {
    /// List the processes.
    List,
    /// Take one out of service: it is not ready, and serves who still comes.
    Drain(Step),
    /// Take it back into service.
    Resume(Step),
}

#[derive(Debug, Args)]
struct Step {
    /// The id of the process, as `node list` has it.
    node: String,
    /// Why; kept in the audit log.
    #[arg(long)]
    reason: String,
}

const HEAD: [&str; 6] = ["NODE", "ROLE", "STATUS", "VERSION", "STARTED", "ADMIN"];

fn row(node: &Value) -> Vec<String> {
    ["id", "role", "status", "version", "started_at", "admin"].map(|name| cell(&node[name])).to_vec()
}

impl NodeCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the admin API does not answer with a success.
    pub async fn run(self, format: Format) -> anyhow::Result<()> {
        let client = self.admin.client();
        let (Step { node, reason }, action) = match self.action {
            NodeAction::List => {
                let answer = client.call("GET", "/nodes", None).await?;
                output::list(format, &answer, "nodes", &HEAD, row);
                return Ok(());
            }
            NodeAction::Drain(step) => (step, "drain"),
            NodeAction::Resume(step) => (step, "resume"),
        };
        let path = format!("/nodes/{}/{action}", quoted(&node));
        let told = client.call("POST", &path, Some(json!({ "reason": reason }))).await?;
        output::print(format, &told, &HEAD, &[row(&told)]);
        output::talk("it follows within half a second");
        Ok(())
    }
}
