//! Tells streams how their sales stand, keeps them alive, and ends those that are over. It stands here because no
//! worker may use the shop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::SaleId;
use crate::domain::node::Node;
use crate::domain::rule::Switch;
use crate::domain::stream::End;
use crate::http::shopper::sales::topics;
use crate::memory::streams::{Listener, Streams};
use crate::ports::StoreResult;
use crate::shop::Shop;
use crate::worker::driver::{Progress, Task};

/// How often is looked at what this process knows of the sales.
const PERIOD: Duration = Duration::from_millis(100);

/// The keeper of the streams of a process.
pub struct StreamKeeper {
    /// The shop.
    pub shop: Arc<Shop>,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// What was told of each sale last.
    pub told: Mutex<BTreeMap<SaleId, ToldOfSale>>,
    /// The processes that were seen to be lost.
    pub lost: Mutex<BTreeSet<String>>,
}

/// What was told of a sale.
#[derive(Debug, Clone, Copy)]
pub struct ToldOfSale {
    /// The digests of the sale and of its stock.
    digests: (u64, u64),
    /// Whether somebody was left out, who may not see it.
    is_hidden: bool,
}

impl StreamKeeper {
    /// Tells of the sales that are others than before, and when `also_hidden` of those that some could not see: they
    /// may see them by now.
    fn tell_sales(&self, also_hidden: bool) -> usize {
        let (snapshot, now_ms) = (self.shop.catalog(), self.shop.now_ms());
        let mut told = self.told.lock().expect("no code panics while holding it");
        let before = std::mem::take(&mut *told);
        let mut done = 0;
        for sale in self.streams.sales() {
            let Some(topics) = topics(&snapshot, &sale, now_ms) else { continue };
            let digests = (topics.sale.digest, topics.stock.digest);
            let last = before.get(&sale).copied().filter(|last| last.digests == digests);
            let is_hidden = match last {
                Some(last) if !(last.is_hidden && also_hidden) => last.is_hidden,
                _ => {
                    let may_see = |listener: &Listener| self.may_see(&sale, listener);
                    done += usize::from(last.is_none());
                    !self.streams.tell_sale(&sale, &topics, may_see)
                }
            };
            told.insert(sale, ToldOfSale { digests, is_hidden });
        }
        done
    }

    /// Ends the streams of orders when a process was lost, and when it is forgotten: it may have changed some and told
    /// nobody.
    async fn watch_others(&self) {
        // Whoever cannot read them hears no announcements either, which ends those streams, too.
        let Ok(nodes) = self.shop.nodes().await else { return };
        let (now, others): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(Node::is_lost);
        let ids = |nodes: Vec<Node>| nodes.into_iter().map(|node| node.beat.id).collect::<BTreeSet<String>>();
        let (now, others) = (ids(now), ids(others));
        let may_be_missed = {
            let mut lost = self.lost.lock().expect("no code panics while holding it");
            // One that was only cut off has gone on, and may have died before it was heard again.
            let is_forgotten = lost.iter().any(|id| !now.contains(id) && !others.contains(id));
            let is_new = !now.is_subset(&lost);
            *lost = now;
            is_new || is_forgotten
        };
        if may_be_missed {
            self.streams.miss();
        }
    }

    fn may_see(&self, sale: &SaleId, listener: &Listener) -> bool {
        let who = listener.user.as_ref().map(|user| (user, listener.device.as_ref()));
        self.shop.traffic().shows(sale, who)
    }
}

#[async_trait]
impl Task for StreamKeeper {
    fn name(&self) -> &'static str {
        "stream_keeper"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_once(&self) -> StoreResult<Progress> {
        if self.shop.is_leaving() {
            self.streams.end_if(End::Drain, |_| true);
        } else if self.shop.traffic().is_off(Switch::NoStreams) {
            self.streams.end_if(End::SwitchedOff, |_| true);
        }
        let is_second = self.streams.sweep();
        let done = self.tell_sales(is_second);
        if is_second {
            self.watch_others().await;
        }
        Ok(Progress::of(done))
    }
}
