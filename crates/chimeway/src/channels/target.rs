//! Where messages may go if somebody else than the operator has chosen the address.
//!
//! Recipients, documents and templates name URLs, and a worker calls them from inside a network in which much
//! is open to whoever is inside. So only public addresses are called, but for those that the settings allow.
//! A name is looked up once for each connection, and what was checked is what is connected to: a name that
//! is another one's a moment later gains nothing.

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use serde::Deserialize;

/// What may be called although it is private: a network such as `10.1.0.0/16`, an address, or a host by its
/// name such as `hooks.internal`, wherever that leads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedTarget(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Network(IpNet),
    Host(String),
}

impl FromStr for AllowedTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(network) = text.parse() {
            return Ok(Self(Kind::Network(network)));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(Kind::Network(address.into())));
        }
        // As URLs have it, or it would never be met.
        let host = without_dot(text).to_lowercase();
        let url = Url::parse(&format!("http://{host}/")).ok();
        match url.as_ref().and_then(Url::host_str) {
            Some(told) if told == host => Ok(Self(Kind::Host(host))),
            _ => Err(format!(
                "`{text}` is neither a network such as 10.1.0.0/16, nor an address, nor a host such as hooks.internal"
            )),
        }
    }
}

impl TryFrom<String> for AllowedTarget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for AllowedTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Network(network) => network.fmt(f),
            Kind::Host(host) => f.write_str(host),
        }
    }
}

/// The address is private, and the settings do not allow it.
#[derive(Debug, thiserror::Error)]
#[error("the address is private, and `allow_private` does not name it")]
pub(super) struct Refused;

impl Refused {
    /// Whether it is why a request failed.
    pub(super) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Tells the addresses of a name.
pub(super) type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As the machine looks up names.
pub(super) fn by_system() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    })
}

/// Looks up names, and tells only of what may be called.
#[derive(Clone)]
pub(super) struct Targets {
    allowed: Arc<[AllowedTarget]>,
    lookup: Lookup,
}

impl Targets {
    pub(super) fn new(allowed: Vec<AllowedTarget>, lookup: Lookup) -> Self {
        Self {
            allowed: allowed.into(),
            lookup,
        }
    }

    /// Refuses a URL with a private address for a host. Names are looked at as they are looked up, which
    /// addresses are not.
    pub(super) fn check(&self, url: &Url) -> Result<(), Refused> {
        // Every spelling of an address, 0x7f.1 and 2130706433 too, has become the usual one by now.
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse();
        match address {
            Ok(address) if !self.may_call(address) => Err(Refused),
            _ => Ok(()),
        }
    }

    fn may_call(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address)
            || self.allowed.iter().any(|allowed| match &allowed.0 {
                Kind::Network(network) => network.contains(&address),
                Kind::Host(_) => false,
            })
    }

    fn allows_host(&self, name: &str) -> bool {
        let name = without_dot(name);
        self.allowed.iter().any(|allowed| match &allowed.0 {
            Kind::Network(_) => false,
            Kind::Host(host) => host.eq_ignore_ascii_case(name),
        })
    }
}

impl Resolve for Targets {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let mut found = (targets.lookup)(name.to_owned()).await?;
            if !targets.allows_host(name) {
                let are_some = !found.is_empty();
                found.retain(|address| targets.may_call(address.ip()));
                if are_some && found.is_empty() {
                    return Err(Refused.into());
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// What the registry of special-purpose addresses (RFC 6890) calls not globally reachable, and what is no
/// single machine.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 8),       // "this network", RFC 791
    v4(10, 0, 0, 8),      // private, RFC 1918
    v4(100, 64, 0, 10),   // shared by the customers of a carrier, RFC 6598
    v4(127, 0, 0, 8),     // loopback, RFC 1122
    v4(169, 254, 0, 16),  // link-local, RFC 3927: there live the metadata of clouds
    v4(172, 16, 0, 12),   // private, RFC 1918
    v4(192, 0, 0, 24),    // protocol assignments, RFC 6890
    v4(192, 0, 2, 24),    // documentation, RFC 5737
    v4(192, 88, 99, 24),  // relays of 6to4, RFC 7526
    v4(192, 168, 0, 16),  // private, RFC 1918
    v4(198, 18, 0, 15),   // benchmarks, RFC 2544
    v4(198, 51, 100, 24), // documentation, RFC 5737
    v4(203, 0, 113, 24),  // documentation, RFC 5737
    v4(224, 0, 0, 4),     // multicast, RFC 5771
    v4(240, 0, 0, 4),     // reserved, RFC 1112, and broadcast, RFC 919
    // Not in the registry: where a cloud answers its own machines (Azure).
    Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// All that is given to machines of the internet, RFC 4291. Loopback, unique local (RFC 4193), link-local,
/// site-local and multicast are beside it, and so is NAT64 for local use (RFC 8215).
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
/// Of that.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23), // protocol assignments, RFC 2928: Teredo, which leads to an IPv4 address, and others
    v6(0x2001, 0xdb8, 32), // documentation, RFC 3849
    v6(0x2002, 0, 16), // 6to4, which leads to an IPv4 address, RFC 3056
    v6(0x3fff, 0, 20), // documentation, RFC 9637
];
/// IPv4 behind NAT64, RFC 6052: the rest of the address is the one that counts.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// Whether an address is a machine's of the internet, as far as can be seen from it.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_public(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests;
