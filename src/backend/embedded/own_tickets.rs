//! Keeps the tickets of streams in memory: one process has the folder.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::{Clock, Moment};
use crate::domain::stream::TicketHolder;
use crate::ports::{StoreError, StoreResult, StreamTickets};

/// Most tickets at once: 100 bytes each.
const TICKETS_MAX: usize = 100_000;

/// Serves tickets from memory.
pub struct OwnTickets {
    clock: Clock,
    tickets: Mutex<HashMap<[u8; 32], (Moment, TicketHolder)>>,
}

impl OwnTickets {
    /// Makes the port, without tickets.
    pub fn new(clock: Clock) -> Self {
        Self { clock, tickets: Mutex::default() }
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Moment, TicketHolder)>> {
        self.tickets.lock().expect("no code panics while holding it")
    }
}

#[async_trait]
impl StreamTickets for OwnTickets {
    async fn give(&self, hash: [u8; 32], holder: &TicketHolder) -> StoreResult<()> {
        let now = self.clock.monotonic();
        let mut tickets = self.tickets();
        if tickets.len() >= TICKETS_MAX {
            tickets.retain(|_, (until, _)| *until > now);
        }
        if tickets.len() >= TICKETS_MAX {
            return Err(StoreError::broken("give stream ticket", "there are too many".to_owned()));
        }
        tickets.insert(hash, (now + Duration::from_millis(TicketHolder::KEPT_MS), holder.clone()));
        Ok(())
    }

    async fn take(&self, hash: [u8; 32]) -> StoreResult<Option<TicketHolder>> {
        let found = self.tickets().remove(&hash);
        let now = self.clock.monotonic();
        Ok(found.filter(|(until, _)| *until > now).map(|(_, holder)| holder))
    }
}
