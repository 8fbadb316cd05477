//! Finds a free port.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// Below the ports that the kernel hands to clients (from 32768 on Linux, 49152 elsewhere): a
/// client that keeps connecting while the server restarts could otherwise be given the server's own
/// port, and take it, or even connect to itself.
const RANGE: std::ops::Range<u16> = 16_384..32_768;

/// A port of 127.0.0.1 that is free now. Another process may take it before the server does: the
/// caller tries again then.
pub(crate) fn find_free() -> Option<u16> {
    let length = u64::from(RANGE.end - RANGE.start);
    // A hasher's random keys: enough that two processes rarely try the same ports in turn.
    let random = RandomState::new().build_hasher().finish();
    (0..length).find_map(|step| {
        let offset = u16::try_from((random.wrapping_add(step)) % length).ok()?;
        let port = RANGE.start + offset;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .ok()
            .map(|_| port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_found_port_is_free_and_below_the_ports_of_clients() {
        let port = find_free().unwrap();
        assert!(RANGE.contains(&port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
