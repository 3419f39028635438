//! Which agents tell how a change went: the same ones to everybody, others for each revision.

use crate::id::AgentId;
use crate::revision::Revision;

/// Whether an agent is one of a share of `per_million` that tells of a revision. The hash (FNV-1a) spreads agents evenly;
/// it hides nothing.
#[must_use]
pub fn is_sampled(agent: &AgentId, revision: Revision, per_million: u32) -> bool {
    let bytes = agent.as_str().bytes().chain(revision.0.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of the product alone are weak.
    (hash ^ (hash >> 32)) % 1_000_000 < u64::from(per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_is_sampled_and_others_for_each_revision() {
        let agents: Vec<_> = (0..20_000).map(|n| AgentId::new(format!("agent-{n}")).unwrap()).collect();
        let sampled = |revision, share| -> Vec<usize> {
            let picked = agents.iter().enumerate().filter(|(_, a)| is_sampled(a, Revision(revision), share));
            picked.map(|(n, _)| n).collect()
        };
        let (one, other) = (sampled(41, 10_000), sampled(42, 10_000));
        assert!(
            (100..300).contains(&one.len()) && (100..300).contains(&other.len()),
            "{} {}",
            one.len(),
            other.len()
        );
        assert!(one.iter().filter(|n| other.contains(n)).count() < 20);
        assert_eq!((sampled(41, 0).len(), sampled(41, 1_000_000).len()), (0, agents.len()));
    }
}
