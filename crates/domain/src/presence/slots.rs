//! When an agent is asked to beat, and when its silence means something.
//!
//! Each agent owns a phase within its interval, fixed by a hash of its id. Whatever brings many agents to
//! beat at once (a reconnect, a full minute, a restart), the next beat of each lies in its own slot again,
//! so one interval later the load is as flat as the hash. A slot is never closer than half an interval:
//! nobody beats twice in a row to get into phase.

use crate::settings::Settings;
use crate::time::{Span, Timestamp};

/// Hash of an id: FNV-1a with a final avalanche, so that both its low bits (the look-up table) and its
/// remainder by any interval (the phase) are evenly spread. Fixed for ever: every replica and every
/// restart gives an agent the same phase.
pub(super) fn hash(id: &str) -> u64 {
    let fnv = id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// First slot of the agent at least half an interval after `now`: between half and one and a half
/// intervals away, exactly one interval for an agent that beats in its slot.
pub(super) fn next_slot(now: Timestamp, interval: Span, hash: u64) -> Timestamp {
    let interval = interval.0.max(1);
    let phase = hash % interval;
    let earliest = now.0.saturating_add(interval.div_ceil(2));
    let wait = (phase + interval - earliest % interval) % interval;
    Timestamp(earliest.saturating_add(wait))
}

/// From this moment on a silent agent is late: one and a half intervals after it was last heard, or half
/// an interval after the slot it was promised, whichever is later.
pub(super) fn late_at(heard: Timestamp, slot: Timestamp, settings: &Settings) -> Timestamp {
    let interval = settings.heartbeat_interval;
    (heard + interval.scaled(3, 2)).max(slot + interval.scaled(1, 2))
}

/// From this moment on a silent agent is offline: `offline_after` since it was last heard. A slot more
/// than one interval away (the first one, or one promised before the interval was shortened) moves the
/// deadline by as much: an agent that does as it was told is never called offline.
pub(super) fn offline_at(heard: Timestamp, slot: Timestamp, settings: &Settings) -> Timestamp {
    let grace = Span(settings.offline_after.0.saturating_sub(settings.heartbeat_interval.0));
    (heard + settings.offline_after).max(slot + grace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Beats in each second of one interval, from `start`.
    fn load_by_second(slots: &[u64], start: u64, interval: u64) -> Vec<u32> {
        let mut load = vec![0_u32; usize::try_from(interval / 1000).unwrap()];
        for slot in slots.iter().filter(|slot| (start..start + interval).contains(slot)) {
            load[usize::try_from((slot - start) / 1000).unwrap()] += 1;
        }
        load
    }

    /// After all beat in the same millisecond, the next beats spread evenly at once and stay so.
    #[track_caller]
    fn check_flat(agents: u64, interval_secs: u64, burst_at: u64) {
        let interval = Span::from_secs(interval_secs);
        let mut slots: Vec<u64> = (0..agents)
            .map(|n| next_slot(Timestamp(burst_at), interval, hash(&format!("host-{n}-{:08x}", n * 77))).0)
            .collect();
        for round in 0..3 {
            let start = burst_at + interval.0 / 2 + round * interval.0;
            let load = load_by_second(&slots, start, interval.0);
            let mean = agents / interval_secs;
            assert_eq!(
                load.iter().sum::<u32>(),
                u32::try_from(agents).unwrap(),
                "each beats once in a round"
            );
            let worst = *load.iter().max().unwrap();
            assert!(u64::from(worst) <= 2 * mean, "round {round}: {worst} in one second, mean {mean}");
            for slot in &mut slots {
                let n = slot_hash(*slot, interval);
                *slot = next_slot(Timestamp(*slot), interval, n).0;
            }
        }
    }

    /// A hash with the phase that the slot shows.
    fn slot_hash(slot: u64, interval: Span) -> u64 {
        slot % interval.0
    }

    #[test]
    fn load_is_flat_after_a_herd() {
        check_flat(100_000, 60, 1_700_000_000_000);
        check_flat(100_000, 300, 1_700_000_000_123);
        check_flat(10_000, 20, 1_700_000_000_999);
    }

    proptest! {
        #[test]
        fn a_slot_is_half_to_one_and_a_half_intervals_away(
            now in 0_u64..1 << 45, interval in 1_u64..90_000_000, hash in any::<u64>(),
        ) {
            let slot = next_slot(Timestamp(now), Span(interval), hash);
            prop_assert!(slot.0 - now >= interval.div_ceil(2));
            prop_assert!(slot.0 - now < interval.div_ceil(2) + interval);
            prop_assert_eq!(slot.0 % interval, hash % interval);
            let next = next_slot(slot, Span(interval), hash);
            prop_assert_eq!(next.0 - slot.0, interval, "an agent in phase keeps its pace");
        }
    }
}
