//! The order store as the order writer drives it: every partition has one batch of 500 new orders in flight.
//! Kafka, the reading and decoding of records and the marking in Redis (step 13) are not in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use seckill::config::Config;
use seckill::domain::batch_plan::LogBatch;
use seckill::domain::{OrderState, Part, Sale, SaleId};
use seckill::ports::{BatchOutcome, OrderStore, Ports};
use seckill::shutdown::Tasks;
use serde_json::json;

use crate::{fixture, slices};

const STOCK: u32 = 100_000_000;

pub fn run(config: &Config) -> anyhow::Result<()> {
    fixture::require_own_databases(config)?;
    let runtime = slices::runtime()?;
    let ports = runtime.block_on(fixture::open(config))?;
    let tasks = runtime.block_on(async { Tasks::on_current_runtime() });
    let map = config.shard_map()?;
    let stamp = seckill::clock::Clock::System.now_ms();
    let sale = fixture::sale(&format!("writer-{stamp}"), STOCK)?;
    runtime.block_on(ports.ledger.open_pools(&sale))?;
    let sales = Arc::new(HashMap::from([(sale.id.clone(), sale.clone())]));
    let mut batches = fixture::Batches::new(sale, map);
    let mut lanes: Vec<Vec<LogBatch>> = Vec::new();
    slices::serve(|word, argument| match word {
        "prepare" => {
            lanes.clear();
            for (part, records) in batches.take(argument.parse()?)? {
                lanes.push(runtime.block_on(lane(&ports, part, records))?);
            }
            Ok(json!({ "lanes": lanes.len() }))
        }
        "go" => {
            let began = Instant::now();
            let spawned = std::mem::take(&mut lanes).into_iter().map(|lane| {
                let (orders, sales) = (ports.orders.clone(), sales.clone());
                tasks.spawn(async move { write(orders.as_ref(), lane, &sales).await })
            });
            let rows = runtime.block_on(try_join_all(spawned))?;
            let rows = rows.into_iter().sum::<anyhow::Result<usize>>()?;
            Ok(json!({ "rows": rows, "seconds": began.elapsed().as_secs_f64() }))
        }
        _ => anyhow::bail!("unknown word"),
    })
}

/// One partition's batches, from its stored position on.
async fn lane(
    ports: &Ports,
    part: Part,
    batches: Vec<Vec<seckill::domain::OrderRecord>>,
) -> anyhow::Result<Vec<LogBatch>> {
    let mut offset = ports.orders.take_over(part).await?;
    let mut lane = Vec::with_capacity(batches.len());
    for records in batches {
        let batch = fixture::log_batch(part, offset, records);
        offset = batch.next_offset();
        lane.push(batch);
    }
    Ok(lane)
}

async fn write(
    orders: &dyn OrderStore,
    lane: Vec<LogBatch>,
    sales: &HashMap<SaleId, Sale>,
) -> anyhow::Result<usize> {
    let mut rows = 0;
    for batch in lane {
        let BatchOutcome::Written(written) = orders.write(&batch, sales).await? else {
            anyhow::bail!("somebody else writes into these databases");
        };
        let new = written.orders.iter().filter(|(_, state)| *state == OrderState::AwaitingPayment).count();
        anyhow::ensure!(new == batch.records.len(), "{new} of {} became orders", batch.records.len());
        rows += new;
    }
    Ok(rows)
}
