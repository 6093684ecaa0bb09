//! Adjusts the stock of sales that are on: in the directory, the pools and the inventory.
//!
//! Invariant: units that come are in the pools, then in the directory, then in the buckets; units that go leave the
//! buckets, then the directory, then the pools. Each step is done once, by its id, whoever repeats it. A row of the
//! directory says what is under way, so any process brings it to its end.
//!
//! A bucket that is rebuilt meanwhile has what the directory said, without the units that are under way
//! (`worker/rebuilder.rs`). Then the inventory has too few for a while, never too many, and the reconciler mends it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, cmd};

use super::mysql::Mysql;
use super::mysql_adjustments::{Begun, MysqlAdjustments, Plan};
use super::mysql_sale_store::MysqlSaleStore;
use super::mysql_shares::set_share;
use super::redis_link::RedisLink;
use crate::chance;
use crate::domain::{Adjustment, BucketId, Change, Sale, SaleId, SaleState};
use crate::ports::{Adjusted, Effect, ErrorKind, SaleStore, StockAdjustments, StoreError, StoreResult};

const CONTEXT: &str = "adjust stock";

/// Serves adjustments from MySQL and Redis.
pub struct DistributedAdjustments {
    rows: MysqlAdjustments,
    sales: MysqlSaleStore,
    mysql: Arc<Mysql>,
    redis: Arc<RedisLink>,
    adjust: Script,
}

/// How an adjustment ended.
enum Ended {
    Done,
    /// Fewer units than should go are free.
    Short(u32),
    /// Buckets could not be asked.
    Closed,
}

impl DistributedAdjustments {
    /// Loads the script. It calls nothing.
    pub fn new(mysql: Arc<Mysql>, redis: Arc<RedisLink>) -> Self {
        Self {
            rows: MysqlAdjustments::new(mysql.clone()),
            sales: MysqlSaleStore::new(mysql.clone()),
            mysql,
            redis,
            adjust: Script::new(include_str!("../../../lua/adjust.lua")),
        }
    }

    async fn plan(&self, sale: &Sale, adjustment: &Adjustment) -> StoreResult<Plan> {
        let mut plan = Plan::default();
        for bucket in sale.bucket_ids() {
            let mut epoch = cmd("HGET");
            epoch.arg(self.redis.keys(&bucket).gate).arg("epoch");
            plan.epochs.push(self.redis.command("read epoch", &epoch).await?);
        }
        plan.returned = self.rows.withholders(&sale.id, &adjustment.sku_id, adjustment.returned).await?;
        Ok(plan)
    }

    /// Changes the units of one bucket; see adjust.lua.
    async fn in_bucket(
        &self,
        bucket: &BucketId,
        (id, adjustment): (String, &Adjustment),
        units: i64,
        epoch: Option<u32>,
    ) -> StoreResult<Option<i64>> {
        let keys = self.redis.keys(bucket);
        let mut call = self.adjust.prepare_invoke();
        call.key(keys.gate).key(keys.stock).key(keys.received);
        call.arg(id).arg(adjustment.sku_id.as_str()).arg(units);
        match epoch {
            Some(epoch) => call.arg(epoch),
            None => call.arg(""),
        };
        self.redis.script(CONTEXT, &call).await
    }

    /// Takes the units that should go out of the buckets: of each its share, then what is missing. The answers stand,
    /// so who repeats it gets the same. Gives them back when there are too few.
    async fn take(&self, sale: &Sale, begun: &Begun) -> StoreResult<Ended> {
        let wanted = i64::from(begun.adjustment.taken());
        let (mut missing, mut is_closed, mut taken) = (wanted, false, Vec::new());
        for round in 0..2u8 {
            for bucket in sale.bucket_ids() {
                let share = i64::from(sale.bucket_share(begun.adjustment.taken(), bucket.bucket));
                let units = if round == 0 { share } else { missing };
                if units == 0 {
                    continue;
                }
                let id = format!("{}|{round}", hex(begun));
                match self.in_bucket(&bucket, (id, &begun.adjustment), -units, None).await? {
                    Some(gone) => {
                        missing += gone;
                        taken.push((bucket, round, -gone));
                    }
                    None => is_closed = true,
                }
            }
        }
        if missing == 0 {
            return Ok(Ended::Done);
        }
        for (bucket, round, units) in taken {
            let id = format!("{}|{round}|back", hex(begun));
            self.in_bucket(&bucket, (id, &begun.adjustment), units, None).await?;
        }
        self.rows.end(begun).await?;
        let free = u32::try_from(wanted - missing).unwrap_or(0);
        Ok(if is_closed { Ended::Closed } else { Ended::Short(free) })
    }

    /// Gives each bucket its share of the units that come. One that was rebuilt since has them.
    async fn give(&self, sale: &Sale, begun: &Begun) -> StoreResult<()> {
        for (bucket, epoch) in sale.bucket_ids().zip(&begun.plan.epochs) {
            let units = sale.bucket_share(begun.adjustment.added(), bucket.bucket);
            if units > 0 && epoch.is_some() {
                let one = (hex(begun), &begun.adjustment);
                self.in_bucket(&bucket, one, i64::from(units), *epoch).await?;
            }
        }
        Ok(())
    }

    async fn set_shares(&self, begun: &Begun) -> StoreResult<()> {
        let Adjustment { sku_id, after, .. } = &begun.adjustment;
        for (at, stock) in self.mysql.map.shares_of(sku_id, *after) {
            set_share(&self.mysql, &begun.sale, sku_id, begun.share(at, stock)).await?;
        }
        Ok(())
    }

    /// Brings an adjustment to its end. Idempotent.
    async fn bring_about(&self, begun: &Begun) -> StoreResult<Ended> {
        let sale = self.sales.sale(&begun.sale).await?.filter(|sale| sale.state != SaleState::Settled);
        let Some(sale) = sale else {
            self.rows.end(begun).await?;
            return Ok(Ended::Done);
        };
        let has_fewer = begun.adjustment.taken() > 0;
        if !begun.is_listed {
            match has_fewer {
                true => match self.take(&sale, begun).await? {
                    Ended::Done => {}
                    ended => return Ok(ended),
                },
                false => self.set_shares(begun).await?,
            }
            if !self.rows.list(&sale, begun).await? {
                return Ok(Ended::Done);
            }
        }
        match has_fewer {
            true => self.set_shares(begun).await?,
            false => self.give(&sale, begun).await?,
        }
        self.rows.end(begun).await?;
        Ok(Ended::Done)
    }
}

fn hex(begun: &Begun) -> String {
    format!("{:032x}", u128::from_be_bytes(begun.id))
}

fn not_applied(kind: ErrorKind, what: &'static str) -> StoreError {
    StoreError { kind, effect: Effect::NotApplied, context: CONTEXT, source: what.into() }
}

#[async_trait]
impl StockAdjustments for DistributedAdjustments {
    async fn adjust(&self, sale: &Sale, adjustment: &Adjustment, change: &Change) -> StoreResult<Adjusted> {
        if let Some(other) = self.rows.under_way(Some(&sale.id), 0).await?.pop() {
            let ended = self.bring_about(&other).await;
            ended.map_err(|error| StoreError { effect: Effect::NotApplied, ..error })?;
            return Ok(Adjusted::VersionMoved);
        }
        let plan = self.plan(sale, adjustment).await;
        let plan = plan.map_err(|error| StoreError { effect: Effect::NotApplied, ..error })?;
        if plan.returned.iter().map(|(_, units)| units).sum::<u32>() != adjustment.returned {
            return Ok(Adjusted::VersionMoved);
        }
        let begun = Begun {
            id: chance::bytes(),
            sale: sale.id.clone(),
            adjustment: adjustment.clone(),
            plan,
            change: change.clone(),
            is_listed: false,
        };
        if !self.rows.begin(sale, &begun).await? {
            return Ok(Adjusted::VersionMoved);
        }
        match self.bring_about(&begun).await {
            Ok(Ended::Done) => Ok(Adjusted::Done),
            Ok(Ended::Short(free)) => Ok(Adjusted::Short { free }),
            Ok(Ended::Closed) => Err(not_applied(ErrorKind::Unavailable, "a bucket is being rebuilt")),
            Err(error) => Ok(Adjusted::UnderWay(error)),
        }
    }

    async fn under_way(&self, sale: &SaleId) -> StoreResult<Option<Adjustment>> {
        Ok(self.rows.under_way(Some(sale), 0).await?.pop().map(|begun| begun.adjustment))
    }

    async fn finish(&self, age: Duration) -> StoreResult<usize> {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let (mut done, mut failure) = (0, Ok(()));
        for begun in self.rows.under_way(None, age_ms).await? {
            match self.bring_about(&begun).await {
                Ok(Ended::Done) => done += 1,
                Ok(Ended::Short(_) | Ended::Closed) => {
                    tracing::warn!(sale = %begun.sale, sku = %begun.adjustment.sku_id, "a stock is not made smaller");
                    done += 1;
                }
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| done)
    }
}
