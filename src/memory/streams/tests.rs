use std::task::{Context, Poll, Waker};

use super::*;
use crate::domain::{Money, OrderId, OrderState, Quantity, SkuId};

struct Bench {
    clock: Clock,
    streams: Arc<Streams>,
}

impl Bench {
    fn new() -> Self {
        Self::limited(100)
    }

    fn limited(streams_max: usize) -> Self {
        let clock = Clock::manual(1_000_000);
        let (heartbeat, idle_max) = (Duration::from_secs(15), Duration::from_secs(600));
        let limits = Limits { streams_max, user_max: 2, address_max: 3, heartbeat, idle_max };
        Self { streams: Arc::new(Streams::new(limits, true, clock.clone())), clock }
    }

    fn open(&self, user: Option<&str>, address: u8, seen: Seen) -> Result<Stream, Full> {
        self.streams.open(Listener {
            sale: Some(SaleId::parse("drop").expect("an id")),
            user: user.map(|user| UserId::parse(user).expect("an id")),
            device: None,
            address: [10, 0, 0, address].into(),
            until_ms: user.map(|_| 1_100_000),
            seen,
        })
    }

    fn sale(&self, name: &str, band: &str) -> SaleTopics {
        SaleTopics { sale: Topic::new(name.to_owned(), name), stock: Topic::new(band.to_owned(), band) }
    }

    fn tell_sale(&self, topics: &SaleTopics) {
        self.streams.tell_sale(&SaleId::parse("drop").expect("an id"), topics, |_| true);
    }

    fn tell(&self, order: &Order) {
        self.streams.tell_order(order, text);
    }
}

fn order(number: u8, state: OrderState) -> Order {
    Order {
        id: OrderId::from_bytes(&[number; 16]).expect("an id"),
        sale: SaleId::parse("drop").expect("an id"),
        sku: SkuId::parse("phone").expect("an id"),
        user: UserId::parse("ada").expect("an id"),
        quantity: Quantity::new(1).expect("one"),
        unit_price: Money::new(1, "EUR").expect("money"),
        reference: None,
        state,
        reason: None,
        accepted_ms: 0,
        expires_ms: None,
        is_delayed: false,
    }
}

fn text(order: &Order) -> Arc<str> {
    format!("{} {}", order.id.bytes()[0], order.state.as_str()).into()
}

/// Takes all that waits, and what was seen with the last of it.
fn taken(stream: &Stream) -> (Vec<String>, Option<Seen>) {
    let (mut all, mut last) = (Vec::new(), None);
    let context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some((message, seen))) = stream.poll(&context) {
        last = Some(seen);
        all.push(match message {
            Message::Sale(data) | Message::Stock(data) | Message::Order(data) => data.to_string(),
            Message::Beat => "beat".to_owned(),
            Message::Bye(end) => format!("bye {}", end.as_str()),
        });
    }
    (all, last)
}

fn words(stream: &Stream) -> Vec<String> {
    taken(stream).0
}

#[test]
fn a_stream_keeps_the_latest_of_a_sale_and_every_order() {
    let bench = Bench::new();
    let stream = bench.open(Some("ada"), 1, Seen::default()).expect("room");
    for band in ["plenty", "some", "low"] {
        bench.tell_sale(&bench.sale("live", band));
    }
    bench.tell(&order(1, OrderState::AwaitingPayment));
    bench.tell(&order(1, OrderState::Paid));
    bench.tell(&order(2, OrderState::AwaitingPayment));
    assert_eq!(words(&stream), ["1 awaiting_payment", "1 paid", "2 awaiting_payment", "live", "low"]);
    bench.tell_sale(&bench.sale("live", "low"));
    assert!(words(&stream).is_empty(), "it has seen that");
}

#[test]
fn an_order_never_goes_back_whatever_comes_late_or_twice() {
    let bench = Bench::new();
    let stream = bench.open(Some("ada"), 1, Seen::default()).expect("room");
    for state in [OrderState::Paid, OrderState::AwaitingPayment, OrderState::Paid, OrderState::Refunded] {
        bench.tell(&order(1, state));
    }
    assert_eq!(words(&stream), ["1 paid", "1 refunded"]);
}

#[test]
fn a_client_goes_on_with_what_it_has_not_seen() {
    let bench = Bench::new();
    let first = bench.open(Some("ada"), 1, Seen::default()).expect("room");
    first.begin(&bench.sale("live", "plenty"));
    first.offer_orders(&[order(2, OrderState::AwaitingPayment), order(1, OrderState::Paid)], text);
    let (told, seen) = taken(&first);
    assert_eq!(told, ["1 paid", "2 awaiting_payment", "live", "plenty"]);
    drop(first);
    let seen = seen.expect("it has seen something");
    // Nothing has changed.
    let second = bench.open(Some("ada"), 1, seen).expect("room");
    second.begin(&bench.sale("live", "plenty"));
    second.offer_orders(&[order(2, OrderState::AwaitingPayment), order(1, OrderState::Paid)], text);
    assert!(words(&second).is_empty());
    bench.tell(&order(2, OrderState::Paid));
    let (told, seen) = taken(&second);
    assert_eq!(told, ["2 paid"]);
    // One was refunded while nobody listened, and another one came: it is told how all stand.
    let third = bench.open(Some("ada"), 1, seen.expect("it has")).expect("room");
    third.begin(&bench.sale("live", "low"));
    let now = [order(3, OrderState::Rejected), order(2, OrderState::Refunded), order(1, OrderState::Paid)];
    third.offer_orders(&now, text);
    let (told, seen) = taken(&third);
    assert_eq!(told, ["1 paid", "2 refunded", "3 rejected", "low"]);
    let fourth = bench.open(Some("ada"), 1, seen.expect("it has")).expect("room");
    fourth.offer_orders(&now, text);
    assert!(words(&fourth).is_empty());
}

#[test]
fn what_changes_while_the_orders_are_read_is_told_once_and_counts_once() {
    let bench = Bench::new();
    let stale = Seen { orders: 77, ..Seen::default() };
    let stream = bench.open(Some("ada"), 1, stale).expect("room");
    bench.tell(&order(1, OrderState::Paid));
    let waker = Context::from_waker(Waker::noop());
    assert!(matches!(stream.poll(&waker), Poll::Ready(Some((Message::Order(_), _)))));
    bench.tell(&order(2, OrderState::AwaitingPayment));
    // They were read before the first of them was paid.
    stream
        .offer_orders(&[order(2, OrderState::AwaitingPayment), order(1, OrderState::AwaitingPayment)], text);
    let (told, seen) = taken(&stream);
    assert_eq!(told, ["2 awaiting_payment"]);
    let all = [order(1, OrderState::Paid), order(2, OrderState::AwaitingPayment)];
    assert_eq!(seen.expect("it has").orders, Seen::of_orders(&all));
}

#[test]
fn nobody_hears_of_somebody_elses_orders() {
    let bench = Bench::new();
    let (public, other) = (
        bench.open(None, 1, Seen::default()).expect("room"),
        bench.open(Some("bob"), 1, Seen::default()).expect("room"),
    );
    bench.tell(&order(1, OrderState::Paid));
    assert!(words(&public).is_empty() && words(&other).is_empty());
    let hidden = |listener: &Listener| listener.user.is_some();
    bench.streams.tell_sale(&SaleId::parse("drop").expect("an id"), &bench.sale("live", "low"), hidden);
    assert_eq!((words(&public).len(), words(&other).len()), (0, 2));
}

#[test]
fn a_buyers_oldest_stream_gives_its_place_to_a_new_one() {
    let bench = Bench::new();
    let streams: Vec<Stream> =
        (1..=3).map(|address| bench.open(Some("ada"), address, Seen::default()).expect("room")).collect();
    assert_eq!(words(&streams[0]), ["bye evicted"]);
    assert!(words(&streams[1]).is_empty() && words(&streams[2]).is_empty());
}

#[test]
fn a_full_process_gives_up_the_stream_that_was_idle_for_longest_and_otherwise_refuses() {
    let bench = Bench::limited(2);
    let (one, two) = (
        bench.open(None, 1, Seen::default()).expect("room"),
        bench.open(None, 2, Seen::default()).expect("room"),
    );
    assert_eq!(bench.open(None, 3, Seen::default()).err(), Some(Full::Process));
    bench.clock.advance_ms(40_000);
    one.begin(&bench.sale("live", "low"));
    let three = bench.open(None, 3, Seen::default()).expect("room");
    assert_eq!(words(&two), ["bye evicted"]);
    assert_eq!(bench.open(None, 4, Seen::default()).err(), Some(Full::Process));
    drop(three);
    assert!(bench.open(None, 4, Seen::default()).is_ok(), "a place that is left is free");
}

#[test]
fn an_address_has_a_bounded_number_of_streams_and_a_network_counts_as_one() {
    let bench = Bench::new();
    let held: Vec<_> = (0..3).map(|_| bench.open(None, 1, Seen::default()).expect("room")).collect();
    assert_eq!(bench.open(None, 1, Seen::default()).err(), Some(Full::Address));
    assert!(bench.open(None, 2, Seen::default()).is_ok());
    drop(held);
    assert!(bench.open(None, 1, Seen::default()).is_ok());
    assert_eq!(
        subscriber("2001:db8::1".parse().expect("one")),
        subscriber("2001:db8::2".parse().expect("one"))
    );
}

#[test]
fn a_stream_has_heartbeats_and_ends_when_its_token_does_or_nothing_happens() {
    let bench = Bench::new();
    let (public, own) = (
        bench.open(None, 1, Seen::default()).expect("room"),
        bench.open(Some("ada"), 1, Seen::default()).expect("room"),
    );
    bench.streams.sweep();
    assert!(words(&public).is_empty());
    bench.clock.advance_ms(15_000);
    bench.streams.sweep();
    assert_eq!((words(&public), words(&own)), (vec!["beat".to_owned()], vec!["beat".to_owned()]));
    for _ in 0..40 {
        bench.clock.advance_ms(14_900);
        bench.streams.sweep();
        bench.clock.advance_ms(100);
        bench.streams.sweep();
        let (beats, ended) = (words(&public), words(&own));
        if bench.clock.now_ms() >= 1_100_000 && !ended.is_empty() {
            assert_eq!(ended, ["bye token"]);
        }
        assert!(beats.len() <= 1);
        if beats == ["bye idle"] {
            assert!(bench.clock.now_ms() > 1_600_000, "{}", bench.clock.now_ms());
            return;
        }
    }
    panic!("nothing has ended it");
}

#[test]
fn who_takes_nothing_is_cut() {
    let bench = Bench::new();
    let stream = bench.open(Some("ada"), 1, Seen::default()).expect("room");
    for number in 1..=64 {
        bench.tell(&order(number, OrderState::Paid));
    }
    bench.tell(&order(65, OrderState::Paid));
    let told = words(&stream);
    assert_eq!((told.len(), told.last().map(String::as_str)), (65, Some("bye slow")), "none of 64 is lost");
    let silent = bench.open(None, 1, Seen::default()).expect("room");
    bench.clock.advance_ms(45_000);
    bench.streams.sweep();
    assert_eq!(words(&silent), ["bye slow"]);
}

#[test]
fn a_process_that_may_have_missed_something_ends_the_streams_of_orders_alone() {
    let bench = Bench::new();
    let (public, own) = (
        bench.open(None, 1, Seen::default()).expect("room"),
        bench.open(Some("ada"), 1, Seen::default()).expect("room"),
    );
    bench.streams.set_hears(false);
    bench.streams.set_hears(false);
    assert_eq!((words(&public), words(&own)), (vec![], vec!["bye missed".to_owned()]));
    assert!(!bench.streams.hears());
}
