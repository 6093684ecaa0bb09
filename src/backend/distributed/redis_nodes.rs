//! Keeps what processes tell of themselves in Redis.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Script;

use super::redis_link::RedisLink;
use crate::domain::node::{Node, NodeBeat};
use crate::ports::{Nodes, StoreResult};

const LIST: &str = "list nodes";

/// Serves the nodes from Redis.
pub struct RedisNodes {
    link: Arc<RedisLink>,
    beat: Script,
}

impl RedisNodes {
    /// Loads the script. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self { link, beat: Script::new(include_str!("../../../lua/beat.lua")) }
    }

    /// Reads what the processes have told, by their ids; `None` for what cannot be read.
    async fn told(&self) -> StoreResult<Vec<(String, Option<Node>)>> {
        let told: Vec<(String, String)> =
            self.link.command(LIST, redis::cmd("HGETALL").arg(self.link.nodes())).await?;
        let now_ms = self.link.now_ms().await?;
        Ok(told.into_iter().map(|(id, value)| (id, read(&value, now_ms))).collect())
    }

    /// Reads the processes that can be read, and forgets none.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn seen(&self) -> StoreResult<Vec<Node>> {
        Ok(self.told().await?.into_iter().filter_map(|(_, node)| node).collect())
    }
}

/// Reads what lua/beat.lua has written; `None` for what is damaged, or of a version that says less.
fn read(value: &str, now_ms: i64) -> Option<Node> {
    let (at_ms, beat) = value.split_once('|')?;
    let beat: NodeBeat = serde_json::from_str(beat).ok()?;
    Some(Node { beat, age_ms: (now_ms - at_ms.parse::<i64>().ok()?).max(0) })
}

#[async_trait]
impl Nodes for RedisNodes {
    async fn beat(&self, beat: &NodeBeat) -> StoreResult<bool> {
        let mut call = self.beat.prepare_invoke();
        call.key(self.link.nodes()).arg(&beat.id);
        call.arg(serde_json::to_string(beat).expect("a beat is JSON")).arg(Node::FORGOTTEN_AFTER_MS);
        self.link.script::<i64>("tell of a node", &call).await?;
        let wished = redis::cmd("SISMEMBER").arg(self.link.nodes_out()).arg(&beat.id).to_owned();
        self.link.command::<bool>("read wish for a node", &wished).await
    }

    async fn wish_out(&self, id: &str, is_out: bool) -> StoreResult<()> {
        let name = if is_out { "SADD" } else { "SREM" };
        let wish = redis::cmd(name).arg(self.link.nodes_out()).arg(id).to_owned();
        self.link.command::<i64>("wish for a node", &wish).await.map(drop)
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        self.wish_out(id, false).await?;
        self.link
            .command::<i64>("forget node", redis::cmd("HDEL").arg(self.link.nodes()).arg(id))
            .await
            .map(drop)
    }

    async fn all(&self) -> StoreResult<Vec<Node>> {
        let mut nodes = Vec::new();
        for (id, told) in self.told().await? {
            match told {
                Some(node) if node.age_ms <= Node::FORGOTTEN_AFTER_MS => nodes.push(node),
                _ => self.leave(&id).await?,
            }
        }
        nodes.sort_by(|one, other| {
            (&one.beat.role, one.beat.started_ms, &one.beat.id).cmp(&(
                &other.beat.role,
                other.beat.started_ms,
                &other.beat.id,
            ))
        });
        Ok(nodes)
    }
}
