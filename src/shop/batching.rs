//! Natural batching: the questions that wait while a call is in flight go into the next call.
//!
//! There is no timer. Under light load every question goes alone and at once. Under heavy load the batches grow by
//! themselves.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::shutdown::Tasks;

/// Merges questions of one kind into calls. It has no bound of its own: callers bound how many questions wait, as
/// `admission.in_flight_max` does for reservations.
pub struct Batcher<Q, A> {
    batch_max: usize,
    queue: Mutex<Queue<Q, A>>,
}

struct Queue<Q, A> {
    in_flight: bool,
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
}

impl<Q, A> Batcher<Q, A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    /// Makes a batcher in which nothing waits. A call gets at most `batch_max` questions.
    pub fn new(batch_max: usize) -> Arc<Self> {
        let queue = Mutex::new(Queue { in_flight: false, waiting: VecDeque::new() });
        Arc::new(Self { batch_max, queue })
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
        while let Some((questions, answers)) = self.next_batch() {
            for (sender, answer) in answers.into_iter().zip(call(questions).await) {
                // A receiver that is gone has stopped waiting. The effect of its question stands all the same.
                drop(sender.send(answer));
            }
        }
        turn.done = true;
    }

    /// Takes the next batch; `None` when nothing waits, and then no call is in flight any more.
    fn next_batch(&self) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut queue = self.queue.lock().expect("no code panics while holding it");
        if queue.waiting.is_empty() {
            queue.in_flight = false;
            return None;
        }
        let size = queue.waiting.len().min(self.batch_max);
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
        let batcher: Arc<Batcher<u32, usize>> = Batcher::new(3);
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
    async fn a_panicking_call_fails_whoever_asked_and_not_the_next_ones() {
        let tasks = Tasks::on_current_runtime();
        let batcher: Arc<Batcher<u32, u32>> = Batcher::new(3);
        let failed = batcher.ask(&tasks, 1, |_| async { panic!("deliberate") });
        assert!(failed.await.is_err());
        let answered = batcher.ask(&tasks, 2, |batch| async move { batch });
        assert_eq!(answered.await, Ok(2));
    }
}
