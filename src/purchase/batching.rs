//! Natural batching: what waits while a call is in flight goes into the next call. No timer; under light load
//! every question travels alone and at once, under heavy load the batches grow by themselves.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::shutdown::Tasks;

/// Merges questions of one kind. The number waiting is bounded by whoever asks (`admission.in_flight_max`).
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
    pub fn new(batch_max: usize) -> Arc<Self> {
        let queue = Mutex::new(Queue { in_flight: false, waiting: VecDeque::new() });
        Arc::new(Self { batch_max, queue })
    }

    /// Queues a question; `call` answers a batch of 1 to `batch_max` questions, one answer each, in order.
    /// The receiver fails only when `call` panicked or gave too few answers.
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
            tasks.spawn(self.clone().drain(call));
        }
        receiver
    }

    async fn drain<C, F>(self: Arc<Self>, call: C)
    where
        C: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        // Frees the queue also when a call panics; otherwise everybody would wait for ever.
        let mut turn = Turn { batcher: &self, done: false };
        while let Some((questions, answers)) = self.next_batch() {
            for (asker, answer) in answers.into_iter().zip(call(questions).await) {
                // A receiver that is gone has stopped waiting; its effect stands all the same.
                drop(asker.send(answer));
            }
        }
        turn.done = true;
    }

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
        // On this single-threaded runtime nothing runs until we await, so five questions wait together.
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
    async fn a_panicking_call_fails_its_askers_and_not_the_next_ones() {
        let tasks = Tasks::on_current_runtime();
        let batcher: Arc<Batcher<u32, u32>> = Batcher::new(3);
        let failed = batcher.ask(&tasks, 1, |_| async { panic!("deliberate") });
        assert!(failed.await.is_err());
        let answered = batcher.ask(&tasks, 2, |batch| async move { batch });
        assert_eq!(answered.await, Ok(2));
    }
}
