//! Natural batching: the questions that wait while a call is in flight go into the next call.
//!
//! Under light load every question goes alone and at once. Where some come together, a call costs more than what it
//! asks, so the next one lets a moment pass and finds more. Under heavy load the batches grow by themselves, and no
//! moment passes.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Clock, Moment};
use crate::shutdown::Tasks;

/// How calls of one kind follow each other.
#[derive(Debug, Clone)]
pub struct Tempo {
    /// Most questions of a call, at least 1.
    pub batch_max: usize,
    /// The least time between the beginnings of two calls, when the first had a number of questions in `keeps`.
    pub distance: Duration,
    /// After fewer questions a distance would find little company, and after more it is not needed.
    pub keeps: std::ops::Range<usize>,
}

impl Tempo {
    /// Is the tempo of calls that reserve for at most `batch_max` purchases. Buyers wait for it, and so it is kept only
    /// from some 1,500 purchases a second of a bucket on (docs/adr/0018), and never after a full call.
    pub fn of_reserve(batch_max: usize) -> Self {
        Self { batch_max, distance: Duration::from_millis(4), keeps: 5..batch_max.min(16) }
    }

    /// Is the tempo of calls that acknowledge orders. Nobody waits for them, and the relay leaves their entries alone
    /// for much longer (`relay.min_age_ms`).
    pub fn of_acknowledge() -> Self {
        Self { batch_max: 500, distance: Duration::from_millis(50), keeps: 1..500 }
    }

    /// Lets a call follow the one before it at once.
    pub fn without_distance(batch_max: usize) -> Self {
        Self { batch_max, distance: Duration::ZERO, keeps: 0..0 }
    }
}

/// Merges questions of one kind into calls. It has no bound of its own: callers bound how many questions wait, as
/// `admission.in_flight_max` does for reservations.
pub struct Batcher<Q, A> {
    tempo: Tempo,
    clock: Clock,
    queue: Mutex<Queue<Q, A>>,
}

struct Queue<Q, A> {
    in_flight: bool,
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
    /// The moment before which no call begins.
    rests_until: Option<Moment>,
}

impl<Q, A> Batcher<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    /// Makes a batcher in which nothing waits.
    pub fn new(tempo: Tempo, clock: Clock) -> Arc<Self> {
        let queue = Mutex::new(Queue { in_flight: false, waiting: VecDeque::new(), rests_until: None });
        Arc::new(Self { tempo, clock, queue })
    }

    /// Queues a question. `call` answers a batch of 1 to `batch_max` questions, one answer each, in order. The `call`
    /// of a question that finds no call in flight serves all questions until none waits, so every caller gives an equal
    /// one. The receiver fails only when `call` panicked or gave too few answers.
    pub fn ask<C, F>(self: &Arc<Self>, tasks: &Tasks, question: Q, call: C) -> oneshot::Receiver<A>
    where
        C: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.queue.lock().expect("no code panics while holding it");
        queue.waiting.push_back((question, answer));
        if !queue.in_flight {
            queue.in_flight = true;
            drop(queue);
            tasks.spawn_here(self.clone().drain(call));
        }
        receiver
    }

    /// Calls for batch after batch until nothing waits.
    async fn drain<C, F>(self: Arc<Self>, call: C)
    where
        C: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        // This frees the queue also when a call panics. Otherwise all callers would wait for ever.
        let mut turn = Turn { batcher: &self, done: false };
        loop {
            self.rest().await;
            let Some((questions, answers)) = self.next_batch() else { break };
            for (sender, answer) in answers.into_iter().zip(call(questions).await) {
                // A receiver that is gone has stopped waiting. The effect of its question stands all the same.
                drop(sender.send(answer));
            }
        }
        turn.done = true;
    }

    /// Waits until the next call may begin, when something waits for it.
    async fn rest(&self) {
        let until = {
            let queue = self.queue.lock().expect("no code panics while holding it");
            queue.rests_until.filter(|_| !queue.waiting.is_empty())
        };
        let left = until.map_or(Duration::ZERO, |until| until.since(self.clock.monotonic()));
        if !left.is_zero() {
            self.clock.sleep(left).await;
        }
    }

    /// Takes the next batch; `None` when nothing waits, and then no call is in flight any more.
    fn next_batch(&self) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut queue = self.queue.lock().expect("no code panics while holding it");
        if queue.waiting.is_empty() {
            queue.in_flight = false;
            return None;
        }
        let size = queue.waiting.len().min(self.tempo.batch_max);
        let keeps = self.tempo.keeps.contains(&size);
        queue.rests_until = keeps.then(|| self.clock.monotonic() + self.tempo.distance);
        Some(queue.waiting.drain(..size).unzip())
    }
}

/// The right to call, until no question waits. When it is dropped before that, the waiting questions fail.
struct Turn<'a, Q, A> {
    batcher: &'a Batcher<Q, A>,
    done: bool,
}

impl<Q, A> Drop for Turn<'_, Q, A> {
    fn drop(&mut self) {
        if !self.done
            && let Ok(mut queue) = self.batcher.queue.lock()
        {
            queue.in_flight = false;
            queue.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_during_a_call_goes_together_into_the_next() {
        let tasks = Tasks::on_current_runtime();
        let batcher: Arc<Batcher<u32, usize>> = Batcher::new(Tempo::without_distance(3), Clock::System);
        // On this single-threaded runtime nothing runs until the test awaits, so five questions wait together.
        let answers: Vec<_> = (0..5)
            .map(|n| batcher.ask(&tasks, n, |batch| async move { vec![batch.len(); batch.len()] }))
            .collect();
        let mut sizes = Vec::new();
        for answer in answers {
            sizes.push(answer.await.expect("answered"));
        }
        assert_eq!(sizes, [3, 3, 3, 2, 2]);
    }

    #[tokio::test]
    async fn a_call_keeps_its_distance_to_one_that_had_some_company() {
        let (tasks, clock) = (Tasks::on_current_runtime(), Clock::manual(0));
        let tempo = Tempo { batch_max: 9, distance: Duration::from_millis(4), keeps: 2..4 };
        let batcher: Arc<Batcher<u32, usize>> = Batcher::new(tempo, clock.clone());
        let ask = |questions: u32| {
            let asked = (0..questions)
                .map(|n| batcher.ask(&tasks, n, |batch| async move { vec![batch.len(); batch.len()] }));
            asked.collect::<Vec<_>>()
        };
        let sizes = async |answers: Vec<oneshot::Receiver<usize>>| {
            let answered = futures::future::join_all(answers).await;
            answered.into_iter().map(|size| size.expect("answered")).collect::<Vec<_>>()
        };
        // One alone and four together are answered at once, whatever was before them.
        assert_eq!(sizes(ask(1)).await, [1]);
        assert_eq!(sizes(ask(4)).await, [4; 4]);
        assert_eq!(sizes(ask(2)).await, [2; 2]);
        // After two, the next ones meet who comes within the distance.
        let mut early = ask(1);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(early[0].try_recv().is_err(), "it waits");
        early.extend(ask(1));
        clock.advance_ms(4);
        assert_eq!(sizes(early).await, [2; 2]);
    }

    #[tokio::test]
    async fn purchases_that_a_full_call_left_over_do_not_wait() {
        for batch_max in [1, 4, 8, 128] {
            let (tasks, clock) = (Tasks::on_current_runtime(), Clock::manual(0));
            let batcher: Arc<Batcher<u32, u32>> = Batcher::new(Tempo::of_reserve(batch_max), clock);
            let asked = (0..300).map(|n| batcher.ask(&tasks, n, |batch| async move { batch }));
            let answers = futures::future::join_all(asked.collect::<Vec<_>>());
            let answers = Clock::System.timeout(Duration::from_secs(5), answers).await;
            assert!(answers.is_ok_and(|all| all.len() == 300), "calls of {batch_max}");
        }
    }

    #[tokio::test]
    async fn a_panicking_call_fails_whoever_asked_and_not_the_next_ones() {
        let tasks = Tasks::on_current_runtime();
        let batcher: Arc<Batcher<u32, u32>> = Batcher::new(Tempo::without_distance(3), Clock::System);
        let failed = batcher.ask(&tasks, 1, |_| async { panic!("deliberate") });
        assert!(failed.await.is_err());
        let answered = batcher.ask(&tasks, 2, |batch| async move { batch });
        assert_eq!(answered.await, Ok(2));
    }
}
