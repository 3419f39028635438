//! Changes of channels and revisions.
