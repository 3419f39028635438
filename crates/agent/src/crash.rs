//! Where a test can make the agent die: see [`runtime::crash`].

pub use runtime::crash::CRASH_ENV;

/// Every crash point of an apply, in the order in which one that fails passes them.
pub const CRASH_POINTS: &[&str] = &[
    "stage-begin",
    "stage-written",
    "stage-renamed",
    "proof-written",
    "state-draft",
    "state-written",
    "activate-link",
    "activated",
    "handlers-begin",
    "handlers-done",
    "health-done",
    "reverted",
    "refreshed",
    "repaired",
    "pruned",
];

/// Ends the process here, if that was asked for.
pub(crate) fn point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not listed");
    runtime::crash::point(name);
}
