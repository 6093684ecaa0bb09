//! Who asks for what.

use std::net::{IpAddr, Ipv6Addr};

use crate::domain::rule::Way;
use crate::domain::{DeviceId, SaleId, UserId};

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// What is asked for.
    pub way: Way,
    /// The user, from the verified token.
    pub user: Option<&'a UserId>,
    /// The address, as far as our own proxies say.
    pub address: IpAddr,
    /// The sale that the request is about.
    pub sale: Option<&'a SaleId>,
    /// The device, from the verified token or from the header that the configuration names.
    pub device: Option<&'a DeviceId>,
}

/// Answers the network of one subscriber: an IPv4 address, or an IPv6 /64.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}
