//! The connections of shoppers, and since when each of them has had no request in hand.
//!
//! Between two requests the framework bounds only the wait for the first byte of the next one. Whoever sends that byte
//! and never a whole head, or takes an answer byte by byte, would be kept for ever. So a connection is cut that has had
//! no request in hand for as long as it may be idle and a head may take.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use socket2::{SockRef, Socket};

use crate::clock::Clock;

/// The connections of a listener.
pub struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    quiet_max: Duration,
    clock: Clock,
}

/// One connection.
pub struct Connection {
    /// The same socket as the framework's, so that it can be cut from outside.
    socket: Socket,
    has_request: AtomicBool,
    quiet_since_ns: AtomicU64,
    clock: Clock,
}

/// A request in hand, until it is dropped.
pub struct InHand(Arc<Connection>);

impl Connections {
    /// Makes a list without connections. `quiet_max` is how long one may have no request in hand.
    pub fn new(quiet_max: Duration, clock: Clock) -> Self {
        Self { open: Mutex::default(), quiet_max, clock }
    }

    /// Notes a connection. It is known for as long as the framework keeps the answer. `None` when the process may have
    /// no more files open.
    pub fn note(&self, stream: &TcpStream) -> Option<Arc<Connection>> {
        let connection = Arc::new(Connection {
            socket: SockRef::from(stream).try_clone().ok()?,
            has_request: AtomicBool::new(false),
            quiet_since_ns: AtomicU64::new(self.clock.monotonic().ns()),
            clock: self.clock.clone(),
        });
        self.open().push(Arc::downgrade(&connection));
        Some(connection)
    }

    /// Cuts the connections that have had no request in hand for too long. New ones do not wait meanwhile.
    pub fn cut_quiet(&self) {
        let mut known = std::mem::take(&mut *self.open());
        known.retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            if connection.quiet() > self.quiet_max {
                // Its end may have come in this moment.
                drop(connection.socket.shutdown(std::net::Shutdown::Both));
                return false;
            }
            true
        });
        self.open().append(&mut known);
    }

    fn open(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        self.open.lock().expect("no code panics while holding it")
    }
}

impl Connection {
    /// Notes that a request is in hand.
    pub fn take(self: Arc<Self>) -> InHand {
        self.has_request.store(true, Ordering::Release);
        InHand(self)
    }

    /// Answers for how long no request has been in hand.
    fn quiet(&self) -> Duration {
        if self.has_request.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let since_ns = self.quiet_since_ns.load(Ordering::Relaxed);
        Duration::from_nanos(self.clock.monotonic().ns().saturating_sub(since_ns))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.quiet_since_ns.store(self.0.clock.monotonic().ns(), Ordering::Relaxed);
        self.0.has_request.store(false, Ordering::Release);
    }
}
