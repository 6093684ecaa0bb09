//! Adjusts the stock of sales that are on: in the directory, the pools and the inventory.
//!
//! Invariant: units that come are in the pools, then in the directory, then in the buckets; units that go leave the
//! buckets, then the directory, then the pools. Each step is done once, by its id, whoever repeats it, and one row of
//! the directory says what was decided. So any process may bring it to its end, and two at once do no harm.
//!
//! A bucket that is rebuilt meanwhile has what the directory said, without the units that are under way
//! (`worker/rebuilder.rs`). Then the inventory has too few for a while, never too many, and the reconciler mends it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, cmd};

use super::mysql::Mysql;
use super::mysql_adjustments::{Begun, MysqlAdjustments, Phase, Plan};
use super::mysql_sale_store::MysqlSaleStore;
use super::mysql_shares::set_share;
use super::redis_gates::RedisGates;
use super::redis_link::RedisLink;
use crate::chance;
use crate::domain::{Adjustment, BucketId, Change, Sale, SaleId};
use crate::ports::{
    Adjusted, Effect, ErrorKind, Gates, SaleStore, StockAdjustments, StoreError, StoreResult,
};

const CONTEXT: &str = "adjust stock";

/// Serves adjustments from MySQL and Redis.
pub struct DistributedAdjustments {
    rows: MysqlAdjustments,
    sales: MysqlSaleStore,
    mysql: Arc<Mysql>,
    redis: Arc<RedisLink>,
    gates: RedisGates,
    adjust: Script,
    put_back: Script,
}

/// How an adjustment ended.
enum Ended {
    Done,
    /// Fewer units than should go are free.
    Short(u32),
    /// Buckets could not be asked.
    Closed,
    /// Another process has brought it to its end.
    Elsewhere,
}

impl DistributedAdjustments {
    /// Loads the script. It calls nothing.
    pub fn new(mysql: Arc<Mysql>, redis: Arc<RedisLink>) -> Self {
        Self {
            rows: MysqlAdjustments::new(mysql.clone()),
            sales: MysqlSaleStore::new(mysql.clone()),
            gates: RedisGates::new(redis.clone()),
            mysql,
            redis,
            adjust: Script::new(include_str!("../../../lua/adjust.lua")),
            put_back: Script::new(include_str!("../../../lua/put_back.lua")),
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

    /// Says what is free when that are fewer units than should go: then nothing is begun.
    async fn is_short(&self, sale: &Sale, adjustment: &Adjustment) -> StoreResult<Option<Ended>> {
        if adjustment.taken() == 0 {
            return Ok(None);
        }
        let buckets = self.gates.buckets(sale).await?;
        if buckets.iter().any(|bucket| bucket.available().is_none()) {
            return Ok(Some(Ended::Closed));
        }
        let free: i64 = buckets.iter().map(|bucket| bucket.units_of(&adjustment.sku_id)).sum();
        let is_short = free < i64::from(adjustment.taken());
        Ok(is_short.then(|| Ended::Short(u32::try_from(free).unwrap_or(0))))
    }

    /// Takes the units that should go out of the buckets: of each its share, then what is missing. The answers stand,
    /// so who repeats it gets the same. Says why not when there are too few.
    async fn take(&self, sale: &Sale, begun: &Begun) -> StoreResult<Option<Ended>> {
        let wanted = i64::from(begun.adjustment.taken());
        let (mut missing, mut is_closed) = (wanted, false);
        for round in ROUNDS {
            for bucket in sale.bucket_ids() {
                let share = i64::from(sale.bucket_share(begun.adjustment.taken(), bucket.bucket));
                let units = if round == 0 { share } else { missing };
                if units == 0 {
                    continue;
                }
                let one = (take_id(begun, round), &begun.adjustment);
                match self.in_bucket(&bucket, one, -units, None).await? {
                    Some(gone) => missing += gone,
                    None => is_closed = true,
                }
            }
        }
        let free = u32::try_from(wanted - missing).unwrap_or(0);
        Ok((missing > 0).then_some(if is_closed { Ended::Closed } else { Ended::Short(free) }))
    }

    /// Puts back what was taken, by whomever, and takes care that nothing is taken any more.
    async fn put_back(&self, sale: &Sale, begun: &Begun) -> StoreResult<()> {
        for bucket in sale.bucket_ids() {
            for round in ROUNDS {
                let keys = self.redis.keys(&bucket);
                let mut call = self.put_back.prepare_invoke();
                call.key(keys.gate).key(keys.stock).key(keys.received);
                call.arg(take_id(begun, round)).arg(begun.adjustment.sku_id.as_str());
                self.redis.script::<i64>(CONTEXT, &call).await?;
            }
        }
        Ok(())
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
        let Some(sale) = self.sales.sale(&begun.sale).await? else {
            return Err(StoreError::broken(CONTEXT, "its sale is gone"));
        };
        let has_fewer = begun.adjustment.taken() > 0;
        let (mut phase, mut short) = (Some(begun.phase), None);
        if begun.phase == Phase::Begun {
            if has_fewer {
                short = self.take(&sale, begun).await?;
            } else {
                self.set_shares(begun).await?;
            }
            phase = match &short {
                Some(_) => self.rows.refuse(begun).await?,
                None => self.rows.list(&sale, begun).await?,
            };
        }
        match phase {
            Some(Phase::Listed) => {
                match has_fewer {
                    true => self.set_shares(begun).await?,
                    false => self.give(&sale, begun).await?,
                }
                self.rows.end(&sale, begun, Phase::Listed).await?;
                Ok(Ended::Done)
            }
            Some(Phase::Refused) => {
                self.put_back(&sale, begun).await?;
                self.rows.end(&sale, begun, Phase::Refused).await?;
                let Adjustment { sku_id, after, .. } = &begun.adjustment;
                tracing::warn!(sale = %sale.id, sku = %sku_id, stock = after, "a stock is not made smaller");
                Ok(short.unwrap_or(Ended::Elsewhere))
            }
            Some(Phase::Begun) | None => Ok(Ended::Elsewhere),
        }
    }
}

/// The rounds in which units are taken: shares, then what is missing.
const ROUNDS: [u8; 2] = [0, 1];

fn take_id(begun: &Begun, round: u8) -> String {
    format!("{}|{round}", hex(begun))
}

fn hex(begun: &Begun) -> String {
    format!("{:032x}", u128::from_be_bytes(begun.id))
}

fn closed() -> StoreError {
    let (kind, effect, source) =
        (ErrorKind::Unavailable, Effect::NotApplied, "a bucket is being rebuilt".into());
    StoreError { kind, effect, context: CONTEXT, source }
}

#[async_trait]
impl StockAdjustments for DistributedAdjustments {
    async fn adjust(&self, sale: &Sale, adjustment: &Adjustment, change: &Change) -> StoreResult<Adjusted> {
        let nothing_done = |error| StoreError { effect: Effect::NotApplied, ..error };
        if let Some(other) = self.rows.under_way(&sale.id).await? {
            self.bring_about(&other).await.map_err(nothing_done)?;
            return Ok(Adjusted::VersionMoved);
        }
        match self.is_short(sale, adjustment).await.map_err(nothing_done)? {
            Some(Ended::Short(free)) => return Ok(Adjusted::Short { free }),
            Some(_) => return Err(closed()),
            None => {}
        }
        let plan = self.plan(sale, adjustment).await.map_err(nothing_done)?;
        if plan.returned.iter().map(|(_, units)| units).sum::<u32>() != adjustment.returned {
            return Ok(Adjusted::VersionMoved);
        }
        let begun = Begun {
            id: chance::bytes(),
            sale: sale.id.clone(),
            adjustment: adjustment.clone(),
            plan,
            change: change.clone(),
            phase: Phase::Begun,
            taken_on_ms: 0,
        };
        if !self.rows.begin(sale, &begun).await? {
            return Ok(Adjusted::VersionMoved);
        }
        match self.bring_about(&begun).await {
            Ok(Ended::Done) => Ok(Adjusted::Done),
            Ok(Ended::Short(free)) => Ok(Adjusted::Short { free }),
            Ok(Ended::Elsewhere) => Ok(Adjusted::VersionMoved),
            Ok(Ended::Closed) => Err(closed()),
            Err(error) => Ok(Adjusted::UnderWay(error)),
        }
    }

    async fn under_way(&self, sale: &SaleId) -> StoreResult<Option<Adjustment>> {
        Ok(self.rows.under_way(sale).await?.map(|begun| begun.adjustment))
    }

    async fn finish(&self, age: Duration) -> StoreResult<usize> {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let (mut done, mut failure) = (0, Ok(()));
        for begun in self.rows.left(age_ms).await? {
            if !self.rows.take_on(&begun).await? {
                continue;
            }
            match self.bring_about(&begun).await {
                Ok(_) => done += 1,
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| done)
    }
}
