//! Operators make rules of traffic, and see which processes follow them.

use super::{Failure, Shop};
use crate::domain::Change;
use crate::domain::node::Node;
use crate::domain::operator::Subject;
use crate::domain::rule::{Rule, RuleChange, RuleChanged, RuleSet, RuleTerms};
use crate::memory::guards::GuardStanding;
use crate::memory::rulebook::Trial;

impl Shop {
    /// Reads all rules, and those of the configuration that hold beside them.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn rules(&self) -> Result<(RuleSet, Vec<Rule>), Failure> {
        let renewed = self.memory.rules.renew(self.ports.rules.as_ref(), self.now_ms()).await;
        renewed.map_err(Failure::of_read)?;
        Ok(self.memory.rules.rules())
    }

    /// Answers the rules of the directory that this process follows.
    pub fn known_rules(&self) -> RuleSet {
        self.memory.rules.rules().0
    }

    /// Says what a rule would have done to the requests of this process of late. `None` for one that refuses no
    /// requests. It takes tens of ms of CPU.
    pub fn try_rule(&self, terms: &RuleTerms) -> Option<Trial> {
        self.memory.rules.try_rule(terms, self.clock.monotonic())
    }

    /// Answers how the guards of this process stand, ascending by dependency.
    pub fn guards(&self) -> Vec<GuardStanding> {
        self.memory.guards.standings(self.clock.monotonic().ns())
    }

    /// Notes in the audit log what an operator has done to this process.
    ///
    /// # Errors
    /// When it could not be noted.
    pub async fn note(&self, change: &Change, subject: &Subject) -> Result<(), Failure> {
        Ok(self.ports.audit_log.note(change, subject).await?)
    }

    /// Lists the processes of the shop, and those that were lost a while ago.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        self.ports.nodes.all().await.map_err(Failure::of_read)
    }

    /// Has a process taken out of service, or back, which it hears within half a second. Idempotent; every call is
    /// noted in the audit log. Answers what it has told last; `None` for one that nobody has heard of for a while.
    ///
    /// # Errors
    /// When they could not be read, or the wish could not be noted.
    pub async fn take_node_out(
        &self,
        id: &str,
        is_out: bool,
        change: &Change,
    ) -> Result<Option<Node>, Failure> {
        let Some(node) = self.nodes().await?.into_iter().find(|node| node.beat.id == id && !node.is_lost())
        else {
            return Ok(None);
        };
        self.ports.audit_log.note(change, &Subject::Node { node: id.to_owned() }).await?;
        self.ports.nodes.wish_out(id, is_out).await?;
        Ok(Some(node))
    }

    /// Changes a rule. This process follows it at once, and every other one within a second. Idempotent, but for the
    /// version; every call that changes something is noted in the audit log.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn change_rule(&self, wish: &RuleChange, change: &Change) -> Result<RuleChanged, Failure> {
        let changed = self.ports.rules.change(wish, change).await?;
        // The change stands, whether it can be read again now or with the next look.
        if let Err(error) = self.memory.rules.renew(self.ports.rules.as_ref(), self.now_ms()).await {
            tracing::warn!(%error, "a changed rule is read later");
        }
        Ok(changed)
    }
}
