//! The caller whose share of a pool is used.
//!
//! A name is assigned by the daemon's operator, while anybody can have many addresses cheaply. So callers without a name share a
//! common limit ([`Key::is_named`], [`super::Pool`]). Networks of addresses have no limit of their own: the machines of a site,
//! and the pods of a cluster, are mostly in one /24, or one /48 of IPv6, and together they would get as much as a single stranger
//! elsewhere. Callers that must not wait behind strangers have to log in.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// A caller, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Authenticated, by name.
    Principal(Arc<str>),
    /// Not authenticated: an IPv4 address, or the /64 of an IPv6 address, which a single machine usually gets.
    Address(IpAddr),
    /// Not authenticated, at the unix socket.
    Socket,
    /// Not authenticated, at an unknown address.
    Unknown,
}

impl Key {
    /// Returns true if a client cannot act as many such callers: it has logged in, or uses the unix socket.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Principal(_) | Self::Socket)
    }

    /// The key of an address.
    pub fn address(ip: IpAddr) -> Self {
        // A socket for both families shows 10.0.0.1 as ::ffff:10.0.0.1.
        Self::Address(match ip.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl fmt::Display for Key {
    /// A unique text for each key, for code that only handles text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(name) => write!(f, "principal {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Socket => f.write_str("unix socket"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_of_ipv6_is_one_caller_and_each_address_of_ipv4() {
        let key = |ip: &str| Key::address(ip.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
