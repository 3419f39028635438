//! The policy rules of the domain: plans, refusals, compiled content, provenance.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod compiling;
mod content;
mod fleet;
mod plans;
mod properties;
mod refusals;
