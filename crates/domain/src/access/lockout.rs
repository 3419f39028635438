//! Who presents bad credentials too often is not listened to for a while.

use std::collections::BTreeMap;

use crate::time::{Span, Timestamp};

/// Bad credentials that are looked at before a peer has to wait: a person who mistypes, or a script with an old
/// token that is replaced at once.
const FREE_TRIES: u32 = 10;
/// The first wait. Each further bad credential doubles it.
const FIRST_WAIT: Span = Span::from_secs(1);
/// The longest wait. Secrets have 256 bits, so that this is about noise and load, not about guessing.
const MAX_WAIT: Span = Span::from_secs(60);
/// After so long without a bad credential a peer starts anew.
const FORGET_AFTER: Span = Span::from_secs(15 * 60);
/// Peers that are remembered: about 100 bytes each. Beyond it the one that was silent for longest is forgotten.
pub const MAX_PEERS: usize = 4_096;

/// Where a call comes from, as far as it counts: an IPv4 address, or the /64 that a host of IPv6 chooses its
/// addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer(Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    V4(u32),
    V6Prefix(u64),
}

impl Peer {
    /// The peer of an IPv4 address.
    #[must_use]
    pub fn v4(address: u32) -> Self {
        Self(Place::V4(address))
    }

    /// The peer of an IPv6 address.
    #[must_use]
    pub fn v6(address: u128) -> Self {
        let prefix = u64::try_from(address >> 64).expect("invariant: half of 128 bits are 64");
        Self(Place::V6Prefix(prefix))
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
    until: Timestamp,
}

/// Bad credentials by peer. Takes `now` and decides; bounded in memory.
#[derive(Debug, Default)]
pub struct Lockout {
    peers: BTreeMap<Peer, Failures>,
    /// Peers by their last failure, so that the oldest is found.
    order: BTreeMap<(Timestamp, Peer), ()>,
}

impl Lockout {
    /// Whether a peer is listened to.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn check(&self, peer: Peer, now: Timestamp) -> Result<(), Span> {
        match self.peers.get(&peer) {
            Some(failures) if now < failures.until => Err(failures.until.since(now)),
            Some(_) | None => Ok(()),
        }
    }

    /// A peer presented a bad credential. Says how long it has to wait, if at all.
    pub fn failed(&mut self, peer: Peer, now: Timestamp) -> Option<Span> {
        let before = self.peers.remove(&peer);
        if let Some(before) = before {
            self.order.remove(&(before.last, peer));
        }
        let kept = before.filter(|before| now.since(before.last) < FORGET_AFTER);
        let count = kept.map_or(0, |kept| kept.count).saturating_add(1);
        let wait = wait(count);
        let until = wait.map_or(Timestamp(0), |wait| now + wait);
        if self.peers.len() >= MAX_PEERS
            && let Some(((_, oldest), ())) = self.order.pop_first()
        {
            self.peers.remove(&oldest);
        }
        self.peers.insert(peer, Failures { count, last: now, until });
        self.order.insert((now, peer), ());
        wait
    }

    /// A peer proved who it is.
    pub fn succeeded(&mut self, peer: Peer) {
        if let Some(before) = self.peers.remove(&peer) {
            self.order.remove(&(before.last, peer));
        }
    }

    /// How many peers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no peer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

fn wait(count: u32) -> Option<Span> {
    let beyond = count.checked_sub(FREE_TRIES)?;
    let wait = FIRST_WAIT.0.saturating_mul(1_u64.checked_shl(beyond).unwrap_or(u64::MAX));
    Some(Span(wait.min(MAX_WAIT.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let mut lockout = Lockout::default();
        let (a, b) = (Peer::v4(1), Peer::v4(2));
        let now = Timestamp(1_000_000);
        for _ in 1..FREE_TRIES {
            assert_eq!(lockout.failed(a, now), None);
        }
        assert_eq!(lockout.check(a, now), Ok(()));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(lockout.failed(a, now), Some(Span::from_secs(seconds)));
            assert_eq!(lockout.check(a, now), Err(Span::from_secs(seconds)));
            assert_eq!(lockout.check(a, now + Span::from_secs(seconds)), Ok(()));
        }
        assert_eq!(lockout.check(b, now), Ok(()), "others are not locked out");
        assert_eq!(lockout.failed(a, now + FORGET_AFTER), None, "it starts anew");
        lockout.failed(a, now + FORGET_AFTER);
        lockout.succeeded(a);
        assert!(lockout.is_empty());
    }

    #[test]
    fn a_host_of_ipv6_is_one_peer() {
        let at = |prefix: u128, host: u128| Peer::v6(prefix << 64 | host);
        assert_eq!(at(0x2001_0db8 << 32, 1), at(0x2001_0db8 << 32, u128::from(u64::MAX)));
        assert_ne!(at(1, 1), at(2, 1));
        assert_ne!(Peer::v6(u128::MAX), Peer::v4(u32::MAX));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let mut lockout = Lockout::default();
        let total = u32::try_from(MAX_PEERS).unwrap() + 100;
        for n in 0..total {
            lockout.failed(Peer::v4(n), Timestamp(u64::from(n)));
        }
        assert_eq!((lockout.len(), lockout.order.len()), (MAX_PEERS, MAX_PEERS));
        assert!(
            lockout.peers.contains_key(&Peer::v4(total - 1)) && !lockout.peers.contains_key(&Peer::v4(0))
        );
    }

    proptest::proptest! {
        #[test]
        fn no_count_or_clock_makes_it_panic(times in proptest::collection::vec(0u64.., 0..50)) {
            let mut lockout = Lockout::default();
            for time in times {
                lockout.failed(Peer::v6(1), Timestamp(time));
                let _ = lockout.check(Peer::v6(1), Timestamp(time));
            }
            assert!(wait(u32::MAX) == Some(MAX_WAIT));
        }
    }
}
