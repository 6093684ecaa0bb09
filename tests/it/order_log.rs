//! Tests of the order log on Kafka: records of a partition wait for those before them and go together.

use std::task::Poll;
use std::time::Duration;

use futures::future::try_join_all;
use seckill::config::Mode;
use seckill::domain::{IdempotencyKey, Month, OrderId, Part, SaleId, Shard, UserId};
use seckill::ports::{Effect, Ports};

use crate::harness::{config, stage};

const RECORDS: usize = 1000;

fn order_of(shard: u16) -> OrderId {
    let sale = SaleId::parse("drop").expect("a slug");
    let user = UserId::parse("alice").expect("a user");
    let key = IdempotencyKey::parse("k").expect("a key");
    OrderId::derive(Shard::new(shard), Month::new(600), &sale, &user, &key)
}

async fn in_time<T>(answers: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answers).await.expect("every record is answered")
}

async fn records(ports: &Ports) -> i64 {
    let parts = [Part::new(0), Part::new(1)];
    let offsets = ports.order_log.offsets(&parts).await.expect("offsets");
    offsets.values().map(|offsets| offsets.end).sum()
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn every_record_that_waits_for_others_is_appended_once_and_answered() {
    let config = config(Mode::Distributed, &[]);
    let stage = stage(&config);
    stage.migrate().await;
    let ports = stage.open().await;
    let appends = (0..RECORDS).map(|n| {
        let shard = u16::try_from(n % 4).expect("small");
        ports.order_log.append(order_of(shard), n.to_string().into_bytes())
    });
    in_time(try_join_all(appends)).await.expect("appended");
    ports.order_log.flush(Duration::from_secs(5)).await.expect("nothing is left");
    assert_eq!(usize::try_from(records(&ports).await), Ok(RECORDS));
    stage.remove().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn records_that_wait_for_company_are_appended_although_the_first_stops_waiting() {
    let config = config(Mode::Distributed, &[]);
    let stage = stage(&config);
    stage.migrate().await;
    let ports = stage.open().await;
    let append = || ports.order_log.append(order_of(0), b"x".to_vec());
    for _ in 0..20 {
        // The first of them goes alone and the others together, so the next ones wait for company.
        in_time(try_join_all((0..8).map(|_| append()))).await.expect("appended");
        let mut first = append();
        let mut second = append();
        // On a busy machine the moment for company is over before they come, and they may be answered already.
        drop(futures::poll!(&mut first));
        let answer = futures::poll!(&mut second);
        drop(first);
        match answer {
            Poll::Ready(answer) => answer,
            Poll::Pending => in_time(second).await,
        }
        .expect("appended");
    }
    ports.order_log.flush(Duration::from_secs(5)).await.expect("nothing is left");
    assert_eq!(records(&ports).await, 20 * 10);
    stage.remove().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn without_room_a_record_is_refused_at_once_and_not_appended() {
    let config = config(Mode::Distributed, &[("kafka.queue_messages_max", "3")]);
    let stage = stage(&config);
    stage.migrate().await;
    let ports = stage.open().await;
    let (mut appended, mut full_rounds) = (0, 0);
    for _ in 0..100 {
        let mut appends: Vec<_> =
            (0..5).map(|_| ports.order_log.append(order_of(0), b"x".to_vec())).collect();
        let mut at_once = Vec::new();
        for append in &mut appends {
            let answer = futures::poll!(append);
            at_once.push(answer.map(|answer| answer.map_err(|error| error.effect)));
        }
        let (asked, refused) = (Poll::Pending, Poll::Ready(Err(Effect::NotApplied)));
        full_rounds += u8::from(at_once == [asked, asked, asked, refused, refused]);
        // On a busy machine a record is answered before the next one is asked for, and leaves its room to that one.
        let waiting = appends.into_iter().zip(&at_once).filter(|(_, answer)| answer.is_pending());
        let waiting = in_time(try_join_all(waiting.map(|(append, _)| append))).await.expect("appended").len();
        let ready = at_once.iter().filter(|answer| **answer == Poll::Ready(Ok(()))).count();
        assert!(waiting <= 3 && ready + waiting >= 3, "{at_once:?}");
        appended += ready + waiting;
        assert_eq!(usize::try_from(records(&ports).await), Ok(appended), "{at_once:?}");
        if full_rounds == 3 {
            break;
        }
    }
    assert_eq!(full_rounds, 3, "three times all room was taken when the fourth record came");
    stage.remove().await;
}
