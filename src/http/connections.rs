//! The connections of shoppers, and since when each of them has had no request in hand.
//!
//! Between two requests the framework bounds only the wait for the first byte of the next one. Whoever sends that byte
//! and never a whole head, or takes an answer byte by byte, would be kept for ever. So a connection is cut that has had
//! no request in hand for as long as it may be idle and a head may take.
//!
//! A connection is known to its own thread alone, as it is to the framework. So its socket is open when it is cut: the
//! framework keeps the socket and what is noted here together, and lets go of both at once.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use nix::sys::socket;

use crate::clock::{Clock, Moment};

thread_local! {
    static OPEN: RefCell<Vec<Weak<Connection>>> = RefCell::default();
}

/// One connection.
pub struct Connection {
    socket: RawFd,
    has_request: Cell<bool>,
    quiet_since: Cell<Moment>,
    clock: Clock,
}

/// A request in hand, until it is dropped.
pub struct InHand(Rc<Connection>);

/// Notes a connection of this thread. The framework has to keep the answer for as long as it keeps the connection.
pub fn note(stream: &TcpStream, clock: &Clock) -> Rc<Connection> {
    let connection = Rc::new(Connection {
        socket: stream.as_raw_fd(),
        has_request: Cell::new(false),
        quiet_since: Cell::new(clock.monotonic()),
        clock: clock.clone(),
    });
    OPEN.with_borrow_mut(|open| open.push(Rc::downgrade(&connection)));
    connection
}

/// Cuts the connections of this thread that have had no request in hand for longer than `quiet_max`.
pub fn cut_quiet(quiet_max: Duration) {
    OPEN.with_borrow_mut(|open| {
        open.retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            let quiet = connection.clock.monotonic().since(connection.quiet_since.get());
            if connection.has_request.get() || quiet <= quiet_max {
                return true;
            }
            // Its client may have ended it in this moment.
            let _ = socket::shutdown(connection.socket, socket::Shutdown::Both);
            false
        });
    });
}

impl Connection {
    /// Notes that a request is in hand.
    pub fn take(self: Rc<Self>) -> InHand {
        self.has_request.set(true);
        InHand(self)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.quiet_since.set(self.0.clock.monotonic());
        self.0.has_request.set(false);
    }
}
