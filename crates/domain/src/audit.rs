//! The audit: what was asked of the API and what came of it, each entry bound to the one before by its digest.
//!
//! A change is entered twice: before it is tried, and when it has ended. So nothing is changed that is not in the
//! audit, and a change whose end is missing is one that a crash cut off.

use crate::access::Role;
use crate::digest::Digest;
use crate::time::Timestamp;

/// Most names of one entry: what a request is about.
pub const MAX_TARGETS: usize = 16;
/// Longest text in an entry, in bytes: a name, an address, a message. Longer ones are cut.
pub const MAX_TEXT_BYTES: usize = 512;

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Name of the caller; empty if it is not known.
    pub name: String,
    /// Its role; `None` if it is not known.
    pub role: Option<Role>,
    /// Where from.
    pub address: String,
}

/// What is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A change is about to be tried.
    Asked {
        /// SHA-256 of the request.
        request: Digest,
        /// What it names.
        targets: Vec<String>,
    },
    /// A change has ended.
    Ended {
        /// Number of the entry of its beginning.
        asked: u64,
        /// gRPC status code; 0: it went well.
        code: u32,
        /// Why not, if it did not.
        message: String,
        /// Store revision after it; 0 if it has none.
        revision: u64,
    },
    /// A call was not let through.
    Refused {
        /// gRPC status code.
        code: u32,
        /// Why.
        message: String,
        /// Refusals before this one that were not entered, because there were too many.
        left_out: u64,
    },
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// SHA-256 of the entry before, as stored; zeros for the first.
    pub previous: Digest,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub asker: Asker,
    /// Method of the API, e.g. `muster.api.v1.PolicyService/Apply`.
    pub method: String,
    /// What.
    pub what: What,
}

/// The end of a chain: number and digest of its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the last entry.
    pub number: u64,
    /// SHA-256 of the last entry, as stored.
    pub digest: Digest,
}

impl Head {
    /// What the next entry carries: its number, and the digest of the one before.
    #[must_use]
    pub fn next(head: Option<Self>) -> (u64, Digest) {
        head.map_or((1, Digest::default()), |head| (head.number.saturating_add(1), head.digest))
    }
}

/// Where a chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Entries are missing, doubled or out of order.
    #[error(
        "after entry {after} comes entry {found}: entries were removed, repeated or put in another order"
    )]
    Order {
        /// The entry before.
        after: u64,
        /// What comes.
        found: u64,
    },
    /// An entry was changed, or another one was put in its place.
    #[error("entry {number} is not the one that entry {} was made after: it was changed or replaced", number + 1)]
    Changed {
        /// The entry that was changed.
        number: u64,
    },
    /// The first entry says that there was one before it.
    #[error("entry 1 says that there was an entry before it: it was changed or replaced")]
    First,
    /// The chain ends before, or elsewhere than at, an entry that was noted earlier.
    #[error(
        "entry {number} is not the one that was noted earlier: entries were removed at the end, or all were made anew"
    )]
    Noted {
        /// The number that was noted.
        number: u64,
    },
}

/// A chain that is being followed.
#[derive(Debug, Default)]
pub struct Chain {
    head: Option<Head>,
    /// An entry that was noted earlier and has to be met.
    noted: Option<Head>,
}

impl Chain {
    /// A chain that has to hold an entry that was noted earlier.
    #[must_use]
    pub fn noting(noted: Head) -> Self {
        Self { head: None, noted: Some(noted) }
    }

    /// Takes the next entry: its number, the digest that it carries, and its own. The first one that comes begins
    /// the chain: older ones may have gone with time.
    ///
    /// # Errors
    /// [`Broken`] if it is not the one that follows.
    pub fn take(&mut self, number: u64, previous: Digest, own: Digest) -> Result<(), Broken> {
        match self.head {
            Some(head) if number != head.number.saturating_add(1) => {
                return Err(Broken::Order { after: head.number, found: number });
            }
            Some(head) if previous != head.digest => return Err(Broken::Changed { number: head.number }),
            None if number == 1 && previous != Digest::default() => return Err(Broken::First),
            Some(_) | None => {}
        }
        if let Some(noted) = self.noted.filter(|noted| noted.number == number) {
            if noted.digest != own {
                return Err(Broken::Noted { number });
            }
            self.noted = None;
        }
        self.head = Some(Head { number, digest: own });
        Ok(())
    }

    /// All entries have been taken.
    ///
    /// # Errors
    /// [`Broken::Noted`] if the one that was noted did not come.
    pub fn end(self) -> Result<Option<Head>, Broken> {
        match self.noted {
            Some(noted) => Err(Broken::Noted { number: noted.number }),
            None => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Link = (u64, Digest, Digest);

    /// A chain of so many entries.
    fn chain(length: u64) -> Vec<Link> {
        let mut head = None;
        let link = |n: u64| {
            let (number, previous) = Head::next(head);
            let own = Digest::of_parts([&n.to_be_bytes()[..], &previous.0]);
            head = Some(Head { number, digest: own });
            (number, previous, own)
        };
        (0..length).map(link).collect()
    }

    fn follow(mut chain: Chain, links: &[Link]) -> Result<Option<Head>, Broken> {
        links.iter().try_for_each(|(number, previous, own)| chain.take(*number, *previous, *own))?;
        chain.end()
    }

    #[test]
    fn a_whole_chain_holds_from_wherever_it_is_kept() {
        let links = chain(9);
        let head = Some(Head { number: 9, digest: links[8].2 });
        for from in 0..9 {
            assert_eq!(follow(Chain::default(), &links[from..]), Ok(head));
        }
        assert_eq!(follow(Chain::default(), &[]), Ok(None));
    }

    #[test]
    fn nothing_is_changed_removed_or_moved_unnoticed() {
        let links = chain(9);
        let broken = |links: &[Link]| follow(Chain::default(), links).unwrap_err();
        for at in 0..8 {
            let mut changed = links.clone();
            changed[at].2 = Digest::of(b"other");
            assert_eq!(broken(&changed), Broken::Changed { number: changed[at].0 });
            let mut swapped = links.clone();
            swapped.swap(at, at + 1);
            assert!(matches!(broken(&swapped), Broken::Order { .. }), "{at}");
            let mut doubled = links.clone();
            doubled.insert(at, links[at]);
            assert!(matches!(broken(&doubled), Broken::Order { .. }), "{at}");
            if at > 0 {
                let mut removed = links.clone();
                removed.remove(at);
                assert!(matches!(broken(&removed), Broken::Order { .. }), "{at}");
                // Also when those after it are numbered anew.
                removed[at..].iter_mut().for_each(|link| link.0 -= 1);
                assert!(matches!(broken(&removed), Broken::Changed { .. }), "{at}");
            }
        }
        let mut first = links;
        first[0].1 = Digest::of(b"before");
        assert_eq!(broken(&first), Broken::First);
    }

    #[test]
    fn what_was_noted_has_to_be_there() {
        let links = chain(5);
        let noted = |number: u64| Head { number, digest: links[usize::try_from(number).unwrap() - 1].2 };
        assert!(follow(Chain::noting(noted(4)), &links).is_ok());
        assert_eq!(follow(Chain::noting(noted(4)), &links[..3]), Err(Broken::Noted { number: 4 }));
        let other = Head { digest: Digest::of(b"other"), ..noted(4) };
        assert_eq!(follow(Chain::noting(other), &links), Err(Broken::Noted { number: 4 }));
    }
}
