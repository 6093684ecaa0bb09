use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use futures::channel::oneshot;

use super::*;
use crate::clock::Clock;
use crate::domain::{Money, Order, OrderState, Quantity, SaleId, SkuId, UserId};

/// Reads that a test answers, ascending by when they began to run.
#[derive(Clone, Default)]
struct Source(Arc<Mutex<Vec<Option<oneshot::Sender<Known>>>>>);

impl Source {
    fn read(&self) -> BoxFuture<'static, Known> {
        let source = self.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            source.0.lock().expect("no panic").push(Some(answer));
            answered.await.expect("the test answers")
        }
        .boxed()
    }

    fn reads(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    fn answer(&self, number: usize, known: Known) {
        let answer = self.0.lock().expect("no panic")[number].take();
        answer.expect("a read without an answer").send(known).ok();
    }
}

/// A cache, its source, and a time that the test sets.
struct World {
    cache: OrderCache,
    source: Source,
    begin: Moment,
}

/// A reader, as far as it has come.
struct Reader<'a>(Pin<Box<dyn Future<Output = Known> + 'a>>);

impl Reader<'_> {
    fn poll(&mut self) -> Poll<Known> {
        self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn state(&mut self) -> Option<OrderState> {
        match self.poll() {
            Poll::Ready(Ok(row)) => row.map(|whole| whole.order.state),
            Poll::Ready(Err(error)) => panic!("{error:?}"),
            Poll::Pending => panic!("it waits"),
        }
    }
}

impl World {
    fn new(orders_max: usize) -> Self {
        let begin = Clock::manual(0).monotonic();
        Self { cache: OrderCache::new(orders_max), source: Source::default(), begin }
    }

    /// A reader who has come after so many ms, and has looked.
    fn reader(&self, after_ms: u64) -> Reader<'_> {
        let now = self.begin + Duration::from_millis(after_ms);
        let mut reader = Reader(Box::pin(self.cache.read(order(), now, || self.source.read())));
        match reader.poll() {
            Poll::Ready(known) => Reader(Box::pin(std::future::ready(known))),
            Poll::Pending => reader,
        }
    }

    fn recent(&self, after_ms: u64) -> Option<OrderState> {
        let whole = self.cache.recent(order(), self.begin + Duration::from_millis(after_ms));
        whole.map(|whole| whole.order.state)
    }

    /// A cache that has read the order as it was at the beginning.
    fn with(state: OrderState) -> Self {
        let world = Self::new(10);
        let mut first = world.reader(0);
        world.source.answer(0, Ok(row(state)));
        assert_eq!(first.state(), Some(state));
        drop(first);
        world
    }
}

fn order() -> OrderId {
    OrderId::from_bytes(&[0; 16]).expect("an id")
}

fn row(state: OrderState) -> Option<Arc<WholeOrder>> {
    let order = Order {
        id: order(),
        sale: SaleId::parse("friday-drop").expect("a slug"),
        sku: SkuId::parse("tee").expect("a slug"),
        user: UserId::parse("ada").expect("a user"),
        quantity: Quantity::new(1).expect("a unit"),
        unit_price: Money::new(100, "EUR").expect("money"),
        reference: None,
        state,
        reason: None,
        accepted_ms: 0,
        expires_ms: None,
        is_delayed: false,
    };
    Some(Arc::new(WholeOrder::from(order)))
}

const BEFORE: OrderState = OrderState::AwaitingPayment;
const AFTER: OrderState = OrderState::Paid;

#[test]
fn readers_who_come_together_make_one_read() {
    let world = World::new(10);
    let mut readers: Vec<_> = (0..5).map(|_| world.reader(0)).collect();
    assert_eq!(world.source.reads(), 1);
    world.source.answer(0, Ok(row(BEFORE)));
    for reader in &mut readers {
        assert_eq!(reader.state(), Some(BEFORE));
    }
    assert_eq!(world.reader(299).state(), Some(BEFORE), "nobody reads it again so soon");
    assert_eq!(world.recent(299), Some(BEFORE));
    assert_eq!(world.source.reads(), 1);
}

#[test]
fn who_begins_a_read_and_goes_away_holds_nobody_up() {
    let world = World::new(10);
    let first = world.reader(0);
    let mut second = world.reader(1);
    drop(first);
    world.source.answer(0, Ok(row(BEFORE)));
    assert_eq!(second.state(), Some(BEFORE));
}

#[test]
fn one_reads_it_again_while_the_others_get_what_was_known() {
    let world = World::with(BEFORE);
    assert_eq!(world.recent(400), None, "somebody has to read it again");
    let mut again = world.reader(400);
    assert_eq!(world.source.reads(), 2);
    assert_eq!(world.recent(410), Some(BEFORE));
    assert_eq!(world.reader(410).state(), Some(BEFORE));
    world.source.answer(1, Ok(row(AFTER)));
    assert_eq!(again.state(), Some(AFTER));
    assert_eq!(world.recent(411), Some(AFTER));
}

#[test]
fn nothing_is_answered_that_was_read_too_long_ago() {
    let world = World::with(BEFORE);
    let mut again = world.reader(400);
    assert_eq!(world.reader(699).state(), Some(BEFORE));
    let mut late = world.reader(700);
    assert!(late.poll().is_pending(), "it waits for the read that is under way");
    world.source.answer(1, Ok(row(AFTER)));
    assert_eq!((again.state(), late.state()), (Some(AFTER), Some(AFTER)));
    // A read that hangs is not waited for by those who come later.
    let mut hangs = world.reader(1_400);
    let mut next = world.reader(2_100);
    assert_eq!(world.source.reads(), 4);
    world.source.answer(3, Ok(row(AFTER)));
    assert_eq!(next.state(), Some(AFTER));
    assert!(hangs.poll().is_pending());
}

#[test]
fn who_comes_after_a_change_gets_nothing_from_before_it() {
    let world = World::with(BEFORE);
    world.cache.forget(order());
    assert_eq!(world.recent(1), None);
    let mut early = world.reader(1);
    // This read saw the row before it changed once more.
    world.cache.forget(order());
    let mut late = world.reader(2);
    assert_eq!(world.source.reads(), 3);
    world.source.answer(2, Ok(row(AFTER)));
    assert_eq!(late.state(), Some(AFTER));
    world.source.answer(1, Ok(row(BEFORE)));
    assert_eq!(early.state(), Some(BEFORE));
    assert_eq!(world.reader(3).state(), Some(AFTER), "what comes late replaces nothing");
}

#[test]
fn what_was_known_before_goes_with_what_is_being_read() {
    let world = World::with(BEFORE);
    let _again = world.reader(400);
    world.cache.forget(order());
    assert!(world.reader(410).poll().is_pending());
}

#[test]
fn a_failure_is_told_to_those_who_waited_and_to_nobody_else() {
    let world = World::new(10);
    let (mut one, mut two) = (world.reader(0), world.reader(0));
    world.source.answer(0, Err(Unknown::Failed(Arc::new(StoreError::broken("read", "a test")))));
    assert!(matches!((one.poll(), two.poll()), (Poll::Ready(Err(_)), Poll::Ready(Err(_)))));
    let mut next = world.reader(1);
    world.source.answer(1, Ok(None));
    assert_eq!(next.state(), None);
    let mut last = world.reader(2);
    world.source.answer(2, Ok(row(BEFORE)));
    assert_eq!(last.state(), Some(BEFORE), "an order without a row may have one at any moment");
}

#[test]
fn a_cache_without_room_reads_every_time() {
    let world = World::new(0);
    for number in 0..3 {
        let mut reader = world.reader(0);
        world.source.answer(number, Ok(row(BEFORE)));
        assert_eq!(reader.state(), Some(BEFORE));
    }
    assert_eq!(world.source.reads(), 3);
}
