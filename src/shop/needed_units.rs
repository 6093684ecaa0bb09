//! Counts the units that the purchases of a bucket need of other buckets.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::domain::SkuId;

/// Units that are needed, by SKU, until the purchases have reserved them or have been refused.
#[derive(Default)]
pub(super) struct NeededUnits(Mutex<BTreeMap<SkuId, i64>>);

impl NeededUnits {
    /// Counts units as needed until what this answers is dropped.
    pub(super) fn add<'a>(&'a self, sku: &'a SkuId, units: u32) -> Need<'a> {
        let need = Need { all: self, sku, units: i64::from(units) };
        *self.0.lock().expect("no code panics while holding it").entry(sku.clone()).or_default() +=
            need.units;
        need
    }

    /// Answers how many units of a SKU are needed.
    pub(super) fn of(&self, sku: &SkuId) -> i64 {
        self.0.lock().expect("no code panics while holding it").get(sku).copied().unwrap_or(0)
    }
}

/// Units that one purchase needs.
pub(super) struct Need<'a> {
    all: &'a NeededUnits,
    sku: &'a SkuId,
    units: i64,
}

impl Drop for Need<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().expect("no code panics while holding it");
        if let Some(units) = all.get_mut(self.sku) {
            *units -= self.units;
            if *units == 0 {
                all.remove(self.sku);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_until_their_purchase_is_answered() {
        let [phone, bag] = ["phone", "bag"].map(|sku| SkuId::parse(sku).expect("a slug"));
        let needed = NeededUnits::default();
        let first = needed.add(&phone, 2);
        let second = needed.add(&phone, 3);
        assert_eq!((needed.of(&phone), needed.of(&bag)), (5, 0));
        drop(first);
        assert_eq!(needed.of(&phone), 3, "the others still need theirs");
        drop(second);
        assert_eq!(needed.of(&phone), 0);
    }
}
