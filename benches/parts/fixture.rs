//! Makes what the parts buy: one sale that is on, its buyers, and the records of their purchases.

use std::collections::BTreeMap;

use anyhow::Context as _;
use seckill::app;
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::batch_plan::{LogBatch, LogRecord};
use seckill::domain::{
    IdempotencyKey, Item, LogId, Money, OrderId, OrderRecord, Part, Quantity, Sale, SaleId, SaleState,
    ShardMap, SkuId, UserId,
};
use seckill::ports::Ports;

pub const SKU: &str = "phone-x";
/// The records of one batch of a partition, which is the default of `writer.batch_records_max`.
pub const BATCH_RECORDS: usize = 500;

pub async fn open(config: &Config) -> anyhow::Result<Ports> {
    app::open_backend(config).await
}

/// Makes a sale that began a second ago and lasts a day.
pub fn sale(id: &str, stock: u32) -> anyhow::Result<Sale> {
    let now_ms = Clock::System.now_ms();
    let price = Money::new(19_900, "CNY")?;
    let item = Item { sku_id: SkuId::parse(SKU)?, name: "Phone X".to_owned(), stock, price };
    Ok(Sale {
        id: SaleId::parse(id)?,
        name: "Bench".to_owned(),
        state: SaleState::Preheated,
        starts_ms: now_ms - 1000,
        ends_ms: now_ms + 86_400_000,
        buyer_limit: 1,
        unpaid_max: 3,
        access: seckill::domain::Access::default(),
        payment_window_ms: 900_000,
        buckets: 1,
        epoch: 1,
        in_place: true,
        version: 1,
        items: vec![item],
    })
}

/// Makes the record of the one order of buyer `number`. Its ids and sizes are those that a front would make.
pub fn record(sale: &Sale, map: &ShardMap, number: u64) -> anyhow::Result<OrderRecord> {
    let user = UserId::parse(&format!("buyer-{number:010}"))?;
    let key = IdempotencyKey::parse(&format!("key-{number:010}"))?;
    let item = sale.items.first().context("a sale has items")?;
    Ok(OrderRecord {
        v: OrderRecord::VERSION,
        order_id: OrderId::derive(map.shard_of(&user), sale.month(), &sale.id, &user, &key),
        sale_id: sale.id.clone(),
        sku_id: item.sku_id.clone(),
        user_id: user,
        quantity: Quantity::new(1)?,
        unit_price: item.price.clone(),
        epoch: sale.epoch,
        accepted_ms: Clock::System.now_ms(),
        reference: None,
        awaited: false,
        node: None,
        trace: None,
        decided: None,
    })
}

/// Makes full batches for the partitions, out of an endless row of buyers.
pub struct Batches {
    sale: Sale,
    map: ShardMap,
    next_buyer: u64,
    /// The records of each partition that do not fill a batch yet.
    open: BTreeMap<u16, Vec<OrderRecord>>,
}

impl Batches {
    pub fn new(sale: Sale, map: ShardMap) -> Self {
        let open = map.all_parts().map(|part| (part.number(), Vec::new())).collect();
        Self { sale, map, next_buyer: 0, open }
    }

    /// Takes `batches` times [`BATCH_RECORDS`] records of each partition, ascending by partition.
    pub fn take(&mut self, batches: usize) -> anyhow::Result<Vec<(Part, Vec<Vec<OrderRecord>>)>> {
        let wanted = batches * BATCH_RECORDS;
        while self.open.values().any(|records| records.len() < wanted) {
            let record = record(&self.sale, &self.map, self.next_buyer)?;
            self.next_buyer += 1;
            let part = self.map.part_of(record.order_id.shard()).number();
            self.open.entry(part).or_default().push(record);
        }
        let take = |(part, records): (&u16, &mut Vec<OrderRecord>)| {
            let rest = records.split_off(wanted);
            let full = std::mem::replace(records, rest);
            (Part::new(*part), full.chunks(BATCH_RECORDS).map(<[_]>::to_vec).collect())
        };
        Ok(self.open.iter_mut().map(take).collect())
    }
}

/// Makes a batch as the order writer reads it from the log.
pub fn log_batch((part, log): (Part, LogId), start_offset: i64, records: Vec<OrderRecord>) -> LogBatch {
    let records = (start_offset..)
        .zip(records)
        .map(|(offset, record)| LogRecord { offset, payload: record.encode(), order: Ok(record) })
        .collect();
    LogBatch { part, log, start_offset, fences: Default::default(), records }
}

/// Returns the prefix of the databases, which must begin with `bench_`: the parts empty and drop these databases.
pub fn require_own_databases(config: &Config) -> anyhow::Result<&str> {
    let prefix = &config.mysql.database_prefix;
    anyhow::ensure!(prefix.starts_with("bench_"), "mysql.database_prefix must begin with bench_: {prefix}");
    Ok(prefix)
}
