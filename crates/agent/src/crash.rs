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

/// Every crash point of the adoption of a trust root, in order.
pub const ROOT_CRASH_POINTS: &[&str] = &["root-draft", "root-written"];

/// Every crash point of content, in the order in which one that is fetched passes them.
pub const CONTENT_CRASH_POINTS: &[&str] = &[
    "content-state-draft",
    "content-state-written",
    "content-surveyed",
    "content-reserved",
    "content-copied",
    "content-piece-received",
    "content-piece-kept",
    "content-frame-decoded",
    "content-synced",
    "content-verified",
    "content-placed",
    "content-link",
    "content-switched",
    "content-handler-begin",
    "content-handler-done",
    "content-health-done",
    "content-pruning",
    "content-pruned",
];

/// Ends the process here, if that was asked for.
pub(crate) fn point(name: &'static str) {
    let listed =
        [CRASH_POINTS, ROOT_CRASH_POINTS, CONTENT_CRASH_POINTS].iter().any(|all| all.contains(&name));
    debug_assert!(listed, "{name} is not listed");
    runtime::crash::point(name);
}
