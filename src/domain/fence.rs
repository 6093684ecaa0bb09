//! Fences: from when on the orders of an older epoch of a bucket come too late.
//!
//! When a bucket of the inventory is rebuilt, it gets a new epoch, and is filled with what the databases have. An order
//! of the epoch before whose record is not written by then is in neither. So it must never be written as live, whenever
//! and however often its record comes (docs/adr/0024).

use std::collections::BTreeMap;

use super::record::OrderRecord;
use super::shard::BucketId;

/// The fences of one partition, as its order writer knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fences {
    /// How often one was set in the partition. The writing transaction compares it with the stored number.
    pub set: u32,
    /// The epoch of each bucket that was fenced: orders of it and of later ones are written.
    pub epochs: BTreeMap<BucketId, u32>,
}

impl Fences {
    /// Answers whether an order of the bucket with this number comes too late. One that another backend had decided
    /// never does: nobody reserved anything for it here.
    pub fn is_stale(&self, record: &OrderRecord, bucket: u16) -> bool {
        if self.epochs.is_empty() || record.decided.is_some() {
            return false;
        }
        let bucket = BucketId { sale: record.sale_id.clone(), bucket };
        self.epochs.get(&bucket).is_some_and(|epoch| record.epoch < *epoch)
    }
}
