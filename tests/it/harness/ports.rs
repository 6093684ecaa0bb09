//! Ports for the servers that tests start and that cannot choose one themselves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below the range from which the system takes those of outgoing connections: one that was let go in that range
/// may belong to a client of another test before its server listens on it. A test's own Redis has those below these.
const FIRST: u16 = 23_000;
const PORTS: u16 = 6_900;

/// Finds a loopback address on which nobody listens. No two calls of this process get the same one.
pub fn free_address() -> SocketAddr {
    static ASKED: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(PORTS)).expect("less than PORTS");
    (0..PORTS)
        .map(|_| FIRST + (own + ASKED.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port")
}
