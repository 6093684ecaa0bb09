//! One open stream, and what waits in it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Moment;
use crate::domain::stream::{End, Seen, digest};
use crate::domain::{DeviceId, Order, OrderId, OrderState, SaleId, UserId};

/// Most orders that wait to be sent to one client.
const ORDERS_MAX: usize = 64;
/// Most orders of which a stream knows what its client has seen of them.
const KNOWN_MAX: usize = 128;
/// A client that takes nothing for so many heartbeats has gone.
const BEATS_MISSED_MAX: u32 = 3;

/// Who wants to listen, and to what.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The sale.
    pub sale: Option<SaleId>,
    /// Whose orders; `None` for nobody's.
    pub user: Option<UserId>,
    /// The device that a token has named.
    pub device: Option<DeviceId>,
    /// From where.
    pub address: IpAddr,
    /// When the right to see the orders ends, ms since 1970.
    pub until_ms: Option<i64>,
    /// What it has seen before.
    pub seen: Seen,
}

/// What of a sale streams tell: the event's data, and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// JSON, one line.
    pub data: Arc<str>,
    /// What it is compared by.
    pub digest: u64,
}

impl Topic {
    /// Makes a topic that is compared by `compared`.
    pub fn new(data: String, compared: &str) -> Self {
        Self { digest: digest(compared), data: data.into() }
    }
}

/// How a sale stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaleTopics {
    /// The sale without its stock.
    pub sale: Topic,
    /// The bands of its stock.
    pub stock: Topic,
}

/// What is sent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// How the sale stands.
    Sale(Arc<str>),
    /// How its stock stands.
    Stock(Arc<str>),
    /// How an order stands.
    Order(Arc<str>),
    /// Nothing has happened.
    Beat,
    /// The last message.
    Bye(End),
}

impl Message {
    /// Answers the name of its event.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sale(_) => "sale",
            Self::Stock(_) => "stock",
            Self::Order(_) => "order",
            Self::Beat => "beat",
            Self::Bye(_) => "bye",
        }
    }
}

/// A stream that is open.
pub struct Open {
    /// Ascending by age.
    pub id: u64,
    /// Who listens.
    pub listener: Listener,
    state: Mutex<State>,
}

/// An order that waits to be sent.
struct Waiting {
    order: OrderId,
    /// The state in which the client has seen it, when all that waits before this was sent.
    before: Option<OrderState>,
    state: OrderState,
    data: Arc<str>,
}

struct State {
    sale: Option<Topic>,
    stock: Option<Topic>,
    orders: VecDeque<Waiting>,
    /// The last state of each order that was noted here, sent or not, oldest first.
    known: VecDeque<(OrderId, OrderState)>,
    /// The digests of sale and stock that the client has seen when all that waits is sent.
    offered: (u64, u64),
    seen: Seen,
    /// When something has happened on it last.
    event_at: Moment,
    /// When something was taken to be sent last.
    taken_at: Moment,
    beat: bool,
    /// Whether it was told how its sale stands.
    is_begun: bool,
    end: Option<End>,
    is_over: bool,
    waker: Option<Waker>,
}

impl Open {
    /// Makes a stream in which nothing waits.
    pub fn new(id: u64, listener: Listener, now: Moment) -> Self {
        let seen = listener.seen;
        let state = State {
            sale: None,
            stock: None,
            orders: VecDeque::new(),
            known: VecDeque::new(),
            offered: (seen.sale, seen.stock),
            seen,
            event_at: now,
            taken_at: now,
            beat: false,
            is_begun: false,
            end: None,
            is_over: false,
            waker: None,
        };
        Self { id, listener, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding it")
    }

    /// Answers how long nothing has happened on it.
    pub fn idle_for(&self, now: Moment) -> Duration {
        now.since(self.state().event_at)
    }

    /// Puts in place how the sale stands, unless something was put in place before.
    pub fn begin(&self, topics: &SaleTopics, now: Moment) {
        if !self.state().is_begun {
            self.offer(topics, now);
        }
    }

    /// Puts in place how the sale stands, unless the client knows it.
    pub fn offer(&self, topics: &SaleTopics, now: Moment) {
        let mut state = self.state();
        state.is_begun = true;
        if state.end.is_some() {
            return;
        }
        let SaleTopics { sale, stock } = topics;
        let (known_sale, known_stock) = state.offered;
        if (known_sale, known_stock) == (sale.digest, stock.digest) {
            return;
        }
        if known_sale != sale.digest {
            state.sale = Some(sale.clone());
        }
        if known_stock != stock.digest {
            state.stock = Some(stock.clone());
        }
        state.offered = (sale.digest, stock.digest);
        state.happened(now);
    }

    /// Puts in place how an order stands, unless a state was noted that does not come before it. Answers `false` when
    /// too many wait.
    pub fn offer_order(&self, order: &Order, data: &Arc<str>, now: Moment) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            return true;
        }
        let Some(before) = state.note(order) else { return true };
        if state.orders.len() >= ORDERS_MAX {
            return false;
        }
        let waiting = Waiting { order: order.id, before, state: order.state, data: data.clone() };
        state.orders.push_back(waiting);
        state.happened(now);
        true
    }

    /// Answers whether the client has seen all recent orders of its buyer as they are. When it has not, it is told of
    /// all of them, and what it had seen before counts no more.
    pub fn knows(&self, orders: &[Order]) -> bool {
        let mut state = self.state();
        let knows = state.known.is_empty() && state.seen.orders == Seen::of_orders(orders);
        if knows {
            for order in orders {
                state.note(order);
            }
        } else {
            state.recount();
        }
        knows
    }

    /// Sends a heartbeat when nothing was sent for so long. Answers `false` when nothing is taken any more.
    pub fn beat(&self, now: Moment, heartbeat: Duration) -> bool {
        let mut state = self.state();
        let quiet = now.since(state.taken_at);
        if quiet >= heartbeat {
            state.beat = true;
            state.wake();
        }
        quiet < heartbeat * BEATS_MISSED_MAX
    }

    /// Ends it after what waits. Answers `false` when it had ended before.
    pub fn end(&self, why: End) -> bool {
        let mut state = self.state();
        let is_first = state.end.is_none();
        state.end.get_or_insert(why);
        state.wake();
        is_first
    }

    /// As [`super::Stream::poll`].
    pub fn poll(&self, context: &Context<'_>, now: Moment) -> Poll<Option<(Message, Seen)>> {
        let mut state = self.state();
        if state.is_over {
            return Poll::Ready(None);
        }
        let Some(message) = state.take() else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        };
        (state.taken_at, state.beat) = (now, false);
        Poll::Ready(Some((message, state.seen)))
    }
}

/// Answers how far an order is: a state comes after those of smaller numbers.
fn rank(state: OrderState) -> u8 {
    match state {
        OrderState::Reserved | OrderState::Queued => 0,
        OrderState::AwaitingPayment => 1,
        OrderState::Paid | OrderState::Cancelled | OrderState::Expired | OrderState::Rejected => 2,
        OrderState::Refunded => 3,
    }
}

impl State {
    fn happened(&mut self, now: Moment) {
        self.event_at = now;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Notes how an order stands. Answers the state that was noted before; `None` when this one is nothing new.
    fn note(&mut self, order: &Order) -> Option<Option<OrderState>> {
        match self.known.iter_mut().find(|(id, _)| *id == order.id) {
            Some((_, known)) if rank(*known) >= rank(order.state) => None,
            Some((_, known)) => Some(Some(std::mem::replace(known, order.state))),
            None => {
                self.known.push_back((order.id, order.state));
                if self.known.len() > KNOWN_MAX {
                    self.known.pop_front();
                }
                Some(None)
            }
        }
    }

    /// Counts what was seen of orders on this stream, and nothing that was seen before it.
    fn recount(&mut self) {
        self.seen.orders = 0;
        for (order, state) in &self.known {
            self.seen.note(*order, None, *state);
        }
        for waiting in self.orders.iter().rev() {
            self.seen.unnote(waiting.order, waiting.before, waiting.state);
        }
    }

    /// Takes the next message. The client has seen it from then on.
    fn take(&mut self) -> Option<Message> {
        if let Some(Waiting { order, before, state, data }) = self.orders.pop_front() {
            self.seen.note(order, before, state);
            return Some(Message::Order(data));
        }
        if let Some(end) = self.end {
            self.is_over = true;
            return Some(Message::Bye(end));
        }
        if let Some(topic) = self.sale.take() {
            self.seen.sale = topic.digest;
            return Some(Message::Sale(topic.data));
        }
        if let Some(topic) = self.stock.take() {
            self.seen.stock = topic.digest;
            return Some(Message::Stock(topic.data));
        }
        std::mem::take(&mut self.beat).then_some(Message::Beat)
    }
}
