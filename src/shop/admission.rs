//! What is decided of a purchase before any I/O beside the rules: whether too many are in flight, what is left out for
//! that reason, and whether the process drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ladder::Ladder;
use super::settings::Settings;
use crate::metrics::IN_FLIGHT;

/// The places for purchases of one process.
pub struct Admission {
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    /// What is left out while there is no room.
    pub ladder: Ladder,
    draining: AtomicBool,
}

impl Admission {
    /// Makes places of which none is taken.
    pub fn new(settings: &Settings) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(settings.in_flight_max)),
            in_flight_max: settings.in_flight_max,
            ladder: Ladder::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Takes a place for one purchase between reservation and answer; `None` when all are taken. Dropping it frees it.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.in_flight.clone().try_acquire_owned().ok()
    }

    /// Shows how many places are taken, as a metric.
    pub fn gauge_in_flight(&self) {
        let taken = self.in_flight_max.saturating_sub(self.in_flight.available_permits());
        gauge!(IN_FLIGHT).set(f64::from(u32::try_from(taken).unwrap_or(u32::MAX)));
    }

    /// Says that the process drains from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Answers whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
