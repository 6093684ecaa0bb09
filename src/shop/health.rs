//! Asks whether the components behind the shop answer.

use std::time::Duration;

use super::Shop;

/// How long a component may take to answer. A slower one is not ready to sell with.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// One component's state now.
#[derive(Debug)]
pub struct Component {
    /// The name that `/readyz?verbose` shows.
    pub name: String,
    /// Whether it answered in time.
    pub is_up: bool,
    /// Whether nothing can be sold while it is down.
    pub is_vital: bool,
}

impl Shop {
    /// Asks all components at the same time. Costs one request to each, and answers within 1.5 s.
    pub async fn components(&self) -> Vec<Component> {
        let checks = self.ports.probes.iter().map(|probe| async {
            let is_up = match self.clock.timeout(ANSWER_WITHIN, probe.check()).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "component is down");
                    false
                }
                Err(_) => false,
            };
            Component { name: probe.name(), is_up, is_vital: probe.is_vital() }
        });
        futures::future::join_all(checks).await
    }
}
