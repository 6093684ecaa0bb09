//! A leaky bucket: requests leave it evenly, and the others wait for their turn.
//!
//! Invariant: whoever came first leaves first. At most `rate × queue_ms` wait, and who does not wait any more takes no
//! place and no turn.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::channel::oneshot;

use super::token_buckets::{Bucket, Rate};
use super::token_leases::{LeaseOf, LeaseWish, Shared, Taken};
use crate::domain::rule::{LeakyRate, TokenRate};

/// Turns come in steps of this part of a second, because timers are no finer, and may be late.
const STEPS: u32 = 100;

/// A leaky bucket.
pub struct LeakyBucket {
    /// Read without the lock, so that a crowd that finds no room does not wait for it.
    waiting: AtomicUsize,
    queue_max: AtomicUsize,
    queue_ms: AtomicU32,
    queue: Mutex<Queue>,
}

struct Queue {
    rate: LeakyRate,
    turns: Turns,
    waiters: VecDeque<oneshot::Sender<()>>,
    /// Whether somebody calls the waiters.
    is_called: bool,
}

/// Where turns come from.
enum Turns {
    /// From this process.
    Own(Bucket, Rate),
    /// From a bucket that all processes share.
    Shared(LeaseWish),
}

impl Turns {
    fn take(&self, now_ns: u64) -> Taken {
        match self {
            Self::Own(bucket, rate) => match bucket.take(*rate, now_ns) {
                Ok(_) => Taken::Given { left: 0 },
                Err(wait) => Taken::Refused(wait),
            },
            Self::Shared(wish) => wish.lease.take(&wish.shared, now_ns),
        }
    }
}

/// What becomes of a request.
pub enum Entered {
    /// It passes at once.
    Passed,
    /// It waits. When `calls` is set, nobody calls the waiters yet: see [`LeakyBucket::call`].
    Waits {
        /// Its place.
        waiter: Waiter,
        /// Whether somebody has to begin to call.
        calls: bool,
    },
    /// There is no room.
    Full,
}

/// What is to be done before the next waiter is called.
pub enum Called {
    /// Nothing: nobody waits.
    Nobody,
    /// To wait for so long.
    Rest(Duration),
    /// To ask for tokens of a bucket that all processes share.
    Ask(LeaseWish),
}

/// A place in the queue. It is ready when it is its turn, and is given up when it is dropped.
pub struct Waiter {
    turn: oneshot::Receiver<()>,
    bucket: Arc<LeakyBucket>,
    is_over: bool,
}

impl Future for Waiter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Only a bucket that is gone gives no turn, and then there is no rule any more.
        let _turn = ready!(Pin::new(&mut self.turn).poll(context));
        self.is_over = true;
        Poll::Ready(())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.turn.close();
        // Whoever was called meanwhile is not counted any more.
        if !matches!(self.turn.try_recv(), Ok(Some(()))) {
            self.bucket.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl LeakyBucket {
    /// Makes a bucket in which nobody waits. `shared` is the name under which all processes share it.
    pub fn new(rate: LeakyRate, shared: Option<String>) -> Self {
        let turns = turns(rate, shared);
        Self {
            waiting: AtomicUsize::new(0),
            queue_max: AtomicUsize::new(rate.queue_max()),
            queue_ms: AtomicU32::new(rate.queue_ms),
            queue: Mutex::new(Queue { rate, turns, waiters: VecDeque::new(), is_called: false }),
        }
    }

    /// Goes on with these numbers. Who waits keeps the place.
    pub fn change(&self, rate: LeakyRate, shared: Option<String>) {
        let mut queue = self.lock();
        if queue.rate != rate {
            (queue.rate, queue.turns) = (rate, turns(rate, shared));
        }
        drop(queue);
        self.queue_max.store(rate.queue_max(), Ordering::Relaxed);
        self.queue_ms.store(rate.queue_ms, Ordering::Relaxed);
    }

    /// Answers how long a request waits at most.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(u64::from(self.queue_ms.load(Ordering::Relaxed)))
    }

    /// Lets a request in.
    pub fn enter(self: &Arc<Self>, now_ns: u64) -> Entered {
        let queue_max = self.queue_max.load(Ordering::Relaxed);
        if self.waiting.load(Ordering::Relaxed) >= queue_max {
            return Entered::Full;
        }
        let mut queue = self.lock();
        let is_free = self.waiting.load(Ordering::Relaxed) == 0;
        if is_free && matches!(queue.turns.take(now_ns), Taken::Given { .. }) {
            return Entered::Passed;
        }
        if queue.waiters.len() > 2 * queue_max {
            queue.waiters.retain(|waiter| !waiter.is_canceled());
        }
        let (called, turn) = oneshot::channel();
        queue.waiters.push_back(called);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let calls = !std::mem::replace(&mut queue.is_called, true);
        Entered::Waits { waiter: Waiter { turn, bucket: self.clone(), is_over: false }, calls }
    }

    /// Calls the waiters whose turn it is, and answers what is to be done before the next ones. Who was asked to call
    /// does it again and again, until nobody waits.
    pub fn call(&self, now_ns: u64) -> Called {
        let mut queue = self.lock();
        loop {
            while queue.waiters.front().is_some_and(oneshot::Sender::is_canceled) {
                queue.waiters.pop_front();
            }
            if queue.waiters.is_empty() {
                queue.is_called = false;
                return Called::Nobody;
            }
            match queue.turns.take(now_ns) {
                Taken::Given { .. } => {
                    // Who goes away in this moment leaves the turn to the next one.
                    while let Some(waiter) = queue.waiters.pop_front() {
                        if waiter.send(()).is_ok() {
                            self.waiting.fetch_sub(1, Ordering::Relaxed);
                            break;
                        }
                    }
                }
                Taken::Refused(wait) => return Called::Rest(wait),
                Taken::Asks => match &queue.turns {
                    Turns::Own(..) => return Called::Nobody,
                    Turns::Shared(wish) => return Called::Ask(wish.clone()),
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while holding it")
    }
}

fn turns(rate: LeakyRate, shared: Option<String>) -> Turns {
    let per_step = (rate.rate / STEPS).max(1);
    match shared {
        Some(bucket) => {
            let rate = TokenRate { rate: rate.rate, burst: per_step, cluster: true };
            let (lease, shared) = (LeaseOf::One(Arc::default()), Shared::new(rate, per_step));
            Turns::Shared(LeaseWish { bucket, lease, shared })
        }
        None => Turns::Own(Bucket::default(), Rate::new(rate.rate, per_step)),
    }
}
