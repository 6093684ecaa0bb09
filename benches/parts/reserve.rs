//! Makes reservations as `shop::submit` makes them. Every buyer puts one request into the bucket's batcher. The batcher
//! calls `Inventory::reserve`, which runs lua/reserve.lua. There is no HTTP and no order log, so the outbox entries are
//! not acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::reservation::{Fingerprint, ReserveRequest, Verdict};
use seckill::domain::{BucketId, Sale, ShardMap};
use seckill::ports::{Inventory, StoreError};
use seckill::shop::batching::{Batcher, Tempo};
use seckill::shutdown::Tasks;
use serde_json::{Value, json};

use crate::{fixture, slices};

type Answer = Result<Verdict, Arc<StoreError>>;

/// The stock, which is far above what a slice can sell.
const STOCK: u32 = 100_000_000;

struct Desk {
    inventory: Arc<dyn Inventory>,
    tasks: Tasks,
    map: ShardMap,
    sale: Sale,
    bucket: BucketId,
    batcher: Arc<Batcher<ReserveRequest, Answer>>,
    next_buyer: AtomicU64,
    calls: AtomicU64,
}

pub fn run(config: &Config, askers: usize) -> anyhow::Result<()> {
    let runtime = slices::runtime()?;
    let ports = runtime.block_on(fixture::open(config))?;
    let tasks = runtime.block_on(async { Tasks::on_current_runtime() });
    let map = config.shard_map()?;
    let mut desk = None;
    slices::serve(|word, argument| match word {
        "prepare" => {
            let sale = fixture::sale(argument, STOCK)?;
            let placed = runtime.block_on(ports.gates.preheat(&sale))?;
            runtime.block_on(ports.gates.set_gates(&sale, &placed))?;
            let record_bytes = fixture::record(&sale, &map, 0)?.encode().len();
            desk = Some(Arc::new(Desk {
                inventory: ports.inventory.clone(),
                tasks: tasks.clone(),
                map,
                bucket: BucketId { sale: sale.id.clone(), bucket: 0 },
                sale,
                batcher: Batcher::new(Tempo::of_reserve(config.admission.reserve_batch_max), Clock::System),
                next_buyer: AtomicU64::new(0),
                calls: AtomicU64::new(0),
            }));
            Ok(json!({ "record_bytes": record_bytes }))
        }
        "go" => {
            let desk = desk.take().context("prepare first")?;
            runtime.block_on(sell(&desk, askers, Duration::from_secs_f64(argument.parse()?)))
        }
        _ => anyhow::bail!("unknown word"),
    })
}

async fn sell(desk: &Arc<Desk>, askers: usize, duration: Duration) -> anyhow::Result<Value> {
    let began = Instant::now();
    let asker = |_| {
        let (desk, until) = (desk.clone(), began + duration);
        desk.tasks.clone().spawn(async move { ask(&desk, until).await })
    };
    let counts = try_join_all((0..askers).map(asker)).await?;
    let reserved = counts.into_iter().sum::<anyhow::Result<u64>>()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(json!({ "reserved": reserved, "calls": desk.calls.load(Ordering::Relaxed), "seconds": seconds }))
}

/// Buys one unit after the other until `until`. Each purchase waits for the answer to the one before it.
async fn ask(desk: &Arc<Desk>, until: Instant) -> anyhow::Result<u64> {
    let mut reserved = 0;
    while Instant::now() < until {
        let record = fixture::record(&desk.sale, &desk.map, desk.next_buyer.fetch_add(1, Ordering::Relaxed))?;
        let fingerprint = Fingerprint::of(&record.sku_id, record.quantity, None);
        let caller = desk.clone();
        let answer = desk.batcher.ask(&desk.tasks, ReserveRequest { record, fingerprint }, move |batch| {
            let desk = caller.clone();
            async move { desk.call(batch).await }
        });
        match answer.await? {
            Ok(Verdict::Reserved { .. }) => reserved += 1,
            Ok(other) => anyhow::bail!("not reserved: {other:?}"),
            Err(error) => anyhow::bail!("{error}"),
        }
    }
    Ok(reserved)
}

impl Desk {
    async fn call(&self, batch: Vec<ReserveRequest>) -> Vec<Answer> {
        let size = batch.len();
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.inventory.reserve(&self.bucket, batch.into()).await {
            Ok(verdicts) => verdicts.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(Arc::new(error)); size],
        }
    }
}
