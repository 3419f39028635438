//! Ports for processes that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below the ports that systems hand to outgoing connections, and those that `musterd all` takes for its nats-server:
/// a port is told to a Pod long before the Pod listens there, and nobody else may have it in the meantime.
const PORTS: Range<u16> = 10_000..20_000;

/// Which of them is next. Another run on this machine begins elsewhere.
static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(rand::random_range(0..PORTS.len())));

/// A port of 127.0.0.1 that nobody listens on at this moment, and that this process gives to no one else.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    (0..PORTS.len())
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len())
        .filter_map(|number| PORTS.clone().nth(number))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of ten thousand ports is free")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn nobody_gets_the_port_of_another_that_does_not_listen_yet() {
        let given: Vec<u16> = (0..500).map(|_| super::free_port()).collect();
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
    }
}
