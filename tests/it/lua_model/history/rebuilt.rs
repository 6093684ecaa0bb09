//! Leases, and buckets that are rebuilt.

use seckill::domain::SkuId;
use seckill::domain::inventory_model::Hold;
use seckill::ports::Claim;

use super::*;

impl History {
    fn sale(&self) -> Sale {
        wishes::sale(&self.bucket.sale, self.epoch, &BTreeMap::new())
    }

    /// Prolongs the lease, or finds that the bucket was put in place on another run of the server.
    pub async fn renew(&mut self, line: &Line) {
        if self.model.gate.as_ref().is_some_and(|gate| gate.terms.is_none()) {
            return;
        }
        self.note("renew calls");
        wishes::expect_done(&self.place(), line.ports.refills.renew(&self.sale()).await, true);
        let Some(gate) = &mut self.model.gate else { return };
        if gate.is_on_its_run {
            self.learn_lease(line).await;
        } else {
            gate.lost = true;
        }
    }

    /// Asserts that the lease was prolonged by two seconds, and sets another one, with which time does not matter.
    async fn learn_lease(&mut self, line: &Line) {
        let key = self.keys(line).gate;
        let lease_ms: i64 = redis::cmd("HGET")
            .arg(&key)
            .arg("lease_ms")
            .query_async(&mut line.raw.clone())
            .await
            .expect("Redis");
        let left_ms = lease_ms - now_ms();
        assert!((-CLOCK_SLACK_MS..=CLOCK_SLACK_MS).contains(&left_ms), "{}: {left_ms} ms", self.place());
        let lease_ms = wishes::lease_ms(&mut self.dice);
        let mut set = redis::cmd("HSET");
        set.arg(&key).arg("lease_ms").arg(lease_ms);
        let () = set.query_async(&mut line.raw.clone()).await.expect("Redis");
        if let Some(terms) = self.model.gate.as_mut().and_then(|gate| gate.terms.as_mut()) {
            terms.lease_ms = lease_ms;
        }
    }

    /// Counts the units of the bucket, as who rebuilds another bucket of its sale does.
    pub async fn count(&mut self, line: &Line) {
        self.note("books calls");
        let sale = Sale { buckets: 2, ..self.sale() };
        let claim = Claim { bucket: BucketId { bucket: 1, ..self.bucket.clone() }, epoch: 2 };
        let counted = line.ports.refills.elsewhere(&sale, &[claim]).await.expect("Redis");
        let is_lost =
            self.model.gate.as_ref().is_none_or(|gate| !gate.is_on_its_run) || self.model.has_lost_keys();
        assert_eq!(counted.is_partly_lost, is_lost, "{}", self.place());
        if is_lost {
            return;
        }
        let mut units: BTreeMap<SkuId, i64> = BTreeMap::new();
        for (sku, available) in &self.model.stock {
            *units.entry(sku.clone()).or_default() += i64::from(*available);
        }
        for hold in self.model.orders.values().filter(|hold| !hold.is_released) {
            *units.entry(hold.sku.clone()).or_default() += i64::from(hold.quantity.units());
        }
        assert_eq!(counted.units, units, "{}", self.place());
    }

    /// Clears the bucket and fills it anew, with an epoch that may be too old, and sometimes not to the end.
    pub async fn rebuild(&mut self, line: &Line) {
        self.note("rebuild calls");
        let refills = &line.ports.refills;
        let filled = self.filling();
        let stands = self.model.gate.as_ref().map_or(0, |gate| gate.epoch);
        let newest = stands.max(self.rebuilding.unwrap_or(0));
        let epoch = (newest + self.dice.random_range(0..4)).saturating_sub(1).max(1);
        let claim = Claim { bucket: self.bucket.clone(), epoch };
        let is_newest = self.rebuilding.is_none_or(|begun| begun <= epoch) && stands < epoch;
        assert_eq!(refills.clear(&claim).await.expect("Redis"), is_newest, "{}", self.place());
        if !is_newest {
            self.note("no rebuild");
            return;
        }
        self.model = Bucket { entries_made: self.model.entries_made, ..Bucket::default() };
        self.rebuilding = Some(epoch);
        self.entries.clear();
        self.times.clear();
        if chance(&mut self.dice, 15) {
            return;
        }
        let sale = Sale {
            starts_ms: now_ms() - wishes::HOUR_MS,
            ends_ms: now_ms() + wishes::HOUR_MS,
            ..self.sale()
        };
        let sale = Sale { buyer_limit: 4, version: self.dice.random_range(1..4), ..sale };
        let older = Claim { epoch: epoch - 1, ..claim.clone() };
        assert!(!refills.fill(&sale, &older, &filled).await.expect("Redis"), "{}", self.place());
        assert!(refills.fill(&sale, &claim, &filled).await.expect("Redis"), "{}", self.place());
        assert!(!refills.fill(&sale, &claim, &filled).await.expect("Redis"), "{}: twice", self.place());
        let Sale { starts_ms: opens_ms, ends_ms: closes_ms, buyer_limit, unpaid_max, .. } = sale;
        let gate = Gate {
            epoch,
            state: GateState::Open,
            version: Some(sale.version),
            terms: Some(contents::terms(opens_ms, closes_ms, buyer_limit, unpaid_max)),
            sold: !filled.orders.is_empty(),
            given_up: !filled.unpaid.is_empty(),
            lost: false,
            is_on_its_run: true,
        };
        self.model = Bucket { gate: Some(gate), entries_made: self.model.entries_made, ..filled };
        (self.rebuilding, self.epoch) = (None, epoch);
        self.learn_lease(line).await;
        self.note("rebuilt");
    }

    /// Makes what the bucket is filled with: some of its orders, in any state that MySQL may say, and any stock.
    fn filling(&mut self) -> Bucket {
        let mut filled = Bucket::default();
        for name in SKUS {
            filled.stock.insert(sku(name), self.dice.random_range(0..=24));
        }
        for (id, hold) in &self.model.orders {
            let state = one_of(&mut self.dice, &OrderState::ALL).expect("eight");
            if state == OrderState::Reserved || chance(&mut self.dice, 20) {
                continue;
            }
            let is_released = state.holds_nothing();
            let held = filled.buyers.entry(hold.user.clone()).or_default();
            *held += if is_released { 0 } else { hold.quantity.units() };
            if matches!(state, OrderState::Cancelled | OrderState::Expired) {
                *filled.unpaid.entry(hold.user.clone()).or_default() += 1;
            }
            filled.orders.insert(*id, Hold { state, is_released, ..hold.clone() });
        }
        filled
    }
}
