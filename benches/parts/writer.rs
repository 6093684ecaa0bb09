//! Drives the order store as the order writer does: every partition has one batch of 500 new orders in flight. Kafka,
//! the reading and decoding of records, and the marking in Redis (docs/protocol/steps.md, step 13) are not measured.

use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use seckill::config::Config;
use seckill::domain::batch_plan::LogBatch;
use seckill::domain::{OrderRecord, OrderState, Part, Sales};
use seckill::ports::{BatchOutcome, OrderWrites, Ports};
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
    let sales = Arc::new(Sales::from([(sale.id.clone(), sale.clone())]));
    let mut batches = fixture::Batches::new(sale, map);
    let mut parts: Vec<Vec<LogBatch>> = Vec::new();
    slices::serve(|word, argument| match word {
        "prepare" => {
            parts.clear();
            for (part, records) in batches.take(argument.parse()?)? {
                parts.push(runtime.block_on(batches_of(&ports, part, records))?);
            }
            Ok(json!({ "lanes": parts.len() }))
        }
        "go" => {
            let began = Instant::now();
            let spawned = std::mem::take(&mut parts).into_iter().map(|batches| {
                let (orders, sales) = (ports.order_writes.clone(), sales.clone());
                tasks.spawn(async move { write(orders.as_ref(), batches, &sales).await })
            });
            let rows = runtime.block_on(try_join_all(spawned))?;
            let rows = rows.into_iter().sum::<anyhow::Result<usize>>()?;
            Ok(json!({ "rows": rows, "seconds": began.elapsed().as_secs_f64() }))
        }
        _ => anyhow::bail!("unknown word"),
    })
}

/// Makes the batches of one partition, from its stored position on.
async fn batches_of(
    ports: &Ports,
    part: Part,
    batches: Vec<Vec<OrderRecord>>,
) -> anyhow::Result<Vec<LogBatch>> {
    let mut offset = ports.order_writes.take_over(part).await?.position.next_offset;
    let log = ports.order_log.identity().await?.id;
    let mut made = Vec::with_capacity(batches.len());
    for records in batches {
        let batch = fixture::log_batch((part, log), offset, records);
        offset = batch.next_offset();
        made.push(batch);
    }
    Ok(made)
}

async fn write(orders: &dyn OrderWrites, batches: Vec<LogBatch>, sales: &Sales) -> anyhow::Result<usize> {
    let mut rows = 0;
    for batch in batches {
        let BatchOutcome::Written(written) = orders.write(&batch, sales).await? else {
            anyhow::bail!("somebody else writes into these databases");
        };
        let new =
            written.orders.iter().filter(|order| order.decision.state == OrderState::AwaitingPayment).count();
        anyhow::ensure!(new == batch.records.len(), "{new} of {} became orders", batch.records.len());
        rows += new;
    }
    Ok(rows)
}
