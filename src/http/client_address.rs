//! The address of a client: the peer, or what a trusted proxy says of it.
//!
//! Invariant: a client cannot choose its address. Exactly one header is believed, and only from a trusted peer. All of
//! its lines are one list, which is read from the right: the nearest proxy wrote the last entry.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};

use actix_web::HttpRequest;
use actix_web::http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;
use metrics::counter;

use super::headers::{entries, split, unquoted};
use crate::metrics::CLIENT_ADDRESS_UNKNOWN;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How long after a warning the next one may come.
const WARNING_PAUSE_MS: i64 = 60_000;

/// The header in which proxies name their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`. Source: RFC 7239.
    Forwarded,
}

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
        }
    }

    /// Reads the address of an entry.
    fn read(self, entry: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => node(entry),
            Self::Forwarded => forwarded(entry),
        }
    }
}

/// Finds the addresses of clients.
pub struct ClientAddresses {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
    warned_ms: AtomicI64,
}

impl ClientAddresses {
    /// Makes a finder that believes `header` when the peer is in one of the `trusted` networks.
    pub fn new(trusted: Vec<IpNet>, header: ForwardedHeader) -> Self {
        Self { trusted, header, warned_ms: AtomicI64::new(i64::MIN) }
    }

    /// Returns the client's address. It is the peer, unless the peer is a trusted proxy. Then it is the right-most
    /// entry that is no trusted proxy, or the left-most one when all are. When there is no entry, or one on the way
    /// cannot be read, it is the peer: this is counted, and warned of once a minute, because all clients of that proxy
    /// then share one limit.
    pub fn of(&self, request: &HttpRequest, now_ms: i64) -> IpAddr {
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let peer = request.peer_addr().map_or(unknown, |peer| peer.ip().to_canonical());
        if !self.is_trusted(peer) {
            return peer;
        }
        let entries = entries(request, &self.header.name());
        if entries.is_empty() {
            self.tell_unknown(peer, now_ms);
        }
        let mut address = peer;
        for entry in entries.into_iter().rev() {
            let Some(hop) = self.header.read(entry) else {
                self.tell_unknown(peer, now_ms);
                return peer;
            };
            address = hop;
            if !self.is_trusted(hop) {
                break;
            }
        }
        address
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    fn tell_unknown(&self, peer: IpAddr, now_ms: i64) {
        counter!(CLIENT_ADDRESS_UNKNOWN).increment(1);
        let warned_ms = self.warned_ms.load(Ordering::Relaxed);
        let is_due = now_ms.saturating_sub(warned_ms) >= WARNING_PAUSE_MS;
        let swap =
            |now| self.warned_ms.compare_exchange(warned_ms, now, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap(now_ms).is_ok() {
            tracing::warn!(
                %peer,
                header = %self.header.name(),
                "a trusted proxy names no client address: its clients share one limit \
                 (http.forwarded_header)"
            );
        }
    }
}

/// Reads one `Forwarded` element: `for="[2001:db8::1]:4711";proto=https`. Source: RFC 7239 §4.
fn forwarded(element: &str) -> Option<IpAddr> {
    let value = split(element.as_bytes(), b';').into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    node(value?)
}

/// Reads an address with or without a port, in brackets, in quotes: `a`, `a:port`, `v6`, `[v6]`, `[v6]:port`.
fn node(text: &str) -> Option<IpAddr> {
    let text = unquoted(text)?;
    let text = text.trim();
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const PEER: &str = "10.0.0.5:4711";

    fn finder(header: ForwardedHeader) -> ClientAddresses {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
        ClientAddresses::new(trusted.to_vec(), header)
    }

    fn found(header: ForwardedHeader, peer: &str, lines: &[(&str, &str)]) -> String {
        let request = TestRequest::default().peer_addr(peer.parse().expect("an address"));
        let request = lines.iter().fold(request, |request, line| request.append_header(*line));
        finder(header).of(&request.to_http_request(), 0).to_string()
    }

    #[test]
    fn every_form_of_an_entry_is_its_address() {
        for (entry, address) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("\"203.0.113.7:4711\"", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("203.0.113.7, 10.1.2.3:80, [fd00::1]:80", "203.0.113.7"),
            ("10.1.2.3, 10.9.9.9", "10.1.2.3"),
        ] {
            let lines = [("X-Forwarded-For", entry)];
            assert_eq!(found(ForwardedHeader::XForwardedFor, PEER, &lines), address, "{entry}");
            let elements = split(entry.as_bytes(), b',');
            let elements =
                elements.iter().map(|node| format!("proto=https;For=\"{}\"", node.trim_matches('"')));
            let line = elements.collect::<Vec<_>>().join(", ");
            assert_eq!(found(ForwardedHeader::Forwarded, PEER, &[("Forwarded", &line)]), address, "{line}");
        }
    }

    #[test]
    fn lines_are_one_list_and_only_one_header_is_believed() {
        let lines = [
            ("X-Forwarded-For", "203.0.113.7"),
            ("X-Forwarded-For", "10.1.2.3"),
            ("Forwarded", "for=198.51.100.1"),
        ];
        assert_eq!(found(ForwardedHeader::XForwardedFor, PEER, &lines), "203.0.113.7");
        assert_eq!(found(ForwardedHeader::Forwarded, PEER, &lines), "198.51.100.1");
        assert_eq!(
            found(ForwardedHeader::XForwardedFor, "203.0.113.9:1", &lines),
            "203.0.113.9",
            "a stranger"
        );
        assert_eq!(found(ForwardedHeader::XForwardedFor, PEER, &[]), "10.0.0.5", "no header at all");
    }

    #[test]
    fn what_a_client_leaves_open_takes_in_nothing_that_the_proxy_appends() {
        let appended = "203.0.113.7";
        for sent in ["\"", "1.2.3.4;x=\"", "\u{e9}", "\"1.2.3.4", "1.2.3.4, \"\\"] {
            let line = format!("{sent}, {appended}");
            assert_eq!(
                found(ForwardedHeader::XForwardedFor, PEER, &[("X-Forwarded-For", &line)]),
                appended,
                "{line}"
            );
            for element in [format!("for={appended}"), format!("for=\"{appended}:4711\"")] {
                let line = format!("for=1.2.3.4;x={sent}, {element}");
                assert_eq!(
                    found(ForwardedHeader::Forwarded, PEER, &[("Forwarded", &line)]),
                    appended,
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn an_entry_that_is_no_address_ends_the_search_at_the_peer() {
        for entry in [
            "unknown",
            "_hidden",
            "203.0.113.7, nonsense",
            "203.0.113.7:port",
            "[2001:db8::1",
            "\"203.0.113.7",
        ] {
            assert_eq!(
                found(ForwardedHeader::XForwardedFor, PEER, &[("X-Forwarded-For", entry)]),
                "10.0.0.5"
            );
        }
        for element in ["proto=https", "for=unknown", "for=\"_x\""] {
            assert_eq!(found(ForwardedHeader::Forwarded, PEER, &[("Forwarded", element)]), "10.0.0.5");
        }
    }
}
