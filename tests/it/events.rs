//! Tests of the readers of events: they die at any point, and two of them read at once.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use seckill::app::Role;
use seckill::chance;
use seckill::config::Mode;
use seckill::domain::view::SaleView;
use seckill::domain::{EventNumbers, Instance, SaleId};
use seckill::ports::{Backlog, EventPage, OrderEvents, Ports, ReaderMover, StoreResult, Turn, VIEWS};
use seckill::shop::views::{RebuildOutcome, Rebuilt, rebuild};
use seckill::worker::driver::Task;
use seckill::worker::event_publisher::EventPublisher;
use seckill::worker::event_reader::EventReader;
use seckill::worker::view_builder::ViewBuilder;

use crate::harness::topic::{Told, told};
use crate::harness::{TestShop, config, eventually, migrated, open, remove};

/// So many runs come to their end before a test is content.
const ENDS: usize = 5;
/// No run goes on more often than that.
const POLLS_MAX: usize = 2000;

/// Makes a reader of a process of its own. Its lease is over at once, so that the next process need not wait.
fn reader(ports: &Ports, name: &str) -> EventReader {
    let (events, holder) = (ports.events.clone(), chance::bytes());
    EventReader { events, name: name.to_owned(), holder, lease: Duration::ZERO }
}

fn publisher(ports: &Ports) -> EventPublisher {
    let topic = ports.event_topic.clone().expect("a topic");
    EventPublisher { reader: reader(ports, EventPublisher::READER), topic, period: Duration::ZERO }
}

fn builder(ports: &Ports) -> ViewBuilder {
    let (reader, remover) = (reader(ports, VIEWS), None);
    ViewBuilder { reader, views: ports.views.clone(), remover, period: Duration::ZERO }
}

/// Runs a task until it has gone on so often, and drops it then, as the end of its process does. Answers whether it
/// came to its end before.
async fn dies_after(polls: usize, task: &dyn Task) -> bool {
    let mut run = pin!(task.run_once());
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        run.as_mut().poll(context).map(|outcome| outcome.is_ok())
    })
    .await
}

/// Runs a task that dies ever later, from at once on, until some have come to their end.
async fn dies_at_any_poll(run: impl AsyncFn(usize) -> bool) {
    let (mut polls, mut ends) = (0, 0);
    while ends < ENDS {
        assert!(polls < POLLS_MAX, "a run ends");
        ends += usize::from(run(polls).await);
        polls += 1;
    }
    assert!(polls > ENDS, "some died before");
}

/// Runs a reader until nothing is left to read. A run that did nothing does not say so: the last step of one that died
/// may still be under way, and keeps the turn.
async fn until_all_is_read(ports: &Ports, name: &str, task: &dyn Task) {
    eventually("all is read", async || {
        task.run_once().await.expect("servers");
        for at in ports.events.instances() {
            if !ports.events.backlog(at, name).await.expect("MySQL").is_empty() {
                return false;
            }
        }
        true
    })
    .await;
}

/// A shop whose orders nobody has read of: it runs as a front, and a writer beside it.
async fn shop_of_orders(orders: usize) -> (TestShop, Ports) {
    let flags = [("events.interval_ms", "60000"), ("events.views_interval_ms", "60000")];
    let config = config(Mode::Distributed, &flags);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 1000)]).await;
    for buyer in 0..orders {
        let order = shop.unpaid(&format!("u{buyer}"), "k").await;
        if buyer % 2 == 0 {
            assert_eq!(shop.act(&format!("u{buyer}"), &order, "cancel").await.status, 200);
        }
    }
    let ports = open(&config).await;
    (shop, ports)
}

async fn end(mut shop: TestShop) {
    let config = shop.config.clone();
    crate::harness::promises::assert_kept(&config, None, crate::harness::Books::LeftAlone).await;
    shop.stop().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_publisher_that_dies_at_any_point_leaves_no_event_out() {
    let (shop, ports) = shop_of_orders(30).await;
    dies_at_any_poll(async |polls| dies_after(polls, &publisher(&ports)).await).await;
    until_all_is_read(&ports, EventPublisher::READER, &publisher(&ports)).await;
    let Told { first, all } = told(&shop.config).await;
    assert_eq!(first.len(), 45, "every event is there, and in its order");
    println!("{all} records for 45 events");
    assert!(all >= 45);
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_view_builder_that_dies_at_any_point_counts_every_event_once() {
    let (shop, ports) = shop_of_orders(30).await;
    dies_at_any_poll(async |polls| dies_after(polls, &builder(&ports)).await).await;
    until_all_is_read(&ports, VIEWS, &builder(&ports)).await;
    let sale = SaleId::parse("drop").expect("a slug");
    let view = SaleView::of(&sale, &ports.views.counts(&sale).await.expect("MySQL"));
    let of = |state: &str| view.totals.states[state].orders;
    assert_eq!((view.events, of("awaiting_payment"), of("cancelled")), (45, 15, 15));
    end(shop).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn many_builders_at_once_count_every_event_once() {
    let (shop, ports) = shop_of_orders(30).await;
    let builders: Vec<Arc<ViewBuilder>> = (0..6).map(|_| Arc::new(builder(&ports))).collect();
    for _ in 0..5 {
        futures::future::join_all(builders.iter().map(|builder| builder.run_once())).await;
    }
    until_all_is_read(&ports, VIEWS, &builder(&ports)).await;
    let sale = SaleId::parse("drop").expect("a slug");
    assert_eq!(SaleView::of(&sale, &ports.views.counts(&sale).await.expect("MySQL")).events, 45);
    end(shop).await;
}

/// The events of a shop of which some go: what is kept is told once as it was before.
struct Going {
    events: Arc<dyn OrderEvents>,
    kept_before: Mutex<HashMap<Instance, Backlog>>,
}

#[async_trait]
impl OrderEvents for Going {
    fn instances(&self) -> Vec<Instance> {
        self.events.instances()
    }

    async fn turn(&self, at: Instance, turn: Turn<'_>) -> StoreResult<Option<Backlog>> {
        self.events.turn(at, turn).await
    }

    async fn backlog(&self, at: Instance, reader: &str) -> StoreResult<Backlog> {
        self.events.backlog(at, reader).await
    }

    async fn read(&self, at: Instance, from: &EventNumbers, rows_max: u32) -> StoreResult<EventPage> {
        self.events.read(at, from, rows_max).await
    }

    async fn move_reader(&self, at: Instance, by: ReaderMover<'_>, to: &EventNumbers) -> StoreResult<()> {
        self.events.move_reader(at, by, to).await
    }

    async fn kept(&self, at: Instance) -> StoreResult<Backlog> {
        let before = self.kept_before.lock().expect("sound").remove(&at);
        match before {
            Some(before) => Ok(before),
            None => self.events.kept(at).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_view_whose_events_go_while_it_is_made_anew_is_kept() {
    let (mut shop, ports) = shop_of_orders(30).await;
    until_all_is_read(&ports, VIEWS, &builder(&ports)).await;
    let sale = SaleId::parse("drop").expect("a slug");
    let before = ports.views.counts(&sale).await.expect("MySQL");
    let mut kept_before = HashMap::new();
    for at in ports.events.instances() {
        kept_before.insert(at, ports.events.kept(at).await.expect("MySQL"));
    }
    let events = Going { events: ports.events.clone(), kept_before: Mutex::new(kept_before) };
    shop.stage().execute_control("DELETE FROM order_events WHERE first_number = 1").await;
    let rebuilt = rebuild((&events, ports.views.as_ref()), None, |_| ()).await.expect("MySQL");
    let is_kept = |one: &Rebuilt| one.outcome == RebuildOutcome::Kept;
    assert!(!rebuilt.is_empty() && rebuilt.iter().all(is_kept), "{rebuilt:?}");
    assert_eq!(ports.views.counts(&sale).await.expect("MySQL"), before);
    // The audit would miss the events.
    shop.stop().await;
    remove(&shop.config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn one_process_at_a_time_reads_for_a_reader() {
    let (shop, ports) = shop_of_orders(4).await;
    let lease = Duration::from_secs(60);
    let first = EventReader { lease, ..reader(&ports, "one") };
    let second = EventReader { lease, ..reader(&ports, "one") };
    let mut read = 0;
    for at in ports.events.instances() {
        let unread = first.unread(at).await.expect("MySQL");
        assert!(second.unread(at).await.expect("MySQL").is_none(), "the first one has the turn");
        assert!(first.unread(at).await.expect("MySQL").is_some(), "and keeps it");
        let unread = unread.expect("events");
        read += unread.page.events.len();
        first.done(at, &unread).await.expect("MySQL");
        assert!(first.unread(at).await.expect("MySQL").is_none());
        // Whoever is late moves nothing back.
        second.done(at, &unread).await.expect("MySQL");
        assert!(ports.events.backlog(at, "one").await.expect("MySQL").is_empty());
    }
    assert_eq!(read, 6);
    end(shop).await;
}
