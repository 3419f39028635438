//! Which deltas are worth making next, and which that were made are worth keeping.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ContentRevision;
use crate::catalog::Channel;

/// What is known of one channel.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Numbers of its stored revisions.
    pub stored: &'a BTreeSet<ContentRevision>,
    /// Those that a group names by number.
    pub named: &'a BTreeSet<ContentRevision>,
    /// How many agents have each revision in force.
    pub holders: &'a BTreeMap<ContentRevision, u64>,
    /// Deltas that were made, worth keeping or not. They are not made again.
    pub made: &'a BTreeSet<Wanted>,
}

/// A delta to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The revision it leads to.
    pub to: ContentRevision,
    /// The revision it starts from; `None`: from nothing, the whole content.
    pub from: Option<ContentRevision>,
}

/// The deltas to make next, in this order.
///
/// They lead to the newest revision and to those that stages and groups name, the newest of them first. To each:
/// from the revision before, and from the one that most agents hold, because those serve most; then the whole
/// content, which takes longest to make; then from further revisions that agents hold, most agents first; then from
/// those 2, 4, 8 … before, so that agents which were off for a while find one near. At most `patches` to each target
/// beside the whole content, made ones included.
#[must_use]
pub fn next(known: &Known<'_>, patches: usize) -> Vec<Wanted> {
    let named = known.channel.stages.values().filter_map(|stage| stage.revision);
    let newest = known.stored.last().copied();
    let targets: BTreeSet<ContentRevision> = named
        .chain(known.named.iter().copied())
        .chain(newest)
        .filter(|it| known.stored.contains(it))
        .collect();
    let all = targets.into_iter().rev().flat_map(|to| to_one(known, to, patches));
    all.filter(|wanted| !known.made.contains(wanted)).collect()
}

fn to_one(known: &Known<'_>, to: ContentRevision, patches: usize) -> Vec<Wanted> {
    let before = known.stored.range(..to).next_back().copied();
    let mut held: Vec<(Reverse<u64>, Reverse<ContentRevision>)> = known
        .holders
        .iter()
        .filter(|(number, agents)| **agents > 0 && **number != to && known.stored.contains(number))
        .map(|(number, agents)| (Reverse(*agents), Reverse(*number)))
        .collect();
    held.sort_unstable();
    let held = held.into_iter().map(|(_, number)| number.0);
    let back = (1..u32::BITS).map_while(|power| to.0.checked_sub(1 << power)).map(ContentRevision);
    let back = back.filter(|number| known.stored.contains(number));
    let mut seen = BTreeSet::new();
    let from = before.into_iter().chain(held).chain(back).filter(|number| seen.insert(*number));
    let mut all: Vec<Wanted> = from.take(patches).map(|from| Wanted { to, from: Some(from) }).collect();
    // Behind the first two: the revision before, and the one that most agents hold.
    all.insert(all.len().min(2), Wanted { to, from: None });
    all
}

/// Whether a delta is worth keeping: it is smaller than the chunks that an agent would fetch otherwise. For the
/// whole content these are all its chunks, for a patch those that the revision it starts from lacks; all counted
/// once, and as stored.
#[must_use]
pub fn is_worth_keeping(delta_bytes: u64, missing_chunk_bytes: u64) -> bool {
    delta_bytes < missing_chunk_bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::{ChannelName, StageName};

    fn numbers(list: &[u32]) -> BTreeSet<ContentRevision> {
        list.iter().copied().map(ContentRevision).collect()
    }

    fn channel(stages: &[(&str, u32)]) -> Channel {
        let mut channel = Channel::new(ChannelName::new("rules").unwrap());
        for (name, number) in stages {
            channel = channel.promoted(&StageName::new(name).unwrap(), ContentRevision(*number));
        }
        channel
    }

    fn holders(list: &[(u32, u64)]) -> BTreeMap<ContentRevision, u64> {
        list.iter().map(|(number, agents)| (ContentRevision(*number), *agents)).collect()
    }

    /// What is wanted as `from>to`, 0 for nothing.
    #[track_caller]
    fn check(known: &Known<'_>, patches: usize, expected: &str) {
        let text = |it: &Wanted| format!("{}>{}", it.from.unwrap_or_default(), it.to);
        let got: Vec<String> = next(known, patches).iter().map(text).collect();
        assert_eq!(got.join(" "), expected);
    }

    #[test]
    fn what_serves_most_agents_comes_first() {
        let (channel, stored) = (channel(&[("stable", 17), ("old", 3)]), (1..=20).collect::<Vec<u32>>());
        let (stored, named) = (numbers(&stored), numbers(&[]));
        let (held, made) = (holders(&[(5, 10), (17, 900), (9, 10), (18, 0), (99, 5)]), BTreeSet::new());
        let known = Known { channel: &channel, stored: &stored, named: &named, holders: &held, made: &made };
        let newest = "19>20 17>20 0>20 9>20 5>20 18>20 16>20 12>20";
        let stable = "16>17 9>17 0>17 5>17 15>17 13>17 1>17";
        let old = "2>3 17>3 0>3 9>3 5>3 1>3";
        check(&known, 7, &format!("{newest} {stable} {old}"));
        check(&known, 1, "19>20 0>20 16>17 0>17 2>3 0>3");
        check(&known, 0, "0>20 0>17 0>3");
        let made = BTreeSet::from([(20, Some(19)), (20, None), (3, Some(17))].map(
            |(to, from): (u32, Option<u32>)| Wanted {
                to: ContentRevision(to),
                from: from.map(ContentRevision),
            },
        ));
        let known = Known { made: &made, ..known };
        check(&known, 2, "17>20 16>17 9>17 0>17 2>3 0>3");
    }

    #[test]
    fn channels_without_much_in_them() {
        let (empty, none, made) = (channel(&[("stable", 4)]), numbers(&[]), BTreeSet::new());
        let held = holders(&[(2, 1)]);
        let known = Known { channel: &empty, stored: &none, named: &none, holders: &held, made: &made };
        check(&known, 9, "");
        let one = numbers(&[1]);
        check(&Known { stored: &one, ..known }, 9, "0>1");
        let gaps = numbers(&[2, 7, 11]);
        check(&Known { stored: &gaps, named: &numbers(&[2, 8]), ..known }, 9, "7>11 2>11 0>11 0>2");
    }

    #[test]
    fn a_delta_has_to_be_smaller_than_chunks() {
        assert!(is_worth_keeping(9, 10));
        assert!(!is_worth_keeping(10, 10));
    }

    proptest! {
        #[test]
        fn bounded_unique_and_possible(
            stored in prop::collection::btree_set(1u32..200, 0..60),
            held in prop::collection::btree_map(1u32..200, 0u64..5, 0..60),
            stage in 1u32..200,
            patches in 0usize..12,
        ) {
            let (channel, named, made) = (channel(&[("s", stage)]), numbers(&[]), BTreeSet::new());
            let stored: BTreeSet<ContentRevision> = stored.into_iter().map(ContentRevision).collect();
            let held = held.into_iter().map(|(number, agents)| (ContentRevision(number), agents)).collect();
            let known = Known { channel: &channel, stored: &stored, named: &named, holders: &held, made: &made };
            let all = next(&known, patches);
            let unique: BTreeSet<Wanted> = all.iter().copied().collect();
            prop_assert_eq!(unique.len(), all.len());
            for wanted in &all {
                prop_assert!(stored.contains(&wanted.to) && wanted.from != Some(wanted.to));
                prop_assert!(wanted.from.is_none_or(|from| stored.contains(&from)));
            }
            prop_assert!(all.len() <= 2 * (patches + 1));
            prop_assert_eq!(next(&Known { made: &unique, ..known }, patches), Vec::new());
        }
    }
}
