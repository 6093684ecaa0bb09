//! Compares every stored position with the order log that there is now, and halts a partition whose position is not one
//! of that log.
//!
//! A log that was deleted and made anew, or that has lost its end or its beginning, may have taken accepted orders with
//! it. After a while it looks whole again, because it grows past the position. So what was seen once is stored, and it
//! stands until an operator moves the position (`seckill position move`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::domain::{Halt, LogId, Part, Position};
use crate::metrics::{FOREIGN_PARTITIONS, PARTITION_HALTED};
use crate::ports::{OrderLog, Positions, StoreResult};

/// The task that watches the positions. Any number of processes may have one.
pub struct PositionWatch {
    /// The log.
    pub order_log: Arc<dyn OrderLog>,
    /// The positions.
    pub positions: Arc<dyn Positions>,
    /// All partitions of the shard map.
    pub parts: Vec<Part>,
    /// Time between two looks.
    pub period: Duration,
}

#[async_trait]
impl Task for PositionWatch {
    fn name(&self) -> &'static str {
        "position_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Compares all positions that can be read now, and shows as metrics which partitions are halted.
    async fn run_once(&self) -> StoreResult<Progress> {
        let identity = self.order_log.identity().await?;
        let foreign = identity.parts.saturating_sub(self.parts.len());
        gauge!(FOREIGN_PARTITIONS).set(f64::from(u32::try_from(foreign).unwrap_or(u32::MAX)));
        // The positions are read before the offsets: the log grows, and an older end would seem to lie before them.
        let positions = self.positions.positions().await;
        let offsets = self.order_log.offsets(&self.parts).await?;
        let (mut done, mut failure) = (0, Ok(()));
        for (part, position) in positions {
            let Some(offsets) = offsets.get(&part) else { continue };
            match compare(self.positions.as_ref(), part, position, (identity.id, offsets)).await {
                Ok(position) => {
                    done += 1;
                    show(part, position.halt);
                }
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| Progress::of(done))
    }
}

/// Compares a position with the log, and halts its partition when it is not one of that log. Answers the position as it
/// is then.
///
/// # Errors
/// When the halt could not be stored.
pub async fn compare(
    positions: &dyn Positions,
    part: Part,
    stored: Position,
    (log, offsets): (LogId, &Range<i64>),
) -> StoreResult<Position> {
    let Some(halt) = stored.halt_in(log, offsets).filter(|_| stored.halt.is_none()) else {
        return Ok(stored);
    };
    let halted = stored.halted(halt);
    // When the position was moved meanwhile, it is compared again in the next look.
    if positions.replace(part, &stored, &halted).await? {
        tracing::error!(
            part = part.number(),
            halt = halt.as_str(),
            position = stored.next_offset,
            log_begins = offsets.start,
            log_ends = offsets.end,
            "partition halted: accepted orders may be lost. It stands still until `seckill position move`"
        );
    }
    Ok(halted)
}

fn show(part: Part, halt: Option<Halt>) {
    for reason in Halt::ALL {
        let is_halted = f64::from(u8::from(halt == Some(reason)));
        gauge!(PARTITION_HALTED, "part" => part.number().to_string(), "reason" => reason.as_str())
            .set(is_halted);
    }
}
