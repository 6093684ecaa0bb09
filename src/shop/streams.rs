//! Streams: clients are told what happens, and need not ask again and again.

use std::sync::Arc;

use super::{Failure, Shop};
use crate::domain::stream::TicketHolder;
use crate::domain::{Order, UserId};
use crate::memory::streams::{Full, Listener, Stream, Streams};

/// How many orders of its buyer a stream begins with: the newest.
const RECENT: u32 = 20;

/// Why a stream is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoStream {
    /// This process does not hear of the orders that others change.
    Deaf,
    /// There are too many.
    Full(Full),
}

impl Shop {
    /// Answers the streams of this process.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.memory.streams
    }

    /// Keeps a ticket by the SHA-256 of its text, for half a minute.
    ///
    /// # Errors
    /// When it may not have been kept.
    pub async fn give_stream_ticket(&self, hash: [u8; 32], holder: &TicketHolder) -> Result<(), Failure> {
        self.ports.stream_tickets.give(hash, holder).await.map_err(Failure::of_read)
    }

    /// Takes a ticket; `None` for one that is unknown, was taken or is too old.
    ///
    /// # Errors
    /// When nobody knows. It may be taken then.
    pub async fn take_stream_ticket(&self, hash: [u8; 32]) -> Result<Option<TicketHolder>, Failure> {
        self.ports.stream_tickets.take(hash).await.map_err(Failure::of_read)
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`NoStream`].
    pub fn open_stream(&self, listener: Listener) -> Result<Stream, NoStream> {
        let is_own = listener.user.is_some();
        let stream = self.streams().open(listener).map_err(NoStream::Full)?;
        // Asked while it is open: what is missed from now on ends it.
        if is_own && !self.streams().hears() { Err(NoStream::Deaf) } else { Ok(stream) }
    }

    /// Reads the newest orders of a buyer that are decided, newest first.
    ///
    /// # Errors
    /// As [`Self::orders`].
    pub async fn recent_orders(&self, user: &UserId) -> Result<Vec<Order>, Failure> {
        self.orders(user, None, RECENT).await.map(|page| page.orders)
    }
}
