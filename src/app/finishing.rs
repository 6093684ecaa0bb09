//! Owns the changes that operators and buyers ask for, so that each is made to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::LocalBoxFuture;

use crate::http::Finish;
use crate::shutdown::Tasks;

/// Most changes of a listener at once. Whoever asks and goes away, again and again, keeps no more than this in hand.
const UNDER_WAY_MAX: usize = 10_000;

/// Makes changes on the threads of their requests, as tasks of the front.
pub struct Finishing {
    tasks: Tasks,
    under_way: Arc<AtomicUsize>,
}

impl Finishing {
    /// Makes it for a listener. The process waits for `tasks` before it stops its servers.
    pub fn owned_by(tasks: &Tasks) -> Arc<dyn Finish> {
        Arc::new(Self { tasks: tasks.clone(), under_way: Arc::default() })
    }
}

impl Finish for Finishing {
    fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) < UNDER_WAY_MAX
    }

    fn make(&self, change: LocalBoxFuture<'static, ()>) {
        let under_way = self.under_way.clone();
        under_way.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn_local(async move {
            change.await;
            under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
