//! Retention and garbage collection.

use domain::time::Span;

/// How much clocks of replicas may differ.
pub(crate) const CLOCKS_DIFFER: Span = Span::from_secs(5);
